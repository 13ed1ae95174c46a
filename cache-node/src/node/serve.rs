//! One daemon's life: adopt the mount, build the node, answer until told to stop or until the mount is gone.

use std::path::PathBuf;
use std::sync::Arc;

use forebay_daemon::logging::LogHandle;
use forebay_daemon::run::Parts;
use forebay_wire::dataset_spec::Dataset;
use forebay_wire::node_config::NodeConfig;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::{Node, NodeError};
use crate::control;
use crate::fill::chain;
use crate::handover::Handover;
use crate::metrics;

/// What `forebay-node serve` was told, checked.
#[derive(Clone, Debug)]
pub struct Setup {
    pub dataset: Dataset,
    /// Its tiers are this mount's own folders, at least one.
    pub config: NodeConfig,
    pub mount_point: PathBuf,
    /// Socket of the holder that has the mount.
    pub holder: PathBuf,
    /// Where `control::serve` is to listen.
    pub control: PathBuf,
    /// For `Control::set_log_level`.
    pub log: LogHandle,
}

/// Adopts the mount and serves it until `parts.shutdown`, or until the mount is gone.
pub async fn run(setup: Setup, mut parts: Parts) -> Result<(), NodeError> {
    let Setup { dataset: spec, config, mount_point, holder, control: socket, log } = setup;
    parts.health.set_starting("the store");
    let runtime = Handle::current();
    // The parts read disks when they start.
    let (node, dataset) = blocking(move || {
        let node = Node::start(config, spec.eviction, runtime)?;
        let dataset = node.add(spec, &mount_point)?;
        Ok((node, dataset))
    })
    .await?;
    node.set_log_control(move |directives| log.set(directives).map_err(|error| chain(&error)));
    let mut registry = Registry::default();
    metrics::register(&mut registry, &node);
    parts.answer_metrics(Arc::new(registry));
    parts.health.set_starting("the mount");
    let (handover, adopted) = blocking(move || {
        let handover = Handover::connect(&holder).map_err(|cause| NodeError::Holder { op: "connect to", cause })?;
        let adopted = handover.adopt().map_err(|cause| NodeError::Holder { op: "adopt the mount from", cause })?;
        Ok((handover, adopted))
    })
    .await?;
    // Before the holder hears that this daemon is ready: whoever mounts may ask at once.
    let listener = control::listen(&socket);
    let mut running = node.serve(&dataset, &handover, adopted).await?;
    let (asked, shutdown) = (node.clone(), parts.shutdown.clone());
    let server = tokio::spawn(async move {
        let served = match listener {
            Ok(listener) => control::serve(listener, asked, async move { shutdown.wait().await }).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            warn!(%error, "the command line can't ask this daemon anything");
        }
    });
    parts.health.set_ready();
    info!(dataset = dataset.fs.name(), "serving");
    let ended = tokio::select! {
        () = parts.shutdown.wait() => Ok(()),
        ended = running.ended() => ended.map_err(NodeError::from),
    };
    node.stop().await;
    server.abort();
    info!(dataset = dataset.fs.name(), "stopped; the mount stays with its holder");
    ended
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, NodeError> + Send + 'static) -> Result<T, NodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(NodeError::Stopping),
        },
    }
}
