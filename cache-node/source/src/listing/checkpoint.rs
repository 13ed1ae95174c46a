//! How far a listing is: its ranges, as bytes and back.
//! Format (breaking to change): magic, count, then per range id, flags and the keys that are present, each with its length; at the end
//! xxh3 of all before. Integers are little endian u32.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::ListEvent;

const MAGIC: &[u8; 8] = b"fbylist1";

/// Names a range in one listing; numbers are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeId(pub u32);

/// Keys in `(after, before)` still to come of one range; `started_after` is where the range began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub id: RangeId,
    pub started_after: Option<Bytes>,
    /// How far the range is done: its last key, or `started_after`.
    pub after: Option<Bytes>,
    /// Exclusive end; `None`: the end of the key space.
    pub before: Option<Bytes>,
    pub done: bool,
}

/// All ranges of one listing. `apply` every event in order, and at any moment it can be written down and gone on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub ranges: Vec<Range>,
}

impl Default for Checkpoint {
    /// A listing that hasn't begun: one range over everything.
    fn default() -> Self {
        Self { ranges: vec![Range { id: RangeId(0), started_after: None, after: None, before: None, done: false }] }
    }
}

/// The least key after `at`: a range that ends with the key `at` has this as its exclusive end.
pub(super) fn successor(at: &[u8]) -> Bytes {
    Bytes::from([at, &[0]].concat())
}

impl Checkpoint {
    /// Takes into account what the consumer has safely kept. O(ranges).
    pub fn apply(&mut self, event: &ListEvent) {
        match event {
            ListEvent::Split { from, at, into } => {
                let mut right = None;
                if let Some(left) = self.get(*from) {
                    right = Some(Range {
                        id: *into,
                        started_after: Some(at.clone()),
                        after: Some(at.clone()),
                        before: left.before.take(),
                        done: false,
                    });
                    left.before = Some(successor(at));
                }
                self.ranges.extend(right);
            }
            ListEvent::Page { range, after, .. } => {
                if let Some(range) = self.get(*range) {
                    range.after = Some(after.clone());
                }
            }
            ListEvent::Done { range } => {
                if let Some(range) = self.get(*range) {
                    range.done = true;
                }
            }
        }
    }

    fn get(&mut self, id: RangeId) -> Option<&mut Range> {
        // Ids are given in order and ranges only appended: the place is the number, unless someone sorted them.
        let at = id.0 as usize;
        let at = if self.ranges.get(at).is_some_and(|range| range.id == id) {
            at
        } else {
            self.ranges.iter().position(|range| range.id == id)?
        };
        self.ranges.get_mut(at)
    }

    pub fn is_done(&self) -> bool {
        self.ranges.iter().all(|range| range.done)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put(&mut bytes, self.ranges.len());
        for Range { id, started_after, after, before, done } in &self.ranges {
            let keys = [started_after, after, before];
            let flags =
                keys.iter().enumerate().fold(usize::from(*done) << 3, |flags, (bit, key)| flags | usize::from(key.is_some()) << bit);
            put(&mut bytes, id.0 as usize);
            put(&mut bytes, flags);
            for key in keys.into_iter().flatten() {
                put(&mut bytes, key.len());
                bytes.extend_from_slice(key);
            }
        }
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// `None` when the bytes are not a whole checkpoint.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, sum) = bytes.split_last_chunk::<8>()?;
        let mut rest = bytes.strip_prefix(MAGIC).filter(|_| xxh3_64(bytes) == u64::from_le_bytes(*sum))?;
        let count = take(&mut rest)?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            let (id, flags) = (RangeId(u32::try_from(take(&mut rest)?).ok()?), take(&mut rest)?);
            let mut key = |bit: usize| -> Option<Option<Bytes>> {
                if flags >> bit & 1 == 0 {
                    return Some(None);
                }
                let length = take(&mut rest)?;
                let (key, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(Some(Bytes::copy_from_slice(key)))
            };
            let (started_after, after, before) = (key(0)?, key(1)?, key(2)?);
            ranges.push(Range { id, started_after, after, before, done: flags >> 3 & 1 == 1 });
        }
        rest.is_empty().then_some(Self { ranges })
    }
}

fn put(bytes: &mut Vec<u8>, value: usize) {
    bytes.extend(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

fn take(bytes: &mut &[u8]) -> Option<usize> {
    let (value, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*value)).ok()
}
