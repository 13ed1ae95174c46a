//! Measures the manifest at a given number of ImageNet-like files; prints one JSON line per row.
//!
//! `cargo run --release -p forebay-manifest --example manifest_bench -- [FILES] [FOLDER]` (10,000,000 files, the system's temporary folder).
//! The build and the reading run in processes of their own, so that each one's memory is its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forebay_manifest::{BuildOptions, Builder, ContentId, DirectoryIndex, EntryIndex, Manifest, MountedSource, SourceIndex};

const CLASSES: u64 = 1000;
const LOOKUPS: u64 = 1_000_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let files = arguments.first().map_or(Ok(10_000_000), |files| files.parse::<u64>()).context("FILES is a number")?;
    let folder = arguments.get(1).map_or_else(std::env::temp_dir, PathBuf::from).join(format!("forebay-manifest-bench-{files}"));
    match arguments.get(2).map(String::as_str) {
        Some("build") => build(files, &folder),
        Some("read") => read(files, &folder),
        Some(other) => bail!("step {other:?}; it is build or read"),
        None => {
            std::fs::create_dir_all(&folder)?;
            let result = ["build", "read"].iter().try_for_each(|step| run(files, &arguments, step));
            std::fs::remove_dir_all(&folder)?;
            result
        }
    }
}

fn run(files: u64, arguments: &[String], step: &str) -> Result<()> {
    let parent = arguments.get(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let status = std::process::Command::new(std::env::current_exe()?).args([&files.to_string()]).arg(parent).arg(step).status()?;
    if !status.success() {
        bail!("step {step} failed: {status}");
    }
    Ok(())
}

/// Key, size, time, version of the file `number`, in key order: classes like `n01440764`, names like `n01440764_10026.JPEG`.
fn row(number: u64, files: u64, key: &mut Vec<u8>, version: &mut [u8; 32]) -> (u64, i64) {
    use std::io::Write;
    let per_class = files.div_ceil(CLASSES);
    let (class, position) = (number / per_class, number % per_class);
    let class = 1_440_764 + class * 11_863;
    // Decimal numbers in byte order need equal lengths; ImageNet's have one to six digits, so the first is never 0.
    let hash = mix(number);
    key.clear();
    let _ = write!(key, "n{class:08}/n{class:08}_{}.JPEG", 100_000 + position * 7);
    let mut digest = [0u8; 16];
    digest[..8].copy_from_slice(&hash.to_le_bytes());
    digest[8..].copy_from_slice(&mix(hash).to_le_bytes());
    for (pair, byte) in version.chunks_exact_mut(2).zip(digest) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    (20_000 + hash % 200_000, 1_690_000_000 + (number / 300) as i64 + (hash >> 60) as i64)
}

fn mix(number: u64) -> u64 {
    let mixed = (number ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb) ^ mixed >> 32
}

fn build(files: u64, folder: &Path) -> Result<()> {
    let sources = vec![MountedSource { name: "s3://imagenet/train/".to_owned(), mount_path: "/".to_owned() }];
    let (mut key, mut version) = (Vec::new(), [0; 32]);
    let start = Instant::now();
    for number in 0..files {
        std::hint::black_box(row(number, files, &mut key, &mut version));
    }
    let generate = start.elapsed();
    let start = Instant::now();
    let mut builder = Builder::new(folder, BuildOptions { term: 1, sequence: 1, created_seconds: 1_700_000_000, sources })?;
    for number in 0..files {
        let (size, modified_seconds) = row(number, files, &mut key, &mut version);
        builder.push_row(SourceIndex(0), &key, size, modified_seconds, &version)?;
    }
    let pushed = start.elapsed();
    let path = builder.finish()?;
    let elapsed = start.elapsed().saturating_sub(generate);
    let bytes = std::fs::metadata(&path)?.len();
    report("manifest build", "files_per_second", files as f64 / elapsed.as_secs_f64());
    report("manifest build", "push_seconds", pushed.saturating_sub(generate).as_secs_f64());
    report("manifest build", "finish_seconds", (start.elapsed() - pushed).as_secs_f64());
    report("manifest build", "bytes_per_file", bytes as f64 / files as f64);
    report("manifest build", "anonymous_peak_mib", peak_mib()?);
    Ok(())
}

fn read(files: u64, folder: &Path) -> Result<()> {
    let path = folder.join(Builder::file_name(1, 1));
    let before = anonymous_mib()?;
    let start = Instant::now();
    let manifest = Manifest::open(&path)?;
    report("manifest open", "ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    manifest.verify()?;
    report("manifest verify", "seconds", start.elapsed().as_secs_f64());
    let opened = anonymous_mib()?;
    // Rows to look for, prepared so that only the looking is timed.
    let numbers: Vec<u32> = (0..LOOKUPS).map(|position| (mix(position) % manifest.summary().files) as u32).collect();
    let mut wanted: Vec<(DirectoryIndex, Vec<u8>, ContentId)> = Vec::with_capacity(numbers.len());
    for number in &numbers {
        let entry = manifest.entry(EntryIndex(*number))?;
        wanted.push((entry.directory, entry.name, entry.id));
    }
    let held = anonymous_mib()?;
    time("manifest lookup", &wanted, |(directory, name, id)| {
        let found = manifest.lookup_found(*directory, name)?;
        Ok(found.is_some_and(|found| found.id == *id))
    })?;
    time("manifest find", &wanted, |(_, _, id)| Ok(manifest.find_found(*id)?.is_some()))?;
    time("manifest find absent", &wanted, |(_, _, id)| Ok(manifest.find_found(ContentId(id.0 ^ 0x55aa_0055_aa00))?.is_none()))?;
    time("manifest object", &wanted[..wanted.len() / 4], |(_, _, id)| {
        let found = manifest.find_found(*id)?.context("an id that was there")?;
        Ok(manifest.object(found.index)?.object.size > 0)
    })?;
    let start = Instant::now();
    let mut seen = 0u64;
    for directory in 0..manifest.summary().directories as u32 {
        manifest.visit(DirectoryIndex(directory), 0, |_, _| {
            seen += 1;
            std::ops::ControlFlow::Continue(())
        })?;
    }
    report("manifest walk", "entries_per_second", seen as f64 / start.elapsed().as_secs_f64());
    if seen + 1 != manifest.summary().directories + files {
        bail!("{seen} entries seen of {files} files");
    }
    let grown = anonymous_mib()? - before - (held - opened);
    report("manifest opened", "anonymous_mib", grown);
    report("manifest opened", "anonymous_bytes_per_file", grown * 1_048_576.0 / files as f64);
    Ok(())
}

fn time<T>(row: &str, wanted: &[T], mut look: impl FnMut(&T) -> Result<bool>) -> Result<()> {
    let mut best = Duration::MAX;
    for _ in 0..2 {
        let start = Instant::now();
        for one in wanted {
            if !look(one)? {
                bail!("{row}: not what was built");
            }
        }
        best = best.min(start.elapsed());
    }
    report(row, "ns", best.as_nanos() as f64 / wanted.len() as f64);
    Ok(())
}

fn report(row: &str, unit: &str, value: f64) {
    println!("{}", serde_json::json!({ "row": row, "unit": unit, "value": (value * 1000.0).round() / 1000.0 }));
}

/// Anonymous memory of this process now.
fn anonymous_mib() -> Result<f64> {
    status_mib("RssAnon:")
}

/// The most memory this process has had, but for pages of files: VmHWM counts the mapped table of folders too, which is small here.
fn peak_mib() -> Result<f64> {
    status_mib("VmHWM:")
}

fn status_mib(field: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("/proc/self/status has the field")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
