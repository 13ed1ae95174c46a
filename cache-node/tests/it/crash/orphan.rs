//! The holder dies too, the device with it: every read fails with an errno, every page of a mapping is a signal or has its bytes. Never zeros.

use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use memmap2::Mmap;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::fuse::can_mount;
use crate::fuse::child::{Killed, again};
use crate::fuse::tree::{fill, first_wrong};
use crate::laptop::{Laptop, is_dead, signal, wait_until};

const READER: &str = "FOREBAY_TEST_ORPHAN";
const PAGE: u64 = 4096;
/// The kernel reads it by itself once it is complete, a small one from its own pages; one begins to be read, one is only opened.
const FILES: [(&str, u64); 4] = [("passed", 300_000), ("small", 10_000), ("begun", 2_000_000), ("unread", 300_000)];
const UNREAD: usize = 3;

#[derive(Serialize, Deserialize)]
struct Task {
    mount_point: PathBuf,
    /// Files by which reader and test tell each other how far they are.
    ready: PathBuf,
    go: PathBuf,
    /// With reads that wait for a daemon that does not answer.
    blocked: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    /// By file: calls and pages that gave right bytes, and that failed.
    right: [u64; FILES.len()],
    failed: [u64; FILES.len()],
    /// The same of pages of mappings alone.
    signals: [u64; FILES.len()],
    wrong: Vec<String>,
}

/// What a reader sees that had files open and mapped when both processes died.
fn orphaned(stopped_first: bool) -> Seen {
    let laptop = Laptop::with("");
    laptop.configure("1Gi", "blockSize: 64Ki\nserving: Open\n");
    for (number, (name, size)) in FILES.iter().enumerate() {
        let mut bytes = vec![0; *size as usize];
        fill(number as u64, 0, &mut bytes);
        fs::write(laptop.path("bucket").join(name), bytes).unwrap();
    }
    let mounted = laptop.run(&["mount", "dataset.yaml", "data", "--config", "node.yaml", "--hung-after", "60"]);
    assert!(mounted.status.success(), "{mounted:?}");
    laptop.refresh();
    let (passed, small) = (laptop.path("data").join("passed"), laptop.path("data").join("small"));
    fs::read(small).unwrap();
    // Opens of it are answered in the new mode once the kernel asks for the name again.
    wait_until("a file that the kernel reads by itself", || {
        fs::read(&passed).unwrap();
        let status = laptop.status();
        status.backing_ids > 0 || !status.features.passthrough
    });
    let task = Task {
        mount_point: laptop.path("data"),
        ready: laptop.path("ready"),
        go: laptop.path("go"),
        blocked: stopped_first.then(|| laptop.path("blocked")),
    };
    let mut command = again("crash::orphan::reads");
    command.env(READER, serde_json::to_string(&task).unwrap()).stdout(Stdio::piped());
    let mut reader = Killed(command.spawn().unwrap());
    wait_until("a reader with open files", || task.ready.exists());
    let status = laptop.status();
    let node_pid = status.node_pid.unwrap();
    if let Some(blocked) = &task.blocked {
        signal(node_pid, Signal::STOP);
        fs::write(&task.go, "").unwrap();
        wait_until("reads that wait", || blocked.exists());
        assert_eq!(laptop.status().node_pid, Some(node_pid), "nobody replaced the daemon meanwhile");
    }
    signal(status.holder_pid, Signal::KILL);
    if stopped_first {
        signal(node_pid, Signal::KILL);
    }
    wait_until("the end of both", || is_dead(status.holder_pid) && is_dead(node_pid));
    fs::write(if stopped_first { laptop.path("gone") } else { task.go.clone() }, "").unwrap();
    let mut text = String::new();
    reader.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(reader.0.wait().unwrap().success(), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("SEEN ")).expect("a report");
    let seen: Seen = serde_json::from_str(line).unwrap();
    eprintln!("{seen:?}");
    assert!(laptop.run(&["unmount", "data"]).status.success());
    seen
}

#[test]
fn without_holder_and_daemon_reads_and_mappings_fail_and_are_never_zeros() {
    if !can_mount() {
        return;
    }
    for stopped_first in [false, true] {
        let seen = orphaned(stopped_first);
        assert!(seen.wrong.is_empty(), "{stopped_first}: {:?}", &seen.wrong[..seen.wrong.len().min(5)]);
        // Nobody could have these bytes: each call and each page failed.
        assert_eq!(seen.right[UNREAD], 0, "{stopped_first}: {seen:?}");
        let pages = FILES[UNREAD].1.div_ceil(PAGE);
        assert!(seen.failed[UNREAD] > 2 * pages && seen.signals[UNREAD] == pages, "{stopped_first}: {seen:?}");
    }
}

fn wait_for(path: &Path) {
    wait_until("a word of the test", || path.exists());
}

