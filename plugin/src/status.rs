//! How data sets are: the status that the operator wrote, and what each node says now, with rates between two samples.
//! Knows figures. Does not know where they come from, nor how they look: `text` does.
//! Pure. Invariant: a rate is only of a node that answered twice and didn't start again in between.

#[cfg(test)]
mod tests;
pub mod text;

use std::time::Duration;

use forebay_api::dataset::{DatasetStatus, FailedFile, NodeShare, PreloadState};
use forebay_api::{Dataset, quantity};
use forebay_wire::control_service::ObservedDataset;
use forebay_wire::node_service::{self, PreloadProgress};
use forebay_wire::volume_service::ReportReply;
use kube::ResourceExt;
use serde::Serialize;

use crate::live::Sample;

/// One data set, as `-o json` prints it: names are stable.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    pub namespace: String,
    pub name: String,
    pub policy: Option<String>,
    /// `Ready`'s reason; empty before the first status.
    pub status: String,
    pub conditions: Vec<ConditionView>,
    pub files: Option<i64>,
    pub size: Option<String>,
    pub cached: Option<String>,
    pub warm: Option<String>,
    pub hit: Option<String>,
    pub preload: Option<PreloadView>,
    pub failed_files: Vec<FailedFile>,
    pub unreachable_keys: i64,
    /// The nodes of its policy as they are now, then clients that serve it. Empty where nobody may ask them.
    pub nodes: Vec<NodeView>,
    /// All nodes together.
    pub rates: Option<Rates>,
    /// The least covered nodes as the status has them, where there is nothing newer.
    pub least: Vec<NodeShare>,
    /// What to know about these figures.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionView {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreloadView {
    pub state: String,
    pub revision: i64,
    pub files: u64,
    pub files_total: u64,
    pub failed: u64,
    /// Of all nodes: live where they were asked, else absent.
    pub bytes: Option<u64>,
    pub bytes_total: Option<u64>,
    pub bytes_per_second: Option<u64>,
    pub seconds_left: Option<u64>,
    /// As the status has it.
    pub told: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    pub node: String,
    /// It has no disk of a policy: what it reads counts for nothing.
    pub is_client: bool,
    /// What rules and preload want there, and what of it is held.
    pub wanted_bytes: u64,
    pub held_bytes: u64,
    pub cached_bytes: u64,
    /// Reads that the store answered, in percent; absent before the first.
    pub hit_percent: Option<u64>,
    pub mounted: bool,
    /// How pods on this node read: see [`MountMode`].
    pub mount: Option<MountMode>,
    /// Since its process began.
    pub read_store_bytes: u64,
    pub read_peer_bytes: u64,
    pub read_source_bytes: u64,
    pub source_bytes: u64,
    pub source_errors: u64,
    pub rates: Option<Rates>,
    pub listing: String,
    pub preload: String,
    /// Empty when all is well.
    pub trouble: String,
}

/// What the mount of a data set on one node has of what kernels give.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MountMode {
    /// The kernel reads files that are complete there by itself.
    pub passthrough: bool,
    /// Why it doesn't; empty when it does.
    pub without_passthrough: String,
    /// Reads outlive the death of the cache node.
    pub resend: bool,
}

impl MountMode {
    /// `None` where it isn't mounted, or the node is of a release that doesn't say.
    pub fn of(dataset: &ObservedDataset) -> Option<Self> {
        let mount = dataset.status.as_ref()?.mount.clone().filter(|_| dataset.mounted)?;
        let node_service::MountStatus { passthrough, without_passthrough, resend } = mount;
        Some(Self { passthrough, without_passthrough, resend })
    }

    /// One word, or two.
    pub fn text(&self) -> &'static str {
        match (self.passthrough, self.resend) {
            (true, true) => "passthrough",
            (true, false) => "passthrough, no resend",
            (false, true) => "by the node",
            (false, false) => "by the node, no resend",
        }
    }
}

/// Bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// To readers, from the local store, other nodes, and the source as it came.
    pub store: u64,
    pub peer: u64,
    pub source: u64,
    /// From the source to the node, whoever wanted it.
    pub fetched: u64,
}

