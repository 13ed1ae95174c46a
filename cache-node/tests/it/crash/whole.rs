//! kill -9 of the real daemon under 128 readers, with all that can go on at once: fills, files that the kernel reads by itself, held open and
//! opened again by other processes, mappings, syncs that find objects replaced, and eviction from a cache smaller than the data. That all of it went on
//! while daemons were killed is asserted from what they counted until then.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay_mounter::protocol::HolderStatus;
use memmap2::{Mmap, UncheckedAdvice};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::versions::{self, Ledger};
use super::{PROCESSES, Seen, THREADS_EACH, kills, let_run, seed};
use crate::fuse::can_mount;
use crate::fuse::child::{Killed, again};
use crate::fuse::tree::{fill, first_wrong};
use crate::laptop::{Counted, Laptop, Metrics, signal, wait_until};

const READER: &str = "FOREBAY_TEST_WHOLE_READER";
const FOLDERS: u64 = 8;
const FILES_EACH: u64 = 24;
const FILES: u64 = FOLDERS * FILES_EACH;
/// Of about 40 MB.
const CACHE: &str = "16Mi";
/// How often a read may meet a version that is gone before the name must be right: S-05 says a second, and a daemon may die in it.
const RIGHT_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that tell a version apart.
const HEAD_BYTES: usize = 64;

fn size(file: u64, version: u64) -> u64 {
    let base = match file % 8 {
        0 => 1_100_000,
        1 | 2 => 250_000,
        3 => 70_000,
        _ => 9000,
    };
    base + (file * 7919 + version * 104_729) % 40_000
}

fn path(file: u64) -> String {
    format!("d{}/f{file}", file / FILES_EACH)
}

/// Every fourth file stays as it is: a mapping of one that goes would be a signal.
fn is_replaced(file: u64) -> bool {
    !file.is_multiple_of(4)
}

#[derive(Serialize, Deserialize)]
struct Task {
    mount_point: String,
    ledger: String,
    stop: String,
    seed: u64,
}

