//! Keeps the objects with the lowest hashes: a stable subset, on which nodes agree without talking.
//! In epochs every sample is used once, so no cache beats capacity / data set: this one reaches it from the second epoch.
//! The threshold falls when room is needed and rises again when there is room (something was freed or the quota grew).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Candidate, Evict, Reach, Recency};

pub struct Hold {
    /// Whoever hashes above has no place. Unpinned objects above it are on their way out.
    threshold: AtomicU64,
}

impl Hold {
    #[expect(clippy::new_without_default, reason = "a policy is made on purpose")]
    pub fn new() -> Self {
        Self { threshold: AtomicU64::new(u64::MAX) }
    }
}

impl Evict for Hold {
    fn admits(&self, hash: u64, has_room: bool) -> bool {
        if has_room {
            self.threshold.fetch_max(hash, Relaxed);
        }
        self.would_admit(hash, has_room)
    }
    fn would_admit(&self, hash: u64, has_room: bool) -> bool {
        has_room || hash < self.threshold.load(Relaxed)
    }
    fn entered(&self, _hash: u64) -> Recency {
        Recency::default()
    }
    fn touched(&self, _recency: Recency) -> Option<Recency> {
        None
    }
    fn reach(&self) -> Reach {
        Reach::Highest { from: self.threshold.load(Relaxed) }
    }
    fn choose(&self, candidates: &mut [Candidate]) -> Option<usize> {
        (0..candidates.len()).max_by_key(|&i| candidates[i].hash)
    }
    fn left(&self, victim: Candidate) {
        self.threshold.fetch_min(victim.hash, Relaxed);
    }
}
