//! Where each object is: 12 bytes per object in sorted arrays, found by 44 bits of its hash.
//! Knows hashes, locations, numbers of data sets, 12 bits of history, the pin bit. Does not know identities: two objects in 2^44 look alike, so whoever
//! reads a location compares the identity written there.
//! Invariant: a shard's entries are sorted by hash; no lock is held while anything else is called than the given closures.

mod members;
mod place;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::RwLock;

use crate::evict::Recency;
use members::Members;
pub(crate) use members::{NUMBERS, Scope};
use place::Slot;
pub(crate) use place::{Location, Place, SEGMENT_NUMBERS};

/// Short arrays keep an insertion's move short: 250 entries (3 KB) in a store of a million.
const SHARD_BITS: u32 = 12;
const SHARDS: usize = 1 << SHARD_BITS;
/// Entries that share 44 bits of hash; more than two never happen in practice.
const TWINS_MAX: usize = 4;
const PIN: u32 = 1 << 15;
/// Entries that a sample looks at before it makes do with what it has.
const SEEN_MAX: usize = 64 << 10;

/// What the index knows of one object (or of one that looks like it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The 44 bits that are kept, in their places; the rest is zero.
    pub hash: u64,
    pub location: Location,
    /// The number of its data set.
    pub dataset: u16,
    pub recency: Recency,
    pub is_pinned: bool,
}

/// Up to `TWINS_MAX` entries that may be the object asked for.
pub(crate) struct Found {
    entries: [Option<Entry>; TWINS_MAX],
}

impl Found {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.iter().flatten().copied()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.entries[0].is_none()
    }
}

pub(crate) struct Index {
    shards: Box<[RwLock<Vec<Slot>>]>,
    len: AtomicUsize,
    members: Members,
}

/// What part of a hash the index keeps.
pub(crate) fn kept(hash: u64) -> u64 {
    hash >> 20 << 20
}

fn shard_of(hash: u64) -> usize {
    (hash >> (64 - SHARD_BITS)) as usize
}

fn key_of(hash: u64) -> u32 {
    (hash >> 20) as u32
}

/// First position whose key is not below `key`: a guess (hashes are uniform), then steps; O(sqrt n) expected.
fn lower_bound(slots: &[Slot], key: u32) -> usize {
    let mut at = ((u64::from(key) * slots.len() as u64) >> 32) as usize;
    while at > 0 && slots[at - 1].key() >= key {
        at -= 1;
    }
    while at < slots.len() && slots[at].key() < key {
        at += 1;
    }
    at
}

