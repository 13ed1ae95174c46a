//! What the store knows of each data set: how much of it is here, how much may be, and whose objects leave before its own.
//! Knows bytes, quotas, priorities. Does not know objects.
//! Invariant: bytes are taken before they are written and given back once: when their object leaves the index, or when they were never written.
//! Records that are dead in their segment, and evicted files that somebody has open, are the tier's and no longer a data set's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI16, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::RwLock;

use super::index::NUMBERS;
use super::types::{DatasetSlot, Terms};
use super::{TIERS_MAX, tier::ample};
use crate::evict::Standing;

/// No quota.
const NONE: u64 = u64::MAX;

#[derive(Default)]
struct InTier {
    bytes: AtomicU64,
    /// Of these, of pinned objects.
    pinned_bytes: AtomicU64,
}

/// One data set of this store, known from the first of its objects or terms on.
pub(crate) struct Dataset {
    pub(crate) slot: DatasetSlot,
    /// What the index knows it by.
    pub(crate) number: u16,
    priority: AtomicI16,
    quota_bytes: AtomicU64,
    /// Of its objects in all tiers, and promised to puts.
    used_bytes: AtomicU64,
    in_tiers: [InTier; TIERS_MAX],
    /// Of its objects among themselves, within the quota.
    pub(crate) standing: Standing,
}

impl Dataset {
    fn new(slot: DatasetSlot, number: u16) -> Self {
        Self {
            slot,
            number,
            priority: AtomicI16::new(0),
            quota_bytes: AtomicU64::new(NONE),
            used_bytes: AtomicU64::new(0),
            in_tiers: std::array::from_fn(|_| InTier::default()),
            standing: Standing::new(),
        }
    }

    pub(crate) fn priority(&self) -> i16 {
        self.priority.load(Relaxed)
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms { quota_bytes: self.quota(), priority: self.priority() }
    }

    /// What was in force before.
    pub(crate) fn set_terms(&self, terms: Terms) -> Terms {
        let quota_bytes = self.quota_bytes.swap(terms.quota_bytes.unwrap_or(NONE), Relaxed);
        let priority = self.priority.swap(terms.priority, Relaxed);
        self.standing.forget();
        Terms { quota_bytes: (quota_bytes != NONE).then_some(quota_bytes), priority }
    }

    /// `None`: as much as the tiers hold.
    pub(crate) fn quota(&self) -> Option<u64> {
        Some(self.quota_bytes.load(Relaxed)).filter(|bytes| *bytes != NONE)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.in_tiers.iter().fold(0, |sum: u64, tier| sum.wrapping_add(tier.pinned_bytes.load(Relaxed)))
    }

    /// Of objects that aren't pinned, in one tier.
    pub(crate) fn unpinned_bytes(&self, tier: u8) -> u64 {
        let InTier { bytes, pinned_bytes } = &self.in_tiers[usize::from(tier)];
        bytes.load(Relaxed).saturating_sub(pinned_bytes.load(Relaxed))
    }

    /// It was told a lower quota and hasn't let go of enough yet.
    pub(crate) fn is_over(&self) -> bool {
        self.used_bytes() > self.quota_bytes.load(Relaxed)
    }

    /// As of a tier: room in the quota that its objects don't fight over.
    pub(crate) fn has_ample(&self, bytes: u64) -> bool {
        self.quota().is_none_or(|quota| self.used_bytes().saturating_add(bytes) <= ample(quota))
    }