/// What nodes said, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    pub before: Option<&'a Sample>,
    pub now: &'a Sample,
    /// Nodes whose cache is that of no policy.
    pub clients: &'a [String],
    /// Nodes of the Dataset's policy.
    pub members: &'a [String],
}

pub fn view(dataset: &Dataset, live: Option<Live<'_>>, mut notes: Vec<String>) -> View {
    let status = dataset.status.clone().unwrap_or_default();
    let uid = dataset.uid().unwrap_or_default();
    let conditions: Vec<ConditionView> = status
        .conditions
        .iter()
        .map(|one| ConditionView {
            kind: one.type_.clone(),
            status: one.status.clone(),
            reason: one.reason.clone(),
            message: one.message.clone(),
        })
        .collect();
    if status.observed_generation.is_some() && status.observed_generation != dataset.metadata.generation {
        notes.push("the operator has not followed the last change of the spec yet".to_owned());
    }
    let nodes = live.map(|live| nodes(&uid, live)).unwrap_or_default();
    let rates = nodes.iter().filter_map(|node| node.rates).reduce(Rates::plus);
    View {
        namespace: dataset.namespace().unwrap_or_default(),
        name: dataset.name_any(),
        policy: status.policy.as_ref().map(|policy| policy.name.clone()),
        status: conditions.iter().find(|one| one.kind == "Ready").map(|one| one.reason.clone()).unwrap_or_default(),
        conditions,
        files: status.files,
        preload: preload(&status, &uid, live),
        size: status.size,
        cached: status.cached,
        warm: status.warm,
        hit: status.hit,
        failed_files: status.failed_files,
        unreachable_keys: status.problem_keys.map_or(0, |keys| keys.count),
        least: if nodes.is_empty() { status.nodes.map(|nodes| nodes.least).unwrap_or_default() } else { Vec::new() },
        rates,
        nodes,
        notes,
    }
}

impl Rates {
    fn plus(self, other: Self) -> Self {
        Self {
            store: self.store + other.store,
            peer: self.peer + other.peer,
            source: self.source + other.source,
            fetched: self.fetched + other.fetched,
        }
    }

    /// `None` where a counter went back: the process began again.
    fn between(before: &node_service::DatasetStatus, now: &node_service::DatasetStatus, apart: Duration) -> Option<Self> {
        let millis = u64::try_from(apart.as_millis()).ok().filter(|millis| *millis > 0)?;
        let rate = |before: u64, now: u64| now.checked_sub(before).map(|bytes| bytes.saturating_mul(1000) / millis);
        Some(Self {
            store: rate(before.read_store_bytes, now.read_store_bytes)?,
            peer: rate(before.read_peer_bytes, now.read_peer_bytes)?,
            source: rate(before.read_source_bytes, now.read_source_bytes)?,
            fetched: rate(before.source_bytes, now.source_bytes)?,
        })
    }
}

/// What a report says of one data set.
pub fn of_dataset<'a>(report: &'a ReportReply, uid: &str) -> Option<&'a ObservedDataset> {
    report.observed.as_ref()?.datasets.iter().find(|dataset| dataset.uid == uid)
}

fn nodes(uid: &str, live: Live<'_>) -> Vec<NodeView> {
    let mut rows = Vec::new();
    for (name, answer) in &live.now.nodes {
        let is_client = live.clients.contains(name);
        if !is_client && !live.members.contains(name) {
            continue;
        }
        let mut row = NodeView { node: name.clone(), is_client, ..NodeView::default() };
        match answer {
            Err(silent) => row.trouble = silent.to_string(),
            Ok(report) => match of_dataset(report, uid) {
                // It was told of what its pods use only.
                None if is_client => continue,
                None => row.trouble = "it was not told of this data set yet".to_owned(),
                Some(now) => {
                    let before = live.before.and_then(|sample| {
                        let before = of_dataset(sample.nodes.get(name)?.as_ref().ok()?, uid)?.status.as_ref()?;
                        Rates::between(before, now.status.as_ref()?, live.now.at.saturating_duration_since(sample.at))
                    });
                    fill(&mut row, report, now);
                    row.rates = before;
                }
            },
        }
        rows.push(row);
    }
    // Those of the cache first; sorted by name within.
    rows.sort_by_key(|row| row.is_client);
    rows
}

