//! Which objects of a list would be kept, decided before any of them is fetched: the lowest hashes, as `Hold` keeps them, up to the room of their tier
//! and of their data set's quota. What is of lower priority leaves for them, what is of higher stays.
//! Knows hashes, charges, quotas and priorities. Does not know where bytes come from. Memory only: 64 Ki sums per tier and one for the quota, whatever the number of objects.
//! Invariant: the same list in the same order over the same store gives the same choice, and what it chooses fits beside what stays.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::datasets::Dataset;
use super::index::Place;
use super::record::record_bytes;
use super::tier::{PAGE, Tier, ample};
use super::types::{Class, DatasetSlot};
use super::{Store, hash_of, sparse};
use crate::evict::Reach;
use forebay_wire::block::{BlockSize, ObjectId, ObjectRef};

/// Objects are told apart by so many bits of their hashes; those that share the last ones that fit are taken in the list's order.
const BUCKET_BITS: u32 = 16;
const BUCKETS: usize = 1 << BUCKET_BITS;

fn bucket_of(object: ObjectId) -> usize {
    (hash_of(object) >> (64 - BUCKET_BITS)) as usize
}

/// Tiers in the order in which an object goes to them: by weighted rendezvous over the quotas.
pub(crate) fn ranked(quotas: &[u64], object: ObjectId) -> Vec<usize> {
    let mut ranked: Vec<(f64, usize)> = (0..quotas.len()).map(|number| (rank(quotas[number], number, object), number)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    ranked.into_iter().map(|(_, number)| number).collect()
}

/// The first of them.
pub(crate) fn home_of(quotas: &[u64], object: ObjectId) -> usize {
    let of = |number: &usize| rank(quotas[*number], *number, object);
    (0..quotas.len()).min_by(|a, b| of(a).total_cmp(&of(b))).unwrap_or(0)
}

fn rank(quota_bytes: u64, number: usize, object: ObjectId) -> f64 {
    let hash = xxh3_64_with_seed(&object.0.to_le_bytes(), number as u64);
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    quota_bytes as f64 / unit.ln()
}

/// What decides how much of the quota an object takes, and where.
#[derive(Clone)]
struct Shape {
    quotas: Vec<u64>,
    block_size: BlockSize,
    passthrough_min_bytes: u64,
}

impl Shape {
    fn charge(&self, size: u64) -> u64 {
        match size {
            0 => 0,
            size if size < self.passthrough_min_bytes && size <= self.block_size.bytes() => record_bytes(size),
            size => sparse::full_charge(size, self.block_size),
        }
    }
}

/// The part of a list that one tier has, or all of it within the quota.
struct Tally {
    /// What stays whatever comes leaves this: pinned objects outside the list, and those of higher priority.
    room_bytes: u64,
    /// Charges of the list's objects, by bucket.
    pinned: Vec<u64>,
    auto: Vec<u64>,
    /// Unpinned objects outside the list that compete by hash, and their bytes.
    others: Vec<u32>,
    others_bytes: u64,
}

impl Tally {
    fn new(room_bytes: u64, others_bytes: u64) -> Self {
        Self { room_bytes, pinned: vec![0; BUCKETS], auto: vec![0; BUCKETS], others: vec![0; BUCKETS], others_bytes }
    }

    fn of_tier(tier: &Tier, all: &[Arc<Dataset>], priority: i16) -> Self {
        let unpinned = |is_meant: fn(&i16, &i16) -> bool| -> u64 {
            let meant = all.iter().filter(|dataset| is_meant(&dataset.priority(), &priority));
            meant.map(|dataset| dataset.unpinned_bytes(tier.number)).sum()
        };
        let stays = tier.pinned_bytes.load(Relaxed).saturating_add(unpinned(i16::gt));
        Self::new(tier.ample_bytes().saturating_sub(stays), unpinned(i16::eq))
    }

    /// What is here already of an object of the list competes as one of the list.
    fn is_here(&mut self, bucket: usize, is_pinned: bool, charge: u64) {
        if is_pinned {
            self.room_bytes += charge;
        } else {
            self.others[bucket] = self.others[bucket].saturating_sub(1);
            self.others_bytes = self.others_bytes.saturating_sub(charge);
        }
    }

    fn add(&mut self, bucket: usize, class: Class, charge: u64) {
        match class {
            Class::Pin => self.pinned[bucket] += charge,
            Class::Auto => self.auto[bucket] += charge,
        }
    }

    fn cuts(&self) -> Cuts {
        let pin = cut(self.room_bytes, |bucket| self.pinned[bucket]);
        let left = self.room_bytes.saturating_sub(self.pinned.iter().sum());
        let count: u64 = self.others.iter().map(|count| u64::from(*count)).sum();
        let each = self.others_bytes / count.max(1);
        Cuts { pin, auto: cut(left, |bucket| self.auto[bucket] + u64::from(self.others[bucket]) * each) }
    }
}

/// Up to where the room reaches.
#[derive(Clone, Copy)]
struct Cut {
    /// Buckets below are taken whole.
    bucket: usize,
    /// For objects of the bucket itself, first come, first served.
    left_bytes: u64,
}

fn cut(room_bytes: u64, bytes_of: impl Fn(usize) -> u64) -> Cut {
    let mut left_bytes = room_bytes;
    for bucket in 0..BUCKETS {
        match left_bytes.checked_sub(bytes_of(bucket)) {
            Some(left) => left_bytes = left,
            None => return Cut { bucket, left_bytes },
        }
    }
    Cut { bucket: BUCKETS, left_bytes }
}

#[derive(Clone, Copy)]
struct Cuts {
    pin: Cut,
    auto: Cut,
}

/// A list of objects of one data set that somebody wants to be here; becomes a `Plan`.
pub struct Forecast<'a> {
    store: &'a Store,
    shape: Shape,
    tiers: Vec<Tally>,
    /// `None` without a quota.
    quota: Option<Tally>,
}

