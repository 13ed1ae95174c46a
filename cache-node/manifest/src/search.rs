//! Finds a name in a folder of a manifest.
//! Knows heads, groups and front coding. Does not know what an entry means.
//! Invariant: a folder's names are in ascending order of their bytes; what contradicts that is damage, and at worst a name isn't found.

use super::ManifestError;
use super::format::{Body, DirectoryRecord, GROUP_ENTRIES, GroupRow, SectionKind, head_of, u64_at};
use super::key::NAME_BYTES_MAX;
use super::view::Manifest;
use super::walk::Name;

impl Manifest {
    /// The entry `name` of the folder. Compares through front coding: only what a name doesn't share with the one before is looked at.
    pub(super) fn search(&self, folder: &DirectoryRecord, name: &[u8]) -> Result<Option<(u32, Body<'_>)>, ManifestError> {
        let (first, after) = (folder.first, folder.first.saturating_add(folder.count));
        if first == after || name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Ok(None);
        }
        let (mut low, mut high) = self.search_heads(folder, head_of(name, folder.shared as usize))?;
        // The last group, wholly or partly of this folder, whose first name isn't above `name`; the first group if there is none.
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let head = self.group(middle)?.next().ok_or_else(|| self.damaged_entry(middle * GROUP_ENTRIES))?;
            if head.suffix <= name { low = middle } else { high = middle - 1 }
        }
        let mut group = self.group(low)?;
        let start = low * GROUP_ENTRIES;
        let mut before = Name::default();
        // How many bytes of `name` the record before shares with it; it is below `name`.
        let mut matched = 0;
        for index in start..after.min(start + GROUP_ENTRIES) {
            let record = group.next().ok_or_else(|| self.damaged_entry(index))?;
            if index < first {
                before.apply(&record);
                continue;
            }
            if index == first && index > start {
                // The names before are of another folder: begin anew with this whole name.
                before.apply(&record);
                match compare(before.get(), name) {
                    Compared::Equal => return Ok(Some((index, record.body))),
                    Compared::Above => return Ok(None),
                    Compared::Below(shared) => matched = shared,
                }
                continue;
            }
            if record.shared > matched {
                continue;
            }
            if record.shared < matched {
                return Ok(None);
            }
            match compare(record.suffix, &name[matched..]) {
                Compared::Equal => return Ok(Some((index, record.body))),
                Compared::Above => return Ok(None),
                Compared::Below(shared) => matched += shared,
            }
        }
        Ok(None)
    }

    /// The groups between which the name with this head must be: from the last with a head below it (or the folder's first) to the last
    /// with a head that isn't above it.
    fn search_heads(&self, folder: &DirectoryRecord, head: u32) -> Result<(u32, u32), ManifestError> {
        let (start, end) = (folder.first / GROUP_ENTRIES, (folder.first + (folder.count - 1)) / GROUP_ENTRIES);
        // The first group may begin in another folder: its head doesn't count.
        let below = self.last_group(start, end, |other| other < head)?;
        Ok((below, self.last_group(below, end, |other| other <= head)?))
    }

    /// The last group in `(low, high]` whose head `is_before`, or `low`. Row by row: the rows of a folder of millions are many pages.
    fn last_group(&self, mut low: u32, mut high: u32, is_before: impl Fn(u32) -> bool) -> Result<u32, ManifestError> {
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let at = self.header.section(SectionKind::Groups).offset + GroupRow::BYTES * u64::from(middle);
            let row = u64_at(self.pages.get(at, GroupRow::BYTES)?, 0).ok_or_else(|| self.pages.damaged(at))?;
            if is_before(GroupRow::decode(row).head) { low = middle } else { high = middle - 1 }
        }
        Ok(low)
    }
}

enum Compared {
    /// And so many first bytes are the same.
    Below(usize),
    Equal,
    Above,
}

fn compare(left: &[u8], right: &[u8]) -> Compared {
    match left.iter().zip(right).position(|(left, right)| left != right) {
        Some(at) if left[at] < right[at] => Compared::Below(at),
        Some(_) => Compared::Above,
        None if left.len() == right.len() => Compared::Equal,
        None if left.len() < right.len() => Compared::Below(left.len()),
        None => Compared::Above,
    }
}
