//! Blocks on the node's disks: put one in, get it back, or learn that it is gone.
//! Knows quota, tiers, checksums. Does not know where bytes come from, which file they belong to, or who else has them.
//! Invariant: a block that `read` returns has passed its checksum in this very call (passthrough has its own rule in SEMANTICS).

mod types;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

pub use types::*;

use crate::block::{BlockIndex, Extent, ObjectId, ObjectRef};

/// The cache of one node, over all of its tiers and data sets.
pub struct Store {}

/// A complete object in a file of its own, its bytes checked: for passthrough. Its bytes count against the quota until the last `Arc` is dropped.
pub struct CompleteFile {
    file: std::fs::File,
    object: ObjectId,
    size: u64,
}

impl CompleteFile {
    pub fn object(&self) -> ObjectId {
        self.object
    }
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl AsFd for CompleteFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[expect(unused_variables, reason = "signatures first")]
impl Store {
    /// Takes the folders' locks, reads their tables (never their data), and is ready.
    pub fn open(config: StoreConfig) -> Result<Store, StoreError> {
        todo!()
    }
    /// Reads `extent` into `into` (exactly its length) and checks it. Blocks on the disk, takes no lock while doing so.
    pub fn read(&self, object: &ObjectRef, extent: Extent, into: &mut [u8]) -> Result<ReadOutcome, StoreError> {
        todo!()
    }
    pub fn contains(&self, object: &ObjectRef, block: BlockIndex) -> bool {
        todo!()
    }
    /// Whether all of the object is here in a file of its own, so that `open_complete` will most likely answer. Memory only.
    pub fn is_complete(&self, object: &ObjectRef) -> bool {
        todo!()
    }
    /// Keeps one block, whose length is that of `block` in `object`. Blocks on the disk.
    pub fn put(
        &self,
        dataset: DatasetSlot,
        object: &ObjectRef,
        block: BlockIndex,
        data: &[u8],
        admission: Admission,
    ) -> Result<PutOutcome, StoreError> {
        todo!()
    }
    /// `None` when the object isn't complete, or is too small to have a file of its own.
    pub fn open_complete(&self, object: &ObjectRef) -> Result<Option<Arc<CompleteFile>>, StoreError> {
        todo!()
    }
    /// Changes class and expiry of what is here of the object; nothing when it isn't.
    pub fn readmit(&self, object: &ObjectRef, admission: Admission) -> Result<(), StoreError> {
        todo!()
    }
    pub fn free(&self, object: &ObjectRef) {
        todo!()
    }
    /// Frees everything of the data set; O(objects of the store).
    pub fn free_dataset(&self, dataset: DatasetSlot) {
        todo!()
    }
    /// Frees what expired at or before `now_seconds` (since the Unix epoch); cheap when nothing did.
    pub fn expire(&self, now_seconds: u32) {
        todo!()
    }
    /// To be called about once a second: expiry, `keepFreePercent`, rewriting of half-empty segments, a look at degraded tiers.
    pub fn maintain(&self, now_seconds: u32) {
        todo!()
    }
    pub fn usage(&self) -> Usage {
        todo!()
    }
    /// Asks the disk to make durable what is here. Not needed for a process's death, only against power loss.
    pub fn flush(&self) {
        todo!()
    }
}
