//! Lists the source again and lets what changed show: the first listing, the interval's, one that was asked for.
//! Knows listings, manifests, when. Does not know FUSE or blocks.
//! Invariant: a listing that failed changes nothing; what serves goes on serving.

mod group;
mod handover;
mod lead;
mod list;

pub use group::Group;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::aside;
use crate::fill::chain;
use crate::fs::Filesystem;
use forebay_manifest::listing::ListingError;
use forebay_manifest::{Catalog, ContentId, Manifest, ManifestError, diff};
use forebay_source::SourceError;
use forebay_wire::block::ObjectRef;
use forebay_wire::id::NodeName;

/// First pause after a failed listing; doubles up to `RETRY_MAX`, or the interval if that is shorter.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Between two listings that repairs asked for: a bucket that is rewritten doesn't make us list without a pause.
const WANTED_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error(transparent)]
    Listing(#[from] ListingError),
    #[error("adopt the manifest")]
    Manifest(#[from] ManifestError),
    #[error("list: the task was given up")]
    Aborted,
}

/// How far the running listing got; counters of the last one when none runs.
#[derive(Debug, Default)]
pub struct ListingProgress {
    pub running: AtomicBool,
    pub keys: AtomicU64,
    pub requests: AtomicU64,
}

/// A listing that is older by no more than this began here: its age is counted in whole seconds.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

/// What one listing changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: u64,
    pub removed: u64,
    pub replaced: u64,
}

/// How the last listing ended. `number` grows with each.
#[derive(Clone, Debug, Default)]
struct Outcome {
    number: u64,
    /// Another one runs, from its first request until it serves.
    busy: bool,
    error: Option<(Trouble, String)>,
}

/// What kind of failure a listing ended in: who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Credentials refused, a permission missing, an archived object.
    Denied,
    /// The bucket or its host isn't there, or doesn't answer.
    Unreachable,
    /// This node's disk or memory.
    Here,
}

impl From<&RefreshError> for Trouble {
    fn from(error: &RefreshError) -> Self {
        match error {
            RefreshError::Listing(ListingError::Source { cause, .. }) => match cause {
                SourceError::Denied { .. } | SourceError::Archived { .. } => Self::Denied,
                SourceError::NotFound { .. }
                | SourceError::Replaced { .. }
                | SourceError::Throttled { .. }
                | SourceError::Unavailable { .. }
                | SourceError::Corrupt { .. }
                | SourceError::Unaskable { .. }
                | SourceError::Missing { .. }
                | SourceError::Permanent { .. } => Self::Unreachable,
            },
            RefreshError::Listing(ListingError::Manifest(_) | ListingError::Ended { .. })
            | RefreshError::Manifest(_)
            | RefreshError::Aborted => Self::Here,
        }
    }
}

/// Keeps one data set's manifest fresh.
pub struct Refresh {
    fs: Arc<Filesystem>,
    catalog: Arc<Catalog>,
    /// Where manifests are.
    folder: PathBuf,
    /// `None`: one listing, for ever.
    interval: Option<Duration>,
    progress: Arc<ListingProgress>,
    /// Guards when the last listing that succeeded ended, and what it changed.
    last: Mutex<(Option<Instant>, Changes)>,
    /// Object versions that the last sync lost: freed at the next one, when the kernel had an interval to let go of them.
    lost: Mutex<Vec<(ContentId, ObjectRef)>>,
    /// Guards the number of the listing that goes on, and since when: one that failed is gone on with, so what it listed is as old as its first attempt.
    number: Mutex<Option<(u64, Instant)>>,
    /// What is kept of another node's listing.
    handed: handover::Handed,
    asked: Notify,
    outcomes: watch::Sender<Outcome>,
    /// Manifests that began to serve; grows with each.
    synced: watch::Sender<u64>,
    /// The other nodes that have the data set; `None`: this one lists for itself.
    group: Option<Group>,
    /// Whether it is this node that lists.
    leads: AtomicBool,
    /// Those after this one in rank were asked once.
    caught_up: AtomicBool,
    /// Guards when a node before this one in rank answered last; at first when this node began to wait for that.
    heard_at: Mutex<Instant>,
    /// Guards who it was.
    heard_from: Mutex<Option<NodeName>>,
    /// Guards the highest number of a manifest that other nodes are known to have.
    known: Mutex<(u64, u64)>,
    /// Guards when the listing of the manifest that serves began; `None` after a restart.
    began: Mutex<Option<Instant>>,
}