impl Store {
    /// Begins a list. Walks the index once where the policy goes by hash.
    pub fn forecast(&self, dataset: DatasetSlot) -> Forecast<'_> {
        let (dataset, all) = (self.datasets.of(dataset), self.datasets.all());
        let priority = dataset.priority();
        let mut tiers: Vec<Tally> = self.tiers.iter().map(|tier| Tally::of_tier(tier, &all, priority)).collect();
        let mut quota = dataset.quota().map(|bytes| {
            let own = self.tiers.iter().map(|tier| dataset.unpinned_bytes(tier.number)).sum();
            Tally::new(ample(bytes).saturating_sub(dataset.pinned_bytes()), own)
        });
        let by_hash: Vec<bool> =
            self.tiers.iter().map(|tier| matches!(tier.policy.load().reach(&tier.standing(priority)), Reach::Highest { .. })).collect();
        let competes: Vec<bool> = all.iter().map(|other| other.priority() == priority).collect();
        // Other policies let newcomers in: then nobody outside the list who isn't of higher priority stays for sure.
        self.index.for_each(|entry| {
            let (tier, bucket) = (usize::from(Place::from(entry.location).tier()), (entry.hash >> (64 - BUCKET_BITS)) as usize);
            if !by_hash[tier] || entry.is_pinned {
                return;
            }
            if competes.get(usize::from(entry.dataset)).is_some_and(|competes| *competes) {
                tiers[tier].others[bucket] += 1;
            }
            if let Some(quota) = quota.as_mut().filter(|_| entry.dataset == dataset.number) {
                quota.others[bucket] += 1;
            }
        });
        Forecast { store: self, shape: self.shape(), tiers, quota }
    }

    /// Whether objects of the data set that take `bytes` in all can come without anybody leaving: then no list is needed.
    pub fn has_room_for(&self, dataset: DatasetSlot, bytes: u64) -> bool {
        matches!(&self.tiers[..], [tier] if tier.has_ample(bytes)) && self.datasets.of(dataset).has_ample(bytes)
    }

    /// What an object of this size takes of the quota.
    pub fn charge_of(&self, size: u64) -> u64 {
        self.shape().charge(size)
    }

    /// Of the object's first `blocks_max` blocks.
    pub fn bytes_of(&self, object: &ObjectRef, blocks_max: u32) -> u64 {
        (u64::from(blocks_max) * self.config.block_size.bytes()).min(object.size)
    }

    fn shape(&self) -> Shape {
        Shape { quotas: self.quotas(), block_size: self.config.block_size, passthrough_min_bytes: self.config.passthrough_min_bytes }
    }
}

