//! Loads files before anybody asks for them: a whole data set, some paths, what a rule pins.
//! Knows paths, progress, failures. Does not know FUSE; how a block comes is `fill`'s.
//! Invariant: what is here already is not asked for again, so a preload that is repeated or resumed costs only what is missing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::control::{FailedFile, PreloadProgress, PreloadState};
use crate::fill::{FileObject, FillError, chain};
use crate::fs::{Filesystem, for_each_below};
use crate::rules::Placement;
use forebay_manifest::{EntryIndex, Manifest, ManifestError};
use forebay_wire::block::BlockIndex;

/// Files at once. Fills have their own limits; this only has to keep them busy.
const FILES_MAX: usize = 64;
/// Numbers of files on their way from the manifest to the fills.
const QUEUE_MAX: usize = 1024;
/// Failed files that are named; the rest is counted.
pub const FAILED_MAX: usize = 1000;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(500);
/// The rate is that of the last so many ticks.
const RATE_TICKS: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum PreloadError {
    #[error("preload {path}: no such path in the data set")]
    NotFound { path: String },
    #[error("preload: the manifest can't be read")]
    Manifest(#[from] ManifestError),
    #[error("preload: there is no manifest yet")]
    NoManifest,
    #[error("preload: the task was given up")]
    Aborted,
}

#[derive(Default)]
struct Counters {
    files_done: AtomicU64,
    bytes_done: AtomicU64,
    files_failed: AtomicU64,
    /// The first `FAILED_MAX` that failed, to be tried once more.
    to_retry: Mutex<Vec<EntryIndex>>,
}

impl Counters {
    fn note_retry(&self, entry: EntryIndex) {
        let mut to_retry = self.to_retry.lock();
        if to_retry.len() < FAILED_MAX {
            to_retry.push(entry);
        }
    }
}

/// Preloads of one data set. One runs at a time; another waits for it.
pub struct Preload {
    fs: Arc<Filesystem>,
    bytes_per_second_max: Mutex<Option<u64>>,
    turn: tokio::sync::Mutex<()>,
    progress: watch::Sender<Option<PreloadProgress>>,
    /// The first `FAILED_MAX` files of the last run that couldn't be loaded.
    failed: Mutex<Vec<FailedFile>>,
    /// Told that whoever loads, or waits for its turn, is to pause.
    pause: watch::Sender<bool>,
}

impl Preload {
    pub fn new(fs: Arc<Filesystem>, bytes_per_second_max: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            fs,
            bytes_per_second_max: Mutex::new(bytes_per_second_max),
            turn: tokio::sync::Mutex::default(),
            progress: watch::Sender::new(None),
            failed: Mutex::default(),
            pause: watch::Sender::new(false),
        })
    }

    /// The last run's, also after its end; `None` before the first.
    pub fn progress(&self) -> watch::Receiver<Option<PreloadProgress>> {
        self.progress.subscribe()
    }
    pub fn failed(&self) -> Vec<FailedFile> {
        self.failed.lock().clone()
    }
    /// Shows a run that hasn't begun.
    pub fn announce(&self, state: PreloadState) {
        self.progress.send_replace(Some(PreloadProgress { state, ..PreloadProgress::default() }));
    }

    /// The limit of the next run.
    pub fn set_rate(&self, bytes_per_second_max: Option<u64>) {
        *self.bytes_per_second_max.lock() = bytes_per_second_max;
    }

    /// Ends the run that goes on as `Paused`; what is loaded stays. Until `resume` none begins.
    pub fn pause(&self) {
        self.pause.send_replace(true);
        if self.progress.borrow().is_none() {
            self.announce(PreloadState::Paused);
        }
    }
    pub fn resume(&self) {
        self.pause.send_replace(false);
    }
    pub fn is_paused(&self) -> bool {
        *self.pause.borrow()
    }

    /// Checks that each path is in the manifest.
    pub fn check(&self, paths: &[String]) -> Result<(), PreloadError> {
        let manifest = self.fs.manifest().ok_or(PreloadError::NoManifest)?;
        for path in paths {
            if !crate::fs::exists(&manifest, path.as_bytes())? {
                return Err(PreloadError::NotFound { path: path.clone() });
            }
        }
        Ok(())
    }

    /// Loads everything at or below `paths` (`/` for all) that rules don't keep out of the cache, in the background's priority. Returns how it
    /// ended: `Done`, `Paused`, or `Failed` (some files are not here, also after a second attempt; `failed` names them). Cancel by `stop`: what is
    /// loaded stays.
    pub async fn run(self: &Arc<Self>, paths: Vec<String>, stop: CancellationToken) -> Result<PreloadProgress, PreloadError> {
        let _turn = self.turn.lock().await;
        let manifest = self.fs.manifest().ok_or(PreloadError::NoManifest)?;
        let (files_total, bytes_total) = self.count(manifest.clone(), paths.clone()).await?;
        self.failed.lock().clear();
        let counters = Arc::new(Counters::default());
        let began = PreloadProgress { state: PreloadState::Running, files_total, bytes_total, ..PreloadProgress::default() };
        self.progress.send_replace(Some(began.clone()));
        info!(dataset = self.fs.name(), files = files_total, bytes = bytes_total, "preload begins");
        let ticker = tokio::spawn(tick(self.clone(), counters.clone(), began.clone()));
        let mut pause = self.pause.subscribe();
        let ended = tokio::select! {
            // An error says that nobody can pause any more.
            Ok(_) = pause.wait_for(|pause| *pause) => Ok(()),
            ended = self.load_all(manifest, paths, &counters, &stop) => ended,
        };
        ticker.abort();
        let mut progress = snapshot(&began, &counters, self.progress.borrow().as_ref().map_or(0, |last| last.bytes_per_second));
        progress.state = match &ended {
            Ok(()) if stop.is_cancelled() || self.is_paused() => PreloadState::Paused,
            Ok(()) if progress.files_failed == 0 => PreloadState::Done,
            Ok(()) | Err(_) => PreloadState::Failed,
        };
        self.progress.send_replace(Some(progress.clone()));
        info!(
            dataset = self.fs.name(),
            files = progress.files_done,
            bytes = progress.bytes_done,
            failed = progress.files_failed,
            "preload ended"
        );
        ended.map(|()| progress)
    }

    async fn count(&self, manifest: Arc<Manifest>, paths: Vec<String>) -> Result<(u64, u64), PreloadError> {
        let rules = self.fs.rules();
        let count = move || {
            let (mut files, mut bytes) = (0, 0);
            for path in &paths {
                // Rules below the path are asked file by file only when there are any.
                let mut failed = None;
                let found = for_each_below(&manifest, path.as_bytes(), &mut |entry, size| match is_wanted(&rules, &manifest, entry) {
                    Ok(true) => {
                        files += 1;
                        bytes += size;
                    }
                    Ok(false) => {}
                    Err(error) => failed = Some(error),
                })?;
                if let Some(error) = failed {
                    return Err(error.into());
                }
                if !found {
                    return Err(PreloadError::NotFound { path: path.clone() });
                }
            }
            Ok((files, bytes))
        };
        tokio::task::spawn_blocking(count).await.map_err(|_| PreloadError::Aborted)?
    }

    async fn load_all(
        self: &Arc<Self>,
        manifest: Arc<Manifest>,
        paths: Vec<String>,
        counters: &Counters,
        stop: &CancellationToken,
    ) -> Result<(), PreloadError> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let (walked, rules) = (manifest.clone(), self.fs.rules());
        let walk = tokio::task::spawn_blocking(move || {
            for path in &paths {
                for_each_below(&walked, path.as_bytes(), &mut |entry, _| {
                    if is_wanted(&rules, &walked, entry).unwrap_or(true) {
                        // Closed when the run was stopped: then nobody wants the rest.
                        let _ = sender.blocking_send(entry);
                    }
                })?;
            }
            Ok::<(), ManifestError>(())
        });
        let bucket = Bucket::new(*self.bytes_per_second_max.lock());
        let entries = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|entry| (entry, receiver)) });
        let load = async {
            entries.for_each_concurrent(FILES_MAX, |entry| self.load_one(&manifest, entry, counters, &bucket)).await;
            // Once more what failed: by the end of the run the reason may have passed.
            let again = std::mem::take(&mut *counters.to_retry.lock());
            if !again.is_empty() {
                info!(dataset = self.fs.name(), files = again.len(), "preload tries again what failed");
                self.failed.lock().clear();
                counters.files_failed.fetch_sub(again.len() as u64, Relaxed);
                let again = futures::stream::iter(again);
                again.for_each_concurrent(FILES_MAX, |entry| self.load_one(&manifest, entry, counters, &bucket)).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = load => {}
        }
        walk.await.map_err(|_| PreloadError::Aborted)?.map_err(PreloadError::from)
    }

    async fn load_one(&self, manifest: &Manifest, entry: EntryIndex, counters: &Counters, bucket: &Bucket) {
        let (file, path) = match self.fs.file_of_entry(manifest, entry) {
            Ok(found) => found,
            Err(error) => {
                return self.note_failed(counters, format!("entry {}", entry.0), error.to_string());
            }
        };
        match self.load_file(&file, counters, bucket).await {
            Ok(()) => {
                counters.files_done.fetch_add(1, Relaxed);
            }
            Err(error) => {
                if matches!(error, FillError::Replaced { .. } | FillError::Gone { .. }) {
                    self.fs.repair_entry(&path, &file).await;
                }
                counters.note_retry(entry);
                self.note_failed(counters, path.escape_ascii().to_string(), chain(&error));
            }
        }
    }

    async fn load_file(&self, file: &Arc<FileObject>, counters: &Counters, bucket: &Bucket) -> Result<(), FillError> {
        let mut loaded = 0;
        let outcome = self.load_blocks(file, counters, bucket, &mut loaded).await;
        if outcome.is_err() {
            // The file isn't here: none of it counts, and a second attempt counts all of it.
            counters.bytes_done.fetch_sub(loaded, Relaxed);
        }
        outcome
    }

    async fn load_blocks(&self, file: &Arc<FileObject>, counters: &Counters, bucket: &Bucket, loaded: &mut u64) -> Result<(), FillError> {
        let reader = self.fs.reader();
        for index in 0..reader.block_size().count(file.object.size) {
            let index = BlockIndex(index);
            let len = reader.block_size().extent(index, file.object.size).map_or(0, |extent| extent.len());
            if !reader.store().contains(&file.object, index) {
                bucket.take(len).await;
                reader.fill().load(file, index).await?;
            }
            *loaded += len;
            counters.bytes_done.fetch_add(len, Relaxed);
        }
        Ok(())
    }

    fn note_failed(&self, counters: &Counters, path: String, cause: String) {
        counters.files_failed.fetch_add(1, Relaxed);
        let mut failed = self.failed.lock();
        if failed.len() < FAILED_MAX {
            warn!(dataset = self.fs.name(), path, error = cause, "a file can't be preloaded");
            failed.push(FailedFile { path, cause });
        }
    }
}

