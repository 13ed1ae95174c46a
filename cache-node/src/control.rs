//! What the command line asks a running node, as a trait; its gRPC form over the node's Unix socket.
//! Knows the shape of questions and answers. Does not know how they are answered: `node` does.

mod client;
mod convert;
mod server;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::Serialize;

pub use client::{Client, ClientError, report};
pub use server::{listen, serve};

/// What `node` answers to the command line. Every method may be repeated.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    async fn status(&self, scope: Scope) -> NodeStatus;
    /// Loads `paths` (all that the Dataset's preload names when empty) and yields progress until it is done; dropping the stream doesn't stop the load.
    async fn preload(&self, order: PreloadOrder) -> Result<BoxStream<'static, PreloadProgress>, ControlError>;
    /// Ends the load that goes on; what is loaded stays, and another `preload` goes on from there.
    async fn pause_preload(&self) -> Result<(), ControlError>;
    /// Drops what is cached below `paths` (never in the source); gives the bytes that were freed.
    async fn free(&self, paths: Vec<String>) -> Result<Freed, ControlError>;
    /// Moves what no other node of the cache has to the others and yields progress until that is done; ending the stream doesn't end it.
    async fn drain(&self) -> Result<BoxStream<'static, DrainProgress>, ControlError>;
    /// Lists the sources now instead of at the next interval; returns when the new manifest serves.
    async fn refresh(&self) -> Result<(), ControlError>;
    /// Changes the log's directives while running.
    async fn set_log_level(&self, directives: &str) -> Result<(), ControlError>;
}

/// Whom a status tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the process knows by itself.
    Node,
    /// Also what each node of the cache holds, which they are asked for.
    Cache,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no such path in the data set: {path}")]
    NotFound { path: String },
    #[error("{op}: {detail}")]
    Failed { op: &'static str, detail: String },
}

/// One process: its data sets and its tiers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub version: String,
    pub pid: u32,
    #[serde(rename = "uptimeSeconds", serialize_with = "seconds")]
    pub uptime: Duration,
    pub datasets: Vec<DatasetStatus>,
    pub tiers: Vec<TierStatus>,
    /// The other nodes of its cache.
    pub peers: Vec<PeerStatus>,
}

/// Another node of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub name: String,
    /// `host:port` of its blocks.
    pub address: String,
    /// It did not answer lately: reads go around it until it does.
    pub bypassed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatasetStatus {
    /// `namespace/name`.
    pub name: String,
    pub mount_point: String,
    /// URIs without credentials.
    pub sources: Vec<String>,
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
    pub cached_files: u64,
    pub cached_bytes: u64,
    pub hits: u64,
    pub misses: u64,
    pub source_bytes: u64,
    pub source_requests: u64,
    pub source_errors: u64,
    pub manifest: ManifestStatus,
    pub listing: ListingStatus,
    pub preload: Option<PreloadProgress>,
    /// Files whose last fill failed for good, a sample of at most 16, with the cause.
    pub failed_files: Vec<FailedFile>,
    /// Keys that no path can name, and how many.
    pub unreachable_keys: u64,
    pub serving: String,
    /// Why it works less well than it could; empty when all is well.
    pub degraded: Vec<String>,
    /// Bytes that readers got from the local store.
    pub read_store_bytes: u64,
    /// And from other nodes of the cache.
    pub read_peer_bytes: u64,
    /// And from the source.
    pub read_source_bytes: u64,
    /// In a cache of several nodes: who lists the sources now; empty while nobody is known to.
    pub lister: String,
    /// Copies that this node is to have, that another node has, and that could not be brought yet.
    pub lacking_copies: u64,
    /// `None` while it isn't mounted.
    pub mount: Option<MountStatus>,
    /// What each node of the cache holds, by name, this one among them; empty when nobody asked for it.
    pub nodes: Vec<NodeCoverage>,
    /// This node's share of the quota; `None` where there is none.
    pub quota_bytes: Option<u64>,
    /// What counts to it: the bytes that the store holds of the data set, as the store counts them.
    pub stored_bytes: u64,
    /// Under pressure what is of lower priority leaves first.
    pub priority: i32,
}

