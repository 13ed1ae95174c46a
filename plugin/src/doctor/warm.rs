//! Why it isn't warm: what is wanted, who holds how much of it, and what keeps the rest.

use forebay_api::{CachePolicy, Dataset, quantity};
use forebay_wire::dataset_spec::PreloadWhen;
use forebay_wire::node_service::PreloadState;
use forebay_wire::rule::CacheMode;
use kube::ResourceExt;

use super::parts::listed;
use super::{Finding, Level, Observed, World};
use crate::live::{node_of, policy_of};
use crate::status::of_dataset;

/// Of the nodes that hold least.
const NAMED_MAX: usize = 5;

pub(super) fn examine(world: &World, observed: &Observed, dataset: &Dataset, policy: Option<&CachePolicy>) -> Vec<Finding> {
    let about = format!("dataset/{}", dataset.name_any());
    let conditions = dataset.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let Some(warm) = conditions.iter().find(|condition| condition.type_ == "Warm") else { return Vec::new() };
    let mut findings = Vec::new();
    if warm.status == "True" {
        if warm.reason == "NothingWanted" {
            let means = "files are cached when they are read for the first time";
            let next = format!("to load ahead: kubectl forebay preload {}", dataset.name_any());
            findings.push(Finding::new(Level::Note, about, nothing_wanted(dataset), means, next));
        }
        return findings;
    }
    let name = dataset.name_any();
    match warm.reason.as_str() {
        // Its cause is told by `Ready`.
        "NotReady" => return findings,
        "PreloadPaused" => {
            let means = "nothing is loaded ahead; what is read is cached";
            findings.push(Finding::new(
                Level::Warn,
                about.clone(),
                &warm.message,
                means,
                format!("to go on: kubectl forebay preload {name}"),
            ));
        }
        "FilesFailed" => {
            let files = dataset.status.iter().flat_map(|status| &status.failed_files);
            let named: Vec<String> = files.map(|file| format!("{} ({})", file.path, file.reason)).collect();
            let wrong = if named.is_empty() { warm.message.clone() } else { format!("{}: {}", warm.message, listed(&named)) };
            let next = format!("mend these objects in the source, then load again: kubectl forebay preload {name}");
            findings.push(Finding::new(Level::Warn, about.clone(), wrong, "these files can't be read, or only slowly", next));
        }
        "Filling" | "Listing" => {
            let next = format!("wait; kubectl forebay status {name} --watch shows rate and time left");
            findings.push(Finding::new(Level::Note, about.clone(), &warm.message, "it is being loaded", next));
        }
        _ => findings.push(Finding::new(
            Level::Warn,
            about.clone(),
            &warm.message,
            "not all that is wanted is held",
            "do what the message says",
        )),
    }
    findings.extend(slow_nodes(world, dataset, policy));
    findings.extend(limit(dataset, warm.reason == "Filling"));
    findings.extend(jobs(world, observed));
    findings
}

fn nothing_wanted(dataset: &Dataset) -> String {
    let preload = dataset.spec.preload.as_ref().and_then(|preload| preload.when);
    let pins = dataset.spec.rules.iter().flatten().any(|rule| rule.cache == Some(CacheMode::Pin));
    match preload {
        _ if pins => "nothing is wanted ahead".to_owned(),
        Some(PreloadWhen::Manual) => "preload.when is Manual: nothing is loaded by itself".to_owned(),
        _ => "it asks for nothing ahead of use: no preload, no rule with `cache: Pin`".to_owned(),
    }
}

