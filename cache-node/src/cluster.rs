//! The node as an operator runs it: what is wanted comes by `Sync`, mounts come from the CSI driver by `Attach`.
//! Knows UIDs, the run folder, the two services. Does not know Kubernetes, and what a data set is made of is `node`'s.
//! Invariant: a data set goes on being served by the last spec that could be understood, also without the operator, also after a restart.

mod certificate;
mod desired_file;
mod mounts;
mod reports;
mod sync;
mod volumes;
mod wanted;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_daemon::identity::IdentityError;
use forebay_daemon::logging::LogHandle;
use forebay_daemon::run::Parts;
use forebay_daemon::shutdown::{Shutdown, Trigger};
use forebay_wire::control_service::{Desired, SyncRequest};
use forebay_wire::dataset_spec::Eviction;
use forebay_wire::id::NodeName;
use forebay_wire::node_config::{NodeConfig, PeerNode, Peers};
use forebay_wire::secret::SourceAccess;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::fill::chain;
use crate::node::{Change, Dataset, Node, NodeError, Towards};
use crate::{control, metrics};
use certificate::Certificate;
use desired_file::DesiredFile;
use mounts::Mounts;
use reports::Reports;
use wanted::{Refused, Wanted};

/// What `forebay-node cluster` was told, checked.
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: NodeConfig,
    /// Of this node and its CachePolicy; on tmpfs, shared with the CSI driver.
    pub run: PathBuf,
    /// Where the operator calls.
    pub listen: SocketAddr,
    /// `ca.crt`: whose certificates are believed. `token`: what proves to the operator which pod this is, once it asks.
    pub identity: PathBuf,
    /// As Kubernetes knows this machine.
    pub node: NodeName,
    /// `None`: a cache of its own.
    pub shared: Option<SharedCache>,
    pub log: LogHandle,
}

/// The cache that it shares with other nodes, whose list the operator tells.
#[derive(Clone, Debug)]
pub struct SharedCache {
    /// Where the other nodes ask for blocks.
    pub listen: SocketAddr,
    /// The DNS name in the certificate of each of its nodes.
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("listen on {at}: {cause}; is another node of this policy still running here?")]
    Listen { at: String, cause: io::Error },
    #[error("serve {service}")]
    Serve {
        service: &'static str,
        #[source]
        cause: io::Error,
    },
}

/// Why `run` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    /// A spec changed in a way that only a new process can follow: the same program is to be run again, at once.
    StartAgain,
}

/// One node of a cache. Used behind an `Arc`.
struct Cluster {
    node: Arc<Node>,
    name: String,
    file: DesiredFile,
    mounts: Mounts,
    /// One `Sync` at a time changes what is served.
    turn: tokio::sync::Mutex<()>,
    /// Guards what is served and what was refused; held for memory only.
    state: Mutex<State>,
    trigger: Trigger,
    certificate: Certificate,
    /// Guards what was told of data sets; held for memory only.
    reports: Mutex<Reports>,
}

#[derive(Default)]
struct State {
    /// What was wanted last, whatever became of it; `None` before the first desired state.
    wanted: Option<SyncRequest>,
    /// By UID.
    served: BTreeMap<String, Served>,
    /// By UID, also of data sets that are served by an earlier spec.
    refused: BTreeMap<String, Refused>,
    start_again: bool,
}

impl State {
    /// Of what was wanted last; empty before.
    fn generation(&self) -> &str {
        self.wanted.as_ref().map_or("", |wanted| &wanted.generation)
    }
}

#[derive(Clone)]
struct Served {
    dataset: Arc<Dataset>,
    accesses: Vec<SourceAccess>,
    /// Nobody wants it any more; it goes when its mount does.
    is_leaving: bool,
}