/// How much of a data set a node of the cache holds. A block is the own one of the node that is first in its rank; a file that of its first block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCoverage {
    pub node: String,
    /// Why it isn't known; empty when it is.
    pub unknown: String,
    /// Own files whose own blocks are all there.
    pub held_files: u64,
    /// Of own blocks.
    pub held_bytes: u64,
    pub own_files: u64,
    pub own_bytes: u64,
    /// Of blocks that are other nodes' own.
    pub copied_bytes: u64,
    /// Copies that it is to have, that another node has, and that could not be brought yet.
    pub lacking_copies: u64,
    /// Of the list that it counted by.
    pub term: u64,
    pub sequence: u64,
}

impl DatasetStatus {
    /// Of the reads so far, how many were answered without the source: `None` before the first.
    pub fn hit_ratio(&self) -> Option<f64> {
        let reads = self.hits + self.misses;
        (reads > 0).then(|| self.hits as f64 / reads as f64)
    }

    /// Bytes that readers got and that the source did not have to send to this node.
    pub fn saved_bytes(&self) -> u64 {
        (self.read_store_bytes + self.read_peer_bytes + self.read_source_bytes).saturating_sub(self.source_bytes)
    }
}

/// What a mount has of what kernels give.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MountStatus {
    /// The kernel reads files that are complete here by itself.
    pub passthrough: bool,
    /// Why it doesn't; empty when it does.
    pub without_passthrough: String,
    /// The kernel sends again what a daemon that died had not answered; without it reads fail then.
    pub resend: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestStatus {
    /// Digest of the manifest that serves; empty before the first.
    pub version: String,
    pub term: u64,
    pub sequence: u64,
    /// Since it was built.
    #[serde(rename = "ageSeconds", serialize_with = "seconds_if_any")]
    pub age: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListingStatus {
    pub running: bool,
    pub keys: u64,
    pub requests: u64,
    /// Why the last one failed; empty when it didn't.
    pub error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreloadProgress {
    pub state: PreloadState,
    pub files_done: u64,
    pub files_total: u64,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub files_failed: u64,
    pub bytes_per_second: u64,
    /// What was asked for and is left to the source, because the cache would not keep it; not part of the totals. Of a file that is kept in part
    /// only the bytes count.
    pub files_read_through: u64,
    pub bytes_read_through: u64,
    /// Of what was here already: what was read and agreed with its checksums, and blocks that didn't and were loaded anew.
    pub bytes_verified: u64,
    pub blocks_mended: u64,
    /// Of `bytes_read_through`, what there is room for and the data set's quota doesn't let in.
    pub bytes_over_quota: u64,
}

/// What is to be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreloadOrder {
    /// Paths of the data set.
    pub paths: Vec<String>,
    /// Also reads what is here already and compares it with its checksums.
    pub verify: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum PreloadState {
    /// For the manifest.
    #[default]
    Waiting,
    Running,
    Paused,
    Done,
    /// Some files couldn't be loaded; the rest is.
    Failed,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainProgress {
    /// Here, as far as they were looked at.
    pub blocks: u64,
    /// Had no other copy and have one now.
    pub moved: u64,
    pub moved_bytes: u64,
    /// Have no other copy: nobody took them.
    pub left: u64,
    /// The last word.
    pub done: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedFile {
    pub path: String,
    pub cause: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TierStatus {
    pub path: String,
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    /// Free on its filesystem.
    pub free_bytes: u64,
    /// Why it takes no new blocks; empty when it does.
    pub degraded: String,
    /// Why its filesystem can never hold what was asked for, and what to do; empty when it could.
    pub too_small: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Freed {
    pub files: u64,
    pub bytes: u64,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn seconds_if_any<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

#[cfg(test)]
mod tests;
