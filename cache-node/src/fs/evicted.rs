//! Files that an open found evicted a moment ago: shown in the cached mode for a while, even when they are complete again.
//! Without it two evictions in a row, at a cache that is too small, would fail an open: the VFS looks a stale path up again once, not twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use forebay_wire::block::ObjectId;

/// The kernel's second look follows at once; one name is looked up twice in it.
const SHOWN_CACHED_FOR: Duration = Duration::from_secs(1);
/// Beyond it no more are noted: a second's opens of evicted files at a busy node.
const FILES_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Evicted {
    /// Guards the times alone.
    files: Mutex<HashMap<ObjectId, Instant>>,
    /// So that the usual case, none, costs one load.
    len: AtomicUsize,
}

impl Evicted {
    pub(super) fn note(&self, object: ObjectId) {
        let mut files = self.files.lock();
        files.retain(|_, since| since.elapsed() < SHOWN_CACHED_FOR);
        if files.len() < FILES_MAX {
            files.insert(object, Instant::now());
        }
        self.len.store(files.len(), Ordering::Release);
    }

    pub(super) fn is_recent(&self, object: ObjectId) -> bool {
        self.len.load(Ordering::Acquire) != 0 && self.files.lock().get(&object).is_some_and(|since| since.elapsed() < SHOWN_CACHED_FOR)
    }
}
