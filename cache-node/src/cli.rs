//! The command line: the only place that reads flags and the environment.
//! Knows what a user may ask. Does not know how a mount works: `holder`, `control` and `node` do.
//! Invariant: whatever fails ends with a message that names what to do, and a code of `daemon::exit`.

mod commands;
mod failure;
mod folders;
mod mount;
mod output;
mod serve;
mod settings;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use forebay_daemon::exit::Exit;
use forebay_daemon::flags;
use forebay_mounter::run_folder::RunRoot;

use crate::control::PreloadOrder;

const EXAMPLES: &str = "\
Examples:
  forebay-node doctor dataset.yaml            what this machine gives and lacks, before the first mount
  forebay-node mount dataset.yaml ./data      the bucket as a folder; returns when it can be read
  forebay-node status                         what is mounted, how much of it is here
  forebay-node preload ./data /train          load a folder ahead of use
  forebay-node unmount ./data

The shortest dataset.yaml:
  apiVersion: forebay.dev/v1alpha1
  kind: Dataset
  metadata: { name: imagenet }
  spec: { source: \"s3://imagenet/train/\" }

Exit codes: 0 well; 1 doctor, preload or drain found something; 64 command line or file wrong; 66 bucket, folder or mount not there;
69 source or daemon can't be reached; 70 a bug, please report it; 71 the machine lacks something; 73 folder can't be used;
74 disk fails; 75 in use, try again; 77 credentials refused, a permission missing, or an object archived.";

/// A bucket as a local folder, at local speed.
#[derive(Debug, Parser)]
#[command(name = "forebay-node", version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount a data set as a folder
    #[command(after_help = MOUNT_EXAMPLES)]
    Mount(MountArgs),
    /// Unmount a folder; one that is in use stays, and its users are named
    #[command(visible_alias = "umount")]
    Unmount {
        /// The folder that was given to `mount`
        mount_point: PathBuf,
    },
    /// Load files ahead of use, and show how far it is
    #[command(
        after_help = "Examples:\n  forebay-node preload ./data                 what the Dataset's preload names, or everything\n  forebay-node preload ./data /train /val     two folders of it\n  forebay-node preload ./data --pause         stop loading; what is here stays\n\nStopping this command doesn't stop the load. Files that fail are tried once more at the end, then listed."
    )]
    Preload {
        mount_point: PathBuf,
        /// Paths of the data set, from `/`
        paths: Vec<String>,
        /// End the load that goes on; the same command without it goes on from there
        #[arg(long, conflicts_with = "paths")]
        pause: bool,
        /// Also read what is cached already and compare it with its checksums; what differs is loaded anew
        #[arg(long, conflicts_with = "pause")]
        verify: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what is mounted and how well it is cached
    Status {
        /// Only this mount
        mount_point: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Drop files from the cache; the source is never touched
    #[command(after_help = "Examples:\n  forebay-node free ./data /train/old\n  forebay-node free ./data /                  everything")]
    Free {
        mount_point: PathBuf,
        /// Paths of the data set, from `/`
        #[arg(required = true)]
        paths: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Move what no other node of the cache has to the others, before this one is taken away
    #[command(
        after_help = "Example:\n  forebay-node drain ./data && forebay-node unmount ./data\n\nUntil the daemon ends, what it fills goes to the next node too. Exit code 1: some blocks found no room elsewhere and are read from the source\nwhen this node is gone."
    )]
    Drain {
        mount_point: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the source again now instead of at the next interval
    Refresh { mount_point: PathBuf },
    /// Change what a running daemon logs
    #[command(
        after_help = "Examples:\n  forebay-node log-level ./data debug\n  forebay-node log-level ./data info,forebay_node::fill=trace"
    )]
    LogLevel { mount_point: PathBuf, directives: String },
    /// Tell what this machine gives and lacks, and what to do about it
    Doctor {
        /// Also check this Dataset: its source, credentials, clock and size
        dataset: Option<PathBuf>,
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// One node of a cluster's cache; started by the operator's DaemonSet
    #[command(hide = true)]
    Cluster(serve::ClusterArgs),
    /// What this node of a cluster holds and how well it serves, as JSON; `kubectl forebay` runs it in the node's pod
    #[command(hide = true)]
    Report {
        /// The folder that `cluster` was given
        #[arg(long)]
        run: PathBuf,
    },
    /// The folders of a node's tiers, before it starts without privileges
    #[command(hide = true)]
    PrepareFolders(folders::PrepareFoldersArgs),
    /// The daemon; started by the holder
    #[command(hide = true)]
    Serve(serve::ServeArgs),
    /// The process that keeps the mount; started by `mount`
    #[command(hide = true)]
    Holder {
        #[arg(long)]
        folder: PathBuf,
    },
}

