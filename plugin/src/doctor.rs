//! Why a data set isn't warm, why a mount failed: from what was observed to what is wrong, what it means, and what to do next.
//! Knows what each part's state means. Does not know how it was read: `observe` does.
//! Pure. Invariant: what wasn't seen leads to no finding.

mod condition;
mod mode;
mod mount;
mod parts;
#[cfg(test)]
mod tests;
pub mod text;
mod warm;

use std::collections::BTreeMap;

use forebay_api::{CachePolicy, Dataset};
use forebay_wire::volume_service::ReportReply;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::live::Silent;
use crate::observe::policy_of;

/// What is the same for all Datasets. `None`: it could not be read.
#[derive(Clone, Debug)]
pub struct World {
    pub now: Timestamp,
    /// Forebay's own namespace.
    pub system: String,
    pub policies: Option<Vec<CachePolicy>>,
    /// Of Forebay's own namespace.
    pub pods: Option<Vec<Pod>>,
    pub nodes: Option<Vec<Node>>,
    /// Whether the CSIDriver object is there.
    pub has_driver: Option<bool>,
    /// By the node's name; empty where nobody may ask.
    pub reports: BTreeMap<String, Result<ReportReply, Silent>>,
    /// What could not be read, and why.
    pub blind: Vec<String>,
}

/// One Dataset and what belongs to it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub namespace: String,
    pub name: String,
    pub dataset: Option<Dataset>,
    /// `Some(None)`: it isn't there.
    pub claim: Option<Option<PersistentVolumeClaim>>,
    pub volume: Option<Option<PersistentVolume>>,
    /// All of its namespace.
    pub pods: Vec<Pod>,
    /// Warnings of its namespace.
    pub events: Vec<Event>,
    /// Its preload's.
    pub jobs: Vec<Job>,
    pub blind: Vec<String>,
}

/// In the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Pods can't read.
    Fail,
    /// They can, worse than they should.
    Warn,
    /// Nothing is wrong; good to know.
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub level: Level,
    /// The object that it is about: `pod/train-0`.
    pub about: String,
    /// What is wrong: in the words of who found out, where there are any.
    pub wrong: String,
    pub means: String,
    /// What to do next.
    pub next: String,
}

impl Finding {
    fn new(level: Level, about: impl Into<String>, wrong: impl Into<String>, means: impl Into<String>, next: impl Into<String>) -> Self {
        Self { level, about: about.into(), wrong: wrong.into(), means: means.into(), next: next.into() }
    }
}

/// Of Forebay's own parts.
pub fn of_parts(world: &World) -> Vec<Finding> {
    sorted(parts::examine(world))
}

/// Of one Dataset: the cause before what it causes, within a level.
pub fn of_dataset(world: &World, observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(dataset) = &observed.dataset else {
        findings.extend(mount::without_dataset(observed));
        return sorted(findings);
    };
    let policy = world.policies.as_deref().and_then(|policies| policy_of(dataset, policies));
    findings.extend(condition::examine(world, dataset));
    findings.extend(parts::of_policy(world, policy));
    findings.extend(warm::examine(world, observed, dataset, policy));
    findings.extend(mount::examine(world, observed, dataset));
    findings.extend(mode::examine(world, dataset));
    sorted(findings)
}

/// Whether somebody has something to do.
pub fn is_wrong(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level != Level::Note)
}

/// By level, else as they came; the same thing once.
fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| finding.level);
    let mut seen = std::collections::BTreeSet::new();
    findings.retain(|finding| seen.insert((finding.about.clone(), finding.wrong.clone())));
    findings
}
