//! kill -9 of the daemon, again and again, under checked readers: no error, no wrong byte, no long stall.

mod orphan;
pub(crate) mod versions;
mod whole;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::fuse::child::{Killed, again, daemon};
use crate::fuse::tree::{Plan, first_wrong};
use crate::fuse::{Bench, can_mount};

const READER: &str = "FOREBAY_TEST_READER";
/// Reader processes and threads of each: 128 readers.
const PROCESSES: u64 = 4;
const THREADS_EACH: u64 = 32;
const STALL_MAX: Duration = Duration::from_secs(2);

/// Lets the load go on for a while: a crash is a moment in it, there is no condition to wait for.
#[expect(clippy::disallowed_methods, reason = "the time itself is what is wanted")]
fn let_run(time: Duration) {
    std::thread::sleep(time);
}

/// How often the daemon is killed; `FOREBAY_TORTURE` asks for the long form.
fn kills() -> u32 {
    if std::env::var_os("FOREBAY_TORTURE").is_some() { 100 } else { 6 }
}

pub(crate) fn seed() -> u64 {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("FOREBAY_SEED={seed}");
    seed
}

#[derive(Serialize, Deserialize)]
struct Task {
    mount_point: String,
    plan: Plan,
    stop: String,
    seed: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    operations: u64,
    bytes: u64,
    errors: Vec<String>,
    wrong: Vec<String>,
    longest_ms: u64,
    /// Reads of a version that was gone.
    #[serde(default)]
    stale: u64,
    /// Reads through a file that was opened, and through a mapping that was made, before the last kill or an earlier one.
    #[serde(default)]
    held_over: u64,
    #[serde(default)]
    mapped_over: u64,
}

impl Seen {
    fn merge(&mut self, other: Self) {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors.extend(other.errors);
        self.wrong.extend(other.wrong);
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        self.stale += other.stale;
        self.held_over += other.held_over;
        self.mapped_over += other.mapped_over;
    }

    /// Counts one call.
    fn took(&mut self, time: Duration) {
        self.longest_ms = self.longest_ms.max(u64::try_from(time.as_millis()).unwrap());
        self.operations += 1;
    }

    fn summary(&self) -> String {
        format!(
            "{} operations, {} MB, {} errors, {} wrong, {} stale, {} through files and {} through mappings of before a kill, \
             longest stall {} ms",
            self.operations,
            self.bytes >> 20,
            self.errors.len(),
            self.wrong.len(),
            self.stale,
            self.held_over,
            self.mapped_over,
            self.longest_ms
        )
    }

    fn is_nothing_but_a_moment(&self) -> bool {
        self.wrong.is_empty() && self.errors.is_empty() && u128::from(self.longest_ms) < STALL_MAX.as_millis()
    }

    fn assert_nothing_but_a_moment(&self) {
        assert!(self.wrong.is_empty(), "{:?}", &self.wrong[..self.wrong.len().min(5)]);
        assert!(self.errors.is_empty(), "{:?}", &self.errors[..self.errors.len().min(5)]);
        assert!(self.operations > 1000, "{}", self.summary());
        assert!(u128::from(self.longest_ms) < STALL_MAX.as_millis(), "{} ms", self.longest_ms);
    }
}

