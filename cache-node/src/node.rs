//! The node: builds every part and joins them. The only place that knows all rooms.
//! Invariant: nothing here is global: a process may have several nodes, a node several data sets over one store.
//!
//! `Node::start` opens the store; `Node::add` makes a data set's filesystem from its spec; `Dataset::serve` joins it to an adopted mount;
//! `Node::stop` ends the tasks and makes the disk durable. What the command line asks is answered in `node/control.rs`.

mod control;
mod memory;
mod serve;

pub use serve::{Setup, run};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_mounter::protocol::ProtocolError;
use forebay_wire::dataset_spec::{self, Eviction, PreloadWhen, Sync, Verify};
use forebay_wire::node_config::NodeConfig;
use forebay_wire::unit::Capacity as CapacitySpec;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::access::{self, AccessError};
use crate::control::PreloadState;
use crate::fill::{Fill, FillLimits, Origin, chain};
use crate::fs::{Filesystem, Parts};
use crate::fuse::{self, FuseError, Latencies};
use crate::handover::{Adopted, Handover};
use crate::preload::Preload;
use crate::reader::Reader;
use crate::refresh::Refresh;
use crate::rules::RuleTable;
use forebay_manifest::{Catalog, Manifest, ManifestError, RemovedList};
use forebay_source::{Limits, Rates, SourceError, SourceHandle};
use forebay_store::evict::EvictionKind;
use forebay_store::{Capacity, DatasetSlot, Store, StoreConfig, StoreError, TierConfig, TierKind};
use forebay_wire::block::BlockSize;

/// Descriptors that the store may keep open; `RLIMIT_NOFILE` is 1024 where nobody raised it.
const OPEN_FILES_MAX: usize = 512;
/// How long a full or failing tier is left alone.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Expiry, `keepFreePercent`, half-empty segments.
const MAINTAIN_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("start the node: block size {bytes} is not a power of two from 64Ki to 16Mi; change `blockSize`")]
    BlockSize { bytes: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("open source of {dataset}")]
    Source {
        dataset: String,
        #[source]
        cause: SourceError,
    },
    #[error("open the manifests of {dataset}")]
    Manifest {
        dataset: String,
        #[source]
        cause: ManifestError,
    },
    #[error("data set {dataset} is already served by this node")]
    Duplicate { dataset: String },
    #[error("{op} the holder of the mount")]
    Holder {
        op: &'static str,
        #[source]
        cause: ProtocolError,
    },
    #[error(transparent)]
    Fuse(#[from] FuseError),
    #[error("start the node: told to stop before it served")]
    Stopping,
}

/// One process' cache and its data sets. Used behind an `Arc`.
pub struct Node {
    config: NodeConfig,
    block_size: BlockSize,
    store: Arc<Store>,
    fill: Arc<Fill>,
    /// What all sources together may be asked for.
    rates: Arc<Rates>,
    /// Guards which data sets there are; they themselves are shared out.
    datasets: RwLock<Vec<Arc<Dataset>>>,
    runtime: Handle,
    /// Guards the tasks that `stop` waits for.
    tasks: Mutex<JoinSet<()>>,
    stop: CancellationToken,
    started: Instant,
    latencies: Arc<Latencies>,
    /// Changes the log while running; set by whoever owns the log.
    log_level: Mutex<Option<LogLevel>>,
}

type LogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// One data set of a node, with all that keeps it going.
pub struct Dataset {
    pub fs: Arc<Filesystem>,
    pub refresh: Arc<Refresh>,
    pub preload: Arc<Preload>,
    mount_point: PathBuf,
    slot: DatasetSlot,
    sources: Vec<SourceHandle>,
    spec: dataset_spec::Dataset,
    /// Its manifests and marks, below the first disk tier.
    folder: PathBuf,
}

/// Seconds since the Unix epoch.
fn now_seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

impl Node {
    /// Opens the store's folders and starts what keeps them. `eviction` is the data set's, or the policy's. Blocks on the disk.
    pub fn start(config: NodeConfig, eviction: Eviction, runtime: Handle) -> Result<Arc<Self>, NodeError> {
        let block_size = BlockSize::new(config.block_size.bytes()).ok_or(NodeError::BlockSize { bytes: config.block_size.bytes() })?;
        let store = Arc::new(Store::open(store_config(&config, block_size, eviction))?);
        let rates = config.source_limits;
        let limits = FillLimits { fills_max: config.fills_max, buffer_bytes: config.fill_buffer.bytes() };
        let node = Arc::new(Self {
            fill: Fill::new(store.clone(), block_size, limits, runtime.clone()),
            block_size,
            store,
            rates: Rates::new(rates.max_bytes_per_second.map(|size| size.bytes()), rates.max_requests_per_second),
            config,
            datasets: RwLock::default(),
            runtime: runtime.clone(),
            tasks: Mutex::default(),
            stop: CancellationToken::new(),
            started: Instant::now(),
            latencies: Arc::default(),
            log_level: Mutex::new(None),
        });
        node.tasks.lock().spawn_on(maintain(node.store.clone(), node.stop.clone()), &runtime);
        Ok(node)
    }

