//! The hidden `serve`: the daemon behind one mount, started by its holder.

use std::path::PathBuf;

use clap::Args;
use forebay_daemon::exit::Exit;
use forebay_daemon::{logging, run};
use forebay_wire::node_config::{LogFormat, NodeConfig, Tier};

use super::failure::Failure;
use super::settings;
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
    let format = match config.log.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    let log = logging::init(format, &config.log.level).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let Some(folder) = args.holder.parent() else {
        return Err(Failure::new(Exit::Usage, "--holder is no path of a socket"));
    };
    let metrics = config.metrics;
    let control = folder.join("node.sock");
    let setup = Setup { dataset, config, mount_point: args.mount_point.clone(), holder: args.holder.clone(), control, log };
    run::run(metrics, |parts| node::run(setup, parts))??;
    Ok(Exit::Ok)
}

/// Keeps credentials in memory out of core files, and other processes of this user out of that memory.
pub(super) fn protect() -> Result<(), Failure> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
        .and_then(|()| rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable))
        .map_err(|error| Failure::new(Exit::Machine, format!("switch core files off: {error}")))
}
