//! One pass of reading over a folder, timed. The same code reads the control and the candidate.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::measure;
use crate::split_mix::SplitMix;

/// Bytes of one read of a large file: what PyTorch, dd and cat use are all near it.
const SEQUENTIAL_READ_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Every file below the folder once, whole: open, fstat, read, close.
    Files { threads: usize, order: Order },
    /// Every file from its first byte to its last, one after the other.
    Sequential,
    /// Every file through a mapping, every byte touched.
    Mmap,
    /// `reads` reads of `block` bytes at random aligned places of random files.
    Random { block: usize, threads: usize, reads: usize },
    /// readdir and lstat of everything.
    Walk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Shuffled,
    Fixed,
}

impl std::str::FromStr for Workload {
    type Err = anyhow::Error;

    /// `files:8`, `fixed:8`, `sequential`, `mmap`, `random:4096:64:20000`, `walk`.
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |at: usize| parts.get(at).context("a number is missing").and_then(|part| Ok(part.parse::<usize>()?));
        let parsed = match parts[0] {
            "files" => Self::Files { threads: number(1)?, order: Order::Shuffled },
            "fixed" => Self::Files { threads: number(1)?, order: Order::Fixed },
            "sequential" => Self::Sequential,
            "mmap" => Self::Mmap,
            "random" => Self::Random { block: number(1)?, threads: number(2)?, reads: number(3)? },
            "walk" => Self::Walk,
            _ => bail!("workload `{text}`: write files:THREADS, fixed:THREADS, sequential, mmap, random:BYTES:THREADS:READS or walk"),
        };
        Ok(parsed)
    }
}

/// What a pass did and what it cost this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pass {
    /// Files, reads or entries.
    pub(crate) units: u64,
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
    /// From the call to its answer (one unit); sorted. Only of random reads.
    pub(crate) latencies: Vec<Duration>,
}

impl Pass {
    pub(crate) fn units_per_second(&self) -> f64 {
        self.units as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
    /// `share` from 0 to 1; zero when no latencies were taken.
    pub(crate) fn latency(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get((share * last as f64) as usize).copied().unwrap_or_default()
    }
}

/// The files below `folder`, sorted by path, with their sizes.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path(), entry.metadata()?.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Runs `workload` once over `folder`; `epoch` seeds the random order, so that two folders see the same one.
pub(crate) fn run(workload: &Workload, folder: &Path, files: &[(PathBuf, u64)], epoch: u64) -> Result<Pass> {
    let cpu_before = measure::own_cpu();
    let begin = Instant::now();
    let mut pass = match workload {
        Workload::Files { threads, order } => whole_files(files, *threads, *order, epoch)?,
        Workload::Sequential => sequential(files)?,
        Workload::Mmap => mapped(files)?,
        Workload::Random { block, threads, reads } => random(files, *block, *threads, *reads, epoch)?,
        Workload::Walk => walk(folder)?,
    };
    if pass.elapsed.is_zero() {
        pass.elapsed = begin.elapsed();
    }
    pass.cpu = measure::own_cpu().saturating_sub(cpu_before);
    pass.latencies.sort();
    Ok(pass)
}

fn whole_files(files: &[(PathBuf, u64)], threads: usize, order: Order, epoch: u64) -> Result<Pass> {
    let mut indexes: Vec<usize> = (0..files.len()).collect();
    if order == Order::Shuffled {
        SplitMix::new(epoch).shuffle(&mut indexes);
    }
    let next = AtomicUsize::new(0);
    let bytes = in_threads(threads, |_| {
        let (mut buffer, mut bytes) = (Vec::new(), 0);
        while let Some(index) = indexes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (path, size) = &files[*index];
            let read = read_whole(path, &mut buffer)?;
            ensure!(read as u64 == *size, "{}: {read} bytes instead of {size}", path.display());
            bytes += read as u64;
        }
        Ok(bytes)
    })?;
    Ok(Pass { units: files.len() as u64, bytes: bytes.iter().sum(), ..Pass::default() })
}

