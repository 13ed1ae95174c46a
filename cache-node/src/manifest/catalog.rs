//! The folder of a data set's manifests: the current one and the one before.
//! Invariant: what is current never goes back: (term, sequence) strictly grows, over restarts and damage too.

use std::path::Path;
use std::sync::Arc;

use super::{Manifest, ManifestError};

pub struct Catalog {}

impl Catalog {
    /// Opens the newest manifest of `directory` that is whole; creates the folder if it is absent. Blocks.
    pub fn open(directory: &Path) -> Result<Self, ManifestError> {
        todo!("{directory:?}")
    }

    /// The manifest that serves; `None` before the first listing is complete.
    pub fn current(&self) -> Option<Arc<Manifest>> {
        todo!()
    }

    /// The term and sequence that a next manifest must exceed; (0, 0) for none.
    pub fn newest(&self) -> (u64, u64) {
        todo!()
    }

    /// Makes the file at `path` (in this folder) current, if it is newer; keeps the one before, deletes older ones. Returns it.
    pub fn accept(&self, path: &Path) -> Result<Arc<Manifest>, ManifestError> {
        todo!("{path:?}")
    }

    /// After `ManifestError::is_damage` of the current one: sets it aside and goes on with the previous if that is whole; else `None`: list again.
    pub fn set_aside(&self, damaged: &Manifest) -> Option<Arc<Manifest>> {
        todo!("{:?}", damaged.summary())
    }
}
