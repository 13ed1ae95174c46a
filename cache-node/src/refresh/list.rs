//! One listing of all sources of a data set into a manifest file.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::{Refresh, RefreshError};
use crate::manifest::{BuildOptions, Builder, MountedSource, SourceIndex};
use crate::source::ListRequest;

/// Who lists: one node by itself for now; a lease of the cluster will count them.
const TERM: u64 = 1;

impl Refresh {
    /// Lists every source and builds the manifest; gives its path, in the catalog's folder.
    pub(super) async fn list(&self) -> Result<PathBuf, RefreshError> {
        let (term, sequence) = self.catalog.newest();
        let sources = self.fs.sources().to_vec();
        let mounted = sources.iter().map(|(mount, origin)| MountedSource {
            name: origin.handle.name().to_owned(),
            mount_path: String::from_utf8_lossy(mount).into_owned(),
        });
        let created_seconds = crate::fs::seconds_of(std::time::SystemTime::now());
        let options = BuildOptions { term: term.max(TERM), sequence: sequence + 1, created_seconds, sources: mounted.collect() };
        let (folder, progress) = (self.folder.clone(), self.progress.clone());
        progress.keys.store(0, Relaxed);
        progress.requests.store(0, Relaxed);
        let mut builder = tokio::task::spawn_blocking(move || Builder::new(&folder, options)).await.map_err(|_| RefreshError::Aborted)??;
        for (index, (_, origin)) in sources.iter().enumerate() {
            let client = origin.handle.background();
            let mut after = None;
            loop {
                let request = ListRequest { prefix: Bytes::new(), after, before: None, one_level: false };
                let page = client.list(&request).await.map_err(|cause| RefreshError::Source { origin: client.name().to_owned(), cause })?;
                progress.requests.fetch_add(1, Relaxed);
                progress.keys.fetch_add(page.objects.len() as u64, Relaxed);
                let objects = page.objects;
                let push = move || {
                    let source = SourceIndex(u16::try_from(index).unwrap_or(u16::MAX));
                    objects.iter().try_for_each(|object| builder.push(source, object)).map(|()| builder)
                };
                builder = tokio::task::spawn_blocking(push).await.map_err(|_| RefreshError::Aborted)??;
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let path = tokio::task::spawn_blocking(move || builder.finish()).await.map_err(|_| RefreshError::Aborted)??;
        Ok(path)
    }
}
