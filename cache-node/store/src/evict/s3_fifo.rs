//! S3-FIFO (Yang et al., SOSP 2023): new objects pass a small queue, those used again there or remembered as ghosts enter the main queue.
//! Deviation: no queues are kept, the oldest of a random sample stands for the head of its queue, since an object has 12 bits of history:
//! bit 11 = in the main queue, bits 9-10 = uses (0 to 3), bits 0-8 = when it entered its queue.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{Candidate, Evict, Reach, Recency, Standing};

const MAIN: u16 = 1 << 11;
const USES_SHIFT: u32 = 9;
const USES_MASK: u16 = 3 << USES_SHIFT;
const STAMP_MASK: u16 = (1 << USES_SHIFT) - 1;
/// Entries per tick of the clock: 512 stamps then span 64Ki entries of a queue.
const ENTRIES_PER_TICK: u32 = 128;
const SAMPLE: usize = 24;
/// Share of the small queue, in percent of the objects.
const SMALL_PERCENT: usize = 10;
/// Remembered fingerprints of objects that left the small queue: 256 KiB per tier.
const GHOSTS: usize = 1 << 16;

pub struct S3Fifo {
    entries: AtomicU32,
    ghosts: Box<[AtomicU32]>,
    /// Saved by ghosts, for tests and curiosity.
    revived: AtomicU64,
}

impl S3Fifo {
    #[expect(clippy::new_without_default, reason = "a policy is made on purpose")]
    pub fn new() -> Self {
        Self { entries: AtomicU32::new(0), ghosts: (0..GHOSTS).map(|_| AtomicU32::new(0)).collect(), revived: AtomicU64::new(0) }
    }
    fn stamp(&self) -> u16 {
        (self.entries.fetch_add(1, Relaxed) / ENTRIES_PER_TICK) as u16 & STAMP_MASK
    }
    fn ghost(&self, hash: u64) -> (&AtomicU32, u32) {
        (&self.ghosts[hash as usize % GHOSTS], (hash >> 32) as u32 | 1)
    }
    fn uses(recency: Recency) -> u16 {
        (recency.0 & USES_MASK) >> USES_SHIFT
    }
}

impl Evict for S3Fifo {
    fn admits(&self, _standing: &Standing, _hash: u64, _has_room: bool) -> bool {
        true
    }
    fn would_admit(&self, _standing: &Standing, _hash: u64, _has_room: bool) -> bool {
        true
    }
    fn entered(&self, hash: u64) -> Recency {
        let (ghost, print) = self.ghost(hash);
        let is_ghost = ghost.compare_exchange(print, 0, Relaxed, Relaxed).is_ok();
        if is_ghost {
            self.revived.fetch_add(1, Relaxed);
        }
        Recency(self.stamp() | if is_ghost { MAIN } else { 0 })
    }
    fn touched(&self, recency: Recency) -> Option<Recency> {
        (Self::uses(recency) < 3).then_some(Recency(recency.0 + (1 << USES_SHIFT)))
    }
    fn reach(&self, _standing: &Standing) -> Reach {
        Reach::Sample { count: SAMPLE }
    }
    fn choose(&self, candidates: &mut [Candidate]) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        let now = (self.entries.load(Relaxed) / ENTRIES_PER_TICK) as u16;
        let age = |recency: Recency| now.wrapping_sub(recency.0) & STAMP_MASK;
        // Each turn sends somebody on, so uses run out after at most 4 turns of all.
        for _ in 0..candidates.len() * 5 {
            let small = candidates.iter().filter(|c| c.recency.0 & MAIN == 0).count();
            let from_small = small * 100 > candidates.len() * SMALL_PERCENT || small == candidates.len();
            let wanted = if from_small { 0 } else { MAIN };
            let oldest =
                (0..candidates.len()).filter(|&i| candidates[i].recency.0 & MAIN == wanted).max_by_key(|&i| age(candidates[i].recency))?;
            let recency = &mut candidates[oldest].recency;
            match Self::uses(*recency) {
                0 => return Some(oldest),
                _ if from_small => *recency = Recency(self.stamp() | MAIN),
                uses => *recency = Recency(self.stamp() | MAIN | (uses - 1) << USES_SHIFT),
            }
        }
        Some(0)
    }
    fn left(&self, _standing: &Standing, victim: Candidate) {
        if victim.recency.0 & MAIN == 0 {
            let (ghost, print) = self.ghost(victim.hash);
            ghost.store(print, Relaxed);
        }
    }
}