/// Open, fstat, read to the end, close: what a loader of images does. Returns the bytes read into the front of `buffer`.
fn read_whole(path: &Path, buffer: &mut Vec<u8>) -> Result<usize> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let size = file.metadata()?.len() as usize;
    if buffer.len() < size {
        buffer.resize(size, 0);
    }
    let mut filled = 0;
    while filled < size {
        match file.read(&mut buffer[filled..size]).with_context(|| format!("read {}", path.display()))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn sequential(files: &[(PathBuf, u64)]) -> Result<Pass> {
    let mut buffer = vec![0; SEQUENTIAL_READ_BYTES];
    let mut bytes = 0;
    for (path, _) in files {
        bytes += read_through(path, &mut buffer)?;
    }
    Ok(Pass { units: files.len() as u64, bytes, ..Pass::default() })
}

/// Reads a file to its end in pieces of `buffer`'s length, which are overwritten; gives the bytes read.
pub(crate) fn read_through(path: &Path, buffer: &mut [u8]) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut bytes = 0;
    loop {
        match file.read(buffer).with_context(|| format!("read {}", path.display()))? {
            0 => return Ok(bytes),
            read => bytes += read as u64,
        }
    }
}

fn mapped(files: &[(PathBuf, u64)]) -> Result<Pass> {
    let (mut bytes, mut sum) = (0, 0u64);
    for (path, size) in files.iter().filter(|(_, size)| *size > 0) {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let length = usize::try_from(*size)?;
        // SAFETY: a new private read-only mapping of `length` bytes of an open file; unmapped below, not used after.
        let address =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::PRIVATE, &file, 0) }
                .with_context(|| format!("map {}", path.display()))?;
        // SAFETY: the mapping is `length` bytes long and nobody writes the data while it is measured.
        let view = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length) };
        for word in view.chunks_exact(8) {
            sum = sum.wrapping_add(u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]));
        }
        // SAFETY: address and length are of the mapping made above; `view` is not used any more.
        unsafe { rustix::mm::munmap(address, length) }?;
        bytes += size;
    }
    std::hint::black_box(sum);
    Ok(Pass { units: files.len() as u64, bytes, ..Pass::default() })
}

fn random(files: &[(PathBuf, u64)], block: usize, threads: usize, reads: usize, epoch: u64) -> Result<Pass> {
    let usable: Vec<&(PathBuf, u64)> = files.iter().filter(|(_, size)| *size >= block as u64).collect();
    ensure!(!usable.is_empty(), "no file of at least {block} bytes for random reads");
    let open = usable.iter().map(|(path, size)| Ok((File::open(path).with_context(|| format!("open {}", path.display()))?, *size)));
    let open: Vec<(File, u64)> = open.collect::<Result<_>>()?;
    let begin = Instant::now();
    let latencies = in_threads(threads, |thread| {
        let mut random = SplitMix::new(epoch.wrapping_mul(1009) + thread as u64);
        let mut buffer = vec![0; block];
        let mut latencies = Vec::with_capacity(reads / threads);
        for _ in 0..reads / threads {
            let (file, size) = &open[random.below(open.len() as u64) as usize];
            let offset = random.below(size / block as u64) * block as u64;
            let asked = Instant::now();
            file.read_exact_at(&mut buffer, offset).with_context(|| format!("read {block} bytes at {offset}"))?;
            latencies.push(asked.elapsed());
        }
        Ok(latencies)
    })?;
    let elapsed = begin.elapsed();
    let latencies: Vec<Duration> = latencies.into_iter().flatten().collect();
    Ok(Pass { units: latencies.len() as u64, bytes: (latencies.len() * block) as u64, elapsed, latencies, ..Pass::default() })
}

fn walk(folder: &Path) -> Result<Pass> {
    let (mut units, mut bytes, mut folders) = (0, 0, vec![folder.to_path_buf()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let entry = entry?;
            let metadata = entry.metadata().with_context(|| format!("stat {}", entry.path().display()))?;
            units += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok(Pass { units, bytes, ..Pass::default() })
}

/// Runs `work` in `threads` threads and gives what each returned; the first error wins.
pub(crate) fn in_threads<T: Send>(threads: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (work, results) = (&work, &results);
            scope.spawn(move || {
                let result = work(thread);
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(result);
            });
        }
    });
    results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().collect()
}

/// Drops the page cache of every file of a folder, and nothing else: entries and inodes stay. As if the data were larger than memory.
pub(crate) fn drop_pages(files: &[(PathBuf, u64)]) -> Result<()> {
    for (path, _) in files {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .with_context(|| format!("drop the pages of {}", path.display()))?;
    }
    Ok(())
}
