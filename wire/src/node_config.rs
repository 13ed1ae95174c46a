//! The node's own settings: where its cache lies, how much it may take, its limits. Valid by type.
//! Knows what is allowed. Does not know any data set.
//! Changes: a new optional field is safe; a new meaning, a removed field or a narrower value is breaking.

pub mod file;
pub mod peers;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::unit::{ByteSize, Capacity, Percent};
pub use peers::{PeerNode, Peers};

/// Bytes of a block unless the file says otherwise.
pub const BLOCK_SIZE: ByteSize = ByteSize::mebibytes(4);
/// From here up an object is a file of its own in the store, and can be passed through.
pub const PASSTHROUGH_MIN: ByteSize = ByteSize::kibibytes(64);
/// Fills at once: enough to hide 50 ms of latency at 10 Gbit/s with blocks of 4 MiB, four times over.
pub const FILLS_MAX: u32 = 64;
/// Memory for bytes on their way from a source.
pub const FILL_BUFFER: ByteSize = ByteSize::mebibytes(96);
/// Share of a tier's filesystem that stays free.
pub const KEEP_FREE_PERCENT: u8 = 10;
/// A tier's share of its filesystem unless the file says otherwise.
pub const CAPACITY_PERCENT: u8 = 80;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Fastest first; no folder lies inside another. Empty when the file names none: then the program takes a folder of its own choice.
    pub tiers: Vec<Tier>,
    /// A power of two from 64 KiB to 16 MiB.
    pub block_size: ByteSize,
    pub passthrough: bool,
    /// At least 4 KiB.
    pub passthrough_min: ByteSize,
    /// 1 to 4096.
    pub fills_max: u32,
    /// At least four blocks.
    pub fill_buffer: ByteSize,
    pub source_limits: SourceLimits,
    pub serving: ServingMode,
    /// Where metrics and health are answered; `None`: nowhere. Port 0 takes a free one.
    pub metrics: Option<SocketAddr>,
    /// Folder of secrets as Kubernetes mounts them: `<secret>/<KEY>` holds one value.
    pub secrets: Option<PathBuf>,
    pub ambient_credentials: AmbientCredentials,
    /// `None`: a cache of this node alone.
    pub peers: Option<Peers>,
    pub log: LogConfig,
}

/// A folder that holds cached blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Absolute.
    pub path: PathBuf,
    pub capacity: Capacity,
    pub keep_free: Percent,
}

/// What the sources may be asked for, all together, by all nodes of a cache together: each takes its share by weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    pub max_bytes_per_second: Option<ByteSize>,
    pub max_requests_per_second: Option<u32>,
}

/// How opens are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServingMode {
    /// `Open` first; `NoOpen` once the data set is known to be small files that fit into memory.
    #[default]
    Auto,
    /// Every open is answered: passthrough for what is complete here, the page cache is kept for the rest.
    Open,
    /// The kernel opens by itself: the fastest for what fits into memory, no passthrough.
    NoOpen,
}

/// Whether a source without a secret may use the machine's own credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AmbientCredentials {
    #[default]
    Allow,
    /// Then it is read anonymously.
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Directives as `tracing` takes them: `info,forebay_node=debug`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    #[default]
    Text,
    #[serde(rename = "JSON")]
    Json,
}
