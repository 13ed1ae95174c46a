//! The command line: the only place that reads flags and the environment.
//! Invariant: whatever fails ends with a message that names what to do, and a code of `daemon::exit`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use forebay_daemon::exit::Exit;
use forebay_daemon::flags::{self, LogFlags};
use forebay_daemon::logging::{self, chain};
use forebay_daemon::run::{self as daemon, Parts};
use forebay_wire::unit::ByteSize;
use kube::{Client, Config};
use prometheus_client::registry::Registry;

use crate::authority::Lives;
use crate::context::{ClientSettings, Settings};
use crate::metrics::Metrics;
use crate::{clean, follow, run};

/// Makes volumes and cache nodes of Datasets and CachePolicies.
#[derive(Debug, Parser)]
#[command(name = "forebay-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile, if this replica leads; else wait to
    Run(Box<RunArgs>),
    /// Tell how far a preload is until its data set is warm
    Follow {
        #[arg(long)]
        namespace: String,
        #[arg(long)]
        name: String,
        #[arg(long, default_value_t = 0)]
        revision: i64,
    },
    /// Have everything that the operator made removed, before it is uninstalled
    Clean {
        /// The operator's namespace
        #[arg(long)]
        namespace: String,
        /// What isn't given up by then is let go by force
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        within: u64,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The operator's namespace: cache nodes and preload jobs are made there
    #[arg(long)]
    namespace: String,
    /// Name of this replica: its pod's
    #[arg(long)]
    identity: String,
    /// Image of cache nodes
    #[arg(long)]
    node_image: String,
    /// Image of this program, for preload jobs
    #[arg(long)]
    operator_image: String,
    /// imagePullPolicy of what is made
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// Name of an image pull secret in the namespace; may be repeated
    #[arg(long)]
    image_pull_secret: Vec<String>,
    #[arg(long, default_value = "forebay-node")]
    node_service_account: String,
    #[arg(long, default_value = "forebay-job")]
    job_service_account: String,
    /// Priority class of cache nodes
    #[arg(long)]
    priority_class: Option<String>,
    /// Memory limit of a cache node beside its tiers in memory
    #[arg(long, default_value = "1Gi", value_parser = quantity)]
    node_memory: String,
    /// Memory for blocks of a client, which is a cache node where no policy has one; without it there are no clients
    #[arg(long, value_parser = quantity)]
    client_memory: Option<String>,
    /// Let clients use the cloud role of their nodes for what a data set's policy allows to be read so
    #[arg(long, requires = "client_memory")]
    client_ambient_credentials: bool,
    /// What cache nodes log
    #[arg(long, default_value = "info")]
    node_log: String,
    /// A further name or address of the API server, which no Dataset may read; may be repeated
    #[arg(long)]
    api_server: Vec<String>,
    /// File with the CachePolicy to apply at the start
    #[arg(long)]
    default_policy: Option<PathBuf>,
    /// How often each cache node is called
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    sync_every: u64,
    /// How often a Secret or ConfigMap that a Dataset names is read again: how long a rotation takes
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    references_every: u64,
    /// How long a cache node's certificate is good; it is renewed at half of it
    #[arg(long, value_name = "SECONDS", default_value_t = 86400, value_parser = clap::value_parser!(u64).range(120..=31_536_000))]
    certificate_life: u64,
    /// How long a new certificate authority is only believed before it signs: longer than kubelet needs to bring a changed ConfigMap to every pod
    #[arg(long, value_name = "SECONDS", default_value_t = 86400, value_parser = clap::value_parser!(u64).range(120..=2_592_000))]
    authority_settle: u64,
    /// Address that answers /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
}

fn quantity(text: &str) -> Result<String, String> {
    text.parse::<ByteSize>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub fn main() -> Exit {
    let cli: Cli = match flags::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    if let Err(exit) = cli.log.init() {
        return exit;
    }
    let endpoint = match &cli.command {
        Command::Run(args) => args.metrics,
        Command::Follow { .. } | Command::Clean { .. } => None,
    };
    match daemon::run(endpoint, |parts| command(cli.command, parts)) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the operator can't start");
            Exit::Unavailable
        }
    }
}

async fn command(command: Command, mut parts: Parts) -> Exit {
    let config = match Config::infer().await {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = %chain(&error), "no API server is known: run it in a pod, or set KUBECONFIG");
            return Exit::Usage;
        }
    };
    let api_server = config.cluster_url.host().map(str::to_owned);
    let metrics = Metrics::default();
    let client = match client(config, &metrics) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the API server can't be used");
            return Exit::Unavailable;
        }
    };
    match command {
        Command::Run(args) => {
            let settings = match settings(*args, api_server) {
                Ok(settings) => settings,
                Err(message) => {
                    tracing::error!("{message}");
                    return Exit::Usage;
                }
            };
            let mut registry = Registry::default();
            metrics.register(&mut registry);
            parts.answer_metrics(Arc::new(registry));
            match run::run(client, settings, metrics, parts.health.clone(), parts.shutdown.clone()).await {
                Ok(exit) => exit,
                Err(error) => {
                    tracing::error!(error = %chain(&error), "the operator ends");
                    Exit::Unavailable
                }
            }
        }
        Command::Follow { namespace, name, revision } => follow::run(client, &namespace, &name, revision, parts.shutdown.clone()).await,
        Command::Clean { namespace, within } => clean::run(&client, &namespace, Duration::from_secs(within)).await,
    }
}

/// Counts what it asks for.
fn client(config: Config, metrics: &Metrics) -> Result<Client, kube::Error> {
    let asked = metrics.api_requests.clone();
    let count = tower::util::MapRequestLayer::new(move |request: http::Request<kube::client::Body>| {
        asked.inc();
        request
    });
    Ok(kube::client::ClientBuilder::try_from(config)?.with_layer(&count).build())
}

fn settings(args: RunArgs, found: Option<String>) -> Result<Settings, String> {
    let RunArgs {
        namespace,
        identity,
        node_image,
        operator_image,
        image_pull_policy,
        image_pull_secret,
        node_service_account,
        job_service_account,
        priority_class,
        node_memory,
        client_memory,
        client_ambient_credentials,
        node_log,
        mut api_server,
        default_policy,
        sync_every,
        references_every,
        certificate_life,
        authority_settle,
        metrics: _,
    } = args;
    logging::check(&node_log).map_err(|error| format!("--node-log: {error}"))?;
    api_server.extend(found);
    // In a pod Kubernetes tells the service's address, however the client came to its own.
    api_server.extend(std::env::var("KUBERNETES_SERVICE_HOST").ok());
    let default_policy = match default_policy {
        Some(path) => Some(std::fs::read_to_string(&path).map_err(|error| format!("--default-policy {}: {error}", path.display()))?),
        None => None,
    };
    Ok(Settings {
        namespace,
        identity,
        node_image,
        operator_image,
        image_pull_policy,
        image_pull_secrets: image_pull_secret,
        node_service_account,
        job_service_account,
        priority_class,
        node_memory,
        clients: client_memory.map(|memory| ClientSettings { memory, ambient_credentials: client_ambient_credentials }),
        log_level: node_log,
        api_server,
        sync_every: Duration::from_secs(sync_every),
        references_every: Duration::from_secs(references_every),
        lives: Lives { settle: Duration::from_secs(authority_settle), certificate: Duration::from_secs(certificate_life) },
        default_policy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
