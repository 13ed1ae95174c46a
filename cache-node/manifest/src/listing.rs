//! Lists the sources of a data set into a manifest file, going on where a killed process stopped.
//! Knows sources' listings, the builder, and a log of what was listed. Does not know when to list, or what becomes of the manifest.
//! Invariant: memory is bounded by pages in flight; a row is in the log before the listing counts it as done.
//!
//! What comes is written to one log a source as it comes: pages of many ranges, interleaved. When all ranges are done their pages are
//! read in key order and built. The log is also the checkpoint: read again it gives the state of the listing.

pub mod handover;
mod log;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use self::log::{Begun, ListingLog, Wanted};
use super::{BuildOptions, Builder, ManifestError, SourceIndex};
use forebay_source::listing::{ListEvent, ListOptions, list_parallel};
use forebay_source::{Source, SourceError};

/// Pages between the requests and the log: some MB.
const PAGES_MAX: usize = 16;
/// A log that was begun longer ago than this is not gone on with: what it lists may be gone.
pub const RESUME_SECONDS_MAX: i64 = 3600;

#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    #[error("list {origin}")]
    Source {
        origin: String,
        #[source]
        cause: SourceError,
    },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("list {folder}: a thread ended before its work")]
    Ended {
        folder: String,
        #[source]
        cause: JoinError,
    },
}

/// How far a listing is; called after each page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListingProgress {
    /// With those of the run before that was gone on with.
    pub keys: u64,
    pub pages: u64,
}

/// What was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The manifest's. Its term and sequence are those of the listing's beginning: lower than `build` says where an earlier one was gone on with.
    pub path: PathBuf,
    /// When the first of it was listed, in seconds since 1970.
    pub began: i64,
}

/// Lists `sources` (as many as `build.sources`, in its order) and builds the manifest in `folder`. `build.created_seconds` is now. What was
/// begun before, here or by a node that handed it over, is gone on with if it will be newer than the manifest with the number `newest`. One call at
/// a time per folder. Can be dropped at any moment and called again: it goes on where it was.
pub async fn list(
    folder: &Path,
    sources: &[Arc<dyn Source>],
    mut build: BuildOptions,
    newest: (u64, u64),
    options: ListOptions,
    progress: impl Fn(ListingProgress) + Send + Sync + Clone + 'static,
) -> Result<Listed, ListingError> {
    assert_eq!(sources.len(), build.sources.len(), "each source has its mount path");
    let mut before = ListingProgress::default();
    let listing = rand::random::<u64>() | 1;
    let mut logs = Vec::with_capacity(sources.len());
    for (position, source) in sources.iter().enumerate() {
        let anew = Begun { at: build.created_seconds, name: source.name().to_owned(), listing, number: (build.term, build.sequence) };
        let (path, wanted) = (log_path(folder, position), Wanted { anew, age_max: RESUME_SECONDS_MAX, newest });
        let log = blocking(folder, move || ListingLog::open(&path, &wanted)).await?;
        let log = list_source(folder, source, log, options, before, progress.clone()).await?;
        before = ListingProgress { keys: before.keys + log.rows(), pages: before.pages + log.pages() };
        logs.push(log);
    }
    let mut began = build.created_seconds;
    for begun in logs.iter().map(ListingLog::begun) {
        // What it lists is as old as the oldest part of it.
        (build.term, build.sequence) = begun.number.min((build.term, build.sequence));
        began = began.min(begun.at);
    }
    let owned = folder.to_owned();
    blocking(folder, move || {
        let built = build_from(&owned, build, &logs);
        // Whether it was built or can't be: the next listing begins anew, with perhaps fewer sources.
        let mut others = logs.len();
        logs.into_iter().try_for_each(ListingLog::remove)?;
        while std::fs::remove_file(log_path(&owned, others)).is_ok() {
            others += 1;
        }
        built.map(|path| Listed { path, began })
    })
    .await
}

fn log_path(folder: &Path, position: usize) -> PathBuf {
    folder.join(format!("listing-{position}.log"))
}

async fn blocking<T: Send + 'static>(
    folder: &Path,
    work: impl FnOnce() -> Result<T, ManifestError> + Send + 'static,
) -> Result<T, ListingError> {
    let ended = |cause| ListingError::Ended { folder: folder.display().to_string(), cause };
    Ok(spawn_blocking(work).await.map_err(ended)??)
}

/// Lists what the log doesn't have yet into it.
async fn list_source(
    folder: &Path,
    source: &Arc<dyn Source>,
    mut log: ListingLog,
    options: ListOptions,
    before: ListingProgress,
    progress: impl Fn(ListingProgress) + Send + 'static,
) -> Result<ListingLog, ListingError> {
    let checkpoint = log.checkpoint().clone();
    if checkpoint.is_done() {
        return Ok(log);
    }
    let (sender, mut receiver) = mpsc::channel::<ListEvent>(PAGES_MAX);
    // Ends when the sender is dropped, also when this future is: then what came is in the log.
    let writer = blocking(folder, move || {
        while let Some(event) = receiver.blocking_recv() {
            log.append(&event)?;
            progress(ListingProgress { keys: before.keys + log.rows(), pages: before.pages + log.pages() });
        }
        Ok(log)
    });
    let lister = list_parallel(Arc::clone(source), Bytes::new(), checkpoint, options, sender);
    let (listed, written) = futures::join!(lister, writer);
    // A writer that failed closes the channel, which ends the lister early: its error is the cause.
    let log = written?;
    listed.map_err(|cause| ListingError::Source { origin: source.name().to_owned(), cause })?;
    Ok(log)
}

fn build_from(folder: &Path, options: BuildOptions, logs: &[ListingLog]) -> Result<PathBuf, ManifestError> {
    let mut builder = Builder::new(folder, options)?;
    for (position, log) in logs.iter().enumerate() {
        let source = SourceIndex(position as u16);
        log.visit(|key, file| builder.push_file(source, key, file))?;
    }
    builder.finish()
}

#[cfg(test)]
mod tests;
