//! Builds the parts of one daemon and joins them: store, sources, manifest, filesystem, session, control.
//! The one place that knows all rooms. Owner: `fs`; this is the contract that `cli/serve.rs` calls.

use std::path::PathBuf;

use forebay_daemon::exit::Exit;
use forebay_daemon::logging::LogHandle;
use forebay_daemon::run::Parts;
use forebay_wire::dataset_spec::Dataset;
use forebay_wire::node_config::NodeConfig;

use crate::access::AccessError;
use crate::source::SourceError;
use crate::store::StoreError;

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

/// Why a daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{op}: {detail}")]
    Failed { op: &'static str, detail: String, exit: Exit },
}

/// Adopts the mount and serves it until `parts.shutdown`, or until the mount is gone.
pub async fn run(_setup: Setup, _parts: Parts) -> Result<(), NodeError> {
    todo!()
}
