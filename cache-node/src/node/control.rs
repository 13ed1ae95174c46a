//! What the command line asks, answered over all parts.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use indicatif::HumanBytes;
use tokio::sync::{oneshot, watch};
use tracing::warn;

use super::{Dataset, Node};
use crate::aside;
use crate::control::{
    Control, ControlError, DatasetStatus, DrainProgress, FailedFile, Freed, ListingStatus, ManifestStatus, MountStatus, NodeStatus,
    PeerStatus, PreloadOrder, PreloadProgress, PreloadState, Scope, TierStatus,
};
use crate::copies::Drained;
use crate::fill::chain;
use crate::fs::{Serving, for_each_below};
use crate::fuse::InForce;
use crate::peer::Neighbours;
use crate::preload::PreloadError;
use forebay_store::{Health, TooSmall};
use forebay_wire::block::BlockIndex;
use forebay_wire::id::NodeName;
use forebay_wire::unit::ByteSize;

#[async_trait]
impl Control for Node {
    async fn status(&self, scope: Scope) -> NodeStatus {
        let usage = self.store.usage();
        let cached = (usage.objects, usage.tiers.iter().map(|tier| tier.used_bytes).sum());
        let tiers = usage.tiers.iter().map(|tier| TierStatus {
            path: tier.path.display().to_string(),
            capacity_bytes: tier.capacity_bytes,
            used_bytes: tier.used_bytes,
            free_bytes: rustix::fs::statvfs(&tier.path).map_or(0, |stat| stat.f_bavail * stat.f_frsize),
            degraded: match tier.health {
                Health::Good => String::new(),
                Health::Full => "the filesystem is full: new blocks are not kept until there is room".to_owned(),
                Health::ReadOnly => "the filesystem is read-only: new blocks are not kept; remount it writable".to_owned(),
                Health::Failing => {
                    "the disk answers with errors: it is left alone and tried again now and then; look at the kernel's log".to_owned()
                }
            },
            too_small: tier.too_small.as_ref().map(too_small).unwrap_or_default(),
        });
        let served = self.datasets();
        let mut datasets: Vec<DatasetStatus> = served.iter().map(|dataset| dataset.status(cached)).collect();
        if let (Scope::Cache, Some((neighbours, _))) = (scope, &self.shared) {
            for (dataset, status) in served.iter().zip(&mut datasets) {
                status.nodes = dataset.held_by_all(neighbours).await;
            }
        }
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            tiers: tiers.collect(),
            datasets,
            peers: self.shared.as_ref().map_or_else(Vec::new, |(neighbours, _)| peers(neighbours)),
        }
    }

    async fn preload(&self, order: PreloadOrder) -> Result<BoxStream<'static, PreloadProgress>, ControlError> {
        let dataset = self.only("preload")?;
        let PreloadOrder { paths, verify } = order;
        let paths =
            if paths.is_empty() { dataset.spec().preload.paths.iter().map(|path| path.as_str().to_owned()).collect() } else { paths };
        dataset.preload.check(&paths).map_err(|error| match error {
            PreloadError::NotFound { path } => ControlError::NotFound { path },
            PreloadError::NoManifest => {
                failed("preload", "the data set's files are not listed yet; try again when `status` shows the listing done")
            }
            PreloadError::Manifest(_) | PreloadError::Aborted => failed("preload", chain(&error)),
        })?;
        let preload = dataset.preload.clone();
        preload.resume();
        preload.announce(PreloadState::Waiting);
        let (done, ended) = oneshot::channel();
        let (running, stop) = (preload.clone(), self.stop.clone());
        self.tasks.lock().spawn_on(
            async move {
                let last = match running.run(PreloadOrder { paths, verify }, stop).await {
                    Ok(last) => last,
                    Err(error) => {
                        warn!(error = %chain(&error), "preload failed");
                        running.announce(PreloadState::Failed);
                        PreloadProgress { state: PreloadState::Failed, ..PreloadProgress::default() }
                    }
                };
                // Who asked may have left.
                drop(done.send(last));
            },
            &self.runtime,
        );
        Ok(steps(preload.progress(), ended).boxed())
    }

    async fn pause_preload(&self) -> Result<(), ControlError> {
        self.only("pause the preload")?.preload.pause();
        Ok(())
    }

    async fn free(&self, paths: Vec<String>) -> Result<Freed, ControlError> {
        let dataset = self.only("free")?;
        let paths = if paths.is_empty() { vec!["/".to_owned()] } else { paths };
        let manifest = dataset.fs.manifest().ok_or_else(|| failed("free", "the data set's files are not listed yet"))?;
        for path in &paths {
            if !crate::fs::exists(&manifest, path.as_bytes()).map_err(|error| failed("free", chain(&error)))? {
                return Err(ControlError::NotFound { path: path.clone() });
            }
        }
        let mut total = Freed::default();
        for path in paths {
            let freed = dataset.free(path).await.map_err(|detail| failed("free", detail))?;
            total.files += freed.files;
            total.bytes += freed.bytes;
        }
        Ok(total)
    }

    async fn drain(&self) -> Result<BoxStream<'static, DrainProgress>, ControlError> {
        if self.shared.is_none() {
            return Err(failed("drain", "this node is the only one of its cache: nobody is there to take what it holds"));
        }
        // First, so that nothing that is filled meanwhile is missed.
        self.fill.set_draining(true);
        let (progress, steps) = watch::channel(DrainProgress::default());
        let (datasets, stop) = (self.datasets(), self.stop.clone());
        let work = async move {
            let mut total = DrainProgress::default();
            for dataset in &datasets {
                let Some(copies) = &dataset.copies else { continue };
                let (before, told) = (total, progress.clone());
                let tell = move |drained| {
                    told.send_replace(plus(before, drained));
                };
                match copies.drain(tell).await {
                    Ok(drained) => total = plus(total, drained),
                    // Without a last word.
                    Err(error) => return warn!(dataset = dataset.fs.name(), error = %chain(&error), "the drain was cut short"),
                }
            }
            progress.send_replace(DrainProgress { done: true, ..total });
        };
        let until_stopped = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        };
        self.tasks.lock().spawn_on(until_stopped, &self.runtime);
        let told = futures::stream::unfold(steps, |mut steps| async move {
            steps.changed().await.ok()?;
            let step = *steps.borrow_and_update();
            Some((step, steps))
        });
        Ok(told.boxed())
    }

    async fn refresh(&self) -> Result<(), ControlError> {
        self.only("refresh")?.refresh.refresh_now().await.map_err(|detail| failed("refresh", detail))
    }

    async fn set_log_level(&self, directives: &str) -> Result<(), ControlError> {
        match &*self.log_level.lock() {
            Some(change) => change(directives).map_err(|detail| failed("set the log level", detail)),
            None => Err(failed("set the log level", "this process can't change its log")),
        }
    }
}

