//! Keys, ETags and contents by number. Pure.
//! Invariant: keys ascend with their number, so a key is found by binary search.

use std::cmp::Ordering;
use std::fmt::Write;

use bytes::Bytes;

/// Classes of the even layout, as ImageNet has.
const CLASSES: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `train/n01440764/n01440764_10026.JPEG`: 1000 folders of the same size.
    Even,
    /// Nine of ten keys in the folder `data/hot/`.
    Skewed,
}

pub(crate) struct Keys {
    layout: Layout,
    count: u64,
}

impl Keys {
    pub(crate) fn new(layout: Layout, count: u64) -> Self {
        Self { layout, count }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Writes key `index` over what `into` holds.
    pub(crate) fn write(&self, index: u64, into: &mut String) {
        into.clear();
        // Writing into a String can't fail.
        let _ = match self.layout {
            Layout::Even => {
                let of_class = self.count.div_ceil(CLASSES).max(1);
                let (class, file) = (1_440_764 + index / of_class * 13_701, 10_000_000 + index % of_class);
                write!(into, "train/n{class:08}/n{class:08}_{file}.JPEG")
            }
            Layout::Skewed => {
                let hot = self.count - self.count / 10;
                match index.checked_sub(hot) {
                    None => write!(into, "data/hot/part-{index:010}.bin"),
                    Some(cold) => write!(into, "data/x{:05}/file-{cold:010}.bin", cold / 1000),
                }
            }
        };
    }

    /// The number of keys before `key`.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> u64 {
        let (mut low, mut high) = (0, self.count);
        let mut here = String::new();
        while low < high {
            let middle = low + (high - low) / 2;
            self.write(middle, &mut here);
            match here.as_bytes().cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        low
    }

    pub(crate) fn find(&self, key: &[u8]) -> Option<u64> {
        let index = self.lower_bound(key);
        let mut here = String::new();
        self.write(index, &mut here);
        (index < self.count && here.as_bytes() == key).then_some(index)
    }
}

/// Mixes all bits of a number (splitmix64's finalizer, Steele et al. 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// 32 hexadecimal digits, as an MD5 has.
pub(crate) fn etag(index: u64) -> String {
    format!("{:016x}{:016x}", mix(index.wrapping_add(1)), mix(!index))
}

/// Bytes `[start, end)` of object `index`.
pub(crate) fn contents(index: u64, start: u64, end: u64) -> Bytes {
    let first = start / 8;
    let words = end.div_ceil(8) - first;
    let mut bytes = Vec::with_capacity(usize::try_from(words * 8).unwrap_or(0));
    let seed = mix(index.wrapping_add(1));
    for word in first..first + words {
        bytes.extend(mix(seed.wrapping_add(word)).to_le_bytes());
    }
    let skip = usize::try_from(start - first * 8).unwrap_or(0);
    let length = usize::try_from(end - start).unwrap_or(0);
    Bytes::from(bytes).slice(skip..skip + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ascend_and_are_found() {
        for layout in [Layout::Even, Layout::Skewed] {
            let keys = Keys::new(layout, 25_000);
            let (mut last, mut here) = (String::new(), String::new());
            for index in 0..25_000 {
                keys.write(index, &mut here);
                assert!(here > last, "{last} {here}");
                std::mem::swap(&mut here, &mut last);
            }
            for index in [0, 1, 999, 22_499, 22_500, 24_999] {
                keys.write(index, &mut here);
                assert_eq!(keys.find(here.as_bytes()), Some(index));
            }
            assert_eq!(keys.find(b"train"), None);
        }
    }

    #[test]
    fn a_part_is_a_part_of_the_whole() {
        let whole = contents(7, 0, 1000);
        for (start, end) in [(0, 1), (3, 9), (8, 16), (991, 1000), (5, 1000)] {
            assert_eq!(contents(7, start, end), whole[usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0)]);
        }
    }
}
