//! The figures of a Dataset's status.
//! Pure.
//! Invariant: every list is cut to what the API allows, so that the status stays small whatever nodes say.

use forebay_api::Dataset;
use forebay_api::dataset::status::{SAMPLES_MAX, sample_text};
use forebay_api::dataset::{
    DatasetStatus, FailedFile, NodeCoverage, NodeShare, PreloadState, PreloadStatus, ProblemKey, ProblemKeys, QuotaStatus,
};
use forebay_api::quantity;
use forebay_wire::dataset_spec::PreloadWhen;
use forebay_wire::node_service::PreloadState as NodePreload;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::summary::Summary;

/// Without conditions. What no node knows now is as it was: a restart of all nodes makes no data set empty.
pub fn of(dataset: &Dataset, summary: &Summary) -> DatasetStatus {
    let old = dataset.status.clone().unwrap_or_default();
    let Some(newest) = summary.newest() else {
        return DatasetStatus { conditions: Vec::new(), failed_files: Vec::new(), nodes: None, ..old };
    };
    let status = &newest.status;
    let (hits, misses) = summary.says.iter().fold((0, 0), |(hits, misses), node| (hits + node.status.hits, misses + node.status.misses));
    DatasetStatus {
        observed_generation: None,
        conditions: Vec::new(),
        policy: None,
        claim: None,
        version: Some(newest.version().to_owned()),
        last_sync_time: last_sync(status.manifest.as_ref().and_then(|manifest| manifest.age_ms), old.last_sync_time),
        files: Some(signed(status.files)),
        size: Some(quantity::bytes(status.bytes)),
        cached: Some(quantity::bytes(summary.cached())),
        warm: Some(quantity::percent(summary.held(), summary.wanted())),
        hit: Some(quantity::percent(hits, hits + misses)),
        preload: preload(dataset, summary),
        quota: summary.quota.as_ref().map(|_| QuotaStatus {
            used: quantity::bytes(summary.stored()),
            excess: Some(summary.over_quota()).filter(|bytes| *bytes > 0).map(quantity::bytes),
        }),
        failed_files: failed_files(summary),
        problem_keys: problem_keys(summary),
        nodes: coverage(summary),
    }
}

/// The time moves only when a sync ended: the age that a node tells is rounded by the way here, so a few seconds are the same time.
fn last_sync(age_ms: Option<u64>, old: Option<Time>) -> Option<Time> {
    let Some(age) = age_ms.and_then(|age| i64::try_from(age).ok()) else { return old };
    let now = Timestamp::now();
    let at = now.checked_sub(SignedDuration::from_millis(age)).unwrap_or(now);
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
    match old {
        Some(Time(before)) if (at.as_second() - before.as_second()).abs() <= 5 => Some(Time(before)),
        Some(_) | None => Some(Time(at)),
    }
}

fn preload(dataset: &Dataset, summary: &Summary) -> Option<PreloadStatus> {
    let spec = dataset.spec.preload.as_ref()?;
    if matches!(spec.when, None | Some(PreloadWhen::Never)) {
        return None;
    }
    let told: Vec<_> = summary.says.iter().filter_map(|node| node.status.preload.as_ref()).collect();
    let sum = |figure: fn(&forebay_wire::node_service::PreloadProgress) -> u64| told.iter().map(|preload| figure(preload)).sum::<u64>();
    let any = |state: NodePreload| summary.says.iter().any(|node| node.preload() == state);
    let state = if summary.suspended {
        PreloadState::Paused
    } else if any(NodePreload::Running) {
        PreloadState::Running
    } else if any(NodePreload::Waiting) || any(NodePreload::Paused) || summary.held() < summary.wanted() && !any(NodePreload::Failed) {
        PreloadState::Waiting
    } else if any(NodePreload::Failed) {
        PreloadState::Failed
    } else {
        PreloadState::Done
    };
    Some(PreloadStatus {
        state,
        revision: spec.revision.unwrap_or(0),
        files: signed(sum(|preload| preload.files_done)),
        files_total: signed(sum(|preload| preload.files_total)),
        bytes: quantity::bytes(sum(|preload| preload.bytes_done)),
        bytes_total: quantity::bytes(sum(|preload| preload.bytes_total)),
        failed: signed(sum(|preload| preload.files_failed)),
    })
}

/// A file that failed on several nodes is told once.
fn failed_files(summary: &Summary) -> Vec<FailedFile> {
    let mut files: Vec<FailedFile> = Vec::new();
    for file in summary.says.iter().flat_map(|node| &node.status.failed_files) {
        let path = sample_text(&file.path);
        if files.len() < SAMPLES_MAX && !files.iter().any(|known| known.path == path) {
            files.push(FailedFile { path, reason: sample_text(&file.cause) });
        }
    }
    files
}

fn problem_keys(summary: &Summary) -> Option<ProblemKeys> {
    let most = summary.says.iter().filter(|node| node.status.unreachable_keys > 0).max_by_key(|node| node.status.unreachable_keys)?;
    let sample = |key: &String| ProblemKey { key: sample_text(key), reason: None };
    let samples = most.unreachable_samples.iter().take(SAMPLES_MAX).map(sample).collect();
    Some(ProblemKeys { count: signed(most.status.unreachable_keys), samples })
}

fn coverage(summary: &Summary) -> Option<NodeCoverage> {
    let shares = summary.says.iter().map(|node| {
        let hundredfold = u128::from(node.held.min(node.wanted)) * 100;
        // A node that should hold nothing holds all of it.
        let percent = hundredfold.checked_div(u128::from(node.wanted)).unwrap_or(100);
        NodeShare { name: node.name.clone(), percent: i32::try_from(percent).unwrap_or(100) }
    });
    NodeCoverage::of(shares.collect())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
