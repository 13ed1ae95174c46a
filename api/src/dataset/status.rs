//! What the operator tells about a Dataset.
//! Knows the fields. Does not know how they are found out.
//! Invariant: under 16 KiB whatever the number of nodes and files: counts, and at most `SAMPLES_MAX` of each list.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Entries of a list of samples: enough to see a pattern, few enough for a status.
pub const SAMPLES_MAX: usize = 10;
/// Bytes of a sampled name or reason; what is longer is cut by [`sample_text`].
pub const SAMPLE_BYTES_MAX: usize = 112;

/// What is known about a Dataset. Written on a change of a condition, else at most every 30 s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DatasetStatus {
    /// `metadata.generation` of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Warm, SourceReachable, Synced, Degraded, and kstatus' Reconciling and Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::kubernetes::conditions")]
    pub conditions: Vec<Condition>,
    /// The CachePolicy in use, named by the spec or found as the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ResolvedPolicy>,
    /// The PersistentVolumeClaim made for it, in its own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Digest of the manifest: the list of all files with their versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the sources were last listed to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::kubernetes::time")]
    pub last_sync_time: Option<Time>,
    /// Files in the current version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<i64>,
    /// Bytes of these files, such as `1.2Ti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Bytes of them that the cache holds, each counted once, such as `800Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<String>,
    /// How much of what rules and preload ask for is held, such as `73%`; `-` when they ask for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm: Option<String>,
    /// Bytes read that needed nothing from the source, such as `98%`; `-` before the first read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit: Option<String>,
    /// The preload of the current revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preload: Option<PreloadStatus>,
    /// Where the spec has a quota: how far it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaStatus>,
    /// Files that could not be loaded, at most ten of them; `preload.failed` has the count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed_files: Vec<FailedFile>,
    /// Keys of the source that no path can name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem_keys: Option<ProblemKeys>,
    /// How evenly the nodes hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCoverage>,
}

/// The CachePolicy that a Dataset uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedPolicy {
    /// Its name.
    pub name: String,
    /// Another policy of the same name has another one.
    pub uid: String,
}

/// How far a quota goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaStatus {
    /// Bytes that count to it, copies included, such as `9.5Ti`; of the zone that holds the most.
    pub used: String,
    /// What rules and preload ask for beyond it and is read from the source, such as `2Ti`; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excess: Option<String>,
}

/// Where a preload stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PreloadState {
    /// For the first complete list of files, or for a node.
    #[default]
    Waiting,
    Running,
    /// `preload.suspend` is set.
    Paused,
    Done,
    /// Some files could not be loaded; `failedFiles` names ten.
    Failed,
}

/// How far a preload is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreloadStatus {
    /// Where it stands.
    pub state: PreloadState,
    /// `spec.preload.revision` that it belongs to.
    #[serde(default)]
    pub revision: i64,
    /// Files loaded.
    #[serde(default)]
    pub files: i64,
    /// Files to load, loaded ones included.
    #[serde(default)]
    pub files_total: i64,
    /// Bytes loaded, such as `800Gi`.
    #[serde(default)]
    pub bytes: String,
    /// Bytes to load, loaded ones included.
    #[serde(default)]
    pub bytes_total: String,
    /// Files that could not be loaded.
    #[serde(default)]
    pub failed: i64,
}

/// A file that could not be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedFile {
    /// Its path in the data set.
    pub path: String,
    /// One sentence.
    pub reason: String,
}

/// Keys of the source that no path can name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemKeys {
    /// All of them.
    pub count: i64,
    /// At most ten of them.
    #[serde(default)]
    pub samples: Vec<ProblemKey>,
}

/// A key that no path can name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemKey {
    /// As the source has it.
    pub key: String,
    /// One sentence; absent when the node gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How much of what a node should hold it holds, over all nodes, in percent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCoverage {
    /// Nodes that share in it.
    pub count: i32,
    /// Of the node that holds least.
    pub min: i32,
    /// Of the node in the middle.
    pub median: i32,
    /// Of the node that holds most.
    pub max: i32,
    /// The ten nodes that hold least, least first.
    #[serde(default)]
    pub least: Vec<NodeShare>,
}

/// One node's share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeShare {
    /// The node's name.
    pub name: String,
    /// Of what it should hold.
    pub percent: i32,
}

/// `text`, cut at a character so that it is at most [`SAMPLE_BYTES_MAX`] bytes with the `…` that then ends it.
pub fn sample_text(text: &str) -> String {
    crate::condition::cut(text, SAMPLE_BYTES_MAX)
}

impl NodeCoverage {
    /// Of what each node holds of its part; `None` without nodes. The median of an even number is the lower of the middle two.
    pub fn of(mut shares: Vec<NodeShare>) -> Option<Self> {
        shares.sort_by(|a, b| a.percent.cmp(&b.percent).then_with(|| a.name.cmp(&b.name)));
        let (first, last) = (shares.first()?.percent, shares.last()?.percent);
        let median = shares[(shares.len() - 1) / 2].percent;
        let count = i32::try_from(shares.len()).unwrap_or(i32::MAX);
        shares.truncate(SAMPLES_MAX);
        Some(Self { count, min: first, median, max: last, least: shares })
    }
}

#[cfg(test)]
mod tests;
