//! Reads a manifest file through a mapping.
//! Knows the format. Does not know who asks. Nothing on the heap per file; only what is returned is allocated.
//! Invariant: an index from the file is used only after a bound check: damaged or hostile bytes give an error, never a panic.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use super::format::{
    Body, DIRECTORY_BYTES, DirectoryRecord, FileBody, GROUP_ENTRIES, GroupDecoder, GroupRow, Header, NO_ENTRY, SALT_BYTES, SectionKind,
    bucket_of, buckets, fingerprint_of, u32_at, u64_at,
};
use super::id::{PathHash, Salt, salted_directory_id, salted_file_id};
use super::key::DEPTH_MAX;
use super::pages::Pages;
use super::walk::{Entries, Name};
use super::{ContentId, Directory, DirectoryIndex, Entry, EntryIndex, EntryKind, Found, FoundKind, ManifestError, SourceIndex, Summary};
use super::{MountedSource, Problems};
use forebay_source::{Key, Version};
use forebay_wire::block::{ObjectId, ObjectRef};

/// Folders above a file at most: those of its key and of the longest mount path.
const ANCESTORS_MAX: usize = 2 * DEPTH_MAX + 1;

/// Send + Sync; use it behind an `Arc`. All methods read the mapping: they wait for the disk when its pages aren't in memory.
pub struct Manifest {
    pub(super) pages: Pages,
    pub(super) header: Header,
    summary: Summary,
}

/// What is stored as JSON, as it is small and grows new fields.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Meta {
    pub(super) sources: Vec<MountedSource>,
    pub(super) problems: Problems,
    /// Left out when 0, as manifests made before it was known have it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) large_bytes: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// A file's object in its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestObject {
    pub object: ObjectRef,
    pub source: SourceIndex,
    pub key: Key,
    pub version: Version,
    pub modified_seconds: i64,
}

impl Manifest {
    /// Checks header and tables, not the pages: O(1) but for 4 bytes a page.
    pub fn open(path: &Path) -> Result<Self, ManifestError> {
        let (pages, header) = Pages::open(path)?;
        let section = header.section(SectionKind::Meta);
        let meta: Meta = serde_json::from_slice(pages.get(section.offset, section.bytes)?).map_err(|cause| ManifestError::Format {
            path: path.to_owned(),
            detail: format!("its description is not readable: {cause}"),
        })?;
        let summary = Summary {
            term: header.term,
            sequence: header.sequence,
            files: header.files,
            directories: header.directories,
            bytes: header.bytes,
            large_bytes: meta.large_bytes,
            created_seconds: header.created_seconds,
            digest: header.digest,
            sources: meta.sources,
            problems: meta.problems,
        };
        Ok(Self { pages, header, summary })
    }

    /// The file that it reads, as given to `open`.
    pub fn file(&self) -> &Path {
        self.pages.path()
    }

    /// Checks every page now. Reads the whole file.
    pub fn verify(&self) -> Result<(), ManifestError> {
        self.pages.check_all()
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn root(&self) -> DirectoryIndex {
        DirectoryIndex((self.header.directories - 1) as u32)
    }

    pub fn directory(&self, index: DirectoryIndex) -> Result<Directory, ManifestError> {
        let record = self.directory_record(index.0)?;
        let path_hash = PathHash(record.path_hash);
        Ok(Directory {
            index,
            id: salted_directory_id(path_hash, self.salt(record.entry)?),
            parent: DirectoryIndex(if record.entry == NO_ENTRY { index.0 } else { self.folder_of(record.entry)?.0 }),
            entry: (record.entry != NO_ENTRY).then_some(EntryIndex(record.entry)),
            first: EntryIndex(record.first),
            count: record.count,
            path_hash,
            digest: record.digest,
        })
    }

    /// Binary search over the folder's groups, then through one; nothing on the heap.
    pub fn lookup_found(&self, directory: DirectoryIndex, name: &[u8]) -> Result<Option<Found>, ManifestError> {
        let folder = self.directory_record(directory.0)?;
        match self.search(&folder, name)? {
            Some((index, body)) => Ok(Some(self.found(directory, &folder, index, name, &body)?)),
            None => Ok(None),
        }
    }

    pub fn lookup(&self, directory: DirectoryIndex, name: &[u8]) -> Result<Option<Entry>, ManifestError> {
        let folder = self.directory_record(directory.0)?;
        match self.search(&folder, name)? {
            Some((index, body)) => Ok(Some(entry_of(self.found(directory, &folder, index, name, &body)?, name, &body))),
            None => Ok(None),
        }
    }

    /// Bit 0 of `id` is ignored. Nothing on the heap.
    pub fn find_found(&self, id: ContentId) -> Result<Option<Found>, ManifestError> {
        self.find_with(id, |found, _, _| found)
    }

    /// Bit 0 of `id` is ignored. The root has no entry: `None`.
    pub fn find(&self, id: ContentId) -> Result<Option<Entry>, ManifestError> {
        self.find_with(id, entry_of)
    }

    pub fn entry(&self, index: EntryIndex) -> Result<Entry, ManifestError> {
        self.with_entry(index, entry_of)
    }

    /// `entry` without the name and the version.
    pub fn entry_found(&self, index: EntryIndex) -> Result<Found, ManifestError> {
        self.with_entry(index, |found, _, _| found)
    }

    /// From the `from`-th entry of the folder (0 is the first), in name order.
    pub fn entries(&self, directory: DirectoryIndex, from: u32) -> Entries<'_> {
        Entries { walker: Some(self.walk(directory, from)) }
    }