    /// Room of the quota for bytes that are about to be written; `false` when own objects have to leave first.
    pub(crate) fn take(&self, tier: u8, bytes: u64) -> bool {
        let quota = self.quota_bytes.load(Relaxed);
        let taken = self.used_bytes.fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|after| *after <= quota)).is_ok();
        if taken {
            self.in_tiers[usize::from(tier)].bytes.fetch_add(bytes, Relaxed);
        }
        taken
    }

    /// What is found at the start is here, whatever the quota.
    pub(crate) fn found(&self, tier: u8, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Relaxed);
        self.in_tiers[usize::from(tier)].bytes.fetch_add(bytes, Relaxed);
    }

    /// Never below nothing: where a disk damaged what says how much it was, some of it is a guess.
    pub(crate) fn give_back(&self, tier: u8, bytes: u64) {
        let _ = self.used_bytes.fetch_update(Relaxed, Relaxed, |used| Some(used.saturating_sub(bytes)));
        let _ = self.in_tiers[usize::from(tier)].bytes.fetch_update(Relaxed, Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    pub(crate) fn pin(&self, tier: u8, bytes: u64) {
        self.in_tiers[usize::from(tier)].pinned_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn unpin(&self, tier: u8, bytes: u64) {
        // May come before the `pin` of a block that is being put into a file that goes meanwhile.
        self.in_tiers[usize::from(tier)].pinned_bytes.fetch_sub(bytes, Relaxed);
    }
}

/// All data sets of a store.
pub(crate) struct Datasets {
    /// Guards which slots have a number.
    by_slot: RwLock<HashMap<DatasetSlot, Arc<Dataset>>>,
    by_number: ArcSwap<Vec<Arc<Dataset>>>,
}

impl Dataset {
    /// Of data sets beyond those that can be told apart: together one, without quota and of priority 0.
    pub(crate) fn is_rest(&self) -> bool {
        self.number == REST
    }
}

const REST: u16 = NUMBERS as u16 - 1;

impl Datasets {
    pub(crate) fn new() -> Self {
        Self { by_slot: RwLock::default(), by_number: ArcSwap::default() }
    }

    pub(crate) fn find(&self, slot: DatasetSlot) -> Option<Arc<Dataset>> {
        self.by_slot.read().get(&slot).cloned()
    }

    /// Makes it known when it wasn't.
    pub(crate) fn of(&self, slot: DatasetSlot) -> Arc<Dataset> {
        if let Some(dataset) = self.find(slot) {
            return dataset;
        }
        let mut by_slot = self.by_slot.write();
        if let Some(dataset) = by_slot.get(&slot) {
            return dataset.clone();
        }
        let all = self.by_number.load_full();
        let next = u16::try_from(all.len()).ok().filter(|next| *next < REST);
        drop(all);
        let number = next.or_else(|| self.unused(&mut by_slot)).unwrap_or(REST);
        let mut all = (**self.by_number.load()).clone();
        let known = all.get(usize::from(number)).filter(|_| number == REST).cloned();
        let dataset = known.unwrap_or_else(|| {
            let made = Arc::new(Dataset::new(slot, number));
            match all.get_mut(usize::from(number)) {
                Some(place) => *place = made.clone(),
                None => all.push(made.clone()),
            }
            made
        });
        if number == REST {
            tracing::warn!(data_sets = NUMBERS, "more data sets than can be told apart: the newest have neither quota nor priority");
        }
        self.by_number.store(Arc::new(all));
        by_slot.insert(slot, dataset.clone());
        dataset
    }

    /// The number of one that nobody uses and of which nothing is here, for another: nobody can get it meanwhile.
    fn unused(&self, by_slot: &mut HashMap<DatasetSlot, Arc<Dataset>>) -> Option<u16> {
        let is_unused = |dataset: &Arc<Dataset>| {
            // The two tables'.
            Arc::strong_count(dataset) == 2 && dataset.number != REST && dataset.used_bytes() == 0 && dataset.terms() == Terms::default()
        };
        let (slot, number) = by_slot.iter().find(|(_, dataset)| is_unused(dataset)).map(|(slot, dataset)| (*slot, dataset.number))?;
        by_slot.remove(&slot);
        Some(number)
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<Dataset>>> {
        self.by_number.load_full()
    }

    /// Of an entry of the index.
    pub(crate) fn by_number(&self, number: u16) -> Option<Arc<Dataset>> {
        self.by_number.load().get(usize::from(number)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_again_and_those_beyond_share_one() {
        let datasets = Datasets::new();
        let made: Vec<_> = (0..u64::from(REST)).map(|slot| datasets.of(DatasetSlot(slot))).collect();
        assert!(made.iter().enumerate().all(|(at, dataset)| usize::from(dataset.number) == at));
        let rest = [datasets.of(DatasetSlot(100_000)), datasets.of(DatasetSlot(100_001))];
        assert!(rest.iter().all(|dataset| dataset.number == REST && Arc::ptr_eq(dataset, &rest[0])));
        made[7].found(0, 10);
        made[8].set_terms(Terms { priority: 1, ..Terms::default() });
        drop(made);
        let again = datasets.of(DatasetSlot(100_002));
        assert!(again.number != REST && ![7, 8].contains(&again.number), "{}", again.number);
        assert_eq!((again.slot, again.used_bytes()), (DatasetSlot(100_002), 0));
    }
}
