//! The commands that ask a running daemon, and `doctor`.

use std::path::Path;
use std::time::Duration;

use forebay_daemon::exit::Exit;
use futures::StreamExt;
use serde::Serialize;

use super::failure::Failure;
use super::{Environment, NodeArgs, Output, output, settings};
use crate::control::{Client, DrainProgress, NodeStatus, PreloadOrder, PreloadProgress, PreloadState, Scope};
use crate::{control, doctor, holder};

/// A daemon that doesn't answer by then is as good as gone; others are still told about.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Runs one question on this thread.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Machine, format!("start the runtime: {error}")))?
        .block_on(work)
}

async fn client(environment: &Environment, mount_point: &Path) -> Result<Client, Failure> {
    let socket = holder::node_socket(&environment.run, mount_point)?;
    Ok(Client::connect(&socket).await?)
}

/// One mount as `status` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MountStatus {
    pub(super) mount_point: String,
    pub(super) name: String,
    pub(super) holder_pid: u32,
    pub(super) node_pid: Option<u32>,
    /// Why there is no `node`, or why reads fail.
    pub(super) problem: Option<String>,
    pub(super) node: Option<NodeStatus>,
}

pub(super) fn status(environment: &Environment, mount_point: Option<&Path>, format: Output) -> Result<Exit, Failure> {
    let mut holders = holder::list(&environment.run)?;
    if let Some(mount_point) = mount_point {
        let wanted = holder::canonical(mount_point)?;
        holders.retain(|holder| holder.mount_point == wanted);
        if holders.is_empty() {
            return Err(holder::HolderError::NotMounted { mount_point: mount_point.display().to_string() }.into());
        }
    }
    let mounts = block_on(async {
        let mut mounts = Vec::new();
        for holder in holders {
            let asked = tokio::time::timeout(ANSWER_WITHIN, async {
                Ok::<_, Failure>(client(environment, &holder.mount_point).await?.status(Scope::Cache).await?)
            });
            let (node, silent) = match asked.await {
                Ok(Ok(node)) => (Some(node), None),
                Ok(Err(failure)) => (None, Some(failure.message)),
                Err(_) => (None, Some("the daemon doesn't answer".to_owned())),
            };
            mounts.push(MountStatus {
                mount_point: holder.mount_point.display().to_string(),
                name: holder.name,
                holder_pid: holder.holder_pid,
                node_pid: holder.node_pid,
                problem: holder.aborted.or(silent),
                node,
            });
        }
        Ok(mounts)
    })?;
    match format {
        Output::Json => output::json(&mounts),
        Output::Text => output::status(&mounts),
    }
    Ok(Exit::Ok)
}

pub(super) fn preload(environment: &Environment, mount_point: &Path, order: PreloadOrder, format: Output) -> Result<Exit, Failure> {
    let (last, failed) = block_on(async {
        let mut client = client(environment, mount_point).await?;
        let mut steps = client.preload(order).await?;
        let bar = output::Bar::new(format);
        let mut last = PreloadProgress::default();
        while let Some(step) = steps.next().await {
            last = step?;
            bar.show(&last);
        }
        bar.finish(&last);
        let failed = match last.files_failed {
            0 => Vec::new(),
            _ => client.status(Scope::Node).await?.datasets.into_iter().flat_map(|dataset| dataset.failed_files).collect(),
        };
        Ok((last, failed))
    })?;
    if format == Output::Text {
        output::failed_files(&failed, last.files_failed);
    }
    match last.state {
        PreloadState::Done if last.files_failed == 0 => Ok(Exit::Ok),
        PreloadState::Done | PreloadState::Failed => Ok(Exit::Findings),
        PreloadState::Paused => Err(Failure::new(Exit::Temporary, "the preload was paused: run it again, it goes on where it was")),
        PreloadState::Waiting | PreloadState::Running => {
            Err(Failure::new(Exit::Temporary, "the daemon ended before the preload did: run it again, it goes on where it was"))
        }
    }
}

pub(super) fn pause_preload(environment: &Environment, mount_point: &Path) -> Result<Exit, Failure> {
    block_on(async { Ok(client(environment, mount_point).await?.pause_preload().await?) })?;
    println!("nothing is loaded ahead into {} any more; what is there stays", mount_point.display());
    Ok(Exit::Ok)
}

pub(super) fn free(environment: &Environment, mount_point: &Path, paths: Vec<String>, format: Output) -> Result<Exit, Failure> {
    let freed = block_on(async { Ok(client(environment, mount_point).await?.free(paths).await?) })?;
    match format {
        Output::Json => output::json(&freed),
        Output::Text => println!("freed {} of {} files; the source is untouched", output::bytes(freed.bytes), freed.files),
    }
    Ok(Exit::Ok)
}

pub(super) fn drain(environment: &Environment, mount_point: &Path, format: Output) -> Result<Exit, Failure> {
    let last = block_on(async {
        let mut steps = client(environment, mount_point).await?.drain().await?;
        let mut last = DrainProgress::default();
        while let Some(step) = steps.next().await {
            last = step?;
            if format == Output::Json {
                println!("{}", serde_json::to_string(&last).unwrap_or_default());
            }
        }
        Ok(last)
    })?;
    if !last.done {
        return Err(Failure::new(Exit::Temporary, "the drain was cut short: run it again, it goes on where it was; see the daemon's log"));
    }
    if format == Output::Text {
        println!("moved {} blocks, {}, of {} to other nodes", last.moved, output::bytes(last.moved_bytes), last.blocks);
        match last.left {
            0 => println!("nothing is here only: this node may be taken away"),
            left => println!(
                "{left} blocks are here only, other nodes have no room for them or are away: they are read from the source when this node is gone"
            ),
        }
    }
    Ok(if last.left == 0 { Exit::Ok } else { Exit::Findings })
}

pub(super) fn refresh(environment: &Environment, mount_point: &Path) -> Result<Exit, Failure> {
    block_on(async { Ok(client(environment, mount_point).await?.refresh().await?) })?;
    println!("{} shows what its source has now", mount_point.display());
    Ok(Exit::Ok)
}

pub(super) fn log_level(environment: &Environment, mount_point: &Path, directives: String) -> Result<Exit, Failure> {
    forebay_daemon::logging::check(&directives).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    block_on(async { Ok(client(environment, mount_point).await?.set_log_level(directives).await?) })?;
    Ok(Exit::Ok)
}

pub(super) fn report(run: &Path) -> Result<Exit, Failure> {
    let socket = run.join("node.sock");
    let report = block_on(async {
        match tokio::time::timeout(ANSWER_WITHIN, control::report(&socket)).await {
            Ok(report) => Ok(report?),
            Err(_) => Err(Failure::new(Exit::Temporary, "the node doesn't answer")),
        }
    })?;
    output::json(&report);
    Ok(Exit::Ok)
}

pub(super) fn doctor(environment: &Environment, dataset: Option<&Path>, node: &NodeArgs, format: Output) -> Result<Exit, Failure> {
    let dataset = dataset.map(settings::dataset).transpose()?;
    let name = match &dataset {
        Some(dataset) => dataset.name.clone(),
        None => forebay_wire::id::DatasetName::new("default", "doctor").expect("a constant that is two labels"),
    };
    let config = settings::node(environment, node, &name)?;
    let findings = block_on(async { Ok(doctor::examine(dataset.as_ref(), &config).await) })?;
    match format {
        Output::Json => output::json(&findings),
        Output::Text => output::findings(&findings),
    }
    let failed = findings.iter().any(|finding| finding.level == doctor::Level::Fail);
    Ok(if failed { Exit::Findings } else { Exit::Ok })
}
