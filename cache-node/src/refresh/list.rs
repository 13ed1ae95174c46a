//! One listing of all sources of a data set into a manifest file.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Refresh, RefreshError};
use forebay_manifest::{BuildOptions, MountedSource, listing};
use forebay_source::ListRequest;
use forebay_source::listing::ListOptions;

/// Of a node that lists for itself.
const TERM: u64 = 1;

impl Refresh {
    /// Lists every source and builds the manifest; gives its path, in the catalog's folder, and how long ago the first of it was listed. What a failed
    /// listing got is gone on with, or what a lister that is lost handed over.
    pub(super) async fn list(&self) -> Result<(PathBuf, Duration), RefreshError> {
        let newest = self.newest();
        let (term, sequence) = self.next_number().await;
        let sources = self.fs.sources();
        let mounted = sources.iter().map(|(mount, origin)| MountedSource {
            name: origin.identity.clone(),
            mount_path: String::from_utf8_lossy(mount).into_owned(),
        });
        let created_seconds = crate::fs::seconds_of(std::time::SystemTime::now());
        let build = BuildOptions { term, sequence, created_seconds, sources: mounted.collect() };
        let clients: Vec<_> = sources.iter().map(|(_, origin)| origin.handle.background()).collect();
        let progress = self.progress.clone();
        let note = move |listed: listing::ListingProgress| {
            progress.keys.store(listed.keys, Relaxed);
            progress.requests.store(listed.pages, Relaxed);
        };
        let listed = listing::list(&self.folder, &clients, build, newest, ListOptions::default(), note).await?;
        let age = crate::fs::seconds_of(std::time::SystemTime::now()).saturating_sub(listed.began);
        Ok((listed.path, Duration::from_secs(u64::try_from(age).unwrap_or(0))))
    }

    /// Term and sequence of a listing that begins now: above all that are known. Of several nodes that may list, the term is the time by the source's
    /// clock, in milliseconds since 1970, so that of two listings the one that saw the source later has the higher number.
    async fn next_number(&self) -> (u64, u64) {
        let (term, sequence) = self.newest();
        let Some(group) = &self.group else { return (term.max(TERM), sequence + 1) };
        let now = self.source_ms().await;
        // A clock that went back: still no two nodes have the same number.
        if now > term { (now, 1) } else { (term, sequence + 1 + group.own_part()) }
    }

    /// By this machine's clock where the source doesn't tell.
    async fn source_ms(&self) -> u64 {
        let sources = self.fs.sources();
        let offset = || sources.first().and_then(|(_, origin)| origin.handle.clock_offset_seconds());
        if let (None, Some((_, origin))) = (offset(), sources.first()) {
            // Any answer tells the time, a refusal too.
            let request = ListRequest { prefix: Default::default(), after: None, before: None, one_level: true };
            drop(origin.handle.background().list(&request).await);
        }
        let own = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(own.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(offset().unwrap_or(0).saturating_mul(1000))
    }
}