    /// How the log's directives are changed.
    pub fn set_log_control(&self, change: impl Fn(&str) -> Result<(), String> + Send + 'static) {
        *self.log_level.lock() = Some(Box::new(change));
    }

    /// Makes a data set ready to be served, and begins to list and preload it. Sends nothing before it returns. Blocks on the disk.
    pub fn add(self: &Arc<Self>, spec: dataset_spec::Dataset, mount_point: &Path) -> Result<Arc<Dataset>, NodeError> {
        let name = spec.name.to_string();
        let mut handles = Vec::with_capacity(spec.sources.len());
        for source in &spec.sources {
            let access = access::resolve(source, &self.config)?;
            let limits = Limits { rates: self.rates.clone(), ..Limits::default() };
            handles.push(
                forebay_source::open(&source.location, &access, limits)
                    .map_err(|cause| NodeError::Source { dataset: name.clone(), cause })?,
            );
        }
        self.add_with(spec, mount_point, handles)
    }

    /// The same over sources that are open already, one for each of the spec's: for tests with a source of their own.
    pub fn add_with(
        self: &Arc<Self>,
        spec: dataset_spec::Dataset,
        mount_point: &Path,
        sources: Vec<SourceHandle>,
    ) -> Result<Arc<Dataset>, NodeError> {
        assert_eq!(spec.sources.len(), sources.len(), "one handle for each source");
        let name = spec.name.to_string();
        if self.datasets.read().iter().any(|dataset| dataset.fs.name() == name) {
            return Err(NodeError::Duplicate { dataset: name });
        }
        let slot = DatasetSlot::of(&name);
        let folder = self.state_folder(&spec);
        let manifests = folder.join("manifests");
        let failed = |cause| NodeError::Manifest { dataset: name.clone(), cause };
        let catalog = Arc::new(Catalog::open(&manifests).map_err(failed)?);
        let removed = RemovedList::open(&folder.join("removed")).map_err(failed)?;
        let strict = spec.verify == Verify::Strict;
        let mounted = spec.sources.iter().zip(&sources);
        let origins = mounted
            .map(|(source, handle)| (source.path.as_str().as_bytes().to_vec(), Arc::new(Origin { handle: handle.clone(), slot, strict })))
            .collect();
        let interval = match spec.sync {
            Sync::Interval(interval) => Some(interval),
            Sync::Never => None,
        };
        let fs = Filesystem::new(Parts {
            name: name.clone(),
            sources: origins,
            reader: Reader::new(self.store.clone(), self.fill.clone(), self.block_size).strict(strict),
            rules: RuleTable::new(&spec.rules),
            removed,
            permissions: spec.permissions,
            sync_interval: interval,
            serving: self.config.serving,
            passthrough_min_bytes: self.config.passthrough.then_some(self.config.passthrough_min.bytes()),
            memory_bytes: memory::limit_bytes(),
            runtime: self.runtime.clone(),
            clock: now_seconds,
        });
        let refresh = Refresh::new(fs.clone(), catalog.clone(), manifests, interval);
        if let Some(current) = catalog.current() {
            let previous = previous_of(&folder.join("manifests"), &current);
            if let Some(previous) = &previous {
                refresh.resume(previous, &current).map_err(failed)?;
            }
            fs.resume(current, previous).map_err(failed)?;
            refresh.note_resumed();
        }
        let preload = Preload::new(fs.clone(), spec.preload.max_bytes_per_second.map(|size| size.bytes()));
        let dataset =
            Arc::new(Dataset { fs, refresh: refresh.clone(), preload, mount_point: mount_point.to_owned(), slot, sources, spec, folder });
        self.datasets.write().push(dataset.clone());
        self.tasks.lock().spawn_on(refresh.run(self.stop.clone()), &self.runtime);
        self.tasks.lock().spawn_on(dataset.clone().keep_loaded(self.stop.clone()), &self.runtime);
        Ok(dataset)
    }