impl Refresh {
    pub fn new(fs: Arc<Filesystem>, catalog: Arc<Catalog>, folder: PathBuf, interval: Option<Duration>, group: Option<Group>) -> Arc<Self> {
        Arc::new(Self {
            fs,
            catalog,
            folder,
            interval,
            progress: Arc::default(),
            last: Mutex::default(),
            lost: Mutex::default(),
            number: Mutex::new(None),
            handed: handover::Handed::default(),
            asked: Notify::new(),
            outcomes: watch::Sender::new(Outcome::default()),
            synced: watch::Sender::new(0),
            group,
            leads: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            heard_at: Mutex::new(Instant::now()),
            heard_from: Mutex::default(),
            known: Mutex::default(),
            began: Mutex::default(),
        })
    }

    pub fn progress(&self) -> &ListingProgress {
        &self.progress
    }
    /// Why the last listing failed; `None` when it didn't.
    pub fn error(&self) -> Option<String> {
        self.outcomes.borrow().error.as_ref().map(|(_, text)| text.clone())
    }
    /// What kind of failure that was.
    pub fn trouble(&self) -> Option<Trouble> {
        self.outcomes.borrow().error.as_ref().map(|(trouble, _)| *trouble)
    }
    /// Since the last listing that succeeded in this process.
    pub fn age(&self) -> Option<Duration> {
        self.last.lock().0.map(|at| at.elapsed())
    }
    pub fn last_changes(&self) -> Changes {
        self.last.lock().1
    }

    /// Changes whenever another manifest serves; 0 before there is one.
    pub fn synced(&self) -> watch::Receiver<u64> {
        self.synced.subscribe()
    }

    /// Lets the last manifest of an earlier run serve, before the first request. One that turns out damaged is set aside: the one before it serves,
    /// or none, until the sources are listed, which is asked for at once. Blocks on the disk.
    pub fn resume(&self) -> Result<(), ManifestError> {
        while let Some(current) = self.catalog.current() {
            match self.resume_from(&current) {
                Err(error) if error.is_damage_of(&current) => self.set_aside(&current, &error),
                outcome => {
                    outcome?;
                    break;
                }
            }
        }
        if let Some(manifest) = self.fs.manifest() {
            self.synced.send_modify(|synced| *synced += 1);
            if (manifest.summary().term, manifest.summary().sequence) < self.catalog.newest() {
                // Where one listing is for ever, too: this one is older than what was shown.
                self.ask();
            }
        }
        Ok(())
    }

    fn resume_from(&self, current: &Arc<Manifest>) -> Result<(), ManifestError> {
        let mut previous = self.catalog.before(current);
        if let Some(before) = &previous {
            match lost_between(before, current) {
                Ok(lost) => *self.lost.lock() = lost,
                Err(error) if error.is_damage_of(before) => {
                    self.set_aside(before, &error);
                    previous = None;
                }
                Err(error) => return Err(error),
            }
        }
        self.fs.resume(current.clone(), previous)
    }

    fn set_aside(&self, damaged: &Manifest, error: &ManifestError) {
        warn!(dataset = self.fs.name(), %error, "a manifest is set aside");
        self.catalog.set_aside(damaged);
    }

    /// Lists as soon as it can.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Lists now and waits until the result serves. The text is the failure's.
    pub async fn refresh_now(&self) -> Result<(), String> {
        let mut outcomes = self.outcomes.subscribe();
        // One that runs already may have passed the keys that the caller means: the next one counts.
        let wanted = {
            let last = outcomes.borrow_and_update();
            last.number + 1 + u64::from(last.busy)
        };
        self.asked.notify_one();
        let outcome = outcomes.wait_for(|outcome| outcome.number >= wanted).await.map_err(|_| "the node is stopping".to_owned())?;
        outcome.error.clone().map_or(Ok(()), |(_, text)| Err(text))
    }

