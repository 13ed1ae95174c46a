//! A pod's process that reads and checks every byte, as a user that isn't root.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::machine::until;
use super::stand_in::{FILE, FILE_BYTES, byte};

/// Reads the data set's file at `target` once, as user 1000.
pub(crate) fn assert_user_reads(target: &Path, uid: &str) {
    let output = Command::new("cat").arg(target.join(FILE)).uid(1000).gid(1000).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let wanted: Vec<u8> = (0..FILE_BYTES).map(|at| byte(uid, at)).collect();
    assert!(output.stdout == wanted, "other bytes than {uid}'s");
}

/// Reads on and on.
pub(crate) struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration, (u64, io::Error)>>,
}

impl Reader {
    pub(crate) fn start(target: &Path, uid: &str) -> Self {
        let (stop, reads): (Arc<AtomicBool>, Arc<AtomicU64>) = (Arc::default(), Arc::default());
        let (path, uid, told, counted) = (target.join(FILE), uid.to_owned(), Arc::clone(&stop), Arc::clone(&reads));
        let thread = std::thread::spawn(move || {
            let mut stall = Duration::ZERO;
            let mut buffer = [0; 4096];
            let fail = |error| (counted.load(Ordering::Relaxed), error);
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                // Opened anew each time, so that lookups and opens are interrupted, too.
                let file = File::open(&path).map_err(fail)?;
                for page in 0..8 {
                    let offset = (counted.load(Ordering::Relaxed) as usize * 4096 + page * 40_960) % (FILE_BYTES - 4096);
                    file.read_exact_at(&mut buffer, offset as u64).map_err(fail)?;
                    assert!(buffer.iter().enumerate().all(|(at, found)| *found == byte(&uid, offset + at)), "wrong bytes at {offset}");
                }
                counted.fetch_add(1, Ordering::Relaxed);
                stall = stall.max(begun.elapsed());
            }
            Ok(stall)
        });
        let reader = Self { stop, reads, thread };
        reader.reads_on();
        reader
    }

    /// Waits for reads that began after this call.
    pub(crate) fn reads_on(&self) {
        let before = self.reads.load(Ordering::Relaxed);
        until("reads go on", || self.thread.is_finished() || self.reads.load(Ordering::Relaxed) > before + 20);
    }

    /// The longest time that eight reads took; panics if one failed.
    pub(crate) fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.join().unwrap();
        result.unwrap_or_else(|(reads, error)| panic!("after {reads} rounds: {error}"))
    }

    /// The error that ended it.
    pub(crate) fn failure(self) -> io::Error {
        let result = self.thread.join().unwrap();
        result.expect_err("reads fail").1
    }
}
