//! The node: builds every part and joins them. The only place that knows all rooms.
//! Invariant: nothing here is global: a process may have several nodes, a node several data sets over one store.
//!
//! `Node::start` opens the store; `Node::add` makes a data set's filesystem from its spec; `Dataset::serve` joins it to an adopted mount;
//! `Node::stop` ends the tasks and makes the disk durable. What the command line asks is answered in `node/control.rs`.

mod control;
mod coverage;
mod dataset;
mod give;
mod memory;
mod serve;
mod store;

pub use dataset::{Change, Dataset};
pub use serve::{Setup, run};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_daemon::identity::Identity;
use forebay_mounter::protocol::ProtocolError;
use forebay_peer::{DatasetId, Listener, Network, PeerLimits, Pipe, Server, ServerLimits, ServerMetrics, server};
use forebay_placement::Shelf;
use forebay_wire::dataset_spec::{self, Eviction, Location, Sync, Verify};
use forebay_wire::node_config::{NodeConfig, PeerNode, Peers};
use forebay_wire::secret::SourceAccess;
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::access::{self, AccessError};
use crate::aside;
use crate::copies::{self, Copies};
use crate::fill::{COOL_EVERY, Fill, FillLimits, Origin};
use crate::fs::{Filesystem, Parts};
use crate::fuse::{self, FuseError, Latencies};
use crate::handover::{Adopted, Handover};
use crate::peer::{self, By, Neighbours, PeerSetupError};
use crate::preload::Preload;
use crate::reader::Reader;
use crate::refresh::{Group, Refresh};
use crate::rules::RuleTable;
use forebay_manifest::{Catalog, ManifestError, RemovedList};
use forebay_source::{Limits, Rates, SourceError, SourceHandle};
use forebay_store::{DatasetSlot, Store, StoreError, Terms};
use forebay_wire::block::BlockSize;