impl Index {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::new(Vec::new())).collect(), len: AtomicUsize::new(0), members: Members::new() }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Relaxed) as u64
    }

    /// Heap bytes, growth room and locks included.
    pub(crate) fn bytes(&self) -> u64 {
        let slots: usize = self.shards.iter().map(|shard| shard.read().capacity()).sum();
        (slots * size_of::<Slot>() + SHARDS * size_of::<RwLock<Vec<Slot>>>()) as u64 + self.members.bytes()
    }

    fn entry(&self, slot: &Slot, shard: usize) -> Entry {
        slot.entry(shard, |tier, segment| self.members.owner_of(tier, segment))
    }

    /// Objects of the data set in the tier that aren't pinned.
    pub(crate) fn may_leave(&self, dataset: u16, tier: u8) -> u64 {
        self.members.may_leave(dataset, tier)
    }

    pub(crate) fn find(&self, hash: u64) -> Found {
        let (shard, key) = (shard_of(hash), key_of(hash));
        let mut found = Found { entries: [None; TWINS_MAX] };
        let slots = self.shards[shard].read();
        let from = lower_bound(&slots, key);
        for (entry, slot) in found.entries.iter_mut().zip(slots[from..].iter().take_while(|slot| slot.key() == key)) {
            *entry = Some(self.entry(slot, shard));
        }
        found
    }

    /// `false` when the same location is there already, or too many look alike.
    pub(crate) fn insert(&self, entry: Entry) -> bool {
        let (shard, key) = (shard_of(entry.hash), key_of(entry.hash));
        let mut slots = self.shards[shard].write();
        let at = lower_bound(&slots, key);
        let twins = slots[at..].iter().take_while(|slot| slot.key() == key);
        let (mut count, mut is_here) = (0, false);
        for twin in twins {
            count += 1;
            is_here |= twin.location() == entry.location;
        }
        if is_here || count == TWINS_MAX {
            return false;
        }
        if slots.len() == slots.capacity() {
            // Growing by a sixteenth keeps the slack small; a move of some kilobytes is cheap beside the disk write it belongs to.
            let more = (slots.len() / 16).max(4);
            slots.reserve_exact(more);
        }
        let place = Place::from(entry.location);
        if let Place::Segment { tier, number, .. } = place {
            self.members.set_owner(tier, number, entry.dataset);
        }
        slots.insert(at, Slot::new(&entry));
        self.len.fetch_add(1, Relaxed);
        if !entry.is_pinned {
            self.members.add(entry.dataset, shard, place.tier());
        }
        true
    }

    /// Applies `change` to the entry at `location`, if it is still there.
    fn with<T>(&self, hash: u64, location: Location, change: impl FnOnce(&Slot) -> T) -> Option<T> {
        let key = key_of(hash);
        let slots = self.shards[shard_of(hash)].read();
        let from = lower_bound(&slots, key);
        slots[from..].iter().take_while(|slot| slot.key() == key).find(|slot| slot.location() == location).map(change)
    }

    pub(crate) fn set_recency(&self, hash: u64, location: Location, recency: Recency) {
        self.with(hash, location, |slot| {
            let meta = &slot.0[2];
            let old = meta.load(Relaxed);
            // A lost race loses one note of a use.
            let _ = meta.compare_exchange(old, old & !u32::from(Recency::MASK) | u32::from(recency.0 & Recency::MASK), Relaxed, Relaxed);
        });
    }

    pub(crate) fn set_pinned(&self, hash: u64, location: Location, is_pinned: bool) -> bool {
        let shard = shard_of(hash);
        self.with(hash, location, |slot| {
            let before = slot.0[2].fetch_update(Relaxed, Relaxed, |old| Some(if is_pinned { old | PIN } else { old & !PIN }));
            let (dataset, tier) = (self.entry(slot, shard).dataset, Place::from(location).tier());
            match (before.is_ok_and(|before| before & PIN != 0), is_pinned) {
                (false, true) => self.members.sub(dataset, shard, tier),
                (true, false) => self.members.add(dataset, shard, tier),
                (false, false) | (true, true) => {}
            }
        })
        .is_some()
    }

    /// `false` when the entry at `old` is gone: then nothing changed.
    pub(crate) fn relocate(&self, hash: u64, old: Location, new: Location) -> bool {
        let (shard, key) = (shard_of(hash), key_of(hash));
        let mut slots = self.shards[shard].write();
        let from = lower_bound(&slots, key);
        let Some(at) = slots[from..].iter().take_while(|slot| slot.key() == key).position(|slot| slot.location() == old) else {
            return false;
        };
        let entry = Entry { location: new, ..self.entry(&slots[from + at], shard) };
        let (old, new) = (Place::from(old), Place::from(new));
        if let Place::Segment { tier, number, .. } = new {
            self.members.set_owner(tier, number, entry.dataset);
        }
        if !entry.is_pinned && old.tier() != new.tier() {
            self.members.sub(entry.dataset, shard, old.tier());
            self.members.add(entry.dataset, shard, new.tier());
        }
        slots[from + at] = Slot::new(&entry);
        true
    }

    /// Exactly one of several callers gets `true`, and thereby the duty to give the bytes back.
    pub(crate) fn remove(&self, hash: u64, location: Location) -> bool {
        let (shard, key) = (shard_of(hash), key_of(hash));
        let mut slots = self.shards[shard].write();
        let from = lower_bound(&slots, key);
        let Some(at) = slots[from..].iter().take_while(|slot| slot.key() == key).position(|slot| slot.location() == location) else {
            return false;
        };
        let slot = slots.remove(from + at);
        if !slot.is_pinned() {
            let entry = self.entry(&slot, shard);
            self.members.sub(entry.dataset, shard, Place::from(location).tier());
        }
        if slots.len() + slots.len() / 4 + 64 < slots.capacity() {
            slots.shrink_to_fit();
        }
        self.len.fetch_sub(1, Relaxed);
        true
    }

    /// Calls `visit` with each entry, in the order of hashes.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Entry)) {
        for (number, shard) in self.shards.iter().enumerate() {
            shard.read().iter().for_each(|slot| visit(self.entry(slot, number)));
        }
    }

    /// The highest hash at or below `from` that `accepts`, searched downwards, of an object of `scope` that isn't pinned.
    pub(crate) fn highest(&self, from: u64, scope: &Scope, mut accepts: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let may_have = |shard: usize| self.members.may_have(scope, shard);
        self.highest_where(from, may_have, |entry| !entry.is_pinned && scope.has(entry.dataset) && accepts(entry))
    }

    /// The same of all, pinned ones among them.
    pub(crate) fn highest_of_all(&self, from: u64, accepts: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        self.highest_where(from, |_| true, accepts)
    }

    fn highest_where(&self, from: u64, may_have: impl Fn(usize) -> bool, mut accepts: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        for shard in (0..=shard_of(from)).rev().filter(|shard| may_have(*shard)) {
            let slots = self.shards[shard].read();
            let end = if shard == shard_of(from) { slots.partition_point(|slot| slot.key() <= key_of(from)) } else { slots.len() };
            if let Some(entry) = slots[..end].iter().rev().map(|slot| self.entry(slot, shard)).find(|entry| accepts(entry)) {
                return Some(entry);
            }
        }
        None
    }

    /// Up to `count` objects of `scope` that aren't pinned and that `accepts`, in hash order from a random place on (round the end): a random sample,
    /// as hashes are random. Fewer where they are so rare that the search for more would be long.
    pub(crate) fn sample(&self, from: u64, count: usize, scope: &Scope, mut accepts: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let first = shard_of(from);
        let (mut found, mut seen) = (Vec::new(), 0);
        for turn in 0..=SHARDS {
            let shard = (first + turn) % SHARDS;
            if !self.members.may_have(scope, shard) {
                continue;
            }
            let slots = self.shards[shard].read();
            let start = if turn == 0 { lower_bound(&slots, key_of(from)) } else { 0 };
            let wanted = count - found.len();
            let entries = slots[start..].iter().map(|slot| self.entry(slot, shard));
            found.extend(entries.filter(|entry| !entry.is_pinned && scope.has(entry.dataset) && accepts(entry)).take(wanted));
            seen += slots.len() - start;
            if found.len() >= count || (seen >= SEEN_MAX && !found.is_empty()) {
                break;
            }
        }
        found
    }
}
