//! The commands that set fields of a Dataset, and waiting for a preload.

use std::io::Write as _;
use std::time::{Duration, Instant};

use forebay_api::Dataset;
use forebay_api::dataset::PreloadState;
use forebay_daemon::exit::Exit;

use super::PreloadArgs;
use crate::change::{Change, apply};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::status::text::plain;

/// The status is written at most so often anyway.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Nodes are told within some seconds. Until then a status may speak of the preload before: that one is done doesn't mean that this one is.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn set(cluster: &Cluster, name: &str, change: &Change) -> Result<Exit, Error> {
    changed(cluster, name, change).await.map(|_| Exit::Ok)
}

/// Who doesn't read on is no error.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{}", plain(line)));
}

/// Sets, says what was set, and gives the revision of the preload.
async fn changed(cluster: &Cluster, name: &str, change: &Change) -> Result<i64, Error> {
    let namespace = cluster.one_namespace()?;
    let (planned, _) = apply::apply(&cluster.datasets(), namespace, name, change).await?;
    say(&format!("dataset {namespace}/{name}"));
    for line in &planned.says {
        say(&format!("  {line}"));
    }
    Ok(planned.revision)
}

pub(super) async fn preload(cluster: &Cluster, args: PreloadArgs) -> Result<Exit, Error> {
    let PreloadArgs { name, paths, max_bytes_per_second, wait, pause: _ } = args;
    let revision = changed(cluster, &name, &Change::Preload { paths, max_bytes_per_second }).await?;
    if !wait {
        say(&format!("  `kubectl forebay status {name} --watch` shows how far it is"));
        return Ok(Exit::Ok);
    }
    let (begin, mut last, mut is_told) = (Instant::now(), String::new(), false);
    loop {
        let progress = progress(&cluster.dataset(&name).await?, revision);
        is_told |= matches!(progress, Progress::Loading(_)) || begin.elapsed() > TOLD_WITHIN;
        let (line, exit) = match progress {
            Progress::Waiting(line) | Progress::Loading(line) => (line, None),
            Progress::Done(line) => (line, is_told.then_some(Exit::Ok)),
            Progress::Failed(line) => (line, is_told.then_some(Exit::Findings)),
            Progress::Over(line) => (line, Some(Exit::Temporary)),
        };
        if line != last {
            say(&line);
            last = line;
        }
        if let Some(exit) = exit {
            return Ok(exit);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a Dataset's status says to who waits for a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting(String),
    /// Nodes do something for it.
    Loading(String),
    Done(String),
    Failed(String),
    /// It won't get there: paused, or somebody wants another one by now.
    Over(String),
}

/// Pure.
pub(super) fn progress(dataset: &Dataset, revision: i64) -> Progress {
    let spec = dataset.spec.preload.clone().unwrap_or_default();
    let wanted = spec.revision.unwrap_or(0);
    if wanted != revision {
        return Progress::Over(format!("revision {wanted} is wanted by now: this preload is over"));
    }
    if spec.suspend == Some(true) {
        return Progress::Over("it was paused: `kubectl forebay preload` goes on".to_owned());
    }
    let status = dataset.status.clone().unwrap_or_default();
    let warm = status.conditions.iter().find(|condition| condition.type_ == "Warm");
    let is_current = warm.is_some_and(|warm| warm.observed_generation == dataset.metadata.generation);
    let Some(preload) = status.preload.filter(|preload| preload.revision == revision && is_current) else {
        return Progress::Waiting("the operator has not told the nodes yet".to_owned());
    };
    let why = warm.map_or("", |warm| warm.message.as_str());
    let line = format!(
        "{:?}: {} of {} files, {} of {}, {} failed: {why}",
        preload.state, preload.files, preload.files_total, preload.bytes, preload.bytes_total, preload.failed
    );
    match preload.state {
        PreloadState::Failed => Progress::Failed(line),
        PreloadState::Done if warm.is_some_and(|warm| warm.status == "True") => Progress::Done(line),
        PreloadState::Waiting | PreloadState::Running => Progress::Loading(line),
        PreloadState::Done | PreloadState::Paused => Progress::Waiting(line),
    }
}
