//! Objects in, a manifest file out: sources joined in one tree, memory bounded whatever their number.

use std::path::{Path, PathBuf};

use super::ManifestError;
use super::SourceIndex;
use crate::source::Object;

/// One source and where its keys appear.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountedSource {
    /// `Source::name`, without credentials.
    pub name: String,
    /// `/`, `/images`, ...: absolute, without `//`, `.`, `..` or a trailing `/`.
    pub mount_path: String,
}

#[derive(Clone, Debug)]
pub struct BuildOptions {
    pub term: u64,
    pub sequence: u64,
    pub created_seconds: i64,
    /// `SourceIndex` counts these.
    pub sources: Vec<MountedSource>,
}

/// Takes each source's objects in ascending key order, then writes the manifest.
pub struct Builder {}

impl Builder {
    /// Temporary files go to `directory`, which must be on the file system of the manifest to be.
    pub fn new(directory: &Path, options: BuildOptions) -> Result<Self, ManifestError> {
        todo!("{directory:?} {options:?}")
    }

    /// Adds one object; of one source in strictly ascending key order, of several sources in any interleaving. Blocks on disk now and then.
    pub fn push(&mut self, source: SourceIndex, object: &Object) -> Result<(), ManifestError> {
        todo!("{source:?} {object:?}")
    }

    /// Writes `manifest-TERM-SEQUENCE` in the folder, durable and complete or not there at all. Blocks.
    pub fn finish(self) -> Result<PathBuf, ManifestError> {
        todo!()
    }
}