/// What a run shows until it has ended, then its last word, then nothing. Ends of other runs, which this one may have waited for, are left out.
fn steps(
    progress: watch::Receiver<Option<PreloadProgress>>,
    ended: oneshot::Receiver<PreloadProgress>,
) -> impl futures::Stream<Item = PreloadProgress> {
    futures::stream::unfold(Some((progress, ended)), |state| async move {
        let (mut progress, mut ended) = state?;
        loop {
            tokio::select! {
                biased;
                // Without a last word the node is stopping.
                last = &mut ended => return Some((last.ok()?, None)),
                changed = progress.changed() => {
                    changed.ok()?;
                    let step = progress.borrow_and_update().clone();
                    if let Some(step) = step.filter(|step| matches!(step.state, PreloadState::Waiting | PreloadState::Running)) {
                        return Some((step, Some((progress, ended))));
                    }
                }
            }
        }
    })
}

/// The others that share blocks with this node, by name.
fn peers(neighbours: &Neighbours) -> Vec<PeerStatus> {
    let (view, bypassed) = (neighbours.view(), neighbours.peers().bypassed());
    let status = |(name, address): (NodeName, String)| PeerStatus { bypassed: bypassed.contains(&name), name: name.to_string(), address };
    let mut peers: Vec<PeerStatus> = view.others().map(status).collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers
}

fn plus(total: DrainProgress, drained: Drained) -> DrainProgress {
    DrainProgress {
        blocks: total.blocks + drained.blocks,
        moved: total.moved + drained.moved,
        moved_bytes: total.moved_bytes + drained.moved_bytes,
        left: total.left + drained.left,
        done: false,
    }
}

fn failed(op: &'static str, detail: impl Into<String>) -> ControlError {
    ControlError::Failed { op, detail: detail.into() }
}

impl Node {
    /// The data set of a process that serves one, as `forebay-node mount` does.
    fn only(&self, op: &'static str) -> Result<Arc<Dataset>, ControlError> {
        let datasets = self.datasets.read();
        match datasets.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(failed(op, "no data set is served")),
            [_, ..] => Err(failed(op, "several data sets are served by this process")),
        }
    }
}

impl Dataset {
    /// Frees what is cached at or below `path`.
    pub(super) async fn free(&self, path: String) -> Result<Freed, String> {
        let Some(manifest) = self.fs.manifest() else { return Ok(Freed::default()) };
        let fs = self.fs.clone();
        let free = move || {
            let mut freed = Freed::default();
            let reader = fs.reader();
            let walked = for_each_below(&manifest, path.as_bytes(), &mut |entry, _| {
                let Ok((file, _)) = fs.file_of_entry(&manifest, entry) else { return };
                let here: u64 = (0..reader.block_size().count(file.object.size))
                    .filter(|index| reader.store().contains(&file.object, BlockIndex(*index)))
                    .filter_map(|index| reader.block_size().extent(BlockIndex(index), file.object.size))
                    .map(|extent| extent.len())
                    .sum();
                if here > 0 {
                    reader.store().free(&file.object);
                    freed.files += 1;
                    freed.bytes += here;
                }
            });
            walked.map(|_| freed).map_err(|error| chain(&error))
        };
        aside::spawn(free).await.map_err(|error| error.to_string())?
    }

