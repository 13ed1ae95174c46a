//! The system calls of the store, in one place, so that tests can let each of them fail or be the last one.
//! Knows files and offsets. Does not know what is in them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Advice, AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

/// One call, as a test sees it before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCall {
    Open,
    Create,
    Read,
    Write { bytes: usize },
    SetLen,
    Punch,
    Unlink,
    MakeFolder,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskVerdict {
    Go,
    /// Fails with this errno and without effect.
    Fail(i32),
    /// A write that stops after this many bytes, then fails.
    Cut {
        bytes: usize,
        errno: i32,
    },
}

/// Free bytes for this user and size of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

/// Decides on each call; tests only.
pub trait DiskFaults: Send + Sync {
    fn verdict(&self, call: DiskCall) -> DiskVerdict;
    fn space(&self, real: Space) -> Space {
        real
    }
}

/// The disk as the store uses it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Disk {
    faults: Option<Arc<dyn DiskFaults>>,
}

impl Disk {
    pub fn with_faults(faults: Arc<dyn DiskFaults>) -> Self {
        Self { faults: Some(faults) }
    }

    fn ask(&self, call: DiskCall) -> io::Result<()> {
        match self.faults.as_ref().map_or(DiskVerdict::Go, |faults| faults.verdict(call)) {
            DiskVerdict::Go => Ok(()),
            DiskVerdict::Fail(errno) | DiskVerdict::Cut { errno, .. } => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    pub(crate) fn open(&self, root: &File, path: &str, is_writable: bool) -> io::Result<File> {
        self.ask(DiskCall::Open)?;
        let mode = if is_writable { OFlags::RDWR } else { OFlags::RDONLY };
        Ok(retry_on_intr(|| rustix::fs::openat(root, path, mode | OFlags::CLOEXEC | OFlags::NOATIME, Mode::empty()))
            .or_else(|_| retry_on_intr(|| rustix::fs::openat(root, path, mode | OFlags::CLOEXEC, Mode::empty())))?
            .into())
    }

    /// A new file, empty; one that is in the way is unlinked, never truncated: the kernel may still serve it by passthrough.
    pub(crate) fn create(&self, root: &File, path: &str) -> io::Result<File> {
        self.ask(DiskCall::Create)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let create = || retry_on_intr(|| rustix::fs::openat(root, path, flags, Mode::RUSR | Mode::WUSR));
        Ok(match create() {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(root, path, AtFlags::empty())?;
                create()?
            }
            created => created?,
        }
        .into())
    }

    /// Opens a file that is kept over restarts, made when absent.
    pub(crate) fn open_or_create(&self, root: &File, path: &str) -> io::Result<File> {
        self.ask(DiskCall::Create)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| rustix::fs::openat(root, path, flags, Mode::RUSR | Mode::WUSR))?.into())
    }

    pub(crate) fn make_folder(&self, root: &File, path: &str) -> io::Result<()> {
        self.ask(DiskCall::MakeFolder)?;
        match rustix::fs::mkdirat(root, path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Fills `into`, or says how many bytes there were.
    pub(crate) fn read_at(&self, file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.ask(DiskCall::Read)?;
        read_on(file, into, offset, 0)
    }

    /// Fills `head`, then `body`, from adjacent bytes, with one call as a rule.
    pub(crate) fn read_pair_at(&self, file: &File, head: &mut [u8], body: &mut [u8], offset: u64) -> io::Result<usize> {
        self.ask(DiskCall::Read)?;
        let n = {
            let mut parts = [IoSliceMut::new(head), IoSliceMut::new(body)];
            retry_on_intr(|| rustix::io::preadv(file, &mut parts, offset))?
        };
        if n < head.len() {
            return Ok(n);
        }
        let done = n - head.len();
        Ok(head.len() + read_on(file, body, offset + head.len() as u64, done)?)
    }

    pub(crate) fn write_at(&self, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_pair_at(file, data, &[], offset)
    }

    /// Writes `head`, then `body`, one behind the other.
    pub(crate) fn write_pair_at(&self, file: &File, head: &[u8], body: &[u8], offset: u64) -> io::Result<()> {
        let bytes = head.len() + body.len();
        let verdict = self.faults.as_ref().map_or(DiskVerdict::Go, |faults| faults.verdict(DiskCall::Write { bytes }));
        match verdict {
            DiskVerdict::Go => write_all(file, head, body, offset),
            DiskVerdict::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            DiskVerdict::Cut { bytes, errno } => {
                let of_head = bytes.min(head.len());
                write_all(file, &head[..of_head], &body[..(bytes - of_head).min(body.len())], offset)?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    pub(crate) fn set_len(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.ask(DiskCall::SetLen)?;
        Ok(rustix::fs::ftruncate(file, bytes)?)
    }

    /// Gives the bytes back to the filesystem; they read as zeros from then on.
    pub(crate) fn punch(&self, file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        self.ask(DiskCall::Punch)?;
        Ok(rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes)?)
    }

    /// Absent already is fine.
    pub(crate) fn unlink(&self, root: &File, path: &str) -> io::Result<()> {
        self.ask(DiskCall::Unlink)?;
        match rustix::fs::unlinkat(root, path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn space(&self, root: &File) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(root)?;
        let real = Space { total_bytes: stat.f_blocks * stat.f_frsize, available_bytes: stat.f_bavail * stat.f_frsize };
        Ok(self.faults.as_ref().map_or(real, |faults| faults.space(real)))
    }

    /// Best effort: advice that isn't taken costs memory, nothing else.
    pub(crate) fn drop_pages(&self, file: &File, offset: u64, bytes: u64) {
        let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(bytes), Advice::DontNeed);
    }

    pub(crate) fn sync_all(&self, root: &File) -> io::Result<()> {
        Ok(rustix::fs::syncfs(root.as_fd())?)
    }
}

fn read_on(file: &File, into: &mut [u8], offset: u64, mut done: usize) -> io::Result<usize> {
    while done < into.len() {
        match retry_on_intr(|| rustix::io::pread(file, &mut into[done..], offset + done as u64))? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn write_all(file: &File, head: &[u8], body: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    let bytes = head.len() + body.len();
    while done < bytes {
        let parts = [IoSlice::new(&head[done.min(head.len())..]), IoSlice::new(&body[done.saturating_sub(head.len())..])];
        match retry_on_intr(|| rustix::io::pwritev(file, &parts, offset + done as u64))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => done += n,
        }
    }
    Ok(())
}
