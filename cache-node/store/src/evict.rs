//! Which object leaves when room is needed, and whether a new one is let in: `Hold`, `Lru`, `S3Fifo` behind one trait.
//! Knows hashes and 12 bits of history per object. Does not know disks, clocks, sizes or what the objects are.
//! Objects compete in groups: those of one priority in a tier, and those of one data set within its quota. What a policy remembers of a group is
//! the group's `Standing`.
//! Invariant: pinned objects are never offered as candidates, so no policy can choose one; candidates are always of one group.

pub mod hold;
pub mod lru;
pub mod s3_fifo;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Which policy a store follows; `eviction` in the Dataset file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EvictionKind {
    #[default]
    Hold,
    Lru,
    S3Fifo,
}

impl EvictionKind {
    /// A fresh policy for one tier.
    pub fn policy(self) -> Box<dyn Evict> {
        match self {
            Self::Hold => Box::new(hold::Hold),
            Self::Lru => Box::new(lru::Lru::new()),
            Self::S3Fifo => Box::new(s3_fifo::S3Fifo::new()),
        }
    }
}

/// What the index remembers of an object's use: the low 12 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Recency(pub u16);

impl Recency {
    pub const BITS: u32 = 12;
    pub const MASK: u16 = (1 << Self::BITS) - 1;
}

/// An object that may leave. `hash` is uniform over all of `u64`, and the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub hash: u64,
    pub recency: Recency,
}

/// Which candidates a policy wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The highest hashes, in descending order, at or below the given one.
    Highest { from: u64 },
    /// This many, at random.
    Sample { count: usize },
}

/// What a policy remembers of the objects that compete with each other: for `Hold` the hash from which on an object has no place among them.
pub struct Standing {
    threshold: AtomicU64,
}

impl Standing {
    /// Nobody has been kept out yet.
    #[expect(clippy::new_without_default, reason = "made on purpose, one a group")]
    pub fn new() -> Self {
        Self { threshold: AtomicU64::new(u64::MAX) }
    }
    /// When the group is another: by the next victims it is learnt anew.
    pub fn forget(&self) {
        self.threshold.store(u64::MAX, Relaxed);
    }
}

/// A policy of one tier; shared by threads, so its own state is atomics.
pub trait Evict: Send + Sync {
    /// Whether an object may enter; `has_room` says that nobody of its group would have to leave.
    fn admits(&self, standing: &Standing, hash: u64, has_room: bool) -> bool;
    /// What `admits` would answer; changes nothing.
    fn would_admit(&self, standing: &Standing, hash: u64, has_room: bool) -> bool;
    /// The recency of an object that has just entered.
    fn entered(&self, hash: u64) -> Recency;
    /// After a hit; `None` when nothing changes, which spares the write.
    fn touched(&self, recency: Recency) -> Option<Recency>;
    fn reach(&self, standing: &Standing) -> Reach;
    /// The index of the victim; may change the recency of those that stay. `None` only without candidates.
    fn choose(&self, candidates: &mut [Candidate]) -> Option<usize>;
    /// `victim` has left because `choose` said so.
    fn left(&self, standing: &Standing, victim: Candidate);
}
