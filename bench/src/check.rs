//! Reads random ranges of random files from two folders, in every way a program can, and compares the bytes: fsx without the writes.
//! Knows files and system calls. Does not know what serves either folder. The same seed gives each thread the same operations.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::Advice;
use rustix::mm::{MapFlags, ProtFlags};

use crate::split_mix::SplitMix;
use crate::workload;

/// Places where something else begins: page, smallest passthrough file, read-ahead, largest FUSE read, block.
const EDGES: [u64; 7] = [0, 4 << 10, 64 << 10, 128 << 10, 1 << 20, 4 << 20, 8 << 20];
/// No operation reads more: a few blocks, so that one read crosses two edges of a block.
const READ_BYTES_MAX: u64 = 9 << 20;
/// Operations on one pair of open files before others are picked.
const OPERATIONS_PER_FILE: u64 = 12;
/// O_DIRECT wants buffer, offset and length in multiples of this.
const DIRECT_ALIGN: u64 = 4096;

#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) reference: PathBuf,
    pub(crate) candidate: PathBuf,
    pub(crate) threads: u64,
    pub(crate) duration: Duration,
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Pread,
    /// A seek and a loop of `read`s, as buffered readers do.
    Read,
    Mmap,
    /// `readahead` of a range and then a read of it.
    ReadAhead,
    /// The pages of the whole file are dropped, then the range is read.
    DropPages,
    /// Through a descriptor of its own that was opened with O_DIRECT.
    Direct,
}

const OPERATIONS: [Operation; 6] =
    [Operation::Pread, Operation::Read, Operation::Mmap, Operation::ReadAhead, Operation::DropPages, Operation::Direct];

