//! Which blocks of a filling object are here, for threads that put and drop them at once.
//! Knows bits and how many are missing. Does not know files.
//! Invariant: once nothing is missing nothing is cleared any more: the whole is complete, or about to be, and may be passed through.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// Which blocks of a filling object are here.
pub(super) struct Presence {
    bits: Box<[AtomicU64]>,
    missing: AtomicU32,
}

impl Presence {
    pub(super) fn empty(blocks: u32) -> Self {
        Self { bits: (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), missing: AtomicU32::new(blocks) }
    }
    pub(super) fn has(&self, block: u32) -> bool {
        self.bits.get(block as usize / 64).is_some_and(|word| word.load(SeqCst) & 1 << (block % 64) != 0)
    }
    /// `None` when it was set before; else how many are missing now.
    pub(super) fn set(&self, block: u32) -> Option<u32> {
        let bit = 1 << (block % 64);
        (self.bits[block as usize / 64].fetch_or(bit, SeqCst) & bit == 0).then(|| self.missing.fetch_sub(1, SeqCst) - 1)
    }
    /// Whether the block was there and is no longer; never when nothing is missing, as then the whole is complete, or about to be.
    pub(super) fn clear(&self, block: u32) -> bool {
        let bit = 1 << (block % 64);
        let was_set = self.bits[block as usize / 64].fetch_and(!bit, SeqCst) & bit != 0;
        if was_set && self.missing.fetch_add(1, SeqCst) == 0 {
            self.bits[block as usize / 64].fetch_or(bit, SeqCst);
            self.missing.fetch_sub(1, SeqCst);
            return false;
        }
        was_set
    }
    pub(super) fn is_whole(&self) -> bool {
        self.missing.load(SeqCst) == 0
    }
}
