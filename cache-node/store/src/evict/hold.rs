//! Keeps the objects with the lowest hashes: a stable subset, on which nodes agree without talking.
//! In epochs every sample is used once, so no cache beats capacity / data set: this one reaches it from the second epoch.
//! The group's threshold falls when room is needed and rises again when there is room (something was freed, the quota grew, or objects of a lower
//! priority give way): whoever hashes above it has no place, and unpinned objects above it are on their way out.

use std::sync::atomic::Ordering::Relaxed;

use super::{Candidate, Evict, Reach, Recency, Standing};

pub struct Hold;

impl Evict for Hold {
    fn admits(&self, standing: &Standing, hash: u64, has_room: bool) -> bool {
        if has_room {
            standing.threshold.fetch_max(hash, Relaxed);
        }
        self.would_admit(standing, hash, has_room)
    }
    fn would_admit(&self, standing: &Standing, hash: u64, has_room: bool) -> bool {
        has_room || hash < standing.threshold.load(Relaxed)
    }
    fn entered(&self, _hash: u64) -> Recency {
        Recency::default()
    }
    fn touched(&self, _recency: Recency) -> Option<Recency> {
        None
    }
    fn reach(&self, standing: &Standing) -> Reach {
        Reach::Highest { from: standing.threshold.load(Relaxed) }
    }
    fn choose(&self, candidates: &mut [Candidate]) -> Option<usize> {
        (0..candidates.len()).max_by_key(|&i| candidates[i].hash)
    }
    fn left(&self, standing: &Standing, victim: Candidate) {
        standing.threshold.fetch_min(victim.hash, Relaxed);
    }
}
