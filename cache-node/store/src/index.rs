//! Where each object is: 12 bytes per object in sorted arrays, found by 44 bits of its hash.
//! Knows hashes, locations, 12 bits of history, the pin bit. Does not know identities: two objects in 2^44 look alike, so whoever
//! reads a location compares the identity written there.
//! Invariant: a shard's entries are sorted by hash; no lock is held while anything else is called than the given closures.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use parking_lot::RwLock;

use crate::evict::Recency;

/// Short arrays keep an insertion's move short: 250 entries (3 KB) in a store of a million.
const SHARD_BITS: u32 = 12;
const SHARDS: usize = 1 << SHARD_BITS;
/// Entries that share 44 bits of hash; more than two never happen in practice.
const TWINS_MAX: usize = 4;
const PIN: u32 = 1 << 15;

/// Where an object's bytes are. 48 bits: 4 for the tier, 2 for the kind, 42 for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location(u64);

/// A `Location` taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A record in a segment; its header is at `granule * GRANULE_BYTES`.
    Segment { tier: u8, number: u32, granule: u32 },
    /// A file of its own.
    File { tier: u8, number: u32, is_complete: bool },
}

impl Place {
    pub(crate) fn tier(self) -> u8 {
        match self {
            Self::Segment { tier, .. } | Self::File { tier, .. } => tier,
        }
    }
}

const TIER_SHIFT: u32 = 44;
const KIND_SHIFT: u32 = 42;
const GRANULE_BITS: u32 = 22;
pub(crate) const SEGMENT_NUMBERS: u32 = 1 << 20;
const COMPLETE: u64 = 1 << 32;

impl From<Place> for Location {
    fn from(place: Place) -> Self {
        let (tier, kind, rest) = match place {
            Place::Segment { tier, number, granule } => (tier, 0, u64::from(number) << GRANULE_BITS | u64::from(granule)),
            Place::File { tier, number, is_complete } => (tier, 1, u64::from(number) | if is_complete { COMPLETE } else { 0 }),
        };
        assert!(tier < 15 && rest < 1 << KIND_SHIFT);
        Self(u64::from(tier) << TIER_SHIFT | kind << KIND_SHIFT | rest)
    }
}

impl From<Location> for Place {
    fn from(Location(bits): Location) -> Self {
        let tier = (bits >> TIER_SHIFT) as u8;
        let rest = bits & ((1 << KIND_SHIFT) - 1);
        match bits >> KIND_SHIFT & 3 {
            0 => Self::Segment { tier, number: (rest >> GRANULE_BITS) as u32, granule: rest as u32 & ((1 << GRANULE_BITS) - 1) },
            _ => Self::File { tier, number: rest as u32, is_complete: rest & COMPLETE != 0 },
        }
    }
}

/// What the index knows of one object (or of one that looks like it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The 44 bits that are kept, in their places; the rest is zero.
    pub hash: u64,
    pub location: Location,
    pub recency: Recency,
    pub is_pinned: bool,
}

/// One entry: hash bits; location's low half; its high 16 bits, the pin bit and the recency. Atomic, so that a hit can note its use under a read lock.
struct Slot([AtomicU32; 3]);

