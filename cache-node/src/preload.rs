//! Loads files before anybody asks for them: a whole data set, some paths, what a rule pins.
//! Knows paths, progress, failures. Does not know FUSE; how a block comes is `fill`'s.
//! Invariant: what is here already is not asked for again, so a preload that is repeated or resumed costs only what is missing; and what the
//! store would not keep is not asked for at all: it is read through, and doesn't count among what is to be loaded.

mod bucket;
mod list;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use bucket::Bucket;

use crate::aside;
use crate::control::{FailedFile, PreloadOrder, PreloadProgress, PreloadState};
use crate::fill::{FileObject, FillError, chain};
use crate::fs::Filesystem;
use crate::rules::Placement;
use forebay_manifest::{EntryIndex, Manifest, ManifestError};
use forebay_store::{Plan, ReadOutcome};
use forebay_wire::block::{BlockId, BlockIndex, ObjectRef};

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
    /// What was to be loaded and turned out not to be kept.
    files_passed: AtomicU64,
    bytes_passed: AtomicU64,
    /// What was here already and was read again.
    bytes_verified: AtomicU64,
    blocks_mended: AtomicU64,
    /// The first `FAILED_MAX` that failed, to be tried once more.
    to_retry: Mutex<Vec<Load>>,
}

impl Counters {
    fn note_retry(&self, wanted: Load) {
        let mut to_retry = self.to_retry.lock();
        if to_retry.len() < FAILED_MAX {
            to_retry.push(wanted);
        }
    }
    fn note_passed(&self, files: u64, bytes: u64) {
        self.files_passed.fetch_add(files, Relaxed);
        self.bytes_passed.fetch_add(bytes, Relaxed);
    }
}

/// A file to be loaded, or its first blocks.
#[derive(Clone, Copy)]
struct Load {
    entry: EntryIndex,
    blocks_max: u32,
}

/// What a preload has to hold, and what of it is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub bytes: u64,
    pub held_bytes: u64,
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
    /// Blocks that are read again at once: reads of the disk that nobody waits for.
    verifying: Semaphore,
}

/// Of them at once.
const VERIFIED_AT_ONCE: usize = 2;

