//! A complete object as passthrough needs it: one descriptor whose bytes were checked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::sparse::{Object, ObjectRead};
use super::table::CheckedAt;
use forebay_wire::block::{Extent, ObjectId};

/// Checked at once; bounds the buffer.
const CHECK_BYTES: u64 = 1 << 20;

/// A complete object in a file of its own, its bytes checked: for passthrough.
/// Evicted or not, it stays readable, and its bytes count against the quota until the last `Arc` is dropped.
pub struct CompleteFile {
    file: File,
    object: Arc<Object>,
}

impl CompleteFile {
    pub fn object(&self) -> ObjectId {
        self.object.id()
    }
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.object.record.size
    }
    /// Whether the store has let go of it: no new open should use it.
    pub fn is_evicted(&self) -> bool {
        self.object.is_gone()
    }
}

/// Keeps a file's bytes counted, and there for who registered it, without a descriptor of its own: processes may have few.
pub struct Kept(Arc<Object>);

impl Kept {
    /// See `CompleteFile::is_evicted`.
    pub fn is_evicted(&self) -> bool {
        self.0.is_gone()
    }
}

impl CompleteFile {
    pub fn keep(&self) -> Kept {
        Kept(Arc::clone(&self.object))
    }
}

impl AsFd for CompleteFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What became of the check before the first passthrough.
pub(crate) enum Checked {
    Good(Arc<CompleteFile>),
    Wrong,
}

/// Opens and, unless that was done in this boot on this very state of the file, reads and checks all of `object`.
pub(crate) fn open(object: &Arc<Object>, boot: u64) -> io::Result<Checked> {
    let file = object.reopen()?;
    let before = state_of(&file, boot)?;
    if before.size != object.record.size {
        return Ok(Checked::Wrong);
    }
    if object.tier.table.read_checked(object.number) != Some(before) {
        let mut buffer = vec![0; CHECK_BYTES.min(before.size) as usize];
        let mut offset = 0;
        while let Some(extent) = Extent::new(offset, (offset + CHECK_BYTES).min(before.size)) {
            match object.read(extent, &mut buffer[..extent.len() as usize], false)? {
                ObjectRead::Hit => {}
                ObjectRead::Miss | ObjectRead::Wrong(_) => return Ok(Checked::Wrong),
            }
            offset = extent.end();
        }
        if state_of(&file, boot)? != before {
            return Ok(Checked::Wrong);
        }
        // Where it can't be noted it is checked again after a restart.
        let _ = object.tier.table.write_checked(object.number, before);
    }
    let complete = Arc::new(CompleteFile { file, object: object.clone() });
    *object.passed.lock() = Arc::downgrade(&complete);
    Ok(Checked::Good(complete))
}

fn state_of(file: &File, boot: u64) -> io::Result<CheckedAt> {
    let meta = file.metadata()?;
    let changed_ns = (meta.ctime() as u64).wrapping_mul(1_000_000_000).wrapping_add(meta.ctime_nsec() as u64);
    // The inode tells a file from the one that had its number before.
    let boot = boot ^ meta.ino().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Ok(CheckedAt { boot, changed_ns, size: meta.len() })
}
