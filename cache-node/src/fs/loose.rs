//! A file that no manifest describes: listed on demand, repaired after a fill, or removed while the kernel holds its id.

use std::sync::Arc;

use crate::fill::Origin;
use forebay_manifest::{ContentId, PathHash, file_id};
use forebay_source::{Key, Object, Version};
use forebay_wire::block::{ObjectId, ObjectRef};

/// Enough to show it and to read it.
pub(super) struct LooseFile {
    pub(super) id: ContentId,
    /// `/a/b`.
    pub(super) path: Vec<u8>,
    pub(super) origin: Arc<Origin>,
    pub(super) key: Key,
    pub(super) version: Version,
    pub(super) modified_seconds: i64,
    pub(super) object: ObjectRef,
}

impl LooseFile {
    /// The file `name` in the folder `parent` (`/` or `/a`), whose path hashes to `parent_hash`.
    pub(super) fn new(parent: &[u8], parent_hash: PathHash, name: &[u8], origin: &Arc<Origin>, object: Object) -> Self {
        Self {
            id: file_id(parent_hash, name, &object.version),
            path: join(parent, name),
            object: object_of(origin, &object.key, &object.version, object.size),
            modified_seconds: seconds(object.modified),
            origin: origin.clone(),
            key: object.key,
            version: object.version,
        }
    }
}

pub(super) fn object_of(origin: &Origin, key: &Key, version: &Version, size: u64) -> ObjectRef {
    ObjectRef { id: ObjectId::new(&origin.identity, &key.0, &version.0), size }
}

/// Since the epoch, rounded down; negative before it.
pub fn seconds(time: std::time::SystemTime) -> i64 {
    match time.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            -i64::try_from(before.as_secs()).unwrap_or(i64::MAX) - i64::from(before.subsec_nanos() > 0)
        }
    }
}

/// `/a` and `b` to `/a/b`; `/` and `b` to `/b`.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.strip_suffix(b"/").unwrap_or(parent).to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// `/a/b` to `/a` and `b`; `/b` to `/` and `b`.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"/", path),
    }
}