    pub fn datasets(&self) -> Vec<Arc<Dataset>> {
        self.datasets.read().clone()
    }
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
    pub fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }
    /// Of FUSE requests, of all sessions.
    pub fn latencies(&self) -> &Arc<Latencies> {
        &self.latencies
    }

    /// Ends listing and preloading and makes the store durable. The mounts stay: their holders keep them.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "a task of the node ended badly");
            }
        }
        let store = self.store.clone();
        if tokio::task::spawn_blocking(move || store.flush()).await.is_err() {
            warn!("the store could not be flushed; what was filled last may be fetched again after a power loss");
        }
    }

    /// Serves a data set through the mount that `adopted` gave. Returns when requests are being answered.
    pub async fn serve(&self, dataset: &Arc<Dataset>, handover: &Handover, adopted: Adopted) -> Result<fuse::Running, NodeError> {
        let past = fuse::past(&adopted);
        let passthrough = self.config.passthrough && adopted.features().passthrough;
        if !passthrough {
            dataset.fs.disable_passthrough();
        }
        dataset.fs.adopt(past);
        let options = fuse::Options { passthrough, ..fuse::Options::default() };
        let running = fuse::start(handover, adopted, dataset.fs.clone(), self.runtime.clone(), &options, self.latencies.clone())?;
        let fs = dataset.fs.clone();
        // Replays go to the session that has just begun, so it isn't waited for.
        drop(self.runtime.spawn_blocking(move || fs.replay(past)));
        Ok(running)
    }

    /// On the first disk tier: memory tiers don't outlive the machine.
    fn state_folder(&self, spec: &dataset_spec::Dataset) -> PathBuf {
        let disk = self.config.tiers.iter().find(|tier| !memory::is_tmpfs(&tier.path));
        let tier = disk.or(self.config.tiers.first()).map_or_else(|| PathBuf::from("."), |tier| tier.path.clone());
        tier.join("datasets").join(spec.name.namespace()).join(spec.name.name())
    }
}

impl Dataset {
    /// Waits for the first manifest, frees what rules forbid, then preloads as the spec says.
    async fn keep_loaded(self: Arc<Self>, stop: CancellationToken) {
        let mut synced = self.refresh.synced();
        let preload = &self.spec.preload;
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
        self.free_forbidden().await;
        let mark = self.folder.join(format!("preloaded-{}", preload.revision));
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
        let paths = self.preload_paths(once_more);
        loop {
            synced.mark_unchanged();
            let ended = self.preload.run(paths.clone(), stop.clone()).await;
            if stop.is_cancelled() {
                return;
            }
            match ended {
                Ok(progress) if progress.state == PreloadState::Done && preload.when == PreloadWhen::Once => {
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

    /// What is loaded ahead: the preload's paths, and what rules pin.
    fn preload_paths(&self, preload: bool) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        if preload {
            paths.extend(self.spec.preload.paths.iter().map(|path| path.as_str().to_owned()));
        }
        let pinned = self.spec.rules.iter().filter(|rule| rule.cache == Some(forebay_wire::rule::CacheMode::Pin));
        for path in pinned.map(|rule| rule.path.as_str()) {
            if !paths
                .iter()
                .any(|above| above == "/" || path == above || path.strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with('/')))
            {
                paths.push(path.to_owned());
            }
        }
        paths
    }

    /// Frees what was cached before a rule said `Never`.
    async fn free_forbidden(&self) {
        let never = self.spec.rules.iter().filter(|rule| rule.cache == Some(forebay_wire::rule::CacheMode::Never));
        for path in never.map(|rule| rule.path.as_str().to_owned()) {
            match self.free(path.clone(), true).await {
                Ok(freed) if freed.files > 0 => {
                    info!(dataset = self.fs.name(), path, files = freed.files, "freed what is never to be cached")
                }
                Ok(_) => {}
                Err(error) => warn!(dataset = self.fs.name(), path, error, "what is never to be cached could not be freed"),
            }
        }
    }
}

/// The newest whole manifest before `current` in the catalog's folder: cookies and notifications may be of it.
fn previous_of(folder: &Path, current: &Manifest) -> Option<Arc<Manifest>> {
    let key = |manifest: &Manifest| (manifest.summary().term, manifest.summary().sequence);
    let files = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let named = files.filter(|path| path.extension().is_some_and(|extension| extension == "manifest"));
    named.filter_map(|path| Manifest::open(&path).ok()).filter(|other| key(other) < key(current)).max_by_key(key).map(Arc::new)
}

async fn maintain(store: Arc<Store>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(MAINTAIN_INTERVAL) => {}
        }
        let store = store.clone();
        if tokio::task::spawn_blocking(move || store.maintain(now_seconds())).await.is_err() {
            warn!("the store's maintenance failed; it is tried again");
        }
    }
}

fn store_config(config: &NodeConfig, block_size: BlockSize, eviction: Eviction) -> StoreConfig {
    let tier = |tier: &forebay_wire::node_config::Tier| TierConfig {
        kind: if memory::is_tmpfs(&tier.path) { TierKind::Memory } else { TierKind::Disk },
        path: tier.path.clone(),
        capacity: match tier.capacity {
            CapacitySpec::Bytes(size) => Capacity::Bytes(size.bytes()),
            CapacitySpec::Percent(percent) => Capacity::Percent(percent.get()),
        },
        keep_free_percent: tier.keep_free.get(),
    };
    StoreConfig {
        tiers: config.tiers.iter().map(tier).collect(),
        block_size,
        passthrough_min_bytes: config.passthrough_min.bytes(),
        eviction: match eviction {
            Eviction::Hold => EvictionKind::Hold,
            Eviction::Lru => EvictionKind::Lru,
            Eviction::S3Fifo => EvictionKind::S3Fifo,
        },
        open_files_max: OPEN_FILES_MAX,
        probe_interval: PROBE_INTERVAL,
        // What the mount's page cache holds is not paid for twice.
        drop_pages_after_read: true,
    }
}
