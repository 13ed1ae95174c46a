//! Where an object lies, and how an entry of the index packs that with the rest into 12 bytes.
//! Knows bits. Does not know what lies there.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Entry, PIN, SHARD_BITS, key_of};
use crate::evict::Recency;

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

/// A data set's number of which a file's entry keeps the low bits beside its location, the high ones beside the recency: 12 in all. What lies in a
/// segment has its segment's.
const LOW_BITS: u32 = 9;
const LOW_MASK: u32 = (1 << LOW_BITS) - 1;
const LOW_SHIFT: u32 = 17;
const HIGH_SHIFT: u32 = Recency::BITS;
const HIGH_MASK: u32 = 7;
const _: () = assert!(super::members::NUMBERS == 1 << (LOW_BITS + 3));

/// One entry: hash bits; location's low half; its high 16 bits (for a file with the data set's low bits in them), the pin bit, the data set's high bits
/// and the recency. Atomic, so that a hit can note its use under a read lock.
pub(super) struct Slot(pub(super) [AtomicU32; 3]);

impl Slot {
    pub(super) fn new(entry: &Entry) -> Self {
        let Location(bits) = entry.location;
        let meta = if entry.is_pinned { PIN } else { 0 } | u32::from(entry.recency.0 & Recency::MASK);
        let number = u32::from(entry.dataset);
        let dataset = match Place::from(entry.location) {
            Place::Segment { .. } => 0,
            Place::File { .. } => (number & LOW_MASK) << LOW_SHIFT | (number >> LOW_BITS & HIGH_MASK) << HIGH_SHIFT,
        };
        Self([key_of(entry.hash), bits as u32, ((bits >> 32) as u32 * (1 << 16)) | meta | dataset].map(AtomicU32::new))
    }
    pub(super) fn key(&self) -> u32 {
        self.0[0].load(Relaxed)
    }
    pub(super) fn location(&self) -> Location {
        let high = self.0[2].load(Relaxed);
        let is_file = u64::from(high >> 16) >> (KIND_SHIFT - 32) & 3 != 0;
        let high = if is_file { high & !(LOW_MASK << LOW_SHIFT) } else { high };
        Location(u64::from(high >> 16) << 32 | u64::from(self.0[1].load(Relaxed)))
    }
    pub(super) fn is_pinned(&self) -> bool {
        self.0[2].load(Relaxed) & PIN != 0
    }
    /// `of_segment` tells the data set of a tier's segment.
    pub(super) fn dataset(&self, of_segment: impl Fn(u8, u32) -> u16) -> u16 {
        match Place::from(self.location()) {
            Place::Segment { tier, number, .. } => of_segment(tier, number),
            Place::File { .. } => {
                let bits = self.0[2].load(Relaxed);
                (bits >> LOW_SHIFT & LOW_MASK | (bits >> HIGH_SHIFT & HIGH_MASK) << LOW_BITS) as u16
            }
        }
    }
    pub(super) fn entry(&self, shard: usize, of_segment: impl Fn(u8, u32) -> u16) -> Entry {
        let meta = self.0[2].load(Relaxed) & 0xffff;
        Entry {
            hash: (shard as u64) << (64 - SHARD_BITS) | u64::from(self.key()) << 20,
            location: self.location(),
            dataset: self.dataset(of_segment),
            recency: Recency(meta as u16 & Recency::MASK),
            is_pinned: meta & PIN != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let places = [
            Place::File { tier: 14, number: u32::MAX, is_complete: true },
            Place::File { tier: 0, number: 7, is_complete: false },
            Place::Segment { tier: 14, number: SEGMENT_NUMBERS - 1, granule: (1 << GRANULE_BITS) - 1 },
            Place::Segment { tier: 3, number: 0, granule: 5 },
        ];
        for place in places {
            for dataset in [0, 1, 511, 512, 4095] {
                for is_pinned in [false, true] {
                    let entry = Entry {
                        hash: 0xfedc_ba98_7650_0000 & !0xf_ffff,
                        location: place.into(),
                        dataset,
                        recency: Recency(0xabc),
                        is_pinned,
                    };
                    let slot = Slot::new(&entry);
                    assert_eq!(slot.entry((entry.hash >> (64 - SHARD_BITS)) as usize, |_, _| dataset), entry);
                    assert_eq!(Place::from(slot.location()), place);
                }
            }
        }
    }
}