    fn status(&self, (cached_files, cached_bytes): (u64, u64)) -> DatasetStatus {
        let stored = self.stored();
        let statistics = self.fs.statistics();
        let manifest = self.fs.manifest();
        let progress = self.refresh.progress();
        let reader = self.fs.reader().metrics();
        let sum = |count: fn(&forebay_source::SourceMetrics) -> u64| self.sources().iter().map(|source| count(source.metrics())).sum();
        let error = self.refresh.error().unwrap_or_default();
        let mut degraded = Vec::new();
        if !error.is_empty() {
            degraded.push(format!("the source can't be listed, what was listed before is served: {error}"));
        }
        if !statistics.complete {
            degraded.push("the first listing is not complete: folders are listed on demand".to_owned());
        }
        let mut failed_files = self.preload.failed();
        failed_files.truncate(FAILED_SHOWN);
        failed_files.extend(self.fs.failures().into_iter().map(|(path, cause)| FailedFile { path, cause }));
        failed_files.truncate(FAILED_SHOWN);
        DatasetStatus {
            name: self.fs.name().to_owned(),
            mount_point: self.mount_point().display().to_string(),
            sources: self.sources().iter().map(|source| source.name().to_owned()).collect(),
            files: statistics.files,
            directories: statistics.directories,
            bytes: statistics.bytes,
            cached_files,
            cached_bytes,
            hits: reader.hits.get(),
            misses: reader.misses.get(),
            source_bytes: sum(|metrics| metrics.bytes.get()),
            source_requests: sum(|metrics| metrics.lists.get() + metrics.heads.get() + metrics.reads.get()),
            source_errors: sum(|metrics| metrics.errors.get()),
            manifest: match &manifest {
                None => ManifestStatus::default(),
                Some(manifest) => {
                    let summary = manifest.summary();
                    let age = i64::from(super::now_seconds()).saturating_sub(summary.created_seconds);
                    ManifestStatus {
                        version: format!("{:016x}", summary.digest),
                        term: summary.term,
                        sequence: summary.sequence,
                        age: Some(self.refresh.age().unwrap_or(Duration::from_secs(u64::try_from(age).unwrap_or(0)))),
                    }
                }
            },
            listing: ListingStatus {
                running: progress.running.load(Relaxed),
                keys: progress.keys.load(Relaxed),
                requests: progress.requests.load(Relaxed),
                error,
            },
            preload: self.preload.progress().borrow().clone(),
            failed_files,
            unreachable_keys: manifest.as_ref().map_or(0, |manifest| manifest.summary().problems.unreachable()),
            serving: match self.fs.serving() {
                Serving::Open => "Open".to_owned(),
                Serving::NoOpen => "NoOpen".to_owned(),
            },
            degraded,
            read_store_bytes: reader.bytes_store.get(),
            read_peer_bytes: reader.bytes_peer.get(),
            read_source_bytes: reader.bytes_source.get(),
            lister: self.refresh.lister().map_or_else(String::new, |name| name.to_string()),
            lacking_copies: self.copies.as_ref().map_or(0, |copies| copies.lacking()),
            mount: self.in_force().map(|in_force| mount(&in_force, self.fs.serving())),
            nodes: Vec::new(),
            quota_bytes: stored.terms.quota_bytes,
            stored_bytes: stored.used_bytes,
            priority: i32::from(stored.terms.priority),
        }
    }
}

fn mount(in_force: &InForce, serving: Serving) -> MountStatus {
    let without = match serving {
        Serving::Open => in_force.without_passthrough(),
        Serving::NoOpen => Some("the kernel opens by itself (serving: NoOpen) and reads from the page cache of the mount"),
    };
    MountStatus { passthrough: without.is_none(), without_passthrough: without.unwrap_or_default().to_owned(), resend: in_force.resend() }
}

fn too_small(tier: &TooSmall) -> String {
    let TooSmall { asked_bytes, total_bytes, keep_free_percent, holds_bytes } = *tier;
    let free = match keep_free_percent {
        0 => String::new(),
        percent => format!(", of which {percent} % stay free (keepFreePercent)"),
    };
    // As it was asked for, where that can be told.
    let asked = ByteSize::new(asked_bytes).map_or_else(|| asked_bytes.to_string(), |asked| asked.to_string());
    let (total, holds) = (HumanBytes(total_bytes), HumanBytes(holds_bytes));
    format!(
        "capacity asks for {asked} of a filesystem of {total}{free}: it holds {holds} at most; lower the tier's capacity, or give it a larger disk"
    )
}

/// A sample of failed files.
const FAILED_SHOWN: usize = 16;
