//! Opens and reads.

use bytes::Bytes;
use tracing::warn;

use forebay_store::{CompleteFile, Kept};

use super::{Attempt, Error, Filesystem, IoMode, KeptFile, LocalFile, NodeId, Opened, Serving};
use crate::aside;
use crate::fill::{FillError, chain};
use forebay_wire::block::{Extent, ObjectRef};

/// A file up to this size is checked in well under a millisecond: not worth a task of its own.
const CHECK_INLINE_BYTES_MAX: u64 = 1 << 20;

impl Filesystem {
    /// Waits at most for a small file to be checked on the local disk.
    pub fn try_open(&self, id: NodeId) -> Attempt<Opened> {
        if self.serving() == Serving::NoOpen {
            return Attempt::Ready(Ok(Opened::NoOpen));
        }
        let file = match self.file_at(id) {
            Ok(file) => file,
            Err(error) => return Attempt::Ready(Err(error)),
        };
        match id.mode() {
            IoMode::Cached => Attempt::Ready(Ok(Opened::Cached)),
            IoMode::Passthrough if file.object.size <= CHECK_INLINE_BYTES_MAX => Attempt::Ready(self.open_local(id, &file.object)),
            IoMode::Passthrough => Attempt::Wait,
        }
    }

    /// May check a whole local file before its first passthrough.
    pub async fn open(&self, id: NodeId) -> Result<Opened, Error> {
        if let Attempt::Ready(outcome) = self.try_open(id) {
            return outcome;
        }
        let object = self.file_at(id)?.object;
        let this = self.shared();
        aside::spawn(move || this.open_local(id, &object)).await.unwrap_or(Err(Error::Io))
    }

    /// `Stale` when the local file is gone: the VFS looks the path up again and gets an id in the other mode.
    fn open_local(&self, id: NodeId, object: &ObjectRef) -> Result<Opened, Error> {
        match self.parts.reader.store().open_complete(object) {
            Ok(Some(file)) => Ok(Opened::Passthrough(file)),
            Ok(None) => {
                self.evicted.note(object.id);
                Err(Error::Stale { id })
            }
            Err(error) => {
                warn!(dataset = self.name(), error = %chain(&error), "a complete local file can't be opened; it is read from the source");
                Err(Error::Stale { id })
            }
        }
    }

    /// Fills `into` from `offset`; `Ready(Ok(n))` with `n < into.len()` only at the end of the file. Reads the local disk, never the source.
    pub fn try_read(&self, id: NodeId, offset: u64, into: &mut [u8]) -> Attempt<usize> {
        let file = match self.file_at(id) {
            Ok(file) => file,
            Err(error) => return Attempt::Ready(Err(error)),
        };
        let end = offset.saturating_add(into.len() as u64);
        let Some(extent) = Extent::new(offset, end).and_then(|extent| extent.clamp(file.object.size)) else {
            return Attempt::Ready(Ok(0));
        };
        let len = extent.len() as usize;
        if !self.parts.reader.try_read(&file.object, extent, &mut into[..len]) {
            return Attempt::Wait;
        }
        self.note_hit(id, &file, extent);
        Attempt::Ready(Ok(len))
    }

    /// The bytes `[offset, min(offset + len, size))`. Dropping the future abandons the wait, not the fill that others may share.
    pub async fn read(&self, id: NodeId, offset: u64, len: usize) -> Result<Bytes, Error> {
        let at = self.file_at(id)?;
        let end = offset.saturating_add(len as u64);
        let Some(extent) = Extent::new(offset, end).and_then(|extent| extent.clamp(at.object.size)) else {
            return Ok(Bytes::new());
        };
        let (file, path) = self.file_object(id)?;
        let sequential = self.note_miss(&at, &file, extent);
        match self.parts.reader.read(&file, extent, sequential).await {
            Ok(bytes) => Ok(bytes),
            Err(error @ (FillError::Replaced { .. } | FillError::Gone { .. })) => {
                tracing::info!(dataset = self.name(), path = %path.escape_ascii(), error = %chain(&error), "the object changed in its source");
                // The name is right again before the reader hears of it, so that its next open sees the new version.
                self.repair(id, &path, &file).await;
                Err(Error::Stale { id })
            }
            Err(error @ (FillError::Source { .. } | FillError::Aborted)) => {
                let (path, cause) = (path.escape_ascii().to_string(), chain(&error));
                warn!(dataset = self.name(), path, error = cause, "a read failed");
                self.note_failure(path, cause);
                Err(Error::Io)
            }
        }
    }
}

impl LocalFile for CompleteFile {
    fn keep(&self) -> Box<dyn KeptFile> {
        Box::new(CompleteFile::keep(self))
    }
}

impl KeptFile for Kept {
    fn is_evicted(&self) -> bool {
        Kept::is_evicted(self)
    }
}
