//! The least recently used of a random sample leaves (as Redis does it). The clock ticks once per `TOUCHES_PER_TICK` hits or entries,
//! so 12 bits tell 4096 ages apart before the oldest wrap; an age beyond that is taken for young, which costs one wrong victim, not correctness.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Candidate, Evict, Reach, Recency, Standing};

/// Uses per tick of the clock: the 4096 ages then span a million uses.
const TOUCHES_PER_TICK: u32 = 256;
const SAMPLE: usize = 16;

pub struct Lru {
    uses: AtomicU32,
}

impl Lru {
    #[expect(clippy::new_without_default, reason = "a policy is made on purpose")]
    pub fn new() -> Self {
        Self { uses: AtomicU32::new(0) }
    }
    fn now(&self) -> u16 {
        let uses = self.uses.fetch_add(1, Relaxed);
        (uses / TOUCHES_PER_TICK) as u16 & Recency::MASK
    }
}

impl Evict for Lru {
    fn admits(&self, _standing: &Standing, _hash: u64, _has_room: bool) -> bool {
        true
    }
    fn would_admit(&self, _standing: &Standing, _hash: u64, _has_room: bool) -> bool {
        true
    }
    fn entered(&self, _hash: u64) -> Recency {
        Recency(self.now())
    }
    fn touched(&self, recency: Recency) -> Option<Recency> {
        let now = self.now();
        (now != recency.0).then_some(Recency(now))
    }
    fn reach(&self, _standing: &Standing) -> Reach {
        Reach::Sample { count: SAMPLE }
    }
    fn choose(&self, candidates: &mut [Candidate]) -> Option<usize> {
        let now = (self.uses.load(Relaxed) / TOUCHES_PER_TICK) as u16;
        (0..candidates.len()).max_by_key(|&i| now.wrapping_sub(candidates[i].recency.0) & Recency::MASK)
    }
    fn left(&self, _standing: &Standing, _victim: Candidate) {}
}
