//! An S3 server of this program in a process of its own, so that its CPU and memory are nobody else's. It ends with the value.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// It reads the tree that it serves first: a million files take a while on a cold disk.
const LISTENS_WITHIN: Duration = Duration::from_secs(300);
const POLL_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Server {
    child: Child,
    pub(super) endpoint: String,
}

impl Server {
    /// `arguments` begin with `serve` or `serve-generated`; `folder` takes the file by which the server tells its endpoint.
    pub(super) fn start(folder: &Path, arguments: &[&str]) -> Result<Self> {
        let ready = folder.join("endpoint");
        let _ = fs::remove_file(&ready);
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .arg("--ready")
            .arg(&ready)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start the S3 server: {arguments:?}"))?;
        let mut server = Self { child, endpoint: String::new() };
        let begin = Instant::now();
        while !ready.exists() {
            ensure!(begin.elapsed() < LISTENS_WITHIN, "the S3 server did not listen within {LISTENS_WITHIN:?}");
            ensure!(server.child.try_wait()?.is_none(), "the S3 server ended before it listened");
            std::thread::park_timeout(POLL_EVERY);
        }
        server.endpoint = fs::read_to_string(&ready)?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
