//! One listing of all sources of a data set into a manifest file.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use super::{Refresh, RefreshError};
use forebay_manifest::{BuildOptions, MountedSource, listing};
use forebay_source::listing::ListOptions;

/// Who lists: one node by itself for now; a lease of the cluster will count them.
const TERM: u64 = 1;

impl Refresh {
    /// Lists every source and builds the manifest; gives its path, in the catalog's folder. What a failed listing got is gone on with.
    pub(super) async fn list(&self) -> Result<PathBuf, RefreshError> {
        let (term, sequence) = self.catalog.newest();
        let sources = self.fs.sources();
        let mounted = sources.iter().map(|(mount, origin)| MountedSource {
            name: origin.identity.clone(),
            mount_path: String::from_utf8_lossy(mount).into_owned(),
        });
        let created_seconds = crate::fs::seconds_of(std::time::SystemTime::now());
        let build = BuildOptions { term: term.max(TERM), sequence: sequence + 1, created_seconds, sources: mounted.collect() };
        let clients: Vec<_> = sources.iter().map(|(_, origin)| origin.handle.background()).collect();
        let progress = self.progress.clone();
        let note = move |listed: listing::ListingProgress| {
            progress.keys.store(listed.keys, Relaxed);
            progress.requests.store(listed.pages, Relaxed);
        };
        Ok(listing::list(&self.folder, &clients, build, ListOptions::default(), note).await?)
    }
}