impl Preload {
    pub fn new(fs: Arc<Filesystem>, bytes_per_second_max: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            fs,
            bytes_per_second_max: Mutex::new(bytes_per_second_max),
            turn: tokio::sync::Mutex::default(),
            progress: watch::Sender::new(None),
            failed: Mutex::default(),
            pause: watch::Sender::new(false),
            verifying: Semaphore::new(VERIFIED_AT_ONCE),
        })
    }

    /// The last run's, also after its end; `None` before the first.
    pub fn progress(&self) -> watch::Receiver<Option<PreloadProgress>> {
        self.progress.subscribe()
    }
    pub fn failed(&self) -> Vec<FailedFile> {
        self.failed.lock().clone()
    }
    /// Of the files at or below `paths` as they are now: what is to be here, and how much of it is. What the last run left to the source isn't wanted.
    /// Walks the list.
    pub fn wanted(&self, paths: &[String]) -> Result<Wanted, PreloadError> {
        let manifest = self.fs.manifest().ok_or(PreloadError::NoManifest)?;
        let paths = list::without_paths_below_others(paths.to_vec());
        let mut wanted = Wanted::default();
        let (rules, share, reader) = (self.fs.rules(), share(&self.fs), self.fs.reader());
        list::each_wanted(&manifest, &rules, share, &paths, &mut |entry, bytes| {
            let object = manifest.object(entry)?.object;
            wanted.bytes += bytes;
            wanted.held_bytes += match share.fill.is_alone() {
                true => reader.held_bytes(&object),
                // Beside its own a node holds copies of others' blocks, which make up for none that lacks.
                false => reader.held_bytes_of(&object, share.blocks(object, rules.resolve(&manifest.path(entry)?).local_copy)),
            };
            Ok(())
        })?;
        wanted.bytes = wanted.bytes.saturating_sub(self.progress.borrow().as_ref().map_or(0, |last| last.bytes_read_through));
        wanted.held_bytes = wanted.held_bytes.min(wanted.bytes);
        Ok(wanted)
    }
    /// Shows a run that hasn't begun.
    pub fn announce(&self, state: PreloadState) {
        self.progress.send_replace(Some(PreloadProgress { state, ..PreloadProgress::default() }));
    }

    /// The limit of the next run: of all nodes of the cache together.
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

    /// Loads everything at or below `paths` (`/` for all) that rules don't keep out of the cache, that isn't for other nodes to load, and that the
    /// store would keep, in the background's priority. With `verify` also reads what is here already, and loads anew what its checksums don't fit. Returns how it ended: `Done`, `Paused`, or `Failed` (some files are not here, also after a second attempt; `failed` names them).
    /// Cancel by `stop`: what is loaded stays.
    pub async fn run(self: &Arc<Self>, order: PreloadOrder, stop: CancellationToken) -> Result<PreloadProgress, PreloadError> {
        let _turn = self.turn.lock().await;
        let ended = self.run_once(order, stop).await;
        if let Err(PreloadError::Manifest(error)) = &ended {
            self.fs.note_damage(error);
        }
        ended
    }

    async fn run_once(self: &Arc<Self>, order: PreloadOrder, stop: CancellationToken) -> Result<PreloadProgress, PreloadError> {
        let PreloadOrder { paths, verify } = order;
        let manifest = self.fs.manifest().ok_or(PreloadError::NoManifest)?;
        let paths = list::without_paths_below_others(paths);
        let (rules, fs) = (self.fs.rules(), self.fs.clone());
        let (listed, below) = (manifest.clone(), paths.clone());
        let count = aside::spawn(move || list::count(&listed, &rules, share(&fs), (fs.reader().store(), fs.slot()), &below));
        let (totals, plan) = count.await.map_err(|_| PreloadError::Aborted)??;
        self.failed.lock().clear();
        let counters = Arc::new(Counters::default());
        counters.note_passed(totals.files_passed, totals.bytes_passed);
        // Of all that was asked for: what is read through is taken off in `snapshot`.
        let (files_total, bytes_total) = (totals.files + totals.files_passed, totals.bytes + totals.bytes_passed);
        let bytes_over_quota = totals.bytes_over_quota;
        let began =
            PreloadProgress { state: PreloadState::Running, files_total, bytes_total, bytes_over_quota, ..PreloadProgress::default() };
        self.progress.send_replace(Some(snapshot(&began, &counters, 0)));
        info!(
            dataset = self.fs.name(),
            files = totals.files,
            bytes = totals.bytes,
            files_read_through = totals.files_passed,
            bytes_read_through = totals.bytes_passed,
            "preload begins"
        );
        let ticker = tokio::spawn(tick(self.clone(), counters.clone(), began.clone()));
        let mut pause = self.pause.subscribe();
        let pace = Pace { counters: &counters, bucket: Bucket::new(*self.bytes_per_second_max.lock()), verify };
        let ended = tokio::select! {
            // An error says that nobody can pause any more.
            Ok(_) = pause.wait_for(|pause| *pause) => Ok(()),
            ended = self.load_all(manifest, paths, plan, &pace, &stop) => ended,
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
            files_read_through = progress.files_read_through,
            bytes_read_through = progress.bytes_read_through,
            "preload ended"
        );
        ended.map(|()| progress)
    }

    async fn load_all(
        self: &Arc<Self>,
        manifest: Arc<Manifest>,
        paths: Vec<String>,
        mut plan: Option<Plan>,
        pace: &Pace<'_>,
        stop: &CancellationToken,
    ) -> Result<(), PreloadError> {
        let (feeder, receiver) = aside::queue(QUEUE_MAX);
        let (walked, rules, fs) = (manifest.clone(), self.fs.rules(), self.fs.clone());
        let walk = aside::spawn(move || {
            list::each_wanted(&walked, &rules, share(&fs), &paths, &mut |entry, bytes| {
                let blocks_max = match &mut plan {
                    None => Some(u32::MAX),
                    Some(plan) => {
                        let (object, class) = list::object_of(&rules, &walked, entry, bytes)?;
                        plan.take(&object, class)
                    }
                };
                if let Some(blocks_max) = blocks_max {
                    feeder.put(Load { entry, blocks_max });
                }
                Ok(())
            })
        });
        let counters = pace.counters;
        let wanted =
            futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|wanted| (wanted, receiver)) });
        let load = async {
            wanted.for_each_concurrent(FILES_MAX, |wanted| self.load_one(&manifest, wanted, pace)).await;
            // Once more what failed: by the end of the run the reason may have passed.
            let again = std::mem::take(&mut *counters.to_retry.lock());
            if !again.is_empty() {
                info!(dataset = self.fs.name(), files = again.len(), "preload tries again what failed");
                self.failed.lock().clear();
                counters.files_failed.fetch_sub(again.len() as u64, Relaxed);
                let again = futures::stream::iter(again);
                again.for_each_concurrent(FILES_MAX, |wanted| self.load_one(&manifest, wanted, pace)).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = load => {}
        }
        walk.await.map_err(|_| PreloadError::Aborted)?
    }

    async fn load_one(&self, manifest: &Manifest, wanted: Load, pace: &Pace<'_>) {
        let counters = pace.counters;
        let (file, path) = match self.fs.file_of_entry(manifest, wanted.entry) {
            Ok(found) => found,
            Err(error) => {
                return self.note_failed(counters, format!("entry {}", wanted.entry.0), error.to_string());
            }
        };
        match self.load_file(&file, wanted.blocks_max, pace).await {
            Ok(Loaded::Wanted) => {
                counters.files_done.fetch_add(1, Relaxed);
            }
            Ok(Loaded::Partly { bytes_passed }) => {
                counters.files_done.fetch_add(1, Relaxed);
                counters.note_passed(0, bytes_passed);
            }
            Ok(Loaded::Nothing { bytes_passed }) => counters.note_passed(1, bytes_passed),
            Err(error) => {
                if matches!(error, FillError::Replaced { .. } | FillError::Gone { .. }) {
                    self.fs.repair_entry(&path, &file).await;
                }
                counters.note_retry(wanted);
                self.note_failed(counters, path.escape_ascii().to_string(), chain(&error));
            }
        }
    }

    async fn load_file(&self, file: &Arc<FileObject>, blocks_max: u32, pace: &Pace<'_>) -> Result<Loaded, FillError> {
        let mut loaded = 0;
        let outcome = self.load_blocks(file, blocks_max, pace, &mut loaded).await;
        if outcome.is_err() {
            // The file isn't here: none of it counts, and a second attempt counts all of it.
            pace.counters.bytes_done.fetch_sub(loaded, Relaxed);
        }
        let here = ObjectRef { size: share(&self.fs).bytes(file.object, file.local_copy), ..file.object };
        let wanted = self.fs.reader().store().bytes_of(&here, blocks_max);
        outcome.map(|()| match wanted - loaded {
            0 => Loaded::Wanted,
            bytes_passed if loaded > 0 => Loaded::Partly { bytes_passed },
            bytes_passed => Loaded::Nothing { bytes_passed },
        })
    }

    /// Ends without an error at the first block that isn't kept: the rest wouldn't be, either.
    async fn load_blocks(&self, file: &Arc<FileObject>, blocks_max: u32, pace: &Pace<'_>, loaded: &mut u64) -> Result<(), FillError> {
        let reader = self.fs.reader();
        let class = match file.placement {
            Placement::Keep(admission) => admission.class,
            Placement::Pass => return Ok(()),
        };
        for index in share(&self.fs).blocks(file.object, file.local_copy).take(blocks_max as usize) {
            let len = reader.block_size().extent(index, file.object.size).map_or(0, |extent| extent.len());
            if !self.is_here(file, index, pace).await {
                // The limit is for what all nodes together ask the source for: each takes its share of it, for the blocks that are its own.
                if reader.fill().owns(BlockId { object: file.object.id, index }) {
                    pace.bucket.take((len as f64 / reader.fill().share()) as u64).await;
                }
                // Asked after the wait: others may have filled the cache meanwhile.
                if !reader.store().would_hold(self.fs.slot(), &file.object, len, class) || !reader.fill().load(file, index).await? {
                    return Ok(());
                }
            }
            *loaded += len;
            pace.counters.bytes_done.fetch_add(len, Relaxed);
        }
        Ok(())
    }

    /// Whether the block is here; with `verify` whether it is what it was.
    async fn is_here(&self, file: &FileObject, index: BlockIndex, pace: &Pace<'_>) -> bool {
        let (store, object) = (self.fs.reader().store().clone(), file.object);
        if !store.contains(&object, index) || !pace.verify {
            return store.contains(&object, index);
        }
        let Some(extent) = self.fs.reader().block_size().extent(index, object.size) else { return true };
        let Ok(_turn) = self.verifying.acquire().await else { return true };
        let read = move || {
            let mut bytes = vec![0; extent.len() as usize];
            matches!(store.read(&object, extent, &mut bytes), Ok(ReadOutcome::Hit))
        };
        let is_good = aside::spawn(read).await.unwrap_or(true);
        match is_good {
            true => pace.counters.bytes_verified.fetch_add(extent.len(), Relaxed),
            false => pace.counters.blocks_mended.fetch_add(1, Relaxed),
        };
        is_good
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

/// How a run loads, and what it counts.
struct Pace<'a> {
    counters: &'a Counters,
    bucket: Bucket,
    verify: bool,
}

/// Which blocks are to be on this node.
fn share(fs: &Filesystem) -> list::Share<'_> {
    list::Share { fill: fs.reader().fill(), block_size: fs.reader().block_size() }
}

/// What became of a file that was to be loaded.
enum Loaded {
    Wanted,
    /// The store kept the beginning.
    Partly {
        bytes_passed: u64,
    },
    Nothing {
        bytes_passed: u64,
    },
}

fn snapshot(began: &PreloadProgress, counters: &Counters, bytes_per_second: u64) -> PreloadProgress {
    let (files_read_through, bytes_read_through) = (counters.files_passed.load(Relaxed), counters.bytes_passed.load(Relaxed));
    PreloadProgress {
        files_done: counters.files_done.load(Relaxed),
        bytes_done: counters.bytes_done.load(Relaxed),
        files_failed: counters.files_failed.load(Relaxed),
        files_total: began.files_total.saturating_sub(files_read_through),
        bytes_total: began.bytes_total.saturating_sub(bytes_read_through),
        bytes_per_second,
        files_read_through,
        bytes_read_through,
        bytes_verified: counters.bytes_verified.load(Relaxed),
        blocks_mended: counters.blocks_mended.load(Relaxed),
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
