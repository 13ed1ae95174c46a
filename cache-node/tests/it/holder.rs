//! The real program, from the outside: mount, crash, restart, busy, unmount. Signals go to processes that the holder's status names, and no others.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use forebay_mounter::device;
use rustix::process::Signal;

use crate::fuse::can_mount;
use crate::laptop::{Laptop, is_dead, signal, wait_until};

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
    let second = laptop.run(&Laptop::MOUNT);
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
    let told = laptop.run(&["unmount", "data"]);
    assert!(told.status.success(), "{told:?}");
    assert!(String::from_utf8_lossy(&told.stderr).contains("its holder died"), "{told:?}");
    assert!(!device::is_mounted(&laptop.path("data")));
    laptop.mount();
    // And without one: the next mount clears the dead one away.
    let status = laptop.status();
    signal(status.holder_pid, Signal::KILL);
    wait_until("the daemon's end", || is_dead(status.node_pid.unwrap()));
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
    let output = laptop.run(&Laptop::MOUNT);
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
    assert!(!device::is_mounted(&laptop.path("data")));
}

#[test]
fn a_start_that_fails_leaves_its_log_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    fs::write(laptop.path("dataset.yaml"), fs::read_to_string(laptop.path("dataset.yaml")).unwrap().replace("bucket", "nowhere")).unwrap();
    let output = laptop.run(&[&Laptop::MOUNT[..], &["--offline"]].concat());
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(fs::read_dir(laptop.path("run").join("mounts")).unwrap().count(), 0, "{text}");
    let log = fs::read_dir(laptop.path("run").join("failed")).unwrap().next().unwrap().unwrap().path();
    assert!(text.contains(log.to_str().unwrap()), "{text}");
    assert!(!device::is_mounted(&laptop.path("data")));
}

/// Which files the process has open.
fn open_files(pid: u32) -> Vec<std::path::PathBuf> {
    let rows = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    rows.filter_map(|row| fs::read_link(row.unwrap().path()).ok()).collect()
}

#[test]
fn what_the_caller_had_open_and_blocked_is_not_inherited() {
    if !can_mount() {
        return;
    }
    for more in [&[][..], &["--foreground"]] {
        nothing_is_inherited(more);
    }
}

fn nothing_is_inherited(more: &[&str]) {
    let laptop = Laptop::new();
    let lock = laptop.path("a lock of the caller");
    let script = r#"exec 9>"$1"; shift; exec "$@""#;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh"]).arg(&lock).arg(env!("CARGO_BIN_EXE_forebay-node")).args(Laptop::MOUNT).args(more);
    command.env("FOREBAY_RUN", laptop.path("run")).current_dir(laptop.folder.path());
    // SAFETY: both calls are async-signal-safe, and the set is initialised by the first.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            let mut all = std::mem::MaybeUninit::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
            Ok(())
        });
    }
    let mut caller = command.spawn().unwrap();
    wait_until("a daemon", || laptop.is_served());
    laptop.check();
    let status = laptop.status();
    assert_eq!(status.holder_pid == caller.id(), !more.is_empty());
    for pid in [status.holder_pid, status.node_pid.unwrap()] {
        assert!(!open_files(pid).contains(&lock), "{pid} keeps the caller's lock");
    }
    let mask = fs::read_to_string(format!("/proc/{}/status", status.node_pid.unwrap())).unwrap();
    assert!(mask.contains("SigBlk:\t0000000000000000"), "{mask}");
    laptop.unmount();
    assert!(caller.wait().unwrap().success());
}

#[test]
fn a_daemon_that_lives_and_does_not_answer_is_replaced() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    laptop.mount_with(&["--hung-after", "2"]);
    for round in 0..2 {
        // First one that has reported already, then one that may not have.
        let before = if round == 0 { laptop.steady() } else { laptop.status() };
        laptop.free();
        let pid = before.node_pid.unwrap();
        signal(pid, Signal::STOP);
        wait_until("all its threads to stop", || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            threads
                .into_iter()
                .all(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).is_ok_and(|stat| stat.contains(") T ")))
        });
        let stopped = Instant::now();
        // Only a daemon knows it: this waits in the kernel for the next one.
        let mut value = [0; 64];
        rustix::fs::getxattr(laptop.path("data").join("f1"), "user.forebay.version", &mut value).unwrap();
        let stall = stopped.elapsed();
        assert!(stall > Duration::from_secs(1) && stall < Duration::from_secs(10), "round {round}: {stall:?}");
        assert_ne!(laptop.status().node_pid, before.node_pid, "round {round}");
        laptop.check();
        wait_until("its end", || is_dead(before.node_pid.unwrap()));
    }
    assert!(fs::read_to_string(laptop.status().folder.join("log")).unwrap().contains("doesn't answer: killed"));
}

