//! Entries that no manifest has any more while the kernel may still hold their node ids: persisted, so that an open file outlives a restart.

use std::path::Path;

use super::{ContentId, ManifestError};
use crate::source::{Key, Version};

/// Enough to go on reading a version that was removed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedEntry {
    pub id: ContentId,
    /// `/a/b`, where it was.
    pub path: Vec<u8>,
    /// `Source::name`, as source numbers belong to one manifest.
    pub source_name: String,
    pub key: Key,
    pub size: u64,
    pub modified_seconds: i64,
    pub version: Version,
}

/// Send + Sync.
pub struct RemovedList {}

impl RemovedList {
    /// Opens or creates the list in `file`; what is damaged in it is dropped (its ids then answer ESTALE). Blocks.
    pub fn open(file: &Path) -> Result<Self, ManifestError> {
        todo!("{file:?}")
    }
    /// Remembers it; over `REMOVED_MAX` the oldest goes. An id already there is replaced.
    pub fn insert(&self, entry: &RemovedEntry) -> Result<(), ManifestError> {
        todo!("{entry:?}")
    }
    pub fn get(&self, id: ContentId) -> Result<Option<RemovedEntry>, ManifestError> {
        todo!("{id:?}")
    }
    /// The kernel forgot the id.
    pub fn remove(&self, id: ContentId) -> Result<(), ManifestError> {
        todo!("{id:?}")
    }
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
