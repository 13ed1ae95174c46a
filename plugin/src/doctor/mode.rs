//! How pods read on each node: what their mount has of what kernels give, in the words of the node that answers it.

use std::collections::BTreeMap;

use forebay_api::Dataset;
use kube::ResourceExt;

use super::parts::listed;
use super::{Finding, Level, World};
use crate::status::{MountMode, of_dataset};

/// Where each is mounted, whether or not something is missing: it says what a crash costs, and which files cost what.
pub(super) fn examine(world: &World, dataset: &Dataset) -> Option<Finding> {
    let uid = dataset.uid().unwrap_or_default();
    let mut modes: BTreeMap<(bool, bool, String), Vec<String>> = BTreeMap::new();
    for (node, report) in &world.reports {
        let Some(mode) = report.as_ref().ok().and_then(|report| MountMode::of(of_dataset(report, &uid)?)) else { continue };
        // Those that have most come first.
        modes.entry((!mode.passthrough, !mode.resend, mode.without_passthrough)).or_default().push(node.clone());
    }
    let (by_node, dies) = (modes.keys().any(|mode| mode.0), modes.keys().any(|mode| mode.1));
    let rows: Vec<String> = modes
        .into_iter()
        .map(|((by_node, dies, without), nodes)| {
            let mode = MountMode { passthrough: !by_node, resend: !dies, without_passthrough: String::new() };
            let why = if without.is_empty() { String::new() } else { format!(" ({without})") };
            format!("{} on {}{why}", mode.text(), listed(&nodes))
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let means = match (by_node, dies) {
        (false, false) => "the kernel reads files that are complete there by itself, and reads outlive the death of a cache node",
        (true, false) => "without passthrough the cache node answers every read that the page cache doesn't; reads outlive its death",
        (false, true) => "where the kernel has no resend, reads fail when the cache node dies, until their pod is started again",
        (true, true) => {
            "without passthrough the cache node answers every read that the page cache doesn't; without resend reads fail when it dies, until their pod \
             is started again"
        }
    };
    let next =
        if by_node || dies { "nothing has to be done; what each kernel gives: docs/failure-modes.md" } else { "nothing has to be done" };
    Some(Finding::new(Level::Note, "mounts", rows.join("; "), means, next))
}
