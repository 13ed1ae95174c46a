//! From a node id to the object behind it.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::error;

use super::loose::{LooseFile, object_of};
use super::{Current, Error, Filesystem, NodeId};
use crate::fill::{FileObject, chain};
use crate::rules::Placement;
use forebay_manifest::{ContentId, DirectoryIndex, EntryIndex, Found, FoundKind, Manifest, ManifestError, PathHash, directory_id};
use forebay_wire::block::{ObjectId, ObjectRef};
use forebay_wire::rule::{Copies, LocalCopy};

/// Why an entry of a manifest can't be filled.
#[derive(Debug, thiserror::Error)]
pub enum FileOfEntryError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{path}: the data set no longer has its source")]
    NoSource { path: String },
}

/// Where a node id leads.
pub(super) enum Place {
    Entry(Arc<Current>, Found),
    Loose(Arc<LooseFile>),
    /// A folder of the on-demand tree, or the root before there is a manifest.
    LooseFolder,
    Root(Arc<Current>),
}

/// All that a read from the store needs.
#[derive(Clone, Copy)]
pub(super) struct FileAt {
    pub(super) object: ObjectRef,
    /// Its number in the manifest, to see that files are read in order.
    pub(super) position: Option<u32>,
}

/// The last files that were read: a few hundred nanoseconds instead of a search and a hash for each read of a file read in pieces.
/// An id means the same object for ever, so nothing here is ever wrong.
pub(super) struct Resolved {
    slots: Box<[Slot]>,
}

/// The content that was read, and what it is.
type Slot = Mutex<(u64, Option<FileAt>)>;

/// 4096 x 64 bytes; more files than are read in pieces at once.
const RESOLVED_SLOTS: usize = 4096;

impl Default for Resolved {
    fn default() -> Self {
        Self { slots: (0..RESOLVED_SLOTS).map(|_| Mutex::new((0, None))).collect() }
    }
}

impl Resolved {
    fn slot(&self, content: u64) -> &Slot {
        &self.slots[(content >> 2) as usize % RESOLVED_SLOTS]
    }
}

/// The folder's id as the manifest has it.
pub(super) fn content_of(id: NodeId) -> ContentId {
    if id == NodeId::ROOT { directory_id(PathHash::ROOT) } else { ContentId(id.content()) }
}

/// The folder's id as the kernel has it.
pub(super) fn node_of(directory: ContentId) -> NodeId {
    if directory == directory_id(PathHash::ROOT) { NodeId::ROOT } else { NodeId(directory.0) }
}

impl Filesystem {
    /// Memory and mapped files only. `Stale` for an id that nothing knows (any more).
    pub(super) fn locate(&self, id: NodeId) -> Result<Place, Error> {
        let content = content_of(id);
        let current = self.current.load_full();
        if id == NodeId::ROOT {
            return Ok(current.map_or(Place::LooseFolder, Place::Root));
        }
        if let Some(current) = current
            && let Some(found) = self.checked(&current, current.manifest.find_found(content))?
        {
            return Ok(Place::Entry(current, found));
        }
        if id.is_directory() {
            return self.on_demand.path(content).map(|_| Place::LooseFolder).ok_or(Error::Stale { id });
        }
        if let Some(file) = self.overlay.by_id(content).or_else(|| self.on_demand.file(content)) {
            return Ok(Place::Loose(file));
        }
        let removed = self.parts.removed.get(content).map_err(|error| {
            error!(dataset = self.name(), error = %chain(&error), "the list of removed files can't be read");
            Error::Io
        })?;
        let removed = removed.ok_or(Error::Stale { id })?;
        let origin = self.parts.sources.iter().find(|(_, origin)| origin.identity == removed.source_name);
        let (_, origin) = origin.ok_or(Error::Stale { id })?;
        Ok(Place::Loose(Arc::new(LooseFile {
            id: removed.id,
            path: removed.path,
            object: object_of(origin, &removed.key, &removed.version, removed.size),
            origin: origin.clone(),
            key: removed.key,
            version: removed.version,
            modified_seconds: removed.modified_seconds,
        })))
    }

