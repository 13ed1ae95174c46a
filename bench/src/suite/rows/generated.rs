//! Amounts that no folder here holds: ten million keys behind a server that computes them, a million objects in a store.
//! What only the inside can measure, an example of its crate does, in a process of its own; it prints JSON, and the goals are here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::group::Group;
use super::super::node::{Node, Setup};
use super::super::server::Server;
use super::super::{Figures, Suite};
use crate::measure::{self, Memory};
use crate::report::Goal;
use crate::s3_generated::{Keys, Layout, contents};
use crate::split_mix::SplitMix;
use crate::workload::in_threads;

const MIB: f64 = 1_048_576.0;
/// S3 takes about as long for a page of a listing.
const PAGE_DELAY_MS: u64 = 100;
/// Pages that are asked for at once.
const LISTING_PARALLEL: usize = 64;
const READERS: usize = 64;
const GENERATED_OBJECT_BYTES: u64 = 110_000;
const MEMORY_LIMIT_BYTES: u64 = 256 << 20;
/// Often enough to see a peak that matters, seldom enough to cost nothing.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// Runs an example and gives the JSON of each line that it prints.
pub(super) fn told(mut command: Command) -> Result<Vec<Value>> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    ensure!(output.status.success(), "{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{program} printed {line:?}"))).collect()
}

pub(super) fn number(told: &Value, name: &str) -> Result<f64> {
    told[name].as_f64().with_context(|| format!("the example tells `{name}`: {told}"))
}

