//! One data set of a node: what it is made of, and what is done for it in the background, as its spec says.
//! Knows the spec's rules and preload, and keeps what its mount says of itself. Does not know how it is mounted, or other data sets.
//! Invariant: one turn at a time keeps it loaded; a spec that changes ends the turn and begins another.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use forebay_manifest::ManifestError;
use forebay_source::SourceHandle;
use forebay_store::{DatasetSlot, DatasetUsage};
use forebay_wire::block::BlockIndex;
use forebay_wire::dataset_spec::{self, PreloadWhen};
use forebay_wire::rule::CacheMode;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::aside;
use crate::control::{PreloadOrder, PreloadState};
use crate::copies::Copies;
use crate::fill::chain;
use crate::fs::{Filesystem, for_each_below};
use crate::fuse::InForce;
use crate::preload::Preload;
use crate::refresh::Refresh;
use crate::rules::{Placement, RuleTable};

use super::coverage::Walks;

/// One data set of a node, with all that keeps it going.
pub struct Dataset {
    pub fs: Arc<Filesystem>,
    pub refresh: Arc<Refresh>,
    pub preload: Arc<Preload>,
    /// `None` in a cache of one node.
    pub copies: Option<Arc<Copies>>,
    sources: Vec<SourceHandle>,
    spec: ArcSwap<dataset_spec::Dataset>,
    place: Place,
    stop: CancellationToken,
    /// Guards who keeps it loaded.
    turn: Mutex<CancellationToken>,
    /// Guards what is known of its mount; `None` without one.
    in_force: Mutex<Option<InForce>>,
    pub(super) walks: Walks,
}

/// What a data set is made of.
pub(super) struct Parts {
    pub(super) fs: Arc<Filesystem>,
    pub(super) refresh: Arc<Refresh>,
    pub(super) preload: Arc<Preload>,
    pub(super) copies: Option<Arc<Copies>>,
    pub(super) sources: Vec<SourceHandle>,
}

/// Where a data set is.
pub(super) struct Place {
    pub(super) mount_point: PathBuf,
    pub(super) slot: DatasetSlot,
    /// Its manifests and marks, below the first disk tier.
    pub(super) folder: PathBuf,
}

/// How a spec that changed takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is the same.
    None,
    /// At once.
    Live,
    /// When the process is started again, which no reader notices but by a pause.
    Restart,
}

impl Dataset {
    pub(super) fn new(parts: Parts, spec: dataset_spec::Dataset, place: Place, stop: CancellationToken) -> Self {
        let Parts { fs, refresh, preload, copies, sources } = parts;
        let turn = Mutex::new(stop.child_token());
        let (spec, in_force, walks) = (ArcSwap::from_pointee(spec), Mutex::default(), Walks::default());
        Self { fs, refresh, preload, copies, sources, spec, place, stop, turn, in_force, walks }
    }

    /// What its mount has of what kernels give; `None` without one.
    pub(super) fn in_force(&self) -> Option<InForce> {
        self.in_force.lock().clone()
    }
    pub(super) fn mounted(&self, in_force: InForce) {
        *self.in_force.lock() = Some(in_force);
    }
    pub(crate) fn unmounted(&self) {
        *self.in_force.lock() = None;
    }

    pub fn spec(&self) -> Arc<dataset_spec::Dataset> {
        self.spec.load_full()
    }
    /// For the store's accounting.
    pub fn slot(&self) -> DatasetSlot {
        self.place.slot
    }
    /// What the store holds of it, and on which terms.
    pub fn stored(&self) -> DatasetUsage {
        self.fs.reader().store().dataset_usage(self.slot())
    }
    /// The sources, in the spec's order.
    pub fn sources(&self) -> &[SourceHandle] {
        &self.sources
    }
    pub(super) fn mount_point(&self) -> &Path {
        &self.place.mount_point
    }
    pub(super) fn folder(&self) -> &Path {
        &self.place.folder
    }
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
    /// Cancelled when the data set ends.
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Keys that no path can name, at most `count`.
    pub fn unreachable_samples(&self, count: usize) -> Vec<String> {
        let Some(manifest) = self.fs.manifest() else { return Vec::new() };
        let kinds = &manifest.summary().problems.kinds;
        let unreachable = kinds.iter().filter(|(problem, _)| problem.is_unreachable());
        unreachable.flat_map(|(_, kind)| kind.samples.iter().cloned()).take(count).collect()
    }

    /// What is kept loaded as the spec is now: the preload's paths, and what rules pin.
    pub fn paths_to_load(&self) -> Vec<String> {
        let spec = self.spec();
        preload_paths(&spec, matches!(spec.preload.when, PreloadWhen::Once | PreloadWhen::Always))
    }

    /// Ends whoever keeps it loaded; the token of the next one.
    pub(super) fn next_turn(&self) -> CancellationToken {
        let mut turn = self.turn.lock();
        turn.cancel();
        *turn = self.stop.child_token();
        turn.clone()
    }

