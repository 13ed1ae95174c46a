//! Reads a manifest file through a mapping, checking each page at its first use.

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::path::Path;

use super::{ContentId, Directory, DirectoryIndex, Entry, EntryIndex, Found, ManifestError, SourceIndex, Summary};
use crate::block::ObjectRef;
use crate::source::{Key, Version};

/// Send + Sync; use it behind an `Arc`. All methods read the mapping: they wait for the disk when its pages aren't in memory.
pub struct Manifest {}

impl Manifest {
    /// Checks header and tables, not the pages: O(1) but for 4 bytes a page.
    pub fn open(path: &Path) -> Result<Self, ManifestError> {
        todo!("{path:?}")
    }
    pub fn path_of_file(&self) -> &Path {
        todo!()
    }
    pub fn summary(&self) -> &Summary {
        todo!()
    }
    pub fn root(&self) -> DirectoryIndex {
        todo!()
    }
    pub fn directory(&self, index: DirectoryIndex) -> Result<Directory, ManifestError> {
        todo!("{index:?}")
    }
    /// Binary search; nothing on the heap.
    pub fn lookup_found(&self, directory: DirectoryIndex, name: &[u8]) -> Result<Option<Found>, ManifestError> {
        todo!("{directory:?} {name:?}")
    }
    pub fn lookup(&self, directory: DirectoryIndex, name: &[u8]) -> Result<Option<Entry>, ManifestError> {
        todo!("{directory:?} {name:?}")
    }
    /// Bit 0 of `id` is ignored. Nothing on the heap.
    pub fn find_found(&self, id: ContentId) -> Result<Option<Found>, ManifestError> {
        todo!("{id:?}")
    }
    /// Bit 0 of `id` is ignored. The root has no entry: `None`.
    pub fn find(&self, id: ContentId) -> Result<Option<Entry>, ManifestError> {
        todo!("{id:?}")
    }
    pub fn entry(&self, index: EntryIndex) -> Result<Entry, ManifestError> {
        todo!("{index:?}")
    }
    /// From the `from`-th entry of the folder (0 is the first), in name order.
    pub fn entries(&self, directory: DirectoryIndex, from: u32) -> Entries<'_> {
        todo!("{directory:?} {from}")
    }
    /// The same without allocation: the name is valid during the call.
    pub fn visit(
        &self,
        directory: DirectoryIndex,
        from: u32,
        visitor: impl FnMut(&[u8], Found) -> ControlFlow<()>,
    ) -> Result<(), ManifestError> {
        let _ = visitor;
        todo!("{directory:?} {from}")
    }
    /// `/a/b`, of files and folders.
    pub fn path(&self, entry: EntryIndex) -> Result<Vec<u8>, ManifestError> {
        todo!("{entry:?}")
    }
    /// `/` or `/a/b`.
    pub fn directory_path(&self, directory: DirectoryIndex) -> Result<Vec<u8>, ManifestError> {
        todo!("{directory:?}")
    }
    /// Which key of which source; an error for a folder.
    pub fn key(&self, entry: EntryIndex) -> Result<(SourceIndex, Key), ManifestError> {
        todo!("{entry:?}")
    }
    /// All that a read needs: source, key, version, and the object's identity. An error for a folder.
    pub fn object(&self, entry: EntryIndex) -> Result<ManifestObject, ManifestError> {
        todo!("{entry:?}")
    }
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

/// Yields the entries of a folder; after an error nothing more.
pub struct Entries<'a> {
    manifest: PhantomData<&'a Manifest>,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