fn fill(row: &mut NodeView, report: &ReportReply, now: &ObservedDataset) {
    let status = now.status.clone().unwrap_or_default();
    (row.wanted_bytes, row.held_bytes) = (now.wanted_bytes, now.wanted_held_bytes.min(now.wanted_bytes));
    row.cached_bytes = status.cached_bytes;
    let reads = status.hits.saturating_add(status.misses);
    row.hit_percent = status.hits.saturating_mul(100).checked_div(reads);
    row.mounted = now.mounted;
    row.mount = MountMode::of(now);
    (row.read_store_bytes, row.read_peer_bytes, row.read_source_bytes) =
        (status.read_store_bytes, status.read_peer_bytes, status.read_source_bytes);
    (row.source_bytes, row.source_errors) = (status.source_bytes, status.source_errors);
    let has_list = status.manifest.as_ref().is_some_and(|manifest| !manifest.version.is_empty());
    row.listing = match status.listing.as_ref() {
        Some(listing) if !listing.error.is_empty() => format!("failed: {}", listing.error),
        Some(listing) if listing.running => format!("{} keys so far", listing.keys),
        _ if has_list => "complete".to_owned(),
        _ => "none yet".to_owned(),
    };
    row.preload = status.preload.as_ref().map(of_node).unwrap_or_default();
    let tier = report.observed.iter().flat_map(|observed| &observed.tiers).find(|tier| !tier.degraded.is_empty());
    row.trouble = if !now.problem.is_empty() {
        now.problem.clone()
    } else if let Some(tier) = tier {
        format!("{}: {}", tier.path, tier.degraded)
    } else {
        status.degraded.first().cloned().unwrap_or_default()
    };
}

fn of_node(progress: &PreloadProgress) -> String {
    let state = match progress.state() {
        node_service::PreloadState::Waiting => "waits for the list",
        node_service::PreloadState::Running => "runs",
        node_service::PreloadState::Paused => "paused",
        node_service::PreloadState::Done => "done",
        node_service::PreloadState::Failed => "some files failed",
    };
    if progress.state() != node_service::PreloadState::Running {
        return state.to_owned();
    }
    format!(
        "{} of {}, {}/s",
        quantity::bytes(progress.bytes_done),
        quantity::bytes(progress.bytes_total),
        quantity::bytes(progress.bytes_per_second)
    )
}

fn preload(status: &DatasetStatus, uid: &str, live: Option<Live<'_>>) -> Option<PreloadView> {
    let told = status.preload.as_ref()?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut view = PreloadView {
        state: format!("{:?}", told.state),
        revision: told.revision,
        files: unsigned(told.files),
        files_total: unsigned(told.files_total),
        failed: unsigned(told.failed),
        told: format!("{} of {}", told.bytes, told.bytes_total),
        ..PreloadView::default()
    };
    let Some(live) = live else { return Some(view) };
    let members = live.now.nodes.iter().filter(|(name, _)| live.members.contains(name));
    let said: Vec<&PreloadProgress> =
        members.filter_map(|(_, answer)| of_dataset(answer.as_ref().ok()?, uid)?.status.as_ref()?.preload.as_ref()).collect();
    if said.is_empty() {
        return Some(view);
    }
    let sum = |count: fn(&PreloadProgress) -> u64| said.iter().map(|node| count(node)).sum::<u64>();
    let (done, total) = (sum(|node| node.bytes_done), sum(|node| node.bytes_total));
    (view.bytes, view.bytes_total) = (Some(done), Some(total));
    (view.files, view.files_total, view.failed) =
        (sum(|node| node.files_done), sum(|node| node.files_total), sum(|node| node.files_failed));
    if told.state == PreloadState::Running {
        let running = said.iter().filter(|node| node.state() == node_service::PreloadState::Running);
        view.bytes_per_second = Some(running.clone().map(|node| node.bytes_per_second).sum());
        // It is done when the last node is.
        view.seconds_left = running
            .map(|node| node.bytes_total.saturating_sub(node.bytes_done).checked_div(node.bytes_per_second))
            .try_fold(0, |longest: u64, left| Some(longest.max(left?)));
    }
    Some(view)
}