    /// Lists whenever it is due, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = RETRY_MIN;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.until_due() => {}
            }
            self.outcomes.send_modify(|last| last.busy = true);
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.refresh() => outcome,
            };
            let failed = match &outcome {
                Ok(changes) => {
                    if *changes != Changes::default() {
                        info!(
                            dataset = self.fs.name(),
                            added = changes.added,
                            removed = changes.removed,
                            replaced = changes.replaced,
                            "synced"
                        );
                    }
                    *self.last.lock() = (Some(Instant::now()), *changes);
                    pause = RETRY_MIN;
                    None
                }
                Err(error) => Some((Trouble::from(error), chain(error))),
            };
            if let Some((_, error)) = &failed
                && self.error().as_ref() != Some(error)
            {
                // Once for each cause, not at each attempt.
                warn!(dataset = self.fs.name(), error, "listing failed; what was listed before goes on serving");
            }
            self.outcomes.send_modify(|last| *last = Outcome { number: last.number + 1, busy: false, error: failed });
            if outcome.is_err() {
                if let Some(group) = &self.group {
                    // Those after this one may stand in for it.
                    self.follow(group, &group.order().1, lead::Ask::Heirs).await;
                }
                let asked = self.asked.notified();
                tokio::select! {
                    () = stop.cancelled() => return,
                    // Whoever asks doesn't wait for the pause.
                    () = asked => self.asked.notify_one(),
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(RETRY_MAX).min(self.interval.unwrap_or(RETRY_MAX).max(RETRY_MIN));
            }
        }
    }

    /// Returns when a listing is due, and it is this node that does it.
    async fn until_due(self: &Arc<Self>) {
        match &self.group {
            Some(group) => self.until_leading(group).await,
            None => self.due().await,
        }
    }

    /// Returns when a listing is due.
    async fn due(&self) {
        if self.fs.manifest().is_none() || self.error().is_some() {
            return;
        }
        let age = self.age();
        let interval = async {
            match (self.interval, age) {
                // A manifest of an earlier run is listed anew at once, while it serves.
                (Some(_), None) => {}
                (Some(interval), Some(age)) => tokio::time::sleep(interval.saturating_sub(age)).await,
                (None, _) => std::future::pending().await,
            }
        };
        let wanted = async {
            self.fs.refresh_wanted().await;
            if let Some(age) = age {
                tokio::time::sleep(WANTED_PAUSE.saturating_sub(age)).await;
            }
        };
        tokio::select! {
            () = self.asked.notified() => {}
            () = interval => {}
            () = wanted => {}
        }
    }

    /// One listing, from the first request to serving.
    async fn refresh(self: &Arc<Self>) -> Result<Changes, RefreshError> {
        let (mut number, since) = *self.number.lock().get_or_insert_with(|| (self.fs.begin_listing(), Instant::now()));
        self.progress.running.store(true, Relaxed);
        let mut began = Instant::now();
        let listed = self.list().await;
        self.progress.running.store(false, Relaxed);
        let (path, age) = listed?;
        if let Some(group) = self.group.as_ref().filter(|_| age > since.elapsed() + CLOCKS_DIFFER) {
            // Another node began it: it knows only of what happened here before that.
            number = group.number_of(Some(age));
            began = Instant::now().checked_sub(age).unwrap_or(began);
        }
        *self.number.lock() = None;
        let this = self.clone();
        let adopted = aside::spawn(move || this.adopt(path, number)).await.map_err(|_| RefreshError::Aborted)?;
        if adopted.is_ok() {
            *self.began.lock() = Some(began);
        }
        adopted
    }

    fn adopt(&self, path: PathBuf, number: u64) -> Result<Changes, RefreshError> {
        let current = self.fs.manifest();
        let listed = Manifest::open(&path)?;
        let manifest = match current {
            // Nothing changed: the manifest that serves is as good, and cookies and pages of it stay good. Unless a node has another, newer one.
            Some(current)
                if current.summary().digest == listed.summary().digest
                    && !self.fs.is_damaged(&current)
                    && self.newest() <= self.catalog.newest() =>
            {
                drop(listed);
                if let Err(error) = std::fs::remove_file(&path) {
                    warn!(path = %path.display(), %error, "a manifest that isn't needed can't be removed");
                }
                current
            }
            Some(current) if self.fs.is_damaged(&current) => {
                // Nothing is compared with it any more, at the next start neither.
                self.catalog.set_aside(&current);
                self.catalog.accept(&path)?
            }
            Some(_) | None => self.catalog.accept(&path)?,
        };
        let adoption = self.fs.accept(manifest.clone(), number)?;
        self.free_lost(&manifest, adoption.lost)?;
        self.synced.send_modify(|synced| *synced += 1);
        Ok(Changes { added: adoption.added, removed: adoption.removed, replaced: adoption.replaced })
    }

    /// Frees what the sync before lost, and remembers what this one did.
    fn free_lost(&self, manifest: &Manifest, lost: Vec<(ContentId, ObjectRef)>) -> Result<(), ManifestError> {
        let due = std::mem::replace(&mut *self.lost.lock(), lost);
        for (id, object) in due {
            // The same version may have come back under its name.
            if manifest.find_found(id)?.is_none() {
                self.fs.reader().store().free(&object);
            }
        }
        Ok(())
    }
}

/// Object versions that `previous` had and `current` doesn't: after a restart, what the last sync of the daemon before lost is still to be freed.
fn lost_between(previous: &Manifest, current: &Manifest) -> Result<Vec<(ContentId, ObjectRef)>, ManifestError> {
    let mut lost = Vec::new();
    let mut failed = None;
    diff(previous, current, |change| {
        if failed.is_none() {
            failed = crate::fs::lost_by(previous, &change).map(|found| lost.extend(found)).err();
        }
    })?;
    failed.map_or(Ok(lost), Err)
}
