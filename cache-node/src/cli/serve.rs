//! The hidden `serve`: the daemon behind one mount, started by its holder.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use forebay_daemon::exit::Exit;
use forebay_daemon::{logging, run};
use forebay_wire::id::NodeName;
use forebay_wire::node_config::{LogFormat, NodeConfig, Tier};

use super::failure::Failure;
use super::{folders, settings};
use crate::cluster;
use crate::node::{self, Setup};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Socket of the holder that has the mount
    #[arg(long)]
    holder: PathBuf,
    #[arg(long)]
    dataset: PathBuf,
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long)]
    mount_point: PathBuf,
    /// Folders of this mount, in the order of the config's tiers
    #[arg(long, required = true)]
    tier: Vec<PathBuf>,
}

pub(super) fn serve(args: &ServeArgs) -> Result<Exit, Failure> {
    protect()?;
    let dataset = settings::dataset(&args.dataset)?;
    let mut config = match &args.config {
        Some(path) => NodeConfig::parse(&path.display().to_string(), &settings::read(path)?)?,
        None => NodeConfig::default(),
    };
    let given = std::mem::take(&mut config.tiers);
    config.tiers = args
        .tier
        .iter()
        .enumerate()
        .map(|(index, path)| Tier { path: path.clone(), ..given.get(index).cloned().unwrap_or_default() })
        .collect();
    let log = logging::init(format(&config), &config.log.level).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let Some(folder) = args.holder.parent() else {
        return Err(Failure::new(Exit::Usage, "--holder is no path of a socket"));
    };
    let metrics = config.metrics;
    let control = folder.join("node.sock");
    let setup = Setup { dataset, config, mount_point: args.mount_point.clone(), holder: args.holder.clone(), control, log };
    run::run(metrics, |parts| node::run(setup, parts))??;
    Ok(Exit::Ok)
}

/// One node of a cache, as an operator's DaemonSet runs it. Of a policy's node file the tiers are whole folders, or patterns of them.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// The node's settings (kind: NodeConfig), with tiers
    #[arg(long)]
    config: PathBuf,
    /// Folder of this node and policy, on tmpfs, shared with the CSI driver
    #[arg(long)]
    run: PathBuf,
    /// Where the operator calls
    #[arg(long, default_value = "0.0.0.0:7070")]
    listen: SocketAddr,
    /// Folder with ca.crt, whose certificates are believed, and token, which proves to the operator which pod this is
    #[arg(long)]
    identity: PathBuf,
    /// Name of this machine, as Kubernetes knows it
    #[arg(long)]
    node: String,
    /// Where other nodes of its cache ask for blocks
    #[arg(long, requires = "cache")]
    peers: Option<SocketAddr>,
    /// The DNS name in the certificates of all nodes of its cache
    #[arg(long, requires = "peers")]
    cache: Option<String>,
}

pub(super) fn cluster(args: ClusterArgs) -> Result<Exit, Failure> {
    protect()?;
    let ClusterArgs { config, run: folder, listen, identity, node, peers, cache } = args;
    let node = NodeName::new(&node)
        .ok_or_else(|| Failure::new(Exit::Usage, format!("--node `{}` is no name of a machine in Kubernetes", node.escape_debug())))?;
    let shared = peers.zip(cache).map(|(listen, name)| cluster::SharedCache { listen, name });
    let mut config = NodeConfig::parse(&config.display().to_string(), &settings::read(&config)?)?;
    config.tiers = folders::expand_tiers(config.tiers)?;
    if config.tiers.is_empty() {
        return Err(Failure::new(Exit::Usage, "the node file names no tiers: write `tiers: [{ path: /mnt/cache }]`"));
    }
    settings::ensure_writable(&config)?;
    let log = logging::init(format(&config), &config.log.level).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let metrics = config.metrics;
    let setup = cluster::Setup { config, run: folder, listen, identity, node, shared, log };
    match run::run(metrics, |parts| cluster::run(setup, parts))?? {
        cluster::Ended::Stopped => Ok(Exit::Ok),
        cluster::Ended::StartAgain => Err(start_again()),
    }
}

/// Becomes the same program with the same arguments: the process stays, so nobody takes it for one that failed.
fn start_again() -> Failure {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let named = arguments.next();
    let program = std::env::current_exe().ok().or(named.map(PathBuf::from)).unwrap_or_default();
    let error = std::process::Command::new(&program).args(arguments).exec();
    Failure::new(Exit::Internal, format!("start {} again: {error}", program.display()))
}

fn format(config: &NodeConfig) -> logging::Format {
    match config.log.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    }
}

/// Keeps credentials in memory out of core files, and other processes of this user out of that memory.
pub(super) fn protect() -> Result<(), Failure> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
        .and_then(|()| rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable))
        .map_err(|error| Failure::new(Exit::Machine, format!("switch core files off: {error}")))
}
