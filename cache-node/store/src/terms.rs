//! Which quota and priority each data set has: changed at any time, and known again at a start before anybody has to leave.
//! `terms` in each tier's folder holds one line a data set that has any, and a checksum; without it, or when it is damaged, all are alike until they
//! are told. Knows values. Does not know who decides on them.

use std::io;

use super::Store;
use super::check;
use super::tier::Tier;
use super::types::{DatasetSlot, DatasetUsage, Terms};

const HEAD: &str = "forebay-terms 1";
/// A line is some 50 bytes.
const BYTES_MAX: usize = 1 << 20;

impl Store {
    /// What the data set may take from now on. A lower quota takes effect with the next `maintain`, all else at once. Writes a small file in each tier
    /// when anything changes; one that can't be written costs what it says at the next start.
    pub fn set_terms(&self, dataset: DatasetSlot, terms: Terms) {
        let dataset = self.datasets.of(dataset);
        if dataset.is_rest() || dataset.terms() == terms {
            return;
        }
        let before = dataset.set_terms(terms);
        if before.priority != terms.priority {
            // It competes with others.
            self.tiers.iter().for_each(|tier| tier.forget_standings());
        }
        // One at a time, so that the last one to write knows of all.
        let _turn = self.eviction.lock();
        let text = text_of(self.datasets.all().iter().map(|dataset| (dataset.slot, dataset.terms())));
        for tier in &self.tiers {
            if let Err(error) = write(tier, &text) {
                tier.write_failed("keep the quotas of data sets in", &error);
            }
        }
    }

    /// What is here of the data set, and on which terms.
    pub fn dataset_usage(&self, dataset: DatasetSlot) -> DatasetUsage {
        self.datasets.find(dataset).map_or_else(DatasetUsage::default, |dataset| DatasetUsage {
            used_bytes: dataset.used_bytes(),
            pinned_bytes: dataset.pinned_bytes(),
            terms: dataset.terms(),
        })
    }

    /// At the start: of the first tier that has them.
    pub(super) fn recall_terms(&self) {
        let kept = self.tiers.iter().find_map(|tier| parse(&read(tier).ok()?));
        for (slot, terms) in kept.into_iter().flatten() {
            let dataset = self.datasets.of(slot);
            if !dataset.is_rest() {
                dataset.set_terms(terms);
            }
        }
    }
}

fn text_of(all: impl Iterator<Item = (DatasetSlot, Terms)>) -> String {
    let mut text = format!("{HEAD}\n");
    for (DatasetSlot(slot), Terms { quota_bytes, priority }) in all.filter(|(_, terms)| *terms != Terms::default()) {
        let quota = quota_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        text.push_str(&format!("{slot:016x} {quota} {priority}\n"));
    }
    let sum = check::sum(text.as_bytes());
    text.push_str(&format!("{sum:08x}\n"));
    text
}

/// `None` for anything but what `text_of` made.
fn parse(bytes: &[u8]) -> Option<Vec<(DatasetSlot, Terms)>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let body = text.strip_suffix('\n')?;
    let (body, sum) = body.split_at(body.rfind('\n')? + 1);
    if u32::from_str_radix(sum, 16).ok()? != check::sum(body.as_bytes()) {
        return None;
    }
    let mut lines = body.lines();
    (lines.next()? == HEAD).then_some(())?;
    let line = |line: &str| {
        let mut parts = line.split(' ');
        let slot = u64::from_str_radix(parts.next()?, 16).ok()?;
        let quota_bytes = match parts.next()? {
            "-" => None,
            bytes => Some(bytes.parse().ok()?),
        };
        Some((DatasetSlot(slot), Terms { quota_bytes, priority: parts.next()?.parse().ok()? }))
    };
    lines.map(line).collect()
}

/// What a kill cuts off fails its checksum, and is nothing.
fn write(tier: &Tier, text: &str) -> io::Result<()> {
    let file = tier.disk.open_or_create(&tier.root, "terms")?;
    tier.disk.set_len(&file, 0)?;
    tier.disk.write_at(&file, text.as_bytes(), 0)
}

fn read(tier: &Tier) -> io::Result<Vec<u8>> {
    let file = tier.disk.open(&tier.root, "terms", false)?;
    let mut bytes = vec![0; BYTES_MAX];
    let n = tier.disk.read_at(&file, &mut bytes, 0)?;
    bytes.truncate(n);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_as_they_were_written_and_not_at_all_when_damaged() {
        let all = [
            (DatasetSlot(u64::MAX), Terms { quota_bytes: Some(u64::MAX - 1), priority: -1000 }),
            (DatasetSlot(0), Terms { quota_bytes: None, priority: 7 }),
            (DatasetSlot(3), Terms::default()),
        ];
        let text = text_of(all.into_iter());
        assert_eq!(parse(text.as_bytes()), Some(all[..2].to_vec()));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let parsed = parse(&bytes);
            assert!(parsed.is_none(), "byte {at}: {parsed:?}");
            assert_eq!(parse(&text.as_bytes()[..at]), None, "cut at {at}");
        }
        assert_eq!(parse(text_of(std::iter::empty()).as_bytes()), Some(Vec::new()));
    }
}