#[test]
fn a_daemon_that_is_started_again_and_hangs_before_it_serves_is_replaced() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    laptop.mount_with(&["--hung-after", "2"]);
    let before = laptop.status();
    // The next daemon waits for a pipe's writer, where its Dataset should be.
    let dataset = fs::read_dir(laptop.path("run/settings")).unwrap().next().unwrap().unwrap().path().join("dataset.yaml");
    let kept = dataset.with_file_name("kept");
    fs::rename(&dataset, &kept).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&dataset).status().unwrap().success());
    signal(before.node_pid.unwrap(), Signal::KILL);
    let children = format!("/proc/{0}/task/{0}/children", before.holder_pid);
    let next = || fs::read_to_string(&children).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid| !is_dead(*pid));
    let waits = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stack")).is_ok_and(|stack| stack.contains("fifo_open"));
    wait_until("a daemon that waits", || next().is_some_and(waits));
    let (hung, since) = (next().unwrap(), Instant::now());
    fs::rename(&kept, &dataset).unwrap();
    // Waits in the kernel for the daemon after that one.
    let mut value = [0; 64];
    rustix::fs::getxattr(laptop.path("data").join("f1"), "user.forebay.version", &mut value).unwrap();
    assert!(since.elapsed() > Duration::from_secs(1), "{:?}", since.elapsed());
    assert!(is_dead(hung) && laptop.status().node_pid != Some(hung));
    laptop.check();
    assert!(fs::read_to_string(before.folder.join("log")).unwrap().contains("doesn't come to serve: killed"));
}

#[test]
fn a_daemon_that_waits_for_its_source_is_left_alone() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    // Takes connections, and says nothing.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let dataset = format!(
        "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t }}\nspec:\n  source: s3://silent/\n  s3: {{ endpoint: \"http://{}\", region: us-east-1, anonymous: true, addressing: Path }}\n",
        server.local_addr().unwrap()
    );
    fs::write(laptop.path("dataset.yaml"), dataset).unwrap();
    laptop.mount_with(&["--hung-after", "1", "--offline"]);
    let before = laptop.steady();
    let path = laptop.path("data").join("f1");
    let reader = std::thread::spawn(move || fs::read(path));
    let begun = Instant::now();
    // Long enough for a holder that took waiting for hanging: the limit, and the second look.
    while begun.elapsed() < Duration::from_secs(5) && !reader.is_finished() {
        std::thread::yield_now();
        assert_eq!(laptop.status().node_pid, before.node_pid);
    }
    assert!(!reader.is_finished(), "it waits for the source");
    // Twice: the mount is in use.
    signal(before.holder_pid, Signal::TERM);
    wait_until("a holder that says why it stays", || {
        fs::read_to_string(before.folder.join("log")).is_ok_and(|log| log.contains("a second signal makes its reads fail"))
    });
    signal(before.holder_pid, Signal::TERM);
    assert!(reader.join().unwrap().is_err());
    wait_until("the holder's end", || is_dead(before.holder_pid));
    let told = laptop.run(&["unmount", "data"]);
    assert!(!device::is_mounted(&laptop.path("data")), "{told:?}");
}

#[test]
fn a_manifest_that_is_cut_costs_at_most_a_restart() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    laptop.mount();
    laptop.check();
    laptop.refresh();
    let manifest = laptop.manifest();
    File::options().write(true).open(&manifest).unwrap().set_len(4096).unwrap();
    // A page that was in use is a signal to the daemon, which may be in the middle of this.
    let _ = laptop.run(&["free", "data", "/"]);
    // What the kernel knew is read by node ids; what it didn't know, by names. Either may be the first to touch the file.
    wait_until("right bytes again", || laptop.is_right());
    laptop.check();
}

#[test]
fn a_bit_flipped_in_any_page_of_a_manifest_costs_a_listing_and_no_start() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::new();
    laptop.mount();
    let (mut told, mut page) = (0, 0);
    loop {
        // Another listing, which the next start compares with the one before it.
        let added = format!("added{page}");
        fs::write(laptop.path("bucket").join(&added), &added).unwrap();
        laptop.refresh();
        laptop.unmount();
        let manifest = laptop.manifest();
        let mut bytes = fs::read(&manifest).unwrap();
        let Some(byte) = bytes.get_mut(page * 4096 + 77) else { break };
        *byte ^= 4;
        fs::write(&manifest, bytes).unwrap();
        laptop.mount();
        let is_right = || laptop.is_right() && fs::read(laptop.path("data").join(&added)).is_ok_and(|bytes| bytes == added.as_bytes());
        wait_until("right bytes", is_right);
        let log = fs::read_to_string(laptop.status().folder.join("log")).unwrap();
        told += u32::from(log.contains("set aside") || log.contains("is damaged"));
        page += 1;
    }
    // Most pages are looked at in so small a data set; one that is not can't be known to be damaged.
    assert!(told >= 3, "{told} of {page} damaged pages were told");
}