/// Compares until the time is over; fails at the first difference, naming what repeats it.
pub(crate) fn run(check: &Check) -> Result<Checked> {
    let root = &check.reference;
    let files: Vec<(PathBuf, u64)> = workload::files_below(root)?
        .into_iter()
        .map(|(path, size)| Ok((path.strip_prefix(root).context("a file lies below its folder")?.to_path_buf(), size)))
        .collect::<Result<_>>()?;
    ensure!(!files.is_empty(), "{} has no files to compare", root.display());
    let stop = AtomicBool::new(false);
    let (operations, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let deadline = Instant::now() + check.duration;
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..check.threads)
            .map(|thread| {
                let (files, stop, operations, bytes) = (&files, &stop, &operations, &bytes);
                scope.spawn(move || {
                    let mut random = SplitMix::new(check.seed ^ thread.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    while Instant::now() < deadline && !stop.load(Ordering::Relaxed) {
                        let (name, size) = &files[random.below(files.len() as u64) as usize];
                        let done = one_file(check, name, *size, &mut random);
                        stop.fetch_or(done.is_err(), Ordering::Relaxed);
                        let done = done.with_context(|| format!("thread {thread} of {}, --seed {}", check.threads, check.seed))?;
                        operations.fetch_add(done.operations, Ordering::Relaxed);
                        bytes.fetch_add(done.bytes, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        started.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a reading thread panicked")))
    })?;
    Ok(Checked { operations: operations.into_inner(), bytes: bytes.into_inner() })
}

fn one_file(check: &Check, name: &Path, size: u64, random: &mut SplitMix) -> Result<Checked> {
    let path = check.candidate.join(name);
    let reference = File::open(check.reference.join(name)).with_context(|| format!("open the reference of {}", name.display()))?;
    let candidate = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let seen = candidate.metadata().with_context(|| format!("stat {}", path.display()))?.len();
    ensure!(seen == size, "{} has {seen} bytes, its reference {size}", path.display());
    let mut checked = Checked::default();
    for _ in 0..OPERATIONS_PER_FILE {
        let operation = OPERATIONS[random.below(OPERATIONS.len() as u64) as usize];
        let (offset, length) = range(size, random);
        let what = || format!("{operation:?} of {length} bytes at {offset} of {}", path.display());
        let got = perform(operation, &path, &candidate, offset, length, size).with_context(what)?;
        let mut expected = vec![0; got.len()];
        reference.read_exact_at(&mut expected, got.offset).context("read the reference")?;
        let missing = got.end_wanted(offset, length, size).saturating_sub(got.offset + got.len() as u64);
        ensure!(missing == 0, "{}: {missing} bytes are missing at the end", what());
        if let Some(at) = got.bytes.iter().zip(&expected).position(|(ours, theirs)| ours != theirs) {
            bail!("{}: byte {} is {:#04x}, must be {:#04x}", what(), got.offset + at as u64, got.bytes[at], expected[at]);
        }
        checked.operations += 1;
        checked.bytes += got.len() as u64;
    }
    Ok(checked)
}

/// What came back, and where it begins: O_DIRECT rounds the offset down.
struct Got {
    offset: u64,
    bytes: Vec<u8>,
}

impl Got {
    fn len(&self) -> usize {
        self.bytes.len()
    }
    /// Up to where the answer must reach: the range asked for, cut at the end of the file.
    fn end_wanted(&self, offset: u64, length: u64, size: u64) -> u64 {
        (offset + length).min(size).max(self.offset)
    }
}

/// Half of the ranges begin or end within a byte of an edge or of the end; the rest lie anywhere, one in 32 beyond the end.
fn range(size: u64, random: &mut SplitMix) -> (u64, u64) {
    let edge = |random: &mut SplitMix| {
        let block = 4 << 20;
        let edge = match random.below(3) {
            0 => EDGES[random.below(EDGES.len() as u64) as usize],
            1 => random.below(size / block + 1) * block,
            _ => size,
        };
        (edge + random.below(3)).saturating_sub(1)
    };
    let length = match random.below(4) {
        0 => edge(random).min(READ_BYTES_MAX),
        1 => 1 + random.below(16),
        2 => 1 + random.below(200_000),
        _ => 1 + random.below(READ_BYTES_MAX),
    };
    let offset = match random.below(32) {
        0 => size + random.below(10_000),
        1..16 => edge(random).saturating_sub(if random.below(2) == 0 { length } else { 0 }),
        _ => random.below(size + 1),
    };
    (offset, length)
}

fn perform(operation: Operation, path: &Path, file: &File, offset: u64, length: u64, size: u64) -> Result<Got> {
    let bytes = match operation {
        Operation::Pread => pread(file, offset, length)?,
        Operation::Read => {
            let mut file = file;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            bytes
        }
        Operation::Mmap => mapped(file, offset, length.min(size.saturating_sub(offset)))?,
        Operation::ReadAhead => {
            rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(length), Advice::WillNeed)?;
            pread(file, offset, length)?
        }
        Operation::DropPages => {
            rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
            pread(file, offset, length)?
        }
        Operation::Direct => return direct(path, offset, length),
    };
    Ok(Got { offset, bytes })
}

/// Until the range or the file ends.
fn pread(file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The range through a private mapping, which may begin inside a page. `length` reaches no further than the file does.
fn mapped(file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    let begin = offset - offset % rustix::param::page_size() as u64;
    let (skip, whole) = (usize::try_from(offset - begin)?, usize::try_from(offset - begin + length)?);
    // SAFETY: a new mapping at a place of the kernel's choice; nothing else refers to it, and it is unmapped below.
    let address = unsafe { rustix::mm::mmap(std::ptr::null_mut(), whole, ProtFlags::READ, MapFlags::PRIVATE, file, begin)? };
    // SAFETY: the mapping is `whole` bytes long and the file reaches as far; neither folder is changed while it is compared.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), whole) }[skip..].to_vec();
    // SAFETY: exactly the mapping made above, of which only a copy is left.
    unsafe { rustix::mm::munmap(address, whole)? };
    Ok(bytes)
}

fn direct(path: &Path, offset: u64, length: u64) -> Result<Got> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).context("open with O_DIRECT")?;
    let begin = offset - offset % DIRECT_ALIGN;
    let whole = usize::try_from((offset - begin + length).next_multiple_of(DIRECT_ALIGN))?;
    let mut room = vec![0; whole + DIRECT_ALIGN as usize];
    let skip = room.as_ptr().align_offset(DIRECT_ALIGN as usize);
    let buffer = &mut room[skip..skip + whole];
    let mut filled = 0;
    while filled < whole {
        // A short answer that isn't aligned is the end of the file: reading on from there would be refused.
        let count =
            file.read_at(&mut buffer[filled..], begin + filled as u64).with_context(|| format!("descriptor {}", file.as_raw_fd()))?;
        filled += count;
        if count == 0 || !(count as u64).is_multiple_of(DIRECT_ALIGN) {
            break;
        }
    }
    Ok(Got { offset: begin, bytes: buffer[..filled].to_vec() })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use super::*;

    fn two_folders(sizes: &[u64]) -> (tempfile::TempDir, Check) {
        let folder = tempfile::tempdir().unwrap();
        let (reference, candidate) = (folder.path().join("reference"), folder.path().join("candidate"));
        for side in [&reference, &candidate] {
            std::fs::create_dir(side).unwrap();
            for &size in sizes {
                let mut bytes = vec![0; size as usize];
                SplitMix::new(size).fill(&mut bytes);
                std::fs::write(side.join(format!("{size}.bin")), bytes).unwrap();
            }
        }
        let check = Check { reference, candidate, threads: 2, duration: Duration::from_millis(200), seed: 7 };
        (folder, check)
    }

    #[test]
    fn equal_folders_agree() {
        let (_folder, check) = two_folders(&[0, 1, 4096, 5 << 20]);
        assert!(run(&check).unwrap().operations > 0);
    }

    #[test]
    fn one_wrong_byte_is_found_and_named() {
        let (_folder, check) = two_folders(&[70_000]);
        let path = check.candidate.join("70000.bin");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[65_536] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let message = format!("{:#}", run(&check).unwrap_err());
        assert!(message.contains("byte 65536 is") && message.contains("--seed 7"), "{message}");
    }

    #[test]
    fn a_file_that_ends_early_is_found() {
        let (_folder, check) = two_folders(&[70_000]);
        File::options().write(true).open(check.candidate.join("70000.bin")).unwrap().set_len(69_999).unwrap();
        assert!(format!("{:#}", run(&check).unwrap_err()).contains("69999 bytes"));
    }
}
