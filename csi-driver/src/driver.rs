//! The parts of the driver, built and joined; only here.
//! Knows the order of start: what the process before left is locked, then kubelet is answered, then the mounts are taken back.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_daemon::logging::chain;
use forebay_daemon::run::Parts;
use forebay_daemon::shutdown::Shutdown;
use forebay_wire::csi::identity_server::IdentityServer;
use forebay_wire::csi::node_server::NodeServer;
use forebay_wire::csi::registration::registration_server::RegistrationServer;
use prometheus_client::registry::Registry;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::attach::Limits;
use crate::cache_node::CacheNodes;
use crate::error::Error;
use crate::identity::IdentityService;
use crate::kubelet::Kubelet;
use crate::locks::Locks;
use crate::metrics::Metrics;
use crate::node::NodeService;
use crate::registration::{self, RegistrationService};
use crate::session::{Common, NodeUser, Places};
use crate::sessions::Sessions;

/// How often sessions that nobody uses are looked for; usually they end with their last unpublish.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What the command line says, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: PathBuf,
    pub(crate) node_id: String,
    pub(crate) kubelet_folder: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) nodes_folder: PathBuf,
    pub(crate) node_user: Option<NodeUser>,
    pub(crate) passthrough: bool,
    pub(crate) hung_after: Duration,
    pub(crate) adopt_within: Duration,
    pub(crate) give_back_within: Duration,
}

/// Serves until told to stop. Mounts stay: the next process takes them back.
pub(crate) async fn run(settings: Settings, mut parts: Parts) -> Result<(), Error> {
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::register(&mut registry));
    if let Some(address) = parts.answer_metrics(Arc::new(registry)) {
        tracing::info!(%address, "metrics");
    }
    let places = Places::open(&settings.state, &settings.nodes_folder, settings.node_user)?;
    let kubelet = Kubelet::open(&settings.kubelet_folder, &settings.state).map_err(Error::io("open", &settings.kubelet_folder))?;
    let kubelet = Arc::new(kubelet);
    let common = Common {
        places,
        nodes: CacheNodes::new(&settings.nodes_folder),
        limits: Limits { hung_after: settings.hung_after, adopt_within: settings.adopt_within },
        passthrough: settings.passthrough,
        metrics: Arc::clone(&metrics),
    };
    let sessions = Sessions::new(common, Arc::clone(&kubelet));
    let left = sessions.left_over().await;

    let csi = listen(&settings.endpoint)?;
    let node = NodeService {
        node_id: settings.node_id,
        kubelet: Arc::clone(&kubelet),
        sessions: Arc::clone(&sessions),
        locks: Arc::new(Locks::default()),
        metrics,
    };
    let answer = Server::builder()
        .add_service(IdentityServer::new(IdentityService { health: Arc::clone(&parts.health) }))
        .add_service(NodeServer::new(node))
        .serve_with_incoming_shutdown(UnixListenerStream::new(csi), stop(&parts.shutdown));
    let answering = tokio::spawn(answer);

    parts.health.set_starting("mounts of the process before are taken back");
    sessions.recover(left, Instant::now() + settings.give_back_within).await;
    let socket = registration::socket(&settings.kubelet_folder);
    let register = Server::builder()
        .add_service(RegistrationServer::new(RegistrationService { endpoint: settings.endpoint.clone() }))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listen(&socket)?), stop(&parts.shutdown));
    let registering = tokio::spawn(register);
    parts.health.set_ready();
    tracing::info!(endpoint = %settings.endpoint.display(), "ready");

    tokio::spawn(sweep(Arc::clone(&sessions), parts.shutdown.clone()));
    let answered = answering.await;
    parts.trigger.stop();
    drop(registering.await);
    // A socket that stays would have kubelet wait for nobody.
    for socket in [&socket, &settings.endpoint] {
        drop(std::fs::remove_file(socket));
    }
    match answered {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::Broken { detail: format!("answer kubelet: {}", chain(&error)) }),
        Err(error) => Err(Error::Broken { detail: error.to_string() }),
    }
}

async fn sweep(sessions: Arc<Sessions>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => sessions.sweep().await,
        }
    }
}

fn stop(shutdown: &Shutdown) -> impl Future<Output = ()> + Send + 'static {
    let shutdown = shutdown.clone();
    async move { shutdown.wait().await }
}

/// A socket for root alone; a dead one there is replaced.
fn listen(socket: &Path) -> Result<UnixListener, Error> {
    let failed = |cause: io::Error| Error::io("listen on", socket)(cause);
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