/// Expiry, `keepFreePercent`, half-empty segments.
/// Pods of a cache start within so long of each other; and a node that is silent for so long isn't waited for.
const TAKE_OVER: Duration = Duration::from_secs(5);
const MAINTAIN_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("start the node: block size {bytes} is not a power of two from 64Ki to 16Mi; change `blockSize`")]
    BlockSize { bytes: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Peers(#[from] PeerSetupError),
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
    #[error("adopt a mount of {dataset}: the one before it is gone and its session hasn't ended; it is tried again")]
    FormerMount { dataset: String },
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
    /// The others of its cache, and what it gave them; `None` for a cache of one node.
    shared: Option<(Arc<Neighbours>, Arc<ServerMetrics>)>,
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
    /// How long this node waits for those that list before it.
    take_over: Duration,
    /// Changes the log while running; set by whoever owns the log.
    log_level: Mutex<Option<LogLevel>>,
}

type LogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// How a node meets the others of its cache.
pub struct Towards {
    /// Its patience: other than usual on machines that are busy with tests.
    pub limits: PeerLimits,
    /// What it shows; `None`: the certificates that its configuration names.
    pub identity: Option<Arc<Identity>>,
    /// How long it waits for those that list before it.
    pub take_over: Duration,
    /// A network in place of TCP and TLS, with what comes in by it; then neither a port nor a certificate is taken.
    pub brought: Option<Brought>,
}

/// A network of the same process: that of the simulation.
pub struct Brought {
    pub network: Arc<dyn Network>,
    /// Who connects, with an address for logs.
    pub arrivals: mpsc::UnboundedReceiver<(Pipe, String)>,
    /// What the nodes of the process share.
    pub shelf: Arc<Shelf>,
}

impl Default for Towards {
    fn default() -> Self {
        Self { limits: PeerLimits::default(), identity: None, take_over: TAKE_OVER, brought: None }
    }
}

/// Seconds since the Unix epoch.
fn now_seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

impl Node {
    /// Opens the store's folders and starts what keeps them. `eviction` holds until `set_eviction`. Blocks on the disk.
    pub fn start(config: NodeConfig, eviction: Eviction, runtime: Handle) -> Result<Arc<Self>, NodeError> {
        Self::start_towards(config, eviction, runtime, Towards::default())
    }

    /// The same, with another bearing towards other nodes.
    pub fn start_towards(config: NodeConfig, eviction: Eviction, runtime: Handle, towards: Towards) -> Result<Arc<Self>, NodeError> {
        let Towards { limits, identity, take_over, brought } = towards;
        let block_size = BlockSize::new(config.block_size.bytes()).ok_or(NodeError::BlockSize { bytes: config.block_size.bytes() })?;
        let store = Arc::new(Store::open(store::config(&config, block_size, eviction))?);
        let rates = config.source_limits;
        let fill_limits = FillLimits { fills_max: config.fills_max, buffer_bytes: config.fill_buffer.bytes() };
        let fill = Fill::new(store.clone(), block_size, fill_limits, runtime.clone());
        let _within = runtime.enter();
        let met = config.peers.as_ref().map(|peers| meet(peers, identity, brought)).transpose()?;
        let (listener, by) = met.unzip();
        let neighbours = config.peers.as_ref().zip(by).map(|(peers, by)| Neighbours::new(peers, by, block_size, limits)).transpose()?;
        if let Some(neighbours) = &neighbours {
            fill.share_with(neighbours.clone());
        }
        let node = Arc::new(Self {
            fill,
            shared: neighbours.map(|neighbours| (neighbours, Arc::default())),
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
            take_over,
            log_level: Mutex::new(None),
        });
        node.rates.set_share(node.fill.share());
        node.tasks.lock().spawn_on(maintain(node.store.clone(), node.stop.clone()), &runtime);
        if let Some(listener) = listener {
            node.give(listener);
        }
        if let Some((neighbours, _)) = &node.shared {
            node.tasks.lock().spawn_on(cool(neighbours.clone(), node.fill.clone(), node.stop.clone()), &runtime);
        }
        Ok(node)
    }

    /// Answers other nodes until the stop.
    fn give(self: &Arc<Self>, listener: Listener) {
        let Some((neighbours, metrics)) = &self.shared else { return };
        let server = Server {
            blocks: Arc::new(give::Gives(Arc::downgrade(self))),
            own: neighbours.introduction().clone(),
            security: neighbours.security().clone(),
            limits: ServerLimits::default(),
            metrics: metrics.clone(),
        };
        let stop = self.stop.clone();
        let running = async move { server::run(listener, server, stop.cancelled_owned()).await };
        self.tasks.lock().spawn_on(running, &self.runtime);
    }

    /// The other nodes of its cache, and what was given to them; `None` for a cache of one node.
    pub fn shared(&self) -> Option<&(Arc<Neighbours>, Arc<ServerMetrics>)> {
        self.shared.as_ref()
    }

    /// Goes by another list of nodes from now on; a list without this node changes nothing. Nothing to do in a cache of one node.
    pub fn set_peers(&self, nodes: &[PeerNode]) -> Result<(), PeerSetupError> {
        let Some((neighbours, _)) = &self.shared else { return Ok(()) };
        neighbours.set(nodes)?;
        self.rates.set_share(neighbours.share());
        for dataset in self.datasets() {
            self.set_terms(dataset.slot(), &dataset.spec());
        }
        Ok(())
    }

    /// How the log's directives are changed.
    pub fn set_log_control(&self, change: impl Fn(&str) -> Result<(), String> + Send + 'static) {
        *self.log_level.lock() = Some(Box::new(change));
    }

    /// Makes a data set ready to be served, and begins to list and preload it. Sends nothing before it returns. Blocks on the disk.
    pub fn add(self: &Arc<Self>, spec: dataset_spec::Dataset, mount_point: &Path) -> Result<Arc<Dataset>, NodeError> {
        let accesses = spec.sources.iter().map(|source| access::resolve(source, &self.config)).collect::<Result<Vec<_>, _>>()?;
        self.add_given(spec, mount_point, &accesses)
    }

    /// The same with what its sources need, one for each of the spec's.
    pub fn add_given(
        self: &Arc<Self>,
        spec: dataset_spec::Dataset,
        mount_point: &Path,
        accesses: &[SourceAccess],
    ) -> Result<Arc<Dataset>, NodeError> {
        assert_eq!(spec.sources.len(), accesses.len(), "one access for each source");
        let open = |(source, access): (&dataset_spec::SourceSpec, &SourceAccess)| {
            let limits = Limits { rates: self.rates.clone(), ..Limits::default() };
            forebay_source::open(&source.location, access, limits)
                .map_err(|cause| NodeError::Source { dataset: spec.name.to_string(), cause })
        };
        let handles = spec.sources.iter().zip(accesses).map(open).collect::<Result<Vec<_>, _>>()?;
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
        self.set_terms(slot, &spec);
        let folder = self.state_folder(&spec);
        let manifests = folder.join("manifests");
        let failed = |cause| NodeError::Manifest { dataset: name.clone(), cause };
        let catalog = Arc::new(Catalog::open(&manifests).map_err(failed)?);
        let removed = RemovedList::open(&folder.join("removed")).map_err(failed)?;
        let strict = spec.verify == Verify::Strict;
        let dataset = DatasetId::new(&name).expect("two DNS labels and a `/`");
        let mounted = spec.sources.iter().zip(&sources);
        let origin = |(source, handle): (&dataset_spec::SourceSpec, &SourceHandle)| {
            let identity = identity(&name, source, handle);
            let origin = Origin { handle: handle.clone(), identity, slot, dataset: dataset.clone(), strict };
            (source.path.as_str().as_bytes().to_vec(), Arc::new(origin))
        };
        let origins = mounted.map(origin).collect();
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
        let group = self.shared.as_ref().map(|(neighbours, _)| Group::new(neighbours.clone(), dataset, self.take_over));
        let refresh = Refresh::new(fs.clone(), catalog, manifests, interval, group);
        refresh.resume().map_err(failed)?;
        let preload = Preload::new(fs.clone(), spec.preload.max_bytes_per_second.map(|size| size.bytes()));
        let stop = self.stop.child_token();
        let place = dataset::Place { mount_point: mount_point.to_owned(), slot, folder };
        let copies = self.shared.as_ref().map(|(neighbours, _)| Copies::new(fs.clone(), neighbours.clone()));
        if let Some(copies) = &copies {
            self.tasks.lock().spawn_on(copies.clone().run(refresh.synced(), stop.clone()), &self.runtime);
        }
        let parts = dataset::Parts { fs, refresh: refresh.clone(), preload, copies, sources };
        let dataset = Arc::new(Dataset::new(parts, spec, place, stop.clone()));
        self.datasets.write().push(dataset.clone());
        self.tasks.lock().spawn_on(refresh.run(stop), &self.runtime);
        self.keep_loaded(&dataset, false);
        Ok(dataset)
    }

    /// Begins, or begins anew, to keep a data set as its spec says.
    fn keep_loaded(&self, dataset: &Arc<Dataset>, changed: bool) {
        let turn = dataset.next_turn();
        let mut tasks = self.tasks.lock();
        // What has ended needn't be waited for at the stop.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(dataset.clone().keep_loaded(turn, changed), &self.runtime);
    }

    /// Lets a data set follow another spec of the same name, at once where it can.
    pub fn change(self: &Arc<Self>, dataset: &Arc<Dataset>, spec: dataset_spec::Dataset) -> Result<Change, NodeError> {
        let failed = |cause| NodeError::Manifest { dataset: spec.name.to_string(), cause };
        let change = dataset.take(&spec).map_err(failed)?;
        self.set_terms(dataset.slot(), &dataset.spec());
        if change == Change::Live {
            self.keep_loaded(dataset, true);
        }
        Ok(change)
    }

    /// Ends a data set that nobody has mounted and frees what is cached of it. Blocks on the disk; O(objects of the store).
    pub fn remove(&self, dataset: &Arc<Dataset>) {
        dataset.stop();
        self.datasets.write().retain(|other| !Arc::ptr_eq(other, dataset));
        self.store.free_dataset(dataset.slot());
        self.store.set_terms(dataset.slot(), Terms::default());
        if let Err(error) = std::fs::remove_dir_all(dataset.folder())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(dataset = dataset.fs.name(), %error, "the list of a data set that is gone stays on the disk");
        }
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
        if aside::spawn(move || store.flush()).await.is_err() {
            warn!("the store could not be flushed; what was filled last may be fetched again after a power loss");
        }
    }

    /// Serves a data set through the mount that `adopted` gave. Returns when requests are being answered.
    pub async fn serve(&self, dataset: &Arc<Dataset>, handover: &Handover, adopted: Adopted) -> Result<fuse::Running, NodeError> {
        let past = fuse::past(&adopted);
        if !(self.config.passthrough && adopted.features().passthrough) {
            dataset.fs.disable_passthrough();
        }
        dataset.fs.adopt(past);
        let options = fuse::Options { passthrough: self.config.passthrough, ..fuse::Options::default() };
        let running = fuse::start(handover, adopted, dataset.fs.clone(), self.runtime.clone(), &options, self.latencies.clone())?;
        dataset.mounted(running.in_force().clone());
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

/// What tells the objects of one source from all others that a node or a cache may hold.
fn identity(dataset: &str, source: &dataset_spec::SourceSpec, handle: &SourceHandle) -> String {
    let at = match &source.location {
        Location::S3(s3) => s3.endpoint.as_deref(),
        Location::File(_) => None,
    };
    match at {
        Some(endpoint) => format!("{} at {endpoint} for {dataset}", handle.name()),
        None => format!("{} for {dataset}", handle.name()),
    }
}

/// Where others come in, and how this node gets to them. Takes the port. Within a runtime.
fn meet(peers: &Peers, identity: Option<Arc<Identity>>, brought: Option<Brought>) -> Result<(Listener, By), PeerSetupError> {
    if let Some(Brought { network, arrivals, shelf }) = brought {
        return Ok((Listener::Brought(arrivals), By::Brought { network, shelf }));
    }
    let listener = peer::listen(peers)?;
    let at = peers.listen.to_string();
    let listener = TcpListener::from_std(listener).map_err(|cause| PeerSetupError::Listen { at, cause })?;
    Ok((listener.into(), By::Tls(identity)))
}

async fn maintain(store: Arc<Store>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(MAINTAIN_INTERVAL) => {}
        }
        let store = store.clone();
        if aside::spawn(move || store.maintain(now_seconds())).await.is_err() {
            warn!("the store's maintenance failed; it is tried again");
        }
    }
}

/// Drops what was lent to this node and is read no more.
async fn cool(neighbours: Arc<Neighbours>, fill: Arc<Fill>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(COOL_EVERY) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = copies::cool(&neighbours, &fill, Instant::now()) => {}
        }
    }
}
