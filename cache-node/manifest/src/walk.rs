//! Goes through the entries of a folder of a manifest in name order.
//! Knows groups and front coding. Nothing on the heap but what `Entries` yields.

use super::format::{Body, DirectoryRecord, GROUP_ENTRIES, GroupDecoder, Record};
use super::key::NAME_BYTES_MAX;
use super::view::{Manifest, entry_of};
use super::{DirectoryIndex, Entry, ManifestError};

/// A name put together from records in order.
pub(super) struct Name {
    pub(super) bytes: [u8; NAME_BYTES_MAX],
    pub(super) len: usize,
}

impl Default for Name {
    fn default() -> Self {
        Self { bytes: [0; NAME_BYTES_MAX], len: 0 }
    }
}

impl Name {
    pub(super) fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The decoder has checked that both parts fit.
    #[inline]
    pub(super) fn apply(&mut self, record: &Record<'_>) {
        self.len = record.shared + record.suffix.len();
        self.bytes[record.shared..self.len].copy_from_slice(record.suffix);
    }
}

impl Manifest {
    pub(super) fn walk(&self, directory: DirectoryIndex, from: u32) -> Result<Walker<'_>, ManifestError> {
        let folder = self.directory_record(directory.0)?;
        let next = folder.first + from.min(folder.count);
        let mut walker =
            Walker { manifest: self, directory, folder, group: None, next, name: Name::default(), index: 0, body: Body::Directory(0) };
        if next < folder.first + folder.count {
            let mut group = self.group(next / GROUP_ENTRIES)?;
            for _ in 0..next % GROUP_ENTRIES {
                walker.name.apply(&group.next().ok_or_else(|| self.damaged_entry(next))?);
            }
            walker.group = Some(group);
        }
        Ok(walker)
    }
}

/// Goes through a folder in name order, its name and body in place.
pub(super) struct Walker<'a> {
    manifest: &'a Manifest,
    directory: DirectoryIndex,
    pub(super) folder: DirectoryRecord,
    group: Option<GroupDecoder<'a>>,
    next: u32,
    pub(super) name: Name,
    /// Of the current entry, after `advance` said `true`.
    pub(super) index: u32,
    pub(super) body: Body<'a>,
}

impl Walker<'_> {
    /// To the next entry; `false` at the end.
    pub(super) fn advance(&mut self) -> Result<bool, ManifestError> {
        if self.next - self.folder.first >= self.folder.count {
            return Ok(false);
        }
        if self.next.is_multiple_of(GROUP_ENTRIES) || self.group.is_none() {
            self.group = Some(self.manifest.group(self.next / GROUP_ENTRIES)?);
        }
        let record = self.group.as_mut().and_then(GroupDecoder::next).ok_or_else(|| self.manifest.damaged_entry(self.next))?;
        self.name.apply(&record);
        (self.index, self.body) = (self.next, record.body);
        self.next += 1;
        Ok(true)
    }
}

/// Yields the entries of a folder; after an error nothing more.
pub struct Entries<'a> {
    pub(super) walker: Option<Result<Walker<'a>, ManifestError>>,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut walker = match self.walker.take()? {
            Ok(walker) => walker,
            Err(error) => return Some(Err(error)),
        };
        match walker.advance() {
            Ok(false) => None,
            Err(error) => Some(Err(error)),
            Ok(true) => {
                let found = walker.manifest.found(walker.directory, &walker.folder, walker.index, walker.name.get(), &walker.body);
                let entry = found.map(|found| entry_of(found, walker.name.get(), &walker.body));
                if entry.is_ok() {
                    self.walker = Some(Ok(walker));
                }
                Some(entry)
            }
        }
    }
}