/// Whether rules let the file into the cache. Cheap where one rule holds for all.
fn is_wanted(rules: &crate::rules::RuleTable, manifest: &Manifest, entry: EntryIndex) -> Result<bool, ManifestError> {
    if !rules.forbids() {
        return Ok(true);
    }
    let path = manifest.path(entry)?;
    let object = manifest.object(entry)?;
    Ok(rules.resolve(&path).placement(object.object.id, 0) != Placement::Pass)
}

fn snapshot(began: &PreloadProgress, counters: &Counters, bytes_per_second: u64) -> PreloadProgress {
    PreloadProgress {
        files_done: counters.files_done.load(Relaxed),
        bytes_done: counters.bytes_done.load(Relaxed),
        files_failed: counters.files_failed.load(Relaxed),
        bytes_per_second,
        ..began.clone()
    }
}

async fn tick(preload: Arc<Preload>, counters: Arc<Counters>, began: PreloadProgress) {
    let mut seen = VecDeque::from([(Instant::now(), 0)]);
    loop {
        tokio::time::sleep(TICK).await;
        let bytes = counters.bytes_done.load(Relaxed);
        seen.push_back((Instant::now(), bytes));
        if seen.len() > RATE_TICKS {
            seen.pop_front();
        }
        let (then, before) = seen[0];
        let rate = (bytes - before) as f64 / then.elapsed().as_secs_f64().max(0.001);
        preload.progress.send_replace(Some(snapshot(&began, &counters, rate as u64)));
    }
}

/// Bytes per second, in the order of asking.
struct Bucket {
    bytes_per_second: Option<u64>,
    /// Guards when the next bytes are due.
    next: Mutex<Instant>,
}

impl Bucket {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let due = {
            let mut next = self.next.lock();
            let due = (*next).max(Instant::now());
            *next = due + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            due
        };
        tokio::time::sleep_until(due.into()).await;
    }
}