/// The nodes that lack most, each with what keeps it; from their own reports.
fn slow_nodes(world: &World, dataset: &Dataset, policy: Option<&CachePolicy>) -> Vec<Finding> {
    let uid = dataset.uid().unwrap_or_default();
    let policy = policy.and_then(|policy| policy.metadata.uid.as_deref()).unwrap_or_default();
    let members: Vec<&str> = world.pods.iter().flatten().filter(|pod| policy_of(pod) == policy).filter_map(node_of).collect();
    let mut lacking = Vec::new();
    let mut findings = Vec::new();
    for (node, report) in world.reports.iter().filter(|(node, _)| members.contains(&node.as_str())) {
        let about = format!("node/{node}");
        let report = match report {
            Ok(report) => report,
            Err(silent) => {
                let means = "its part of the cache can't be told";
                let next = format!("kubectl -n {} get pods -o wide, and the log of the cache node there", world.system);
                findings.push(Finding::new(Level::Warn, about, silent.to_string(), means, next));
                continue;
            }
        };
        let Some(own) = of_dataset(report, &uid) else {
            let next = "wait a moment; if it stays so, see the operator's log";
            findings.push(Finding::new(Level::Warn, about, "it was not told of this data set", "it loads nothing of it", next));
            continue;
        };
        let lacks = own.wanted_bytes.saturating_sub(own.wanted_held_bytes);
        if !own.problem.is_empty() {
            findings.push(Finding::new(Level::Warn, about, &own.problem, "it can't load its part", "do what the message says"));
        } else if lacks > 0 {
            let status = own.status.clone().unwrap_or_default();
            let why = match status.preload.as_ref().map(|preload| (preload.state(), preload)) {
                Some((PreloadState::Running, preload)) => format!("it loads {}/s", quantity::bytes(preload.bytes_per_second)),
                Some((PreloadState::Waiting, _)) => "it waits for the list of files".to_owned(),
                Some((PreloadState::Paused, _)) => "it is paused".to_owned(),
                Some((PreloadState::Failed, preload)) => format!("{} files failed", preload.files_failed),
                Some((PreloadState::Done, preload)) if preload.bytes_read_through > 0 => {
                    format!("{} don't fit and are read from the source", quantity::bytes(preload.bytes_read_through))
                }
                Some((PreloadState::Done, _)) => "it is done, and lost some of it since: its cache is too small".to_owned(),
                None => "it has no preload".to_owned(),
            };
            lacking.push((lacks, format!("{node} lacks {} of {}: {why}", quantity::bytes(lacks), quantity::bytes(own.wanted_bytes))));
        }
        let degraded = report.observed.iter().flat_map(|observed| &observed.tiers).filter(|tier| !tier.degraded.is_empty());
        for tier in degraded {
            let next = format!("look at {} on {node}", tier.path);
            findings.push(Finding::new(Level::Warn, format!("node/{node}"), &tier.degraded, "blocks are not kept there", next));
        }
    }
    lacking.sort_by_key(|(lacks, _)| std::cmp::Reverse(*lacks));
    if !lacking.is_empty() {
        let rows: Vec<String> = lacking.into_iter().take(NAMED_MAX).map(|(_, row)| row).collect();
        let next = "a node that stands still while others go on: see its log";
        findings.push(Finding::new(Level::Note, "nodes", rows.join("; "), "these hold the least of what is wanted of them", next));
    }
    findings
}

/// A limit that somebody set.
fn limit(dataset: &Dataset, is_filling: bool) -> Option<Finding> {
    let rate = dataset.spec.preload.as_ref()?.max_bytes_per_second.as_deref().filter(|_| is_filling)?;
    let next = format!("to change it: kubectl forebay preload {} --max-bytes-per-second QUANTITY", dataset.name_any());
    let about = format!("dataset/{}", dataset.name_any());
    Some(Finding::new(Level::Note, about, format!("preload.maxBytesPerSecond is {rate}"), "it loads no faster than that", next))
}

/// The Job only shows a preload: that it failed says nothing of the data.
fn jobs(world: &World, observed: &Observed) -> Vec<Finding> {
    let failed = observed.jobs.iter().filter(|job| job.status.as_ref().and_then(|status| status.failed).unwrap_or(0) > 0);
    let row = |job: &k8s_openapi::api::batch::v1::Job| {
        let next = format!("kubectl -n {} logs job/{}", world.system, job.name_any());
        Finding::new(
            Level::Note,
            format!("job/{}", job.name_any()),
            "a pod of it failed",
            "the Job only shows a preload, which goes on without it",
            next,
        )
    };
    failed.map(row).collect()
}
