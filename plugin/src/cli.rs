//! The command line: the only place that reads flags and writes to the terminal.
//! Knows what a user may ask. Does not know how it is found out.
//! Invariant: whatever fails ends with a message that names what to do, and a code of `daemon::exit`.

mod ask;
mod set;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use forebay_daemon::exit::Exit;
use forebay_daemon::flags;
use forebay_wire::id::DatasetPath;
use forebay_wire::unit::ByteSize;

use crate::change::Change;
use crate::cluster::{Cluster, Place};
use crate::error::Error;
use crate::names;

const EXAMPLES: &str = "\
Examples:
  kubectl forebay status                      every data set of the namespace, one line each
  kubectl forebay status imagenet --watch     one of them, node by node, with rates
  kubectl forebay doctor imagenet             why it isn't warm, why a mount failed, and what to do
  kubectl forebay preload imagenet --path /train --wait
  kubectl forebay pin imagenet /train --max-bytes 2Ti
  kubectl forebay free imagenet /raw

Exit codes: 0 well; 1 doctor found something, or some files of a preload failed; 64 the command line is wrong, or the API server refuses the
change; 66 the data set isn't there; 69 the cluster can't be reached; 75 try again; 77 a right is missing.";

/// Data sets of a cluster: how they are, why, and what to load and keep.
#[derive(Debug, Parser)]
#[command(name = "kubectl-forebay", bin_name = "kubectl forebay", version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// Namespace of the data sets [default: the context's]
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    context: Option<String>,
    /// Where Forebay itself runs
    #[arg(long, global = true, value_name = "NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    forebay_namespace: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how data sets are: files, size, how much is cached and warm, each node's part and rates
    #[command(
        after_help = "The nodes' own figures are asked for in their pods, as `kubectl exec` would: that needs the right `pods/exec` in Forebay's namespace.\nWithout it the Dataset's status is shown, which is at most 30 s old."
    )]
    Status(StatusArgs),
    /// Tell why a data set isn't warm or a mount failed, and what to do; exit code 1 when something is wrong
    Doctor(DoctorArgs),
    /// Load a data set, or parts of it, ahead of use: sets spec.preload
    #[command(after_help = "What is loaded already isn't fetched again. Stopping this command doesn't stop the load.")]
    Preload(PreloadArgs),
    /// Load what is below a path ahead of use and keep it, whatever else is read: sets a rule
    Pin {
        name: String,
        /// From `/`
        #[arg(value_parser = path)]
        path: DatasetPath,
        /// Keep a stable part of this size, such as 2Ti
        #[arg(long, value_name = "QUANTITY", value_parser = size)]
        max_bytes: Option<String>,
    },
    /// Take a pin away; what is cached stays until its room is needed
    Unpin {
        name: String,
        #[arg(value_parser = path)]
        path: DatasetPath,
    },
    /// Free what is cached below a path and cache no more of it; the source is never touched
    Free {
        name: String,
        #[arg(value_parser = path)]
        path: DatasetPath,
        /// Let it be cached again
        #[arg(long)]
        undo: bool,
    },
    /// Show this plugin's version
    Version,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Only this data set, in full
    name: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
    /// Show it again and again
    #[arg(short, long)]
    watch: bool,
    /// How far apart the two looks are that a rate is made of
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// Don't ask the nodes: only what the Dataset's status says
    #[arg(long)]
    no_live: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// Only this data set
    name: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct PreloadArgs {
    name: String,
    /// What to load, from `/`; may be repeated [default: what spec.preload.paths says, else everything]
    #[arg(long = "path", value_name = "PATH", value_parser = path)]
    paths: Vec<DatasetPath>,
    /// A limit, such as 200Mi
    #[arg(long, value_name = "QUANTITY", value_parser = size)]
    max_bytes_per_second: Option<String>,
    /// Stay until it is done; exit code 1 when files failed
    #[arg(long)]
    wait: bool,
    /// Stop loading; what is loaded stays, and `preload` goes on
    #[arg(long, conflicts_with_all = ["paths", "max_bytes_per_second", "wait"])]
    pause: bool,
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

fn path(text: &str) -> Result<DatasetPath, String> {
    DatasetPath::new(text).ok_or_else(|| "a path of the data set begins with `/`, without `..` or empty parts, as in /train".to_owned())
}

/// The text stays as it was given: that is what `kubectl get` shows then.
fn size(text: &str) -> Result<String, String> {
    match text.parse::<ByteSize>() {
        Ok(size) if size.bytes() == 0 => Err("it is 0: leave it out for no limit".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub fn main() -> Exit {
    let cli: Cli = match flags::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return Exit::Machine;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit()
        }
    }
}

async fn run(cli: Cli) -> Result<Exit, Error> {
    let Cli { command, place } = cli;
    let all_namespaces = match &command {
        Command::Status(StatusArgs { all_namespaces, .. }) | Command::Doctor(DoctorArgs { all_namespaces, .. }) => *all_namespaces,
        Command::Preload(_) | Command::Pin { .. } | Command::Unpin { .. } | Command::Free { .. } | Command::Version => false,
    };
    if matches!(command, Command::Version) {
        println!("kubectl-forebay {}", env!("CARGO_PKG_VERSION"));
        return Ok(Exit::Ok);
    }
    let PlaceArgs { namespace, kubeconfig, context, forebay_namespace } = place;
    let place = Place { kubeconfig, context, namespace, all_namespaces, system: forebay_namespace };
    let cluster = Cluster::connect(place).await?;
    match command {
        Command::Status(args) => ask::status(&cluster, &args).await,
        Command::Doctor(args) => ask::doctor(&cluster, &args).await,
        Command::Preload(PreloadArgs { name, pause: true, .. }) => set::set(&cluster, &name, &Change::PausePreload).await,
        Command::Preload(args) => set::preload(&cluster, args).await,
        Command::Pin { name, path, max_bytes } => set::set(&cluster, &name, &Change::Pin { path, max_bytes }).await,
        Command::Unpin { name, path } => set::set(&cluster, &name, &Change::Unpin { path }).await,
        Command::Free { name, path, undo: false } => set::set(&cluster, &name, &Change::Free { path }).await,
        Command::Free { name, path, undo: true } => set::set(&cluster, &name, &Change::Unfree { path }).await,
        Command::Version => Ok(Exit::Ok),
    }
}