#[test]
fn kill_9_of_the_real_daemon_under_all_loads_at_once_costs_nothing_but_a_moment() {
    if !can_mount() {
        return;
    }
    let seed = seed();
    let laptop = Laptop::with("  eviction: LRU\n  sync: { interval: 1s }\n");
    let metrics = Metrics::new();
    laptop.configure(CACHE, &format!("blockSize: 256Ki\nserving: Open\n{}", metrics.config()));
    for folder in 0..FOLDERS {
        fs::create_dir(laptop.path("bucket").join(format!("d{folder}"))).unwrap();
    }
    let ledger = Ledger::create(&laptop.path("ledger"), FILES + 1);
    let put = |file, version| {
        ledger.set(file, version);
        versions::put(&laptop.path("bucket"), &laptop.path("partial"), &path(file), versions::id(file, version), size(file, version));
    };
    (0..FILES).for_each(|file| put(file, 0));
    laptop.mount_configured();
    // What was looked up before the first listing is complete is known to this daemon alone.
    laptop.refresh();

    let stop = laptop.path("stop");
    let readers: Vec<Killed> = (0..PROCESSES)
        .map(|process| {
            let task = Task {
                mount_point: laptop.path("data").display().to_string(),
                ledger: laptop.path("ledger").display().to_string(),
                stop: stop.display().to_string(),
                seed: seed ^ process,
            };
            let mut command = again("crash::whole::reads");
            command.env(READER, serde_json::to_string(&task).unwrap()).stdout(Stdio::piped());
            Killed(command.spawn().unwrap())
        })
        .collect();

    let ended = AtomicBool::new(false);
    let mut done = Done::default();
    let replaced = std::thread::scope(|scope| {
        let replacer = scope.spawn(|| {
            let mut random = SmallRng::seed_from_u64(seed ^ 0xabcd);
            let mut replaced = 0;
            while !ended.load(Ordering::Relaxed) {
                let_run(Duration::from_millis(random.random_range(5..60)));
                let file = random.random_range(0..FILES);
                if is_replaced(file) {
                    put(file, ledger.get(file) + 1);
                    replaced += 1;
                }
            }
            replaced
        });
        // Also when a wait below fails: then the scope ends, and the test with it.
        let _ends = Ends(&ended);
        let mut random = SmallRng::seed_from_u64(seed);
        for round in 0..kills() {
            let_run(Duration::from_millis(random.random_range(20..400)));
            if round % 5 == 4 {
                // Now and then so long that everything has happened in this daemon's life.
                let synced = syncs_that_replaced(&laptop);
                wait_until("fills, evictions and a sync that replaces", || {
                    let now = metrics.read();
                    now.fills > 0 && now.evictions > 0 && syncs_that_replaced(&laptop) > synced
                });
            }
            let before = laptop.status();
            done.add(&metrics.read(), &before);
            if let Some(pid) = before.node_pid {
                signal(pid, Signal::KILL);
                ledger.set(KILLS, ledger.get(KILLS) + 1);
            }
            wait_until("another daemon", || {
                let now = laptop.status();
                now.ready && now.node_pid != before.node_pid
            });
        }
        let_run(Duration::from_millis(1500));
        ended.store(true, Ordering::Relaxed);
        replacer.join().unwrap()
    });
    let synced = syncs_that_replaced(&laptop);
    fs::write(&stop, "").unwrap();
    let mut seen = Seen::default();
    for mut reader in readers {
        let mut text = String::new();
        reader.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let ended = reader.0.wait().unwrap();
        assert!(ended.success(), "a reader: {ended}: {text}\n{}", laptop.log());
        let line = text.lines().find_map(|line| line.strip_prefix("SEEN ")).expect("a report");
        seen.merge(serde_json::from_str(line).unwrap());
    }
    eprintln!("{} kills, {replaced} replaced, {synced} syncs that replaced, {done:?}: {}", kills(), seen.summary());
    if !seen.is_nothing_but_a_moment() {
        eprintln!("{}", laptop.log());
    }
    seen.assert_nothing_but_a_moment();
    done.assert_all_went_on();
    assert!(seen.held_over > u64::from(kills()) && seen.mapped_over > u64::from(kills()), "{}", seen.summary());
    assert!(replaced > 10 && synced > 0 && seen.stale > 0, "reads met versions that were gone");
    // Nothing stays wrong: after a sync each name shows its last version.
    wait_until("the last version of each file", || (0..FILES).all(|file| shows(&laptop.path("data"), file, ledger.get(file))));
}

/// Ends whoever looks at it.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where the number of kills so far stands in the ledger.
const KILLS: u64 = FILES;

/// Syncs of all daemons so far that found objects replaced, by their log.
fn syncs_that_replaced(laptop: &Laptop) -> usize {
    let log = fs::read_to_string(laptop.status().folder.join("log")).unwrap();
    log.lines().filter(|line| line.contains("synced") && line.contains("replaced=") && !line.contains("replaced=0")).count()
}

/// What daemons that were killed had counted, up to a moment before.
#[derive(Debug, Default)]
struct Done {
    fills: u64,
    evictions: u64,
    hits: u64,
    /// Kills of a daemon that had filled, and evicted, anything.
    kills_after_fills: u32,
    kills_after_evictions: u32,
    /// Kills with files that the kernel read by itself.
    kills_with_passthrough: u32,
    no_passthrough: bool,
}

impl Done {
    fn add(&mut self, counted: &Counted, status: &HolderStatus) {
        self.fills += counted.fills;
        self.evictions += counted.evictions;
        self.hits += counted.hits;
        self.kills_after_fills += u32::from(counted.fills > 0);
        self.kills_after_evictions += u32::from(counted.evictions > 0);
        self.kills_with_passthrough += u32::from(status.backing_ids > 0);
        self.no_passthrough |= !status.features.passthrough;
    }

    fn assert_all_went_on(&self) {
        // Some daemons live for so short a time that they do little.
        assert!(self.kills_after_fills * 2 >= kills() && self.fills > u64::from(kills()), "{self:?}");
        assert!(self.kills_after_evictions * 5 >= kills() && self.evictions > u64::from(kills()), "{self:?}");
        assert!(self.hits > 0, "{self:?}");
        // Of the first ones there may be none yet.
        assert!(self.no_passthrough || self.kills_with_passthrough * 2 >= kills(), "{self:?}");
    }
}

