//! The real program: mount, crash, restart, busy, unmount, from the outside. Signals go to processes that the holder's status names, and no others.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use forebay_mounter::device;
use forebay_mounter::protocol::HolderStatus;
use forebay_mounter::run_folder::RunRoot;
use forebay_node::holder;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::fuse::can_mount;

const FILES: u8 = 4;
const BYTES: usize = 300_000;

struct Laptop {
    folder: TempDir,
}

impl Laptop {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let laptop = Self { folder };
        for name in ["bucket", "data"] {
            fs::create_dir(laptop.path(name)).unwrap();
        }
        for file in 1..=FILES {
            fs::write(laptop.path("bucket").join(format!("f{file}")), vec![file; BYTES]).unwrap();
        }
        let source = laptop.path("bucket").display().to_string();
        let dataset =
            format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t }}\nspec:\n  source: \"file://{source}\"\n");
        fs::write(laptop.path("dataset.yaml"), dataset).unwrap();
        laptop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-node"));
        command.env("FOREBAY_RUN", self.path("run")).current_dir(self.folder.path()).args(arguments);
        command.output().unwrap()
    }

    fn mount(&self) {
        let output = self.run(&["mount", "dataset.yaml", "data", "--cache-dir", "cache"]);
        assert!(output.status.success(), "{output:?}");
    }

    fn status(&self) -> HolderStatus {
        let mut all = holder::list(&RunRoot::new(self.path("run"))).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn check(&self) {
        for file in 1..=FILES {
            assert!(fs::read(self.path("data").join(format!("f{file}"))).unwrap() == vec![file; BYTES]);
        }
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        if device::is_mounted(&self.path("data")) {
            self.run(&["unmount", "data"]);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within 20 s");
        std::thread::yield_now();
    }
}

fn is_dead(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists() || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn the_holder_brings_a_daemon_back_that_was_killed_or_told_to_end() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    laptop.mount();
    laptop.check();
    for (round, how) in [Signal::KILL, Signal::TERM, Signal::KILL].into_iter().enumerate() {
        let before = laptop.status();
        signal(before.node_pid.unwrap(), how);
        wait_until("another daemon", || {
            let now = laptop.status();
            now.ready && now.node_pid.is_some_and(|pid| Some(pid) != before.node_pid)
        });
        assert_eq!(laptop.status().epoch, 2 + round as u64);
        laptop.check();
    }
}

#[test]
fn unmount_tells_who_is_in_the_way_and_ends_both_processes() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    laptop.mount();
    let second = laptop.run(&["mount", "dataset.yaml", "data", "--cache-dir", "cache"]);
    assert!(!second.status.success(), "{second:?}");
    let open = File::open(laptop.path("data").join("f1")).unwrap();
    let refused = laptop.run(&["unmount", "data"]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    laptop.check();
    drop(open);
    let status = laptop.status();
    let done = laptop.run(&["unmount", "data"]);
    assert!(done.status.success(), "{done:?}");
    assert!(!device::is_mounted(&laptop.path("data")));
    wait_until("the holder's end", || is_dead(status.holder_pid));
    assert!(is_dead(status.node_pid.unwrap()));
    assert_eq!(fs::read_dir(laptop.path("run").join("mounts")).unwrap().count(), 0, "its run folder is gone");
}

#[test]
fn without_its_holder_a_daemon_ends_reads_fail_and_the_next_mount_cleans_up() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    laptop.mount();
    let open = File::open(laptop.path("data").join("f1")).unwrap();
    let status = laptop.status();
    signal(status.holder_pid, Signal::KILL);
    wait_until("the daemon's end", || is_dead(status.node_pid.unwrap()));
    wait_until("a failing read", || open.read_at(&mut [0; 10], 200_000).is_err() || fs::metadata(laptop.path("data").join("f2")).is_err());
    drop(open);
    laptop.mount();
    laptop.check();
}

#[test]
fn a_daemon_that_cannot_start_is_told_and_leaves_no_mount() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    fs::write(laptop.path("cache"), "a file where the folder should be").unwrap();
    let output = laptop.run(&["mount", "dataset.yaml", "data", "--cache-dir", "cache"]);
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
    assert!(!device::is_mounted(&laptop.path("data")));
}
