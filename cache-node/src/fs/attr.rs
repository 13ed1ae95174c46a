//! What `stat` shows, and for how long the kernel may believe it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::locate::{Place, node_of};
use super::loose::LooseFile;
use super::{Attempt, Attributes, Current, Error, Filesystem, IoMode, Kind, Node, NodeId, Serving};
use forebay_manifest::{ContentId, Found, FoundKind};
use forebay_wire::block::ObjectRef;

/// Attributes of an id never change but by a touched time, which is invalidated: a day.
const ATTRIBUTES_TTL: Duration = Duration::from_secs(86_400);
/// Names that nobody would invalidate in time: on-demand ones, and files that may soon have a passthrough id, so that the next epoch looks them
/// up again.
const SHORT_TTL: Duration = Duration::from_secs(1);

impl Filesystem {
    /// Memory and mapped files only.
    pub fn try_attributes(&self, id: NodeId) -> Attempt<Attributes> {
        Attempt::Ready(self.attributes_of(id))
    }

    pub async fn attributes(&self, id: NodeId) -> Result<Attributes, Error> {
        self.attributes_of(id)
    }

    fn attributes_of(&self, id: NodeId) -> Result<Attributes, Error> {
        Ok(match self.locate(id)? {
            Place::Root(current) => self.directory_attributes(id, current.manifest.summary().created_seconds),
            Place::LooseFolder => self.directory_attributes(id, 0),
            Place::Loose(file) => self.file_attributes(id, file.object.size, file.modified_seconds),
            Place::Entry(current, found) => match found.kind {
                FoundKind::Directory(_) => self.directory_attributes(id, current.manifest.summary().created_seconds),
                FoundKind::File { size, modified_seconds } => self.file_attributes(id, size, modified_seconds),
            },
        })
    }

    pub(super) fn directory_attributes(&self, id: NodeId, modified_seconds: i64) -> Attributes {
        let permissions = &self.parts.permissions;
        Attributes {
            id,
            kind: Kind::Directory,
            size: 0,
            modified_seconds,
            permissions: permissions.directory_mode,
            uid: permissions.uid,
            gid: permissions.gid,
            ttl: self.name_ttl(),
        }
    }

    pub(super) fn file_attributes(&self, id: NodeId, size: u64, modified_seconds: i64) -> Attributes {
        let permissions = &self.parts.permissions;
        Attributes {
            id,
            kind: Kind::File,
            size,
            modified_seconds,
            permissions: permissions.file_mode,
            uid: permissions.uid,
            gid: permissions.gid,
            ttl: ATTRIBUTES_TTL,
        }
    }

    /// How long a name is good: until the next sync tells.
    pub(super) fn name_ttl(&self) -> Duration {
        match &*self.current.load() {
            None => SHORT_TTL,
            Some(_) => self.parts.sync_interval.unwrap_or(ATTRIBUTES_TTL),
        }
    }

    /// How long the kernel may keep that a name does not exist; zero means not at all.
    pub fn negative_ttl(&self) -> Duration {
        match &*self.current.load() {
            None => Duration::ZERO,
            Some(_) => self.name_ttl(),
        }
    }

    pub(super) fn directory_node(&self, directory: ContentId, modified_seconds: i64) -> Node {
        let id = node_of(directory);
        Node { id, attributes: self.directory_attributes(id, modified_seconds), entry_ttl: self.name_ttl() }
    }

    pub(super) fn loose_node(&self, file: &LooseFile) -> Node {
        let (mode, ttl) = self.mode(file.object.size, || Ok(file.object)).unwrap_or((IoMode::Cached, SHORT_TTL));
        let id = NodeId(file.id.0).with_mode(mode);
        Node { id, attributes: self.file_attributes(id, file.object.size, file.modified_seconds), entry_ttl: ttl.min(self.name_ttl()) }
    }

    pub(super) fn found_node(&self, current: &Current, found: &Found) -> Result<Node, Error> {
        match found.kind {
            FoundKind::Directory(_) => Ok(self.directory_node(found.id, current.manifest.summary().created_seconds)),
            FoundKind::File { size, modified_seconds } => {
                let object = || self.checked(current, current.manifest.object(found.index)).map(|object| object.object);
                let (mode, entry_ttl) = self.mode(size, object)?;
                let id = NodeId(found.id.0).with_mode(mode);
                Ok(Node { id, attributes: self.file_attributes(id, size, modified_seconds), entry_ttl })
            }
        }
    }

    /// How the file is to be read from now on, and for how long that is good. `object` is asked only where it matters.
    fn mode(&self, size: u64, object: impl FnOnce() -> Result<ObjectRef, Error>) -> Result<(IoMode, Duration), Error> {
        let Some(min) = self.parts.passthrough_min_bytes else { return Ok((IoMode::Cached, self.name_ttl())) };
        if size < min || self.serving() == Serving::NoOpen || self.passthrough_off.load(Ordering::Acquire) {
            return Ok((IoMode::Cached, self.name_ttl()));
        }
        let object = object()?;
        if self.parts.reader.store().is_complete(&object) && !self.evicted.is_recent(object.id) {
            Ok((IoMode::Passthrough, self.name_ttl()))
        } else {
            Ok((IoMode::Cached, SHORT_TTL))
        }
    }
}