impl Forecast<'_> {
    /// Adds an object to the list, here already or not; each at most once.
    pub fn add(&mut self, object: &ObjectRef, class: Class) {
        let (bucket, charge) = (bucket_of(object.id), self.shape.charge(object.size));
        let here = self.store.index.find(hash_of(object.id)).iter().next();
        if let Some(entry) = here {
            self.tiers[usize::from(Place::from(entry.location).tier())].is_here(bucket, entry.is_pinned, charge);
            if let Some(quota) = &mut self.quota {
                quota.is_here(bucket, entry.is_pinned, charge);
            }
        }
        self.tiers[home_of(&self.shape.quotas, object.id)].add(bucket, class, charge);
        if let Some(quota) = &mut self.quota {
            quota.add(bucket, class, charge);
        }
    }

    pub fn settle(self) -> Plan {
        let quota = self.quota.as_ref().map(Tally::cuts);
        Plan { cuts: self.tiers.iter().map(Tally::cuts).collect(), quota, shape: self.shape, over_quota_bytes: 0 }
    }
}

/// What of a list would be kept.
#[derive(Clone)]
pub struct Plan {
    shape: Shape,
    cuts: Vec<Cuts>,
    quota: Option<Cuts>,
    over_quota_bytes: u64,
}

impl Plan {
    /// How many of the object's first blocks would be kept; `None`: it is read through. To be asked once for each object of the list, in an order
    /// that is always the same: the last room goes to who asks first, of a large object to as many blocks as fit.
    pub fn take(&mut self, object: &ObjectRef, class: Class) -> Option<u32> {
        let in_tier = &mut self.cuts[home_of(&self.shape.quotas, object.id)];
        let by_tier = self.shape.fitting(object, in_tier.of(class));
        let by_quota = self.quota.as_mut().map_or(by_tier, |quota| self.shape.fitting(object, quota.of(class)));
        let bytes = |blocks: u32| (u64::from(blocks) * self.shape.block_size.bytes()).min(object.size);
        self.over_quota_bytes += bytes(by_tier).saturating_sub(bytes(by_quota));
        match by_tier.min(by_quota) {
            0 if object.size > 0 => None,
            blocks => Some(blocks),
        }
    }

    /// Bytes of what was asked for until now that only the quota keeps out.
    pub fn over_quota_bytes(&self) -> u64 {
        self.over_quota_bytes
    }
}

impl Cuts {
    fn of(&mut self, class: Class) -> &mut Cut {
        match class {
            Class::Pin => &mut self.pin,
            Class::Auto => &mut self.auto,
        }
    }
}

impl Shape {
    /// How many of the object's first blocks fit; takes their room of the cut's last bucket.
    fn fitting(&self, object: &ObjectRef, cut: &mut Cut) -> u32 {
        let (blocks, bucket) = (self.block_size.count(object.size), bucket_of(object.id));
        if bucket < cut.bucket || blocks == 0 {
            return blocks;
        }
        if bucket > cut.bucket {
            return 0;
        }
        let charge = self.charge(object.size);
        if let Some(left) = cut.left_bytes.checked_sub(charge) {
            cut.left_bytes = left;
            return blocks;
        }
        if blocks == 1 {
            return 0;
        }
        let block_bytes = self.block_size.bytes().next_multiple_of(PAGE);
        let sidecar = charge.saturating_sub(object.size.next_multiple_of(PAGE));
        let fitting = u32::try_from(cut.left_bytes.saturating_sub(sidecar) / block_bytes).unwrap_or(u32::MAX).min(blocks);
        cut.left_bytes = 0;
        fitting
    }
}