/// Serves until told to stop.
pub async fn run(setup: Setup, mut parts: Parts) -> Result<Ended, ClusterError> {
    let Setup { mut config, run, listen, identity, node: name, shared, log } = setup;
    let certificate = Certificate::load(&identity, &run)?;
    config.peers = shared.map(|shared| alone(shared, &name, &run));
    parts.health.set_starting("the store");
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|cause| ClusterError::Listen { at: listen.to_string(), cause })?;
    let runtime = Handle::current();
    let towards = Towards { identity: Some(certificate.identity().clone()), ..Towards::default() };
    let node = match tokio::task::spawn_blocking(move || Node::start_towards(config, Eviction::default(), runtime, towards)).await {
        Ok(node) => node?,
        Err(_) => return Err(NodeError::Stopping.into()),
    };
    node.set_log_control(move |directives| log.set(directives).map_err(|error| chain(&error)));
    let mut registry = Registry::default();
    metrics::register(&mut registry, &node);
    parts.answer_metrics(Arc::new(registry));
    let file = DesiredFile::below(&run);
    let (mounts, ends) = Mounts::new(node.clone());
    let cluster = Arc::new(Cluster {
        mounts,
        node,
        name: name.to_string(),
        turn: tokio::sync::Mutex::default(),
        state: Mutex::default(),
        trigger: parts.trigger.clone(),
        file,
        certificate,
        reports: Mutex::default(),
    });
    if let Some(last) = cluster.file.read() {
        info!(generation = last.generation, "serving what was wanted last");
        cluster.follow(last).await;
    }
    tokio::spawn(cluster.clone().let_go_when_unmounted(ends, parts.shutdown.clone()));
    let socket = run.join("node.sock");
    let volumes = control::listen(&socket).map_err(|cause| ClusterError::Listen { at: socket.display().to_string(), cause })?;
    parts.health.set_ready();
    info!(node = cluster.name, %listen, socket = %socket.display(), "ready");
    let stop = || {
        let shutdown = parts.shutdown.clone();
        async move { shutdown.wait().await }
    };
    let (asked, told) = tokio::join!(volumes::serve(volumes, cluster.clone(), stop()), sync::serve(listener, cluster.clone(), stop()));
    // Who stops must not look like one that still has its mounts to itself: the sockets are closed, now the data may be made durable.
    cluster.node.stop().await;
    asked.map_err(|cause| ClusterError::Serve { service: "volumes", cause })?;
    told.map_err(|cause| ClusterError::Serve { service: "the operator", cause })?;
    let start_again = cluster.state.lock().start_again;
    Ok(if start_again { Ended::StartAgain } else { Ended::Stopped })
}

/// A cache of one node, until it is told of others.
fn alone(shared: SharedCache, name: &NodeName, run: &Path) -> Peers {
    let SharedCache { listen, name: cache } = shared;
    // Nobody connects to itself.
    let own = PeerNode { name: name.clone(), address: listen.to_string(), weight: None, zone: None, rack: None };
    Peers { name: name.clone(), listen, cache, certificates: certificate::folder(run), nodes: vec![own] }
}

impl Cluster {
    /// Makes what is served what `request` wants, data set by data set.
    async fn follow(self: &Arc<Self>, request: SyncRequest) {
        let _turn = self.turn.lock().await;
        self.follow_in_turn(request).await;
    }

