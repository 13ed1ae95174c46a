//! What a controller remembers from pass to pass, so that a pass over what didn't change calls nothing.
//! Invariant: forgetting any of it costs calls, never correctness.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Figures that changed alone are written so often at most.
const FIGURES_EVERY: Duration = Duration::from_secs(30);

/// By object's UID. Guards one table; never held across `.await`.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<String, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    failures: u32,
    status_written: Option<Instant>,
    applied: Option<String>,
    policy: Option<(Option<i64>, usize)>,
}

impl Memory {
    /// Counts one more failure of the object; gives how many in a row.
    pub fn failed(&self, uid: &str) -> u32 {
        self.with(uid, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures
        })
    }

    pub fn failures(&self, uid: &str) -> u32 {
        self.with(uid, |entry| entry.failures)
    }

    pub fn succeeded(&self, uid: &str) {
        self.with(uid, |entry| entry.failures = 0);
    }

    /// Whether a status in which only figures changed may be written again.
    pub fn may_write_figures(&self, uid: &str) -> bool {
        // A second less, so that who looks every 30 s isn't late by a millisecond.
        self.with(uid, |entry| entry.status_written.is_none_or(|at| at.elapsed() + Duration::from_secs(1) >= FIGURES_EVERY))
    }

    pub fn wrote_status(&self, uid: &str) {
        self.with(uid, |entry| entry.status_written = Some(Instant::now()));
    }

    pub fn is_applied(&self, uid: &str, digest: &str) -> bool {
        self.with(uid, |entry| entry.applied.as_deref() == Some(digest))
    }

    pub fn applied(&self, uid: &str, digest: &str) {
        self.with(uid, |entry| entry.applied = Some(digest.to_owned()));
    }

    /// Whether a policy's generation or number of nodes differs from last time.
    pub fn policy_changed(&self, uid: &str, generation: Option<i64>, nodes: usize) -> bool {
        self.with(uid, |entry| entry.policy.replace((generation, nodes)) != Some((generation, nodes)))
    }

    /// Keeps nothing of an object that is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    fn with<T>(&self, uid: &str, look: impl FnOnce(&mut Entry) -> T) -> T {
        look(self.0.lock().entry(uid.to_owned()).or_default())
    }
}