#[test]
#[ignore = "a reader of the test above"]
fn reads() {
    let Ok(task) = std::env::var(READER) else { return };
    let task: Task = serde_json::from_str(&task).unwrap();
    let files: Vec<File> = FILES.iter().map(|(name, _)| File::open(task.mount_point.join(name)).unwrap()).collect();
    // SAFETY: nothing changes the files while they are mapped, and the mappings are read only by `touch`.
    let mappings: Vec<Mmap> = files.iter().map(|file| unsafe { Mmap::map(file).unwrap() }).collect();
    let mut seen = Seen::default();
    for number in 0..UNREAD {
        let mut bytes = [0; PAGE as usize];
        files[number].read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(first_wrong(number as u64, 0, &bytes), None);
        assert_eq!(touch(number, &mappings[number], PAGE..2 * PAGE), Touched::Right);
    }
    fs::write(&task.ready, "").unwrap();
    wait_for(&task.go);
    if let Some(blocked) = &task.blocked {
        wait_blocked(&files[UNREAD], &mappings[UNREAD], blocked, &mut seen);
        wait_for(&blocked.with_file_name("gone"));
    }
    for (number, (name, size)) in FILES.iter().enumerate() {
        read_all(number, &files[number], &mut seen);
        match File::open(task.mount_point.join(name)) {
            Ok(file) => read_all(number, &file, &mut seen),
            Err(_) => seen.failed[number] += size.div_ceil(PAGE),
        }
        for from in (0..*size).step_by(PAGE as usize) {
            match touch(number, &mappings[number], from..(from + PAGE).min(*size)) {
                Touched::Right => seen.right[number] += 1,
                Touched::Signal => {
                    seen.failed[number] += 1;
                    seen.signals[number] += 1;
                }
                ended => seen.wrong.push(format!("{name} mapped at {from}: {ended:?}")),
            }
        }
    }
    if let Ok(rows) = fs::read_dir(&task.mount_point) {
        // A folder may fail to be read, but not look emptier than it is.
        if rows.collect::<Result<Vec<_>, _>>().is_ok_and(|rows| rows.len() != FILES.len()) {
            seen.wrong.push("the folder lacks files".to_owned());
        }
    }
    println!("SEEN {}", serde_json::to_string(&seen).unwrap());
}

fn read_all(number: usize, file: &File, seen: &mut Seen) {
    let (name, size) = FILES[number];
    let mut bytes = [0; PAGE as usize];
    for offset in (0..size).step_by(PAGE as usize) {
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        note(number, offset, file.read_at(&mut bytes, offset).map(|read| &bytes[..read]), seen);
    }
    assert!(size > 0, "{name}");
}

fn note(number: usize, offset: u64, outcome: std::io::Result<&[u8]>, seen: &mut Seen) {
    let (name, size) = FILES[number];
    match outcome {
        Err(_) => seen.failed[number] += 1,
        Ok(bytes) if bytes.len() as u64 != PAGE.min(size - offset) => seen.wrong.push(format!("{name} at {offset}: {} bytes", bytes.len())),
        Ok(bytes) => match first_wrong(number as u64, offset, bytes) {
            None => seen.right[number] += 1,
            Some(at) => seen.wrong.push(format!("{name} at {}: not its bytes", offset + at as u64)),
        },
    }
}

/// How a process ended that looked at bytes.
#[derive(Debug, PartialEq, Eq)]
enum Touched {
    Right,
    /// SIGBUS.
    Signal,
    Errno,
    Wrong(String),
}

/// What `look` says, in a process of its own, which may die of it: whether bytes are right, or that there are none.
fn begin(look: impl FnOnce() -> std::io::Result<bool>) -> i32 {
    // SAFETY: the copy has this thread alone; it compares memory (the allocator of glibc is whole after a fork) and ends without destructors.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = look().map_or(2, |is_right| i32::from(!is_right));
        // SAFETY: as above.
        unsafe { libc::_exit(code) }
    }
    pid
}

fn end_of(pid: i32) -> Touched {
    let mut status = 0;
    // SAFETY: the status is our own integer, and the pid a child that nobody else waits for.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    match libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)) {
        Some(0) => Touched::Right,
        Some(2) => Touched::Errno,
        None if libc::WTERMSIG(status) == libc::SIGBUS => Touched::Signal,
        Some(_) | None => Touched::Wrong(format!("status {status:#x}")),
    }
}

fn begin_touch(number: usize, mapping: &Mmap, range: Range<u64>) -> i32 {
    begin(|| Ok(first_wrong(number as u64, range.start, &mapping[range.start as usize..range.end as usize]).is_none()))
}

fn touch(number: usize, mapping: &Mmap, range: Range<u64>) -> Touched {
    end_of(begin_touch(number, mapping, range))
}

/// A call and a page fault that wait in the kernel, told of in `blocked` as soon as both do; then what became of them.
fn wait_blocked(file: &File, mapping: &Mmap, blocked: &Path, seen: &mut Seen) {
    let size = FILES[UNREAD].1;
    let fault = begin_touch(UNREAD, mapping, (size - 1) / PAGE * PAGE..size);
    let call = begin(|| {
        let mut bytes = [0; PAGE as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(first_wrong(UNREAD as u64, 0, &bytes).is_none())
    });
    wait_until("both to wait", || {
        [fault, call].iter().all(|pid| {
            let stack = fs::read_to_string(format!("/proc/{pid}/stack")).unwrap();
            ["fuse_", "folio_wait"].iter().any(|word| stack.contains(word))
        })
    });
    fs::write(blocked, "").unwrap();
    for (pid, expected) in [(fault, Touched::Signal), (call, Touched::Errno)] {
        let ended = end_of(pid);
        if ended != expected {
            seen.wrong.push(format!("{expected:?} was to be the end of what waited: {ended:?}"));
        }
    }
}
