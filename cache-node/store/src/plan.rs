//! Which objects of a list would be kept, decided before any of them is fetched: the lowest hashes, as `Hold` keeps them, up to the room.
//! Knows hashes, charges and quotas. Does not know where bytes come from. Memory only: 64 Ki sums per tier, whatever the number of objects.
//! Invariant: the same list in the same order over the same store gives the same choice, and what it chooses fits beside what stays.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::index::Place;
use super::record::record_bytes;
use super::tier::{PAGE, Tier};
use super::types::Class;
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

/// One tier's part of a list.
struct Tally {
    /// What pinned objects outside the list leave.
    room_bytes: u64,
    /// Charges of the list's objects, by bucket.
    pinned: Vec<u64>,
    auto: Vec<u64>,
    /// Unpinned objects outside the list that compete by hash, and their bytes.
    others: Vec<u32>,
    others_bytes: u64,
}

impl Tally {
    fn new(tier: &Tier) -> Self {
        Self {
            room_bytes: tier.ample_bytes().saturating_sub(tier.pinned_bytes.load(std::sync::atomic::Ordering::Relaxed)),
            pinned: vec![0; BUCKETS],
            auto: vec![0; BUCKETS],
            others: vec![0; BUCKETS],
            others_bytes: tier.unpinned_bytes(),
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

/// A list of objects that somebody wants to be here; becomes a `Plan`.
pub struct Forecast<'a> {
    store: &'a Store,
    shape: Shape,
    tiers: Vec<Tally>,
}

impl Store {
    /// Begins a list. Walks the index once where the policy goes by hash.
    pub fn forecast(&self) -> Forecast<'_> {
        let mut tiers: Vec<Tally> = self.tiers.iter().map(|tier| Tally::new(tier)).collect();
        let by_hash: Vec<bool> = self.tiers.iter().map(|tier| matches!(tier.policy.load().reach(), Reach::Highest { .. })).collect();
        // Other policies let newcomers in: then nobody outside the list stays for sure.
        self.index.for_each(|entry| {
            let tier = usize::from(Place::from(entry.location).tier());
            if by_hash[tier] && !entry.is_pinned {
                tiers[tier].others[(entry.hash >> (64 - BUCKET_BITS)) as usize] += 1;
            }
        });
        Forecast { store: self, shape: self.shape(), tiers }
    }

    /// Whether objects that take `bytes` of the quota in all can come without anybody leaving: then no list is needed.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        matches!(&self.tiers[..], [tier] if tier.has_ample(bytes))
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
            let tally = &mut self.tiers[usize::from(Place::from(entry.location).tier())];
            if entry.is_pinned {
                tally.room_bytes += charge;
            } else {
                tally.others[bucket] = tally.others[bucket].saturating_sub(1);
                tally.others_bytes = tally.others_bytes.saturating_sub(charge);
            }
        }
        let tally = &mut self.tiers[home_of(&self.shape.quotas, object.id)];
        match class {
            Class::Pin => tally.pinned[bucket] += charge,
            Class::Auto => tally.auto[bucket] += charge,
        }
    }

    pub fn settle(self) -> Plan {
        Plan { cuts: self.tiers.iter().map(Tally::cuts).collect(), shape: self.shape }
    }
}

/// What of a list would be kept.
#[derive(Clone)]
pub struct Plan {
    shape: Shape,
    cuts: Vec<Cuts>,
}

impl Plan {
    /// How many of the object's first blocks would be kept; `None`: it is read through. To be asked once for each object of the list, in an order
    /// that is always the same: the last room goes to who asks first, of a large object to as many blocks as fit.
    pub fn take(&mut self, object: &ObjectRef, class: Class) -> Option<u32> {
        let blocks = self.shape.block_size.count(object.size);
        let bucket = bucket_of(object.id);
        let cuts = &mut self.cuts[home_of(&self.shape.quotas, object.id)];
        let cut = match class {
            Class::Pin => &mut cuts.pin,
            Class::Auto => &mut cuts.auto,
        };
        if bucket < cut.bucket || blocks == 0 {
            return Some(blocks);
        }
        if bucket > cut.bucket {
            return None;
        }
        let charge = self.shape.charge(object.size);
        if let Some(left) = cut.left_bytes.checked_sub(charge) {
            cut.left_bytes = left;
            return Some(blocks);
        }
        if blocks == 1 {
            return None;
        }
        let block_bytes = self.shape.block_size.bytes().next_multiple_of(PAGE);
        let sidecar = charge.saturating_sub(object.size.next_multiple_of(PAGE));
        let fitting = u32::try_from(cut.left_bytes.saturating_sub(sidecar) / block_bytes).unwrap_or(u32::MAX).min(blocks);
        cut.left_bytes = 0;
        (fitting > 0).then_some(fitting)
    }
}
