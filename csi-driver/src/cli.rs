//! The command line: the only place that reads flags.
//! Invariant: whatever fails ends with a message that names what to do, and a code of `daemon::exit`.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use forebay_daemon::exit::Exit;
use forebay_daemon::flags::{self, LogFlags};
use forebay_daemon::logging::chain;
use forebay_daemon::run;

use crate::driver::{self, Settings};
use crate::session::NodeUser;
use crate::volume::DRIVER;

/// Mounts data sets for the pods of one machine. Runs as root, with kubelet's folder shared in both directions and the host's pids.
#[derive(Debug, Parser)]
#[command(name = "forebay-csi", version)]
struct Cli {
    /// Socket on which kubelet asks, at the same path inside the container and outside [default: KUBELET-FOLDER/plugins/csi.forebay.dev/csi.sock]
    #[arg(long, value_name = "unix:///PATH", value_parser = endpoint)]
    endpoint: Option<PathBuf>,
    /// Name of this machine, as Kubernetes has it
    #[arg(long)]
    node_id: String,
    /// kubelet's folder, at the same path inside the container and outside
    #[arg(long, default_value = "/var/lib/kubelet", value_parser = absolute)]
    kubelet_folder: PathBuf,
    /// Where sessions are mounted, below kubelet's folder [default: KUBELET-FOLDER/plugins/csi.forebay.dev/state]
    #[arg(long, value_parser = absolute)]
    state: Option<PathBuf>,
    /// Where cache nodes have their folders, each with a `node.sock`
    #[arg(long, default_value = "/run/forebay", value_parser = absolute)]
    nodes_folder: PathBuf,
    /// User and group that the cache nodes run as; root if it isn't given
    #[arg(long, value_name = "UID[:GID]", value_parser = node_user)]
    node_user: Option<NodeUser>,
    /// Let the kernel read complete files by itself, where it can (Linux 6.9 and later)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    passthrough: bool,
    /// A cache node that lives and says nothing for so long is reported as hung
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    hung_after: Duration,
    /// Reads that no cache node answered for so long fail
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    adopt_within: Duration,
    /// How long, at the start, cache nodes may take to give back the mounts of the driver before
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    give_back_within: Duration,
    /// Address that answers /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    log: LogFlags,
}

pub fn main() -> Exit {
    let cli: Cli = match flags::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let metrics = cli.metrics;
    let log = cli.log.clone();
    let settings = match settings(cli) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("error: {message}");
            return Exit::Usage;
        }
    };
    if let Err(exit) = log.init() {
        return exit;
    }
    match run::run(metrics, |parts| driver::run(settings, parts)) {
        Ok(Ok(())) => Exit::Ok,
        Ok(Err(error)) => {
            tracing::error!(error = %chain(&error), "the driver ends");
            Exit::Machine
        }
        Err(error) => {
            tracing::error!(error = %chain(&error), "the driver can't start");
            Exit::Unavailable
        }
    }
}

fn settings(cli: Cli) -> Result<Settings, String> {
    let Cli {
        endpoint,
        node_id,
        kubelet_folder,
        state,
        nodes_folder,
        node_user,
        passthrough,
        hung_after,
        adopt_within,
        give_back_within,
        metrics: _,
        log: _,
    } = cli;
    let plugin = kubelet_folder.join("plugins").join(DRIVER);
    let state = state.unwrap_or_else(|| plugin.join("state"));
    if !state.starts_with(&kubelet_folder) || state == kubelet_folder {
        return Err(format!("--state {}: must lie below --kubelet-folder, where mounts reach the host", state.display()));
    }
    if node_id.is_empty() {
        return Err("--node-id is empty: give the machine's name, as spec.nodeName has it".to_owned());
    }
    let endpoint = endpoint.unwrap_or_else(|| plugin.join("csi.sock"));
    Ok(Settings {
        endpoint,
        node_id,
        kubelet_folder,
        state,
        nodes_folder,
        node_user,
        passthrough,
        hung_after,
        adopt_within,
        give_back_within,
    })
}

fn endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").ok_or("write unix:// and an absolute path, as unix:///csi/csi.sock")?;
    absolute(path)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err("write an absolute path without `..`".to_owned());
    }
    Ok(path.components().collect())
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err("write a number of seconds, at least 1".to_owned()),
    }
}

fn node_user(text: &str) -> Result<NodeUser, String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok(NodeUser { uid, gid }),
        _ => Err("write two numbers, as 65532:65532, or one for both".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Settings, String> {
        let all = ["forebay-csi", "--node-id", "a"].iter().chain(arguments);
        Cli::try_parse_from(all).map_err(|error| error.to_string()).and_then(settings)
    }

    #[test]
    fn folders_follow_kubelets() {
        let settings = parse(&["--kubelet-folder", "/data/kubelet/"]).expect("valid");
        assert_eq!(settings.endpoint, Path::new("/data/kubelet/plugins/csi.forebay.dev/csi.sock"));
        assert_eq!(settings.state, Path::new("/data/kubelet/plugins/csi.forebay.dev/state"));
        let settings = parse(&["--endpoint", "unix:///csi/csi.sock", "--node-user", "65532"]).expect("valid");
        assert_eq!(settings.endpoint, Path::new("/csi/csi.sock"));
        assert_eq!(settings.node_user, Some(NodeUser { uid: 65532, gid: 65532 }));
    }

    #[test]
    fn a_wrong_value_says_what_to_write() {
        let check = |arguments: &[&str], part: &str| {
            let error = parse(arguments).expect_err(part);
            assert!(error.contains(part), "{error}");
        };
        check(&["--state", "/tmp/state"], "must lie below");
        check(&["--endpoint", "tcp://0.0.0.0:1"], "write unix://");
        check(&["--kubelet-folder", "kubelet"], "an absolute path");
        check(&["--nodes-folder", "/run/../etc"], "without `..`");
        check(&["--node-user", "forebay"], "65532:65532");
        check(&["--hung-after", "0"], "at least 1");
    }
}