const MOUNT_EXAMPLES: &str = "\
Examples:
  forebay-node mount dataset.yaml ./data
  forebay-node mount dataset.yaml ./data --cache-dir /mnt/nvme/forebay
  forebay-node mount dataset.yaml /data --config node.yaml --foreground    for a service manager

Credentials: the Dataset's secretRef names a folder below `secrets` of the node's config file; without one, what the provider's own
tools would use (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, the machine's role).";

#[derive(Debug, Args)]
struct MountArgs {
    /// The Dataset file
    dataset: PathBuf,
    /// An empty folder
    mount_point: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
    /// Stay in the foreground; SIGTERM or Ctrl-C unmounts
    #[arg(long)]
    foreground: bool,
    /// Don't ask the source first: mount what is cached while the source is away
    #[arg(long)]
    offline: bool,
    /// Replace a daemon that lives and answers nothing for so long; one that waits for its source does answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    hung_after: u64,
    #[command(flatten)]
    output: OutputArgs,
}

/// What tells where the cache lies.
#[derive(Clone, Debug, Args)]
struct NodeArgs {
    /// The node's own settings (kind: NodeConfig)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for cached data, instead of the config's tiers [default: $XDG_CACHE_HOME/forebay, as root /var/cache/forebay]
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Args)]
struct OutputArgs {
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// What is read from the environment, once.
#[derive(Clone, Debug)]
struct Environment {
    run: RunRoot,
    /// Below it each data set has a folder of its own.
    cache: Option<PathBuf>,
}

impl Environment {
    fn read() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from).filter(|path| path.is_absolute());
        let root = rustix::process::geteuid();
        let cache = variable("XDG_CACHE_HOME").or_else(|| match root.is_root() {
            true => Some(PathBuf::from("/var/cache")),
            false => variable("HOME").map(|home| home.join(".cache")),
        });
        Self {
            run: RunRoot::choose(variable("FOREBAY_RUN"), root.as_raw(), variable("XDG_RUNTIME_DIR")),
            cache: cache.map(|folder| folder.join("forebay")),
        }
    }
}

/// The whole program. To be called before the process has other threads: a holder needs the signals for itself.
pub fn main() -> Exit {
    let cli: Cli = match flags::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    if matches!(&cli.command, Command::Mount(args) if args.foreground) {
        crate::holder::close_inherited();
    }
    let environment = Environment::read();
    let result = match cli.command {
        Command::Mount(args) => mount::mount(&environment, &args),
        Command::Unmount { mount_point } => mount::unmount(&environment, &mount_point),
        Command::Preload { mount_point, pause: true, .. } => commands::pause_preload(&environment, &mount_point),
        Command::Preload { mount_point, paths, pause: false, verify, output } => {
            commands::preload(&environment, &mount_point, PreloadOrder { paths, verify }, output.output)
        }
        Command::Status { mount_point, output } => commands::status(&environment, mount_point.as_deref(), output.output),
        Command::Free { mount_point, paths, output } => commands::free(&environment, &mount_point, paths, output.output),
        Command::Drain { mount_point, output } => commands::drain(&environment, &mount_point, output.output),
        Command::Refresh { mount_point } => commands::refresh(&environment, &mount_point),
        Command::LogLevel { mount_point, directives } => commands::log_level(&environment, &mount_point, directives),
        Command::Doctor { dataset, node, output } => commands::doctor(&environment, dataset.as_deref(), &node, output.output),
        Command::Cluster(args) => serve::cluster(args),
        Command::Report { run } => commands::report(&run),
        Command::PrepareFolders(args) => folders::prepare_folders(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Holder { folder } => mount::hold(&folder),
    };
    match result {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit
        }
    }
}

#[cfg(test)]
mod tests;
