//! From an object's key to what a fill of it needs, without a list: for other nodes, which may have listed what this one hasn't.

use std::sync::Arc;

use super::Filesystem;
use super::loose::object_of;
use crate::fill::FileObject;
use forebay_manifest::key::{Mapped, to_path};
use forebay_source::{Key, Version};
use forebay_wire::block::ObjectRef;

impl Filesystem {
    /// The object of this key and version, on the terms of its path. `None` when no source of the data set has an object of that id, which is a hash of
    /// all three. Where two sources are the same bucket, the first one's path decides on the terms.
    pub fn file_of_key(&self, object: ObjectRef, key: Key, version: Version) -> Option<Arc<FileObject>> {
        let is_of = |origin: &crate::fill::Origin| object_of(origin, &key, &version, object.size) == object;
        let (mount, origin) = self.parts.sources.iter().find(|(_, origin)| is_of(origin))?;
        let mut path = mount.strip_suffix(b"/").unwrap_or(mount).to_vec();
        path.push(b'/');
        match to_path(&key.0, object.size) {
            Mapped::Plain(inside) => path.extend_from_slice(inside),
            Mapped::Renamed(inside, _) => path.extend_from_slice(&inside),
            Mapped::Folder(_) | Mapped::Unreachable(_) => return None,
        }
        let (placement, local_copy, copies) = self.terms(&path, object.id);
        Some(Arc::new(FileObject { object, key, version, origin: origin.clone(), placement, local_copy, copies }))
    }
}