    /// The object of a file, from memory if it was read lately.
    pub(super) fn file_at(&self, id: NodeId) -> Result<FileAt, Error> {
        let content = id.content();
        let slot = self.resolved.slot(content);
        {
            let cached = slot.lock();
            if let (known, Some(file)) = &*cached
                && *known == content
            {
                return Ok(*file);
            }
        }
        let file = match self.locate(id)? {
            Place::Root(_) | Place::LooseFolder => return Err(Error::IsADirectory { id }),
            Place::Loose(file) => FileAt { object: file.object, position: None },
            Place::Entry(current, found) => match found.kind {
                FoundKind::Directory(_) => return Err(Error::IsADirectory { id }),
                FoundKind::File { .. } => {
                    let object = self.checked(&current, current.manifest.object(found.index))?;
                    FileAt { object: object.object, position: Some(found.index.0) }
                }
            },
        };
        *slot.lock() = (content, Some(file));
        Ok(file)
    }

    /// What a fill needs, with the path of the file.
    pub(super) fn file_object(&self, id: NodeId) -> Result<(Arc<FileObject>, Vec<u8>), Error> {
        match self.locate(id)? {
            Place::Root(_) | Place::LooseFolder => Err(Error::IsADirectory { id }),
            Place::Loose(file) => Ok((self.loose_object(&file), file.path.clone())),
            Place::Entry(current, found) => {
                let path = self.checked(&current, current.manifest.path(found.index))?;
                let file = self.entry_object(&current, found.index, &path)?.ok_or(Error::Stale { id })?;
                Ok((file, path))
            }
        }
    }

    /// The same for a file of `manifest`, which serves or has served.
    pub fn file_of_entry(&self, manifest: &Manifest, entry: EntryIndex) -> Result<(Arc<FileObject>, Vec<u8>), FileOfEntryError> {
        let path = manifest.path(entry)?;
        let object = manifest.object(entry)?;
        let source = manifest.summary().sources.get(usize::from(object.source.0)).map(|source| source.name.as_str());
        let origin = self.parts.sources.iter().find(|(_, origin)| Some(origin.identity.as_str()) == source);
        let (_, origin) = origin.ok_or_else(|| FileOfEntryError::NoSource { path: path.escape_ascii().to_string() })?;
        let (placement, local_copy, copies) = self.terms(&path, object.object.id);
        let origin = origin.clone();
        let file = FileObject { object: object.object, key: object.key, version: object.version, origin, placement, local_copy, copies };
        Ok((Arc::new(file), path))
    }

    /// What the rules say of a path's object.
    pub(super) fn terms(&self, path: &[u8], object: ObjectId) -> (Placement, LocalCopy, Copies) {
        let rules = self.rules.load();
        let rule = rules.resolve(path);
        (rule.placement(object, (self.parts.clock)()), rule.local_copy, rule.copies)
    }

    pub(super) fn loose_object(&self, file: &LooseFile) -> Arc<FileObject> {
        let (placement, local_copy, copies) = self.terms(&file.path, file.object.id);
        Arc::new(FileObject {
            object: file.object,
            key: file.key.clone(),
            version: file.version.clone(),
            origin: file.origin.clone(),
            placement,
            local_copy,
            copies,
        })
    }

    /// `None` when the data set no longer has the source.
    pub(super) fn entry_object(&self, current: &Current, entry: EntryIndex, path: &[u8]) -> Result<Option<Arc<FileObject>>, Error> {
        let object = self.checked(current, current.manifest.object(entry))?;
        let Some(Some(origin)) = current.origins.get(usize::from(object.source.0)) else { return Ok(None) };
        let (placement, local_copy, copies) = self.terms(path, object.object.id);
        Ok(Some(Arc::new(FileObject {
            object: object.object,
            key: object.key,
            version: object.version,
            origin: origin.clone(),
            placement,
            local_copy,
            copies,
        })))
    }

    /// The folder's number in the manifest; `None` when the manifest doesn't have it.
    pub(super) fn directory_in(&self, current: &Current, id: NodeId) -> Result<Option<DirectoryIndex>, Error> {
        if id == NodeId::ROOT {
            return Ok(Some(current.manifest.root()));
        }
        match self.checked(current, current.manifest.find_found(content_of(id)))?.map(|found| found.kind) {
            Some(FoundKind::Directory(index)) => Ok(Some(index)),
            Some(FoundKind::File { .. }) => Err(Error::NotADirectory { id }),
            None => Ok(None),
        }
    }

    /// Turns a manifest's error into ours; a damaged one is listed again.
    pub(super) fn checked<T>(&self, current: &Current, outcome: Result<T, ManifestError>) -> Result<T, Error> {
        outcome.map_err(|cause| {
            error!(dataset = self.name(), error = %chain(&cause), "the manifest can't be read");
            if cause.is_damage() {
                self.damaged(current);
            }
            Error::Io
        })
    }
}
