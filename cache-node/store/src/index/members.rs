//! Of each data set: how many objects that may leave are in which part of the index, and which segments are its own.
//! Knows numbers of data sets. Does not know priorities or quotas.
//! Invariant: the counts are those of the entries, changed under the lock of their shard; so a part without any needn't be looked at.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{SEGMENT_NUMBERS, SHARDS};
use crate::TIERS_MAX;

/// Data sets that are told apart.
pub(crate) const NUMBERS: usize = 1 << 12;
/// Shards that are counted together: 4 KiB a data set in all.
const SHARDS_A_GROUP: usize = 4;
const GROUPS: usize = SHARDS / SHARDS_A_GROUP;
/// Segments whose data sets are kept in one piece, made when the first of them is.
const SEGMENTS_A_CHUNK: usize = 4096;
const CHUNKS: usize = SEGMENT_NUMBERS as usize / SEGMENTS_A_CHUNK;

/// Which data sets are meant.
#[derive(Clone)]
pub(crate) struct Scope {
    /// `None`: all.
    chosen: Option<(Vec<u16>, Box<[u64; NUMBERS / 64]>)>,
}

impl Scope {
    pub(crate) fn all() -> Self {
        Self { chosen: None }
    }
    pub(crate) fn of(numbers: Vec<u16>) -> Self {
        let mut bits = Box::new([0; NUMBERS / 64]);
        for number in &numbers {
            bits[usize::from(*number) / 64] |= 1 << (number % 64);
        }
        Self { chosen: Some((numbers, bits)) }
    }
    pub(crate) fn has(&self, number: u16) -> bool {
        self.chosen.as_ref().is_none_or(|(_, bits)| bits[usize::from(number) / 64] & 1 << (number % 64) != 0)
    }
}

struct Counts {
    /// Objects that may leave, by group of shards.
    groups: [AtomicU32; GROUPS],
    by_tier: [AtomicU64; TIERS_MAX],
}

pub(super) struct Members {
    counts: Box<[OnceLock<Box<Counts>>]>,
    /// By tier and number of the segment.
    owners: Box<[OnceLock<Box<[AtomicU16; SEGMENTS_A_CHUNK]>>]>,
}

impl Members {
    pub(super) fn new() -> Self {
        Self { counts: (0..NUMBERS).map(|_| OnceLock::new()).collect(), owners: (0..TIERS_MAX * CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    fn counts(&self, number: u16) -> &Counts {
        let make = || Box::new(Counts { groups: [const { AtomicU32::new(0) }; GROUPS], by_tier: [const { AtomicU64::new(0) }; TIERS_MAX] });
        self.counts[usize::from(number)].get_or_init(make)
    }

    /// One more that may leave.
    pub(super) fn add(&self, number: u16, shard: usize, tier: u8) {
        let counts = self.counts(number);
        counts.groups[shard / SHARDS_A_GROUP].fetch_add(1, Relaxed);
        counts.by_tier[usize::from(tier)].fetch_add(1, Relaxed);
    }

    pub(super) fn sub(&self, number: u16, shard: usize, tier: u8) {
        let counts = self.counts(number);
        // An entry that a damaged index file left behind may name a segment that is another data set's by now: it isn't counted there.
        let _ = counts.groups[shard / SHARDS_A_GROUP].fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        let _ = counts.by_tier[usize::from(tier)].fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    }

    pub(super) fn may_leave(&self, number: u16, tier: u8) -> u64 {
        self.counts[usize::from(number)].get().map_or(0, |counts| counts.by_tier[usize::from(tier)].load(Relaxed))
    }

    /// Whether the shard can have an object of `scope` that may leave.
    pub(super) fn may_have(&self, scope: &Scope, shard: usize) -> bool {
        let has = |number: &u16| {
            let counts = self.counts[usize::from(*number)].get();
            counts.is_some_and(|counts| counts.groups[shard / SHARDS_A_GROUP].load(Relaxed) > 0)
        };
        scope.chosen.as_ref().is_none_or(|(numbers, _)| numbers.iter().any(has))
    }

    fn owner(&self, tier: u8, segment: u32) -> (&OnceLock<Box<[AtomicU16; SEGMENTS_A_CHUNK]>>, usize) {
        let segment = segment as usize;
        (&self.owners[usize::from(tier) * CHUNKS + segment / SEGMENTS_A_CHUNK], segment % SEGMENTS_A_CHUNK)
    }

    /// Before the first entry of the segment is seen.
    pub(super) fn set_owner(&self, tier: u8, segment: u32, number: u16) {
        let (chunk, at) = self.owner(tier, segment);
        chunk.get_or_init(|| Box::new([const { AtomicU16::new(0) }; SEGMENTS_A_CHUNK]))[at].store(number, Relaxed);
    }

    pub(super) fn owner_of(&self, tier: u8, segment: u32) -> u16 {
        let (chunk, at) = self.owner(tier, segment);
        chunk.get().map_or(0, |chunk| chunk[at].load(Relaxed))
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> u64 {
        let counts = self.counts.iter().filter(|counts| counts.get().is_some()).count() * size_of::<Counts>();
        let owners = self.owners.iter().filter(|chunk| chunk.get().is_some()).count() * SEGMENTS_A_CHUNK * size_of::<AtomicU16>();
        let tables = size_of_val(&*self.counts) + size_of_val(&*self.owners);
        (counts + owners + tables) as u64
    }
}