fn shows(root: &Path, file: u64, version: u64) -> bool {
    let Ok(bytes) = fs::read(root.join(path(file))) else { return false };
    bytes.len() as u64 == size(file, version) && first_wrong(versions::id(file, version), 0, &bytes).is_none()
}

#[test]
#[ignore = "a reader of the test above"]
fn reads() {
    let Ok(task) = std::env::var(READER) else { return };
    let task: Task = serde_json::from_str(&task).unwrap();
    let stopped = AtomicBool::new(false);
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS_EACH)
            .map(|thread| {
                let (task, stopped) = (&task, &stopped);
                scope.spawn(move || {
                    let mut reader = Reader {
                        task,
                        ledger: Ledger::open(Path::new(&task.ledger)),
                        random: SmallRng::seed_from_u64(task.seed << 8 ^ thread),
                        held: Vec::new(),
                        mapped: Vec::new(),
                        seen: Seen::default(),
                    };
                    while !stopped.load(Ordering::Relaxed) {
                        reader.step();
                        // Programs compute, too: it is the daemon's absence that is measured, not the queue for two cores.
                        let_run(Duration::from_millis(reader.random.random_range(0..100)));
                    }
                    reader.seen
                })
            })
            .collect();
        while !Path::new(&task.stop).exists() {
            let_run(Duration::from_millis(20));
        }
        stopped.store(true, Ordering::Relaxed);
        for thread in threads {
            seen.merge(thread.join().unwrap());
        }
    });
    println!("SEEN {}", serde_json::to_string(&seen).unwrap());
}

/// A file that is open, and whose version is known from its first bytes.
struct Held {
    number: u64,
    version: u64,
    /// Kills before it was opened.
    kills: u64,
    file: File,
}

/// A mapping of a file that stays.
struct Mapped {
    number: u64,
    kills: u64,
    file: File,
    mapping: Mmap,
}

struct Reader<'a> {
    task: &'a Task,
    ledger: Ledger,
    random: SmallRng,
    held: Vec<Held>,
    mapped: Vec<Mapped>,
    seen: Seen,
}

fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