    /// The same without allocation: the name is valid during the call.
    pub fn visit(
        &self,
        directory: DirectoryIndex,
        from: u32,
        mut visitor: impl FnMut(&[u8], Found) -> ControlFlow<()>,
    ) -> Result<(), ManifestError> {
        let mut walker = self.walk(directory, from)?;
        while walker.advance()? {
            let found = self.found(directory, &walker.folder, walker.index, walker.name.get(), &walker.body)?;
            if visitor(walker.name.get(), found).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// `/a/b`, of files and folders.
    pub fn path(&self, entry: EntryIndex) -> Result<Vec<u8>, ManifestError> {
        let (found, name) = self.with_entry(entry, |found, name, _| (found, name.to_vec()))?;
        let mut path = self.directory_path(found.directory)?;
        if path.len() > 1 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        Ok(path)
    }

    /// `/` or `/a/b`.
    pub fn directory_path(&self, directory: DirectoryIndex) -> Result<Vec<u8>, ManifestError> {
        // Names from the inside out, each reversed, so that one reversal of the whole puts all in place.
        let mut path = Vec::with_capacity(64);
        let mut index = directory.0;
        for _ in 0..ANCESTORS_MAX {
            let record = self.directory_record(index)?;
            if record.entry == NO_ENTRY {
                if path.is_empty() {
                    path.push(b'/');
                }
                path.reverse();
                return Ok(path);
            }
            let (above, parent) = self.folder_of(record.entry)?;
            self.with_record(record.entry, &parent, |name, _| path.extend(name.iter().rev()))?;
            path.push(b'/');
            index = above;
        }
        Err(self.damaged_directory(index))
    }

    /// Which key of which source; an error for a folder.
    pub fn key(&self, entry: EntryIndex) -> Result<(SourceIndex, Key), ManifestError> {
        self.object(entry).map(|object| (object.source, object.key))
    }

    /// All that a read needs: source, key, version, and the object's identity. An error for a folder.
    pub fn object(&self, entry: EntryIndex) -> Result<ManifestObject, ManifestError> {
        let (directory, folder) = self.folder_of(entry.0)?;
        let stored = self.with_record(entry.0, &folder, |name, body| match body {
            Body::Directory(_) => None,
            Body::File(file) => {
                let key = file.key.map(Bytes::copy_from_slice);
                let name = if key.is_some() { Vec::new() } else { name.to_vec() };
                Some((name, key, file.version.to_version(), file.size, file.modified_seconds, file.source))
            }
        })?;
        let Some((name, key, version, size, modified_seconds, source)) = stored else { return Err(self.out_of_range("file", entry.0)) };
        let mounted = self.summary.sources.get(usize::from(source)).ok_or_else(|| self.damaged_entry(entry.0))?;
        let key = match key {
            Some(key) => key,
            None => {
                let mut path = self.directory_path(DirectoryIndex(directory))?;
                if path.len() > 1 {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
                let below = if mounted.mount_path == "/" { 1 } else { mounted.mount_path.len() + 1 };
                if below > path.len() {
                    return Err(self.damaged_entry(entry.0));
                }
                Bytes::from(path).slice(below..)
            }
        };
        let id = ObjectId::new(&mounted.name, &key, &version.0);
        Ok(ManifestObject { object: ObjectRef { id, size }, source: SourceIndex(source), key: Key(key), version, modified_seconds })
    }

    /// Source, key's own spelling if it has one, as `diff` compares them.
    pub(super) fn with_body<T>(&self, entry: EntryIndex, read: impl FnOnce(&Body<'_>) -> T) -> Result<T, ManifestError> {
        let (_, folder) = self.folder_of(entry.0)?;
        self.with_record(entry.0, &folder, |_, body| read(body))
    }

    fn find_with<T>(&self, id: ContentId, read: impl FnOnce(Found, &[u8], &Body<'_>) -> T) -> Result<Option<T>, ManifestError> {
        let id = id.0 & !1;
        let bucket_count = buckets(self.header.entries);
        let bucket = bucket_of(id, bucket_count);
        let bounds = self.pages.get(self.header.section(SectionKind::Buckets).offset + 4 * bucket, 8)?;
        let (Some(start), Some(end)) = (u32_at(bounds, 0), u32_at(bounds, 4)) else { return Err(self.damaged_bucket(bucket)) };
        if start > end || u64::from(end) > self.header.entries {
            return Err(self.damaged_bucket(bucket));
        }
        let fingerprints =
            self.pages.get(self.header.section(SectionKind::Fingerprints).offset + u64::from(start), u64::from(end - start))?;
        let wanted = fingerprint_of(id);
        for (position, _) in fingerprints.iter().enumerate().filter(|(_, fingerprint)| **fingerprint == wanted) {
            let at = self.header.section(SectionKind::Numbers).offset + 4 * (u64::from(start) + position as u64);
            let number = u32_at(self.pages.get(at, 4)?, 0).ok_or_else(|| self.damaged_bucket(bucket))?;
            let (directory, folder) = self.folder_of(number)?;
            let mut name = Name::default();
            let body = self.decode(number, &folder, &mut name)?;
            let found = self.found(DirectoryIndex(directory), &folder, number, name.get(), &body)?;
            if found.id.0 == id {
                return Ok(Some(read(found, name.get(), &body)));
            }
        }
        Ok(None)
    }

    fn with_entry<T>(&self, index: EntryIndex, read: impl FnOnce(Found, &[u8], &Body<'_>) -> T) -> Result<T, ManifestError> {
        let (directory, folder) = self.folder_of(index.0)?;
        let mut name = Name::default();
        let body = self.decode(index.0, &folder, &mut name)?;
        let found = self.found(DirectoryIndex(directory), &folder, index.0, name.get(), &body)?;
        Ok(read(found, name.get(), &body))
    }

    fn with_record<T>(&self, index: u32, folder: &DirectoryRecord, read: impl FnOnce(&[u8], &Body<'_>) -> T) -> Result<T, ManifestError> {
        let mut name = Name::default();
        let body = self.decode(index, folder, &mut name)?;
        Ok(read(name.get(), &body))
    }

    /// Decodes an entry of `folder`, which is checked to hold it.
    fn decode(&self, index: u32, folder: &DirectoryRecord, name: &mut Name) -> Result<Body<'_>, ManifestError> {
        if index < folder.first || index - folder.first >= folder.count {
            return Err(self.out_of_range("entry", index));
        }
        let mut group = self.group(index / GROUP_ENTRIES)?;
        // The name is put together from its end, only of what it takes of the names before: mostly two or three pieces.
        let mut parts: [(usize, &[u8]); GROUP_ENTRIES as usize] = [(0, &[]); GROUP_ENTRIES as usize];
        let last = (index % GROUP_ENTRIES) as usize;
        let mut body = Body::Directory(0);
        for part in &mut parts[..=last] {
            let record = group.next().ok_or_else(|| self.damaged_entry(index))?;
            *part = (record.shared, record.suffix);
            body = record.body;
        }
        name.len = parts[last].0 + parts[last].1.len();
        let mut missing = name.len;
        for (shared, suffix) in parts[..=last].iter().rev() {
            if *shared < missing {
                name.bytes[*shared..missing].copy_from_slice(&suffix[..missing - shared]);
                missing = *shared;
            }
        }
        Ok(body)
    }

    pub(super) fn found(
        &self,
        directory: DirectoryIndex,
        folder: &DirectoryRecord,
        index: u32,
        name: &[u8],
        body: &Body<'_>,
    ) -> Result<Found, ManifestError> {
        let salt = self.salt(index)?;
        let (id, kind) = match body {
            Body::Directory(child) => {
                let path_hash = PathHash(self.directory_record(*child)?.path_hash);
                (salted_directory_id(path_hash, salt), FoundKind::Directory(DirectoryIndex(*child)))
            }
            Body::File(FileBody { size, modified_seconds, version, .. }) => {
                let id = salted_file_id(PathHash(folder.path_hash), name, *version, salt);
                (id, FoundKind::File { size: *size, modified_seconds: *modified_seconds })
            }
        };
        Ok(Found { index: EntryIndex(index), directory, id, kind })
    }

    /// The folder that holds an entry: the last whose first entry isn't above it, as folders lie in the order of their entries.
    fn folder_of(&self, entry: u32) -> Result<(u32, DirectoryRecord), ManifestError> {
        if u64::from(entry) >= self.header.entries {
            return Err(self.out_of_range("entry", entry));
        }
        let (mut low, mut high) = (0, (self.header.directories - 1) as u32);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let at = self.header.section(SectionKind::Directories).offset + u64::from(middle) * DIRECTORY_BYTES + 8;
            let first = u32_at(self.pages.get(at, 4)?, 0).unwrap_or(0);
            if first <= entry { low = middle } else { high = middle - 1 }
        }
        Ok((low, self.directory_record(low)?))
    }

    pub(super) fn directory_record(&self, index: u32) -> Result<DirectoryRecord, ManifestError> {
        if u64::from(index) >= self.header.directories {
            return Err(self.out_of_range("directory", index));
        }
        let at = self.header.section(SectionKind::Directories).offset + u64::from(index) * DIRECTORY_BYTES;
        let record = DirectoryRecord::decode(self.pages.get(at, DIRECTORY_BYTES)?).ok_or_else(|| self.pages.damaged(at))?;
        if u64::from(record.first) + u64::from(record.count) > self.header.entries {
            return Err(self.pages.damaged(at));
        }
        Ok(record)
    }

    pub(super) fn group(&self, number: u32) -> Result<GroupDecoder<'_>, ManifestError> {
        let at = self.header.section(SectionKind::Groups).offset + 8 * u64::from(number);
        let bounds = self.pages.get(at, 16)?;
        let section = self.header.section(SectionKind::Entries);
        let (Some(start), Some(end)) = (u64_at(bounds, 0), u64_at(bounds, 8)) else { return Err(self.pages.damaged(at)) };
        let (start, end) = (GroupRow::decode(start).offset, GroupRow::decode(end).offset);
        if start > end || end > section.bytes {
            return Err(self.pages.damaged(at));
        }
        Ok(GroupDecoder::new(self.pages.get(section.offset + start, end - start)?))
    }

    fn salt(&self, entry: u32) -> Result<Salt, ManifestError> {
        let section = self.header.section(SectionKind::Salts);
        let mask = self.header.id_mask;
        if section.bytes == 0 {
            return Ok(Salt { number: 0, mask });
        }
        let salts = self.pages.get(section.offset, section.bytes)?;
        let (rows, _) = salts.as_chunks::<{ SALT_BYTES as usize }>();
        let number = rows.binary_search_by_key(&entry, |row| u32_at(row, 0).unwrap_or(NO_ENTRY)).map_or(0, |row| rows[row][4]);
        Ok(Salt { number, mask })
    }

    #[cold]
    fn out_of_range(&self, what: &'static str, number: u32) -> ManifestError {
        ManifestError::OutOfRange { path: self.pages.path().to_owned(), what, number }
    }

    #[cold]
    pub(super) fn damaged_entry(&self, entry: u32) -> ManifestError {
        self.pages.damaged(self.header.section(SectionKind::Groups).offset + 8 * u64::from(entry / GROUP_ENTRIES))
    }

    #[cold]
    fn damaged_bucket(&self, bucket: u64) -> ManifestError {
        self.pages.damaged(self.header.section(SectionKind::Buckets).offset + 4 * bucket)
    }

    #[cold]
    fn damaged_directory(&self, index: u32) -> ManifestError {
        self.pages.damaged(self.header.section(SectionKind::Directories).offset + u64::from(index) * DIRECTORY_BYTES)
    }
}

pub(super) fn entry_of(found: Found, name: &[u8], body: &Body<'_>) -> Entry {
    let kind = match (found.kind, body) {
        (FoundKind::File { size, modified_seconds }, Body::File(file)) => {
            EntryKind::File { size, modified_seconds, version: file.version.to_version() }
        }
        (FoundKind::Directory(index), _) => EntryKind::Directory(index),
        (FoundKind::File { .. }, Body::Directory(_)) => unreachable!("`found` copies the kind of the body"),
    };
    Entry { index: found.index, directory: found.directory, name: name.to_vec(), id: found.id, kind }
}