/// A folder of the suite, empty.
fn scratch(suite: &Suite, name: &str) -> Result<std::path::PathBuf> {
    let folder = suite.options.folder.join("nodes").join(name);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => bail!("empty {}: {error}", folder.display()),
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

pub(super) fn manifest(suite: &mut Suite) -> Result<()> {
    let files = suite.scale.generated;
    let folder = scratch(suite, "manifest")?;
    let mut command = suite.example("manifest_bench")?;
    command.arg(files.to_string()).arg(&folder);
    let rows = told(command)?;
    let value = |row: &str, unit: &str| {
        let found = rows.iter().find(|told| told["row"] == row && told["unit"] == unit);
        number(found.with_context(|| format!("manifest_bench tells {row} in {unit}"))?, "value")
    };
    let size = format!("{files} ImageNet-like names");
    let peak = value("manifest build", "anonymous_peak_mib")?;
    let none = Memory::default();
    suite.push_value("manifest-10m-bytes", "bytes/file", Goal::AtMost(40.0), value("manifest build", "bytes_per_file")?, none, size);
    let note = format!("sorted, packed and on disk; peak {peak:.0} MiB");
    suite.push_value("manifest-10m-build", "files/s", Goal::AtLeast(1e6), value("manifest build", "files_per_second")?, none, note);
    suite.push_value("manifest-10m-open", "ms", Goal::AtMost(50.0), value("manifest open", "ms")?, none, String::new());
    // The goal is "about 1 us".
    let note = "name in a folder to entry, random, every page in memory".to_owned();
    suite.push_value("manifest-10m-lookup", "us", Goal::AtMost(1.2), value("manifest lookup", "ns")? / 1e3, none, note);
    // Less than one byte a file is nothing that grows with each file.
    let note = "growth of anonymous memory by opening, four million lookups and a walk".to_owned();
    let heap = value("manifest opened", "anonymous_bytes_per_file")?;
    suite.push_value("manifest-10m-heap", "bytes/file", Goal::AtMost(1.0), heap, none, note);
    Ok(fs::remove_dir_all(&folder)?)
}

fn generated_server(suite: &Suite, layout: Layout, page_delay_ms: u64) -> Result<Server> {
    let (keys, bytes, delay) = (suite.scale.generated.to_string(), GENERATED_OBJECT_BYTES.to_string(), page_delay_ms.to_string());
    let mut arguments = vec!["serve-generated", "--keys", &keys, "--object-bytes", &bytes, "--page-delay-ms", &delay];
    if layout == Layout::Skewed {
        arguments.push("--skewed");
    }
    Server::start(&suite.options.folder, &arguments)
}

pub(super) fn listing(suite: &mut Suite) -> Result<()> {
    for (name, layout) in [("even", Layout::Even), ("skewed", Layout::Skewed)] {
        let server = generated_server(suite, layout, PAGE_DELAY_MS)?;
        let mut command = suite.example("listing_bench")?;
        command.args([&server.endpoint, "generated", &LISTING_PARALLEL.to_string(), "1"]);
        let rows = told(command)?;
        let [told] = &rows[..] else { bail!("listing_bench prints one line a round, not {}", rows.len()) };
        let (keys, seconds) = (number(told, "keys")?, number(told, "seconds")?);
        ensure!(keys as u64 == suite.scale.generated, "{keys} keys listed of {}", suite.scale.generated);
        let (sequential, bare) = (number(told, "sequential_seconds")?, number(told, "bare_seconds")?);
        let (speedup, of_bare) = (sequential / seconds, bare / seconds);
        // One of the two is to be reached.
        let (speedup_goal, bare_goal) = match speedup < 25.0 && of_bare >= 0.8 {
            true => (Goal::Reported, Goal::AtLeast(0.8)),
            false => (Goal::AtLeast(25.0), Goal::Reported),
        };
        let row = |control: f64, ratio: f64| Figures {
            control: keys / control,
            forebay: keys / seconds,
            ratio,
            spread: 0.0,
            samples: vec![ratio],
        };
        let note = format!(
            "{keys} keys in {seconds:.1} s, {PAGE_DELAY_MS} ms a page, {LISTING_PARALLEL} at once; one page after the other is the control"
        );
        let none = Memory::default();
        suite.push(&format!("listing-10m-{name}"), "keys/s", speedup_goal, row(sequential, speedup), none, note);
        let note = "the same pages, their beginnings known, only fetched and parsed; this or the row above is to be reached".to_owned();
        suite.push(&format!("listing-10m-{name}-of-bare"), "keys/s", bare_goal, row(bare, of_bare), none, note);
        let peak = number(told, "resident_peak_mib")? * MIB / 1e6;
        suite.push_value(&format!("listing-10m-{name}-memory"), "MB", Goal::AtMost(500.0), peak, none, "peak, resident".to_owned());
    }
    Ok(())
}

pub(super) fn restart(suite: &mut Suite) -> Result<()> {
    let folder = scratch(suite, "restart")?;
    let mut command = suite.example("store_restart")?;
    command.arg(suite.scale.stored.to_string()).arg(&folder);
    let rows = told(command)?;
    let told = rows.last().context("store_restart prints a line")?;
    let (objects, kept) = (number(told, "objects")?, number(told, "kept")?);
    let none = Memory::default();
    let figures = Figures::quotient(objects, kept);
    suite.push("restart-1m-kept", "objects", Goal::AtLeast(1.0), figures, none, "closed and opened again".to_owned());
    let note = format!("of it {:.0} ms to open the store", number(told, "open_ms")?);
    suite.push_value("restart-1m-first-hit", "ms", Goal::AtMost(1000.0), number(told, "first_hit_ms")?, none, note);
    let index = number(told, "index_bytes_per_object")?;
    suite.push_value("restart-1m-index", "bytes/object", Goal::AtMost(16.0), index, none, "on top of the manifest".to_owned());
    Ok(fs::remove_dir_all(&folder)?)
}

/// The real node in a memory cgroup: lists, then answers 64 readers, whose bytes are compared with what they must be.
pub(super) fn memory(suite: &mut Suite) -> Result<()> {
    let (files, reads) = (suite.scale.generated, suite.scale.generated_reads);
    let folder = scratch(suite, "generated")?;
    let server = generated_server(suite, Layout::Even, 0)?;
    let sources = vec![("/".to_owned(), String::new())];
    let setup = Setup { sources, ..suite.setup("generated", &[]) };
    let group = Arc::new(Group::new(MEMORY_LIMIT_BYTES)?);
    let mut node = Node::new(&suite.options.node_binary, &folder, &server.endpoint, "generated", &setup)?.inside(group.clone());
    let begin = Instant::now();
    node.begin()?;
    let pids = node.pids();
    let daemon = *pids.first().context("the status names the daemon")?;
    let (stop, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let (listed, read) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(measure::memory_of(daemon).map_or(0, |memory| memory.anonymous), Ordering::Relaxed);
                std::thread::park_timeout(SAMPLE_EVERY);
            }
        });
        let work = || {
            node.wait_listed()?;
            let listed = (begin.elapsed(), peak.load(Ordering::Relaxed));
            let begin = Instant::now();
            let done = read_generated(&node.mount_point(), &Keys::new(Layout::Even, files), reads)?;
            anyhow::Ok((listed, done as f64 / begin.elapsed().as_secs_f64()))
        };
        let outcome = work();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    ensure!(node.pids() == pids, "the daemon died under the limit: processes {pids:?} became {:?}", node.pids());
    ensure!(group.killed()? == 0, "{} processes were killed for want of memory", group.killed()?);
    let memory = node.memory();
    node.unmount()?;
    let note = format!("peak of the daemon's anonymous memory; while listing {:.0}", listed.1 as f64 / MIB);
    let peak = peak.load(Ordering::Relaxed) as f64 / MIB;
    suite.push_value("memory-10m", "MiB", Goal::AtMost(MEMORY_LIMIT_BYTES as f64 / MIB), peak, memory, note);
    let note = format!(
        "cold reads by {READERS} readers, every byte compared, daemon and holder in a cgroup of {} MiB; {files} files listed in {:.0} s; nothing killed",
        MEMORY_LIMIT_BYTES >> 20,
        listed.0.as_secs_f64()
    );
    suite.push_value("memory-10m-group", "files/s", Goal::Reported, read, memory, note);
    Ok(fs::remove_dir_all(&folder)?)
}

/// Reads random files whole, and lists a folder in each thread first. Returns how many were read.
fn read_generated(mount: &Path, keys: &Keys, reads: u64) -> Result<u64> {
    let each = reads / READERS as u64;
    let read = in_threads(READERS, |thread| {
        let (mut random, mut key) = (SplitMix::new(thread as u64), String::new());
        for at in 0..each {
            let index = random.below(keys.count());
            keys.write(index, &mut key);
            let path = mount.join(&key);
            if at == 0 {
                let folder = path.parent().context("a generated key has a folder")?;
                let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?.count();
                ensure!(entries > 0, "{} is empty", folder.display());
            }
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            ensure!(bytes == contents(index, 0, GENERATED_OBJECT_BYTES), "{}: wrong bytes", path.display());
        }
        Ok(each)
    })?;
    Ok(read.iter().sum())
}
