//! One machine with the real program: its files, its commands, its processes.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use forebay_mounter::device;
use forebay_mounter::protocol::HolderStatus;
use forebay_mounter::run_folder::RunRoot;
use forebay_node::holder;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const FILES: u8 = 4;
const BYTES: usize = 300_000;

/// A folder as the source, a place to mount on, a cache, a run folder.
pub(crate) struct Laptop {
    pub(crate) folder: TempDir,
}

impl Laptop {
    pub(crate) const MOUNT: [&str; 7] = ["mount", "dataset.yaml", "data", "--config", "node.yaml", "--cache-dir", "cache"];

    /// With a few files, which `check` knows.
    pub(crate) fn new() -> Self {
        let laptop = Self::with("");
        for file in 1..=FILES {
            fs::write(laptop.path("bucket").join(format!("f{file}")), vec![file; BYTES]).unwrap();
        }
        laptop
    }

    /// With an empty source, and `rest` below the Dataset's `spec`.
    pub(crate) fn with(rest: &str) -> Self {
        let laptop = Self { folder: TempDir::new().unwrap() };
        for name in ["bucket", "data"] {
            fs::create_dir(laptop.path(name)).unwrap();
        }
        let source = laptop.path("bucket").display().to_string();
        let dataset = format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t }}\nspec:\n  source: \"file://{source}\"\n{rest}"
        );
        fs::write(laptop.path("dataset.yaml"), dataset).unwrap();
        laptop.configure("1Gi", "");
        laptop
    }

    /// The node's file, for `--config node.yaml`, with a cache of `capacity`, whatever this machine's disk has left.
    pub(crate) fn configure(&self, capacity: &str, rest: &str) {
        let tier = self.path("cache").display().to_string();
        let text = format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: NodeConfig\ntiers: [{{ path: \"{tier}\", capacity: {capacity}, keepFreePercent: 0 }}]\n{rest}"
        );
        fs::write(self.path("node.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-node"));
        command.env("FOREBAY_RUN", self.path("run")).current_dir(self.folder.path()).args(arguments);
        command.output().unwrap()
    }

    pub(crate) fn mount(&self) {
        self.mount_with(&[]);
    }

    pub(crate) fn mount_with(&self, more: &[&str]) {
        let output = self.run(&[&Self::MOUNT, more].concat());
        assert!(output.status.success(), "{output:?}");
    }

    /// With the cache of `configure`.
    pub(crate) fn mount_configured(&self) {
        let output = self.run(&["mount", "dataset.yaml", "data", "--config", "node.yaml"]);
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) fn unmount(&self) {
        let output = self.run(&["unmount", "data"]);
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) fn refresh(&self) {
        let output = self.run(&["refresh", "data"]);
        assert!(output.status.success(), "{output:?}");
    }

    /// The end of the log of holder and daemons.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.status().folder.join("log")).unwrap();
        // Under load every file that changes is told.
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("forebay_node::fs::")).collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Empties the cache, so that the next read asks the source.
    pub(crate) fn free(&self) {
        self.free_path("/");
    }

    pub(crate) fn free_path(&self, path: &str) {
        let output = self.run(&["free", "data", path]);
        assert!(output.status.success(), "{output:?}");
    }

    /// The state, once a daemon has served for two reports.
    pub(crate) fn steady(&self) -> HolderStatus {
        wait_until("a daemon", || self.status().ready);
        let (status, since) = (self.status(), Instant::now());
        wait_until("its reports", || since.elapsed() > Duration::from_secs(2));
        status
    }

    /// The newest manifest in the cache.
    pub(crate) fn manifest(&self) -> PathBuf {
        let (mut folders, mut found) = (vec![self.path("cache")], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "manifest") {
                    found.push(path);
                }
            }
        }
        found.into_iter().max().unwrap()
    }

    pub(crate) fn status(&self) -> HolderStatus {
        let mut all = holder::list(&RunRoot::new(self.path("run"))).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Whether a daemon serves; also while there is no holder yet.
    pub(crate) fn is_served(&self) -> bool {
        holder::list(&RunRoot::new(self.path("run"))).is_ok_and(|all| all.first().is_some_and(|status| status.ready))
    }

    /// Every byte, or the error that a read gave.
    pub(crate) fn check(&self) {
        for file in 1..=FILES {
            assert!(fs::read(self.path("data").join(format!("f{file}"))).unwrap() == vec![file; BYTES]);
        }
    }

    /// Whether all can be read; wrong bytes are never right.
    pub(crate) fn is_right(&self) -> bool {
        (1..=FILES).all(|file| {
            fs::read(self.path("data").join(format!("f{file}"))).is_ok_and(|bytes| {
                assert!(bytes == vec![file; BYTES]);
                true
            })
        })
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        if device::is_mounted(&self.path("data")) {
            self.run(&["unmount", "data"]);
        }
    }
}

/// The metrics endpoint of a laptop's daemons.
pub(crate) struct Metrics {
    port: u16,
}

/// What one daemon has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) fills: u64,
    pub(crate) evictions: u64,
    pub(crate) hits: u64,
}

impl Metrics {
    /// At a port that was free a moment ago.
    pub(crate) fn new() -> Self {
        Self { port: TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port() }
    }
    /// For the node's file.
    pub(crate) fn config(&self) -> String {
        format!("metrics: {{ address: \"127.0.0.1:{}\" }}\n", self.port)
    }
    /// Nothing where no daemon answers.
    pub(crate) fn read(&self) -> Counted {
        let text = self.text().unwrap_or_default();
        let sum = |name: &str| -> u64 {
            let rows = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
            rows.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        Counted {
            fills: sum("forebay_fill_blocks_total"),
            evictions: sum("forebay_store_evictions_total"),
            hits: sum("forebay_reader_hits_total"),
        }
    }
    fn text(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within 20 s");
        std::thread::yield_now();
    }
}

pub(crate) fn is_dead(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists() || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