    /// A data set that left may have been waited for twice: its cache by a finalizer, its name by one that was made again. So what is wanted is
    /// followed once more when a mount ends, without anybody saying it again.
    async fn let_go_when_unmounted(self: Arc<Self>, ends: Arc<Notify>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = ends.notified() => {}
            }
            let _turn = self.turn.lock().await;
            let again = {
                let state = self.state.lock();
                let left = state.served.iter().any(|(uid, served)| served.is_leaving && !self.mounts.is_mounted(uid));
                state.wanted.clone().filter(|_| left)
            };
            if let Some(wanted) = again {
                self.follow_in_turn(wanted).await;
            }
        }
    }

    async fn follow_in_turn(&self, request: SyncRequest) {
        let Some(request) = self.whole(request) else { return };
        let Some(desired) = &request.desired else { return };
        // First: whose a block is must be known before any is asked for.
        self.share(desired);
        let mut refused = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for row in wanted::parse(desired) {
            match row {
                Ok(row) => drop(wanted.insert(row.uid.clone(), row)),
                Err(row) => drop(refused.insert(row.uid.clone(), row)),
            }
        }
        self.node.set_eviction(Eviction::shared(wanted.values().map(|wanted| wanted.spec.eviction)));
        let known: Vec<String> = desired.datasets.iter().map(|dataset| dataset.uid.clone()).collect();
        // Names first: a data set that was made again under its name needs the place of the old one.
        self.let_go(&known).await;
        for (uid, wanted) in wanted {
            if let Err(error) = self.serve(wanted).await {
                warn!(uid, error = %chain(&error), "a data set can't be served as it is wanted");
                refused.insert(uid.clone(), Refused { uid, kind: error.kind(), sentence: chain(&error) });
            }
        }
        let mut state = self.state.lock();
        state.refused = refused;
        state.wanted = Some(request.clone());
        drop(state);
        // After it took effect: a state that stops the process isn't what it starts with.
        if let Err(error) = self.file.write(&request) {
            warn!(%error, "what is wanted can't be kept for a restart; the operator will say it again");
        }
        if self.state.lock().start_again {
            info!("starting again to follow a spec; reads wait for a moment");
            self.trigger.stop();
        }
    }

    /// `request` with all that is wanted; `None` for changes of a state that this node doesn't go by.
    fn whole(&self, mut request: SyncRequest) -> Option<SyncRequest> {
        let desired = request.desired.take()?;
        if desired.since.is_empty() {
            return Some(SyncRequest { desired: Some(desired), ..request });
        }
        let state = self.state.lock();
        let before = state.wanted.as_ref().filter(|wanted| wanted.generation == desired.since)?.desired.as_ref()?;
        Some(SyncRequest { desired: Some(desired.onto(before)), ..request })
    }

    /// Goes by the list of nodes in `desired`; one that can't be followed leaves the last one in force.
    fn share(&self, desired: &Desired) {
        if desired.peers.is_empty() {
            return;
        }
        let set = wanted::peers(desired).and_then(|nodes| self.node.set_peers(&nodes).map_err(|error| chain(&error)));
        if let Err(error) = set {
            warn!(error, "the list of the cache's nodes can't be followed; the one before it stays in force");
        }
    }

    /// Ends what is in nobody's interest and not mounted.
    async fn let_go(&self, known: &[String]) {
        let gone: Vec<(String, Served)> = {
            let mut state = self.state.lock();
            let (gone, mounted): (Vec<String>, Vec<String>) =
                state.served.keys().filter(|uid| !known.contains(uid)).cloned().partition(|uid| !self.mounts.is_mounted(uid));
            for uid in mounted {
                if let Some(served) = state.served.get_mut(&uid) {
                    served.is_leaving = true;
                }
            }
            gone.into_iter().filter_map(|uid| state.served.remove_entry(&uid)).collect()
        };
        for (uid, served) in gone {
            info!(dataset = served.dataset.fs.name(), uid, "no longer wanted: its cache is freed");
            let node = self.node.clone();
            if tokio::task::spawn_blocking(move || node.remove(&served.dataset)).await.is_err() {
                warn!(uid, "the cache of a data set that is gone could not be freed");
            }
        }
    }

    /// Serves `wanted`, or lets what is served follow it.
    async fn serve(&self, wanted: Wanted) -> Result<(), ServeError> {
        let Wanted { uid, spec, accesses } = wanted;
        let served = self.state.lock().served.get(&uid).cloned();
        let Some(served) = served else { return self.add(uid, spec, accesses).await };
        let (node, dataset, name) = (self.node.clone(), served.dataset.clone(), spec.name.to_string());
        let renewed = (served.accesses != accesses).then(|| accesses.clone());
        let change = tokio::task::spawn_blocking(move || {
            if let Some(accesses) = &renewed {
                for ((handle, source), access) in dataset.sources().iter().zip(&spec.sources).zip(accesses) {
                    handle.renew(&source.location, access).map_err(|cause| NodeError::Source { dataset: name.clone(), cause })?;
                }
                info!(dataset = name, "uses other credentials from now on");
                dataset.refresh.ask();
            }
            node.change(&dataset, spec)
        });
        let change = change.await.map_err(|_| NodeError::Stopping)??;
        let mut state = self.state.lock();
        if let Some(served) = state.served.get_mut(&uid) {
            served.accesses = accesses;
            served.is_leaving = false;
        }
        state.start_again |= change == Change::Restart;
        Ok(())
    }

    async fn add(&self, uid: String, spec: forebay_wire::dataset_spec::Dataset, accesses: Vec<SourceAccess>) -> Result<(), ServeError> {
        let name = spec.name.to_string();
        let other = self.state.lock().served.values().any(|served| served.dataset.fs.name() == name);
        if other {
            return Err(ServeError::StillMounted { dataset: name });
        }
        let (node, given, mount) = (self.node.clone(), accesses.clone(), PathBuf::from(&uid));
        let added = tokio::task::spawn_blocking(move || node.add_given(spec, &mount, &given));
        let dataset = added.await.map_err(|_| NodeError::Stopping)??;
        tokio::spawn(dataset.clone().keep_counted());
        info!(dataset = name, uid, "serving");
        self.state.lock().served.insert(uid, Served { dataset, accesses, is_leaving: false });
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{dataset} was deleted and made again while pods of this node use the old one; it is served when they have ended")]
    StillMounted { dataset: String },
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl ServeError {
    fn kind(&self) -> forebay_wire::control_service::Problem {
        use forebay_wire::control_service::Problem;
        match self {
            Self::Node(NodeError::Source { .. }) => Problem::Invalid,
            Self::Node(NodeError::Access(_)) => Problem::Reference,
            Self::StillMounted { .. } | Self::Node(_) => Problem::Node,
        }
    }
}