#[test]
fn kill_9_of_the_daemon_costs_128_readers_nothing_but_a_moment() {
    if !can_mount() {
        return;
    }
    let seed = seed();
    let bench = Bench::new();
    let plan = bench.local(Plan {
        directories: 8,
        files_each: 32,
        size_base: 20_000,
        size_modulus: 400_000,
        passthrough_every: 2,
        ttl_ms: 20,
        slow_every: 7,
        slow_ms: 5,
        ..Plan::default()
    });
    let mount = bench.mount();
    let mut serving = daemon(&mount.socket, &plan);
    mount.wait_until_ready();

    let stop = bench.folder.path().join("stop");
    let readers: Vec<Killed> = (0..PROCESSES)
        .map(|process| {
            let task = Task {
                mount_point: mount.mount_point.display().to_string(),
                plan: plan.clone(),
                stop: stop.display().to_string(),
                seed: seed ^ process,
            };
            let mut command = again("crash::reads");
            command.env(READER, serde_json::to_string(&task).unwrap()).stdout(Stdio::piped());
            Killed(command.spawn().unwrap())
        })
        .collect();

    let mut random = SmallRng::seed_from_u64(seed);
    let mut longest_gap = Duration::ZERO;
    for _ in 0..kills() {
        let_run(Duration::from_millis(random.random_range(20..400)));
        let killed = Instant::now();
        serving.kill();
        serving = daemon(&mount.socket, &plan);
        mount.wait_until_ready();
        longest_gap = longest_gap.max(killed.elapsed());
    }
    let_run(Duration::from_millis(300));
    fs::write(&stop, "").unwrap();

    let mut seen = Seen::default();
    for mut reader in readers {
        let mut text = String::new();
        reader.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(reader.0.wait().unwrap().success(), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix("SEEN ")).expect("a report");
        seen.merge(serde_json::from_str(line).unwrap());
    }
    let gap = longest_gap.as_millis();
    eprintln!("{} kills: {}, longest gap between daemons {gap} ms, {:?}", kills(), seen.summary(), mount.hold.status());
    seen.assert_nothing_but_a_moment();
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
                scope.spawn(move || reader(task, stopped, SmallRng::seed_from_u64(task.seed << 8 ^ thread)))
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

/// Opens, reads at random, drops from the page cache, keeps some files open for long, maps, lists and stats, and times each call.
fn reader(task: &Task, stopped: &AtomicBool, mut random: SmallRng) -> Seen {
    let mut seen = Seen::default();
    let mut held: Vec<(u64, File)> = Vec::new();
    let root = Path::new(&task.mount_point);
    while !stopped.load(Ordering::Relaxed) {
        let number = random.random_range(0..task.plan.files());
        let path = root.join(task.plan.path(number));
        let begun = Instant::now();
        let result = step(task, &path, number, &mut held, &mut random, &mut seen);
        seen.took(begun.elapsed());
        if let Err(error) = result {
            seen.errors.push(format!("{}: {error}", path.display()));
        }
    }
    seen
}

fn step(task: &Task, path: &Path, number: u64, held: &mut Vec<(u64, File)>, random: &mut SmallRng, seen: &mut Seen) -> std::io::Result<()> {
    match random.random_range(0..10) {
        0 => {
            let names = fs::read_dir(path.parent().unwrap())?.collect::<Result<Vec<_>, _>>()?;
            if names.len() as u64 != task.plan.files_each {
                seen.wrong.push(format!("{}: {} names", path.display(), names.len()));
            }
        }
        1 => {
            if fs::metadata(path)?.len() != task.plan.size(number) {
                seen.wrong.push(format!("{}: size", path.display()));
            }
        }
        2 => {
            let file = File::open(path)?;
            // SAFETY: nothing changes the file while it is mapped, and the mapping is read only here.
            let mapping = unsafe { memmap2::Mmap::map(&file)? };
            let from = random.random_range(0..mapping.len());
            let to = (from + 70_000).min(mapping.len());
            check(number, from as u64, &mapping[from..to], seen);
        }
        3 => {
            if held.len() > 8 {
                held.swap_remove(random.random_range(0..held.len()));
            }
            held.push((number, File::open(path)?));
        }
        4..=6 if !held.is_empty() => {
            let (number, file) = &held[random.random_range(0..held.len())];
            read(task, *number, file, random, seen)?;
        }
        _ => read(task, number, &File::open(path)?, random, seen)?,
    }
    Ok(())
}

fn read(task: &Task, number: u64, file: &File, random: &mut SmallRng, seen: &mut Seen) -> std::io::Result<()> {
    let size = task.plan.size(number);
    let offset = random.random_range(0..size);
    let len = random.random_range(1..200_000).min(size - offset);
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    check(number, offset, &bytes, seen);
    // So that the next read asks the daemon again.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}

fn check(number: u64, offset: u64, bytes: &[u8], seen: &mut Seen) {
    seen.bytes += bytes.len() as u64;
    if let Some(at) = first_wrong(number, offset, bytes) {
        seen.wrong.push(format!("file {number} at {}", offset + at as u64));
    }
}