impl Slot {
    fn new(entry: &Entry) -> Self {
        let meta = if entry.is_pinned { PIN } else { 0 } | u32::from(entry.recency.0 & Recency::MASK);
        let Location(bits) = entry.location;
        Self([(entry.hash >> 20) as u32, bits as u32, ((bits >> 32) as u32 * (1 << 16)) | meta].map(AtomicU32::new))
    }
    fn key(&self) -> u32 {
        self.0[0].load(Relaxed)
    }
    fn location(&self) -> Location {
        Location(u64::from(self.0[2].load(Relaxed) >> 16) << 32 | u64::from(self.0[1].load(Relaxed)))
    }
    fn entry(&self, shard: usize) -> Entry {
        let meta = self.0[2].load(Relaxed) & 0xffff;
        Entry {
            hash: (shard as u64) << (64 - SHARD_BITS) | u64::from(self.key()) << 20,
            location: self.location(),
            recency: Recency(meta as u16 & Recency::MASK),
            is_pinned: meta & PIN != 0,
        }
    }
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
        Self { shards: (0..SHARDS).map(|_| RwLock::new(Vec::new())).collect(), len: AtomicUsize::new(0) }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Relaxed) as u64
    }

    /// Heap bytes, growth room and locks included.
    pub(crate) fn bytes(&self) -> u64 {
        let slots: usize = self.shards.iter().map(|shard| shard.read().capacity()).sum();
        (slots * size_of::<Slot>() + SHARDS * size_of::<RwLock<Vec<Slot>>>()) as u64
    }

    pub(crate) fn find(&self, hash: u64) -> Found {
        let (shard, key) = (shard_of(hash), key_of(hash));
        let mut found = Found { entries: [None; TWINS_MAX] };
        let slots = self.shards[shard].read();
        let from = lower_bound(&slots, key);
        for (entry, slot) in found.entries.iter_mut().zip(slots[from..].iter().take_while(|slot| slot.key() == key)) {
            *entry = Some(slot.entry(shard));
        }
        found
    }

    /// `false` when the same location is there already, or too many look alike.
    pub(crate) fn insert(&self, entry: Entry) -> bool {
        let key = key_of(entry.hash);
        let mut slots = self.shards[shard_of(entry.hash)].write();
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
        slots.insert(at, Slot::new(&entry));
        self.len.fetch_add(1, Relaxed);
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
        self.with(hash, location, |slot| {
            let _ = slot.0[2].fetch_update(Relaxed, Relaxed, |old| Some(if is_pinned { old | PIN } else { old & !PIN }));
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
        let entry = Entry { location: new, ..slots[from + at].entry(shard) };
        slots[from + at] = Slot::new(&entry);
        true
    }

    /// Exactly one of several callers gets `true`, and thereby the duty to give the bytes back.
    pub(crate) fn remove(&self, hash: u64, location: Location) -> bool {
        let key = key_of(hash);
        let mut slots = self.shards[shard_of(hash)].write();
        let from = lower_bound(&slots, key);
        let Some(at) = slots[from..].iter().take_while(|slot| slot.key() == key).position(|slot| slot.location() == location) else {
            return false;
        };
        slots.remove(from + at);
        if slots.len() + slots.len() / 4 + 64 < slots.capacity() {
            slots.shrink_to_fit();
        }
        self.len.fetch_sub(1, Relaxed);
        true
    }

    /// Calls `visit` with each entry, in the order of hashes.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Entry)) {
        for (number, shard) in self.shards.iter().enumerate() {
            shard.read().iter().for_each(|slot| visit(slot.entry(number)));
        }
    }

    /// The highest hash at or below `from` that `accepts`, searched downwards.
    pub(crate) fn highest(&self, from: u64, mut accepts: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        for shard in (0..=shard_of(from)).rev() {
            let slots = self.shards[shard].read();
            let end = if shard == shard_of(from) { slots.partition_point(|slot| slot.key() <= key_of(from)) } else { slots.len() };
            if let Some(entry) = slots[..end].iter().rev().map(|slot| slot.entry(shard)).find(|entry| accepts(entry)) {
                return Some(entry);
            }
        }
        None
    }

    /// Up to `count` entries that `accepts`, in hash order from a random place on (round the end): a random sample, as hashes are random.
    pub(crate) fn sample(&self, from: u64, count: usize, mut accepts: impl FnMut(&Entry) -> bool, out: &mut Vec<Entry>) {
        let first = shard_of(from);
        for turn in 0..=SHARDS {
            let shard = (first + turn) % SHARDS;
            let slots = self.shards[shard].read();
            let start = if turn == 0 { lower_bound(&slots, key_of(from)) } else { 0 };
            let wanted = count - out.len();
            out.extend(slots[start..].iter().map(|slot| slot.entry(shard)).filter(|entry| accepts(entry)).take(wanted));
            if out.len() >= count {
                return;
            }
        }
    }
}