    /// Goes by `spec` from now on, if only rules, preload, quota and priority differ. Which secret a source names is its opener's business.
    pub(super) fn take(&self, spec: &dataset_spec::Dataset) -> Result<Change, ManifestError> {
        let current = self.spec();
        let mut rest = spec.clone();
        rest.rules.clone_from(&current.rules);
        rest.preload.clone_from(&current.preload);
        // The store's, of which there is one for all data sets: `Node::set_eviction`.
        rest.eviction = current.eviction;
        // The store's too: `Node::set_terms`.
        (rest.quota, rest.priority) = (current.quota, current.priority);
        rest.notes.clone_from(&current.notes);
        for (source, now) in rest.sources.iter_mut().zip(&current.sources) {
            source.secret.clone_from(&now.secret);
        }
        if rest != *current {
            return Ok(Change::Restart);
        }
        if *spec == *current {
            return Ok(Change::None);
        }
        self.fs.set_rules(RuleTable::new(&spec.rules))?;
        self.preload.set_rate(spec.preload.max_bytes_per_second.map(|size| size.bytes()));
        if !spec.preload.suspend {
            self.preload.resume();
        }
        self.spec.store(Arc::new(spec.clone()));
        Ok(Change::Live)
    }

    /// Waits for the first manifest, frees what rules forbid, then preloads as the spec says.
    pub(super) async fn keep_loaded(self: Arc<Self>, stop: CancellationToken, changed: bool) {
        let mut synced = self.refresh.synced();
        let spec = self.spec();
        let preload = &spec.preload;
        let pins = self.fs.rules().pins();
        let wanted = pins || matches!(preload.when, PreloadWhen::Once | PreloadWhen::Always);
        if wanted && !preload.suspend {
            self.preload.announce(PreloadState::Waiting);
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                arrived = synced.wait_for(|synced| *synced > 0) => if arrived.is_err() { return },
            }
            if self.fs.manifest().is_some() {
                break;
            }
        }
        if changed || self.fs.rules().forbids() {
            self.apply_rules(stop.clone(), changed).await;
        }
        let mark = self.folder().join(format!("preloaded-{}", preload.revision));
        let once_more = match preload.when {
            PreloadWhen::Always => true,
            PreloadWhen::Once => !mark.exists(),
            PreloadWhen::Never | PreloadWhen::Manual => false,
        };
        if preload.suspend || !(once_more || pins) {
            if preload.suspend && wanted {
                self.preload.announce(PreloadState::Paused);
            }
            return;
        }
        let mut order = PreloadOrder { paths: preload_paths(&spec, once_more), verify: preload.verify && once_more };
        loop {
            synced.mark_unchanged();
            let ended = self.preload.run(order.clone(), stop.clone()).await;
            // Once: what a sync finds is compared when it comes.
            order.verify = false;
            if stop.is_cancelled() {
                return;
            }
            match ended {
                // A quota that is raised lets in what it kept out: then it goes on.
                Ok(progress)
                    if progress.state == PreloadState::Done && preload.when == PreloadWhen::Once && progress.bytes_over_quota == 0 =>
                {
                    if let Err(error) = std::fs::write(&mark, b"") {
                        warn!(path = %mark.display(), %error, "a finished preload can't be noted; it is checked again after a restart");
                    }
                }
                Ok(_) => {}
                Err(error) => warn!(dataset = self.fs.name(), error = %chain(&error), "preload failed"),
            }
            if self.preload.is_paused() || (preload.when != PreloadWhen::Always && !pins) {
                return;
            }
            // What a sync finds is loaded too.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = synced.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Brings what is cached in line with the rules: what is never to be cached is freed, and if they `changed`, pins and expiries are set.
    async fn apply_rules(&self, stop: CancellationToken, changed: bool) {
        let Some(manifest) = self.fs.manifest() else { return };
        let fs = self.fs.clone();
        let walk = move || {
            let reader = fs.reader();
            let (mut freed, mut failed) = (0_u64, 0_u64);
            let walked = for_each_below(&manifest, b"/", &mut |entry, _| {
                if stop.is_cancelled() {
                    return;
                }
                let Ok((file, _)) = fs.file_of_entry(&manifest, entry) else { return };
                match file.placement {
                    Placement::Pass => {
                        let mut blocks = (0..reader.block_size().count(file.object.size)).map(BlockIndex);
                        if blocks.any(|block| reader.store().contains(&file.object, block)) {
                            reader.store().free(&file.object);
                            freed += 1;
                        }
                    }
                    Placement::Keep(admission) if changed => {
                        failed += u64::from(reader.store().readmit(&file.object, admission).is_err());
                    }
                    Placement::Keep(_) => {}
                }
            });
            walked.map(|_| (freed, failed))
        };
        match aside::spawn(walk).await {
            Ok(Ok((0, 0))) => {}
            Ok(Ok((freed, failed))) => info!(dataset = self.fs.name(), freed, failed, "brought the cache in line with the rules"),
            Ok(Err(error)) => {
                warn!(dataset = self.fs.name(), error = %chain(&error), "the cache could not be brought in line with the rules")
            }
            Err(error) => warn!(dataset = self.fs.name(), %error, "the cache could not be brought in line with the rules"),
        }
    }
}

/// What is loaded ahead: the preload's paths, and what rules pin.
fn preload_paths(spec: &dataset_spec::Dataset, preload: bool) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    if preload {
        paths.extend(spec.preload.paths.iter().map(|path| path.as_str().to_owned()));
    }
    let pinned = spec.rules.iter().filter(|rule| rule.cache == Some(CacheMode::Pin));
    for path in pinned.map(|rule| rule.path.as_str()) {
        let is_below =
            |above: &String| above == "/" || path == above || path.strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with('/'));
        if !paths.iter().any(is_below) {
            paths.push(path.to_owned());
        }
    }
    paths
}