impl Reader<'_> {
    fn step(&mut self) {
        let number = self.random.random_range(0..FILES);
        let path = Path::new(&self.task.mount_point).join(path(number));
        let operation = self.random.random_range(0..10);
        let result = match operation {
            0 => self.list(&path),
            1 => self.stat(number, &path),
            2 => self.map(number / 4 * 4),
            3 => self.open(number, &path).map(|opened| {
                if self.held.len() > 8 {
                    let at = self.random.random_range(0..self.held.len());
                    self.held.swap_remove(at);
                }
                self.held.extend(opened);
            }),
            4..=6 if !self.held.is_empty() => {
                let at = self.random.random_range(0..self.held.len());
                let held = self.held.swap_remove(at);
                self.read(&held).map(|is_there| {
                    if is_there {
                        self.held.push(held)
                    }
                })
            }
            _ => self.open(number, &path).and_then(|opened| opened.map_or(Ok(()), |held| self.read(&held).map(drop))),
        };
        if let Err(error) = result {
            let operation = ["list", "stat", "map", "hold", "held", "held", "held"].get(operation).unwrap_or(&"read");
            self.seen.errors.push(format!("{operation} {}, version {}: {error}", path.display(), self.ledger.get(number)));
        }
    }

    /// One call, and how long it took.
    fn timed<T>(&mut self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        let result = call();
        self.seen.took(begun.elapsed());
        result
    }

    fn list(&mut self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap();
        match self.timed(|| fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()) {
            // Two syncs in the middle, or a daemon that doesn't know the listing (S-06): to be begun again.
            Err(error) if is_stale(&error) => self.seen.stale += 1,
            Err(error) => return Err(error),
            Ok(names) if names.len() as u64 != FILES_EACH => self.seen.wrong.push(format!("{}: {} names", folder.display(), names.len())),
            Ok(_) => {}
        }
        Ok(())
    }

    fn stat(&mut self, number: u64, path: &Path) -> io::Result<()> {
        let size_now = self.timed(|| fs::metadata(path))?.len();
        if !(0..=self.ledger.get(number)).any(|version| size(number, version) == size_now) {
            self.seen.wrong.push(format!("{}: {size_now} bytes", path.display()));
        }
        Ok(())
    }

    /// Reads through a mapping: a new one, of a file that stays (see `is_replaced`), or one of before.
    fn map(&mut self, number: u64) -> io::Result<()> {
        assert!(!is_replaced(number));
        let mapped = if self.mapped.len() < 2 || self.random.random_ratio(1, 3) {
            let path = Path::new(&self.task.mount_point).join(path(number));
            let file = self.timed(|| File::open(&path))?;
            // SAFETY: nothing changes the file while it is mapped, and the mapping is read only here.
            let mapping = unsafe { Mmap::map(&file)? };
            Mapped { number, kills: self.ledger.get(KILLS), file, mapping }
        } else {
            let at = self.random.random_range(0..self.mapped.len());
            self.mapped.swap_remove(at)
        };
        self.seen.mapped_over += u64::from(self.ledger.get(KILLS) > mapped.kills);
        let from = self.random.random_range(0..mapped.mapping.len());
        let part = self.timed(|| Ok(mapped.mapping[from..(from + 70_000).min(mapped.mapping.len())].to_vec()))?;
        self.check(mapped.number, 0, from as u64, &part);
        // So that the next look at it asks the daemon again: what is mapped is not dropped from the page cache.
        // SAFETY: the mapping is of a file and shared: its pages are the file's, whenever they are read again.
        unsafe { mapped.mapping.unchecked_advise(UncheckedAdvice::DontNeed)? };
        let _ = rustix::fs::fadvise(&mapped.file, 0, None, rustix::fs::Advice::DontNeed);
        if self.mapped.len() < 4 {
            self.mapped.push(mapped);
        }
        Ok(())
    }

    /// Opens and finds out the version. A version that is gone is met once more at most for a while; `None`: for all of it, which is told.
    fn open(&mut self, number: u64, path: &Path) -> io::Result<Option<Held>> {
        let begun = Instant::now();
        loop {
            let mut head = [0; HEAD_BYTES];
            let opened = self.timed(|| File::open(path));
            let result = opened.and_then(|file| {
                self.timed(|| file.read_exact_at(&mut head, 0))?;
                Ok(file)
            });
            match result {
                Ok(file) => {
                    let mut expected = [0; HEAD_BYTES];
                    let is_it = |version: &u64| {
                        fill(versions::id(number, *version), 0, &mut expected);
                        expected == head
                    };
                    let version = (0..=self.ledger.get(number)).rev().find(is_it);
                    if version.is_none() {
                        self.seen.wrong.push(format!("{}: no version has these bytes: {head:?}", path.display()));
                    }
                    let kills = self.ledger.get(KILLS);
                    return Ok(version.map(|version| Held { number, version, kills, file }));
                }
                Err(error) if is_stale(&error) && self.ledger.get(number) > 0 => {
                    self.seen.stale += 1;
                    if begun.elapsed() > RIGHT_WITHIN {
                        return Err(io::Error::other(format!("stale for {RIGHT_WITHIN:?}")));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads somewhere. `false`: its version is gone, as it may be once there is another.
    fn read(&mut self, held: &Held) -> io::Result<bool> {
        let Held { number, version, kills, file } = held;
        let size = size(*number, *version);
        let offset = self.random.random_range(0..size);
        let mut bytes = vec![0; self.random.random_range(1..200_000).min(size - offset) as usize];
        match self.timed(|| file.read_exact_at(&mut bytes, offset)) {
            Err(error) if is_stale(&error) && self.ledger.get(*number) > *version => {
                self.seen.stale += 1;
                return Ok(false);
            }
            Err(error) => return Err(io::Error::other(format!("file {number} of version {version} of {size} bytes: {error}"))),
            Ok(()) => {}
        }
        self.seen.held_over += u64::from(self.ledger.get(KILLS) > *kills);
        self.check(*number, *version, offset, &bytes);
        // So that the next read asks the daemon again.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(true)
    }

    fn check(&mut self, number: u64, version: u64, offset: u64, bytes: &[u8]) {
        self.seen.bytes += bytes.len() as u64;
        if let Some(at) = first_wrong(versions::id(number, version), offset, bytes) {
            self.seen.wrong.push(format!("file {number} of version {version} at {}", offset + at as u64));
        }
    }
}
