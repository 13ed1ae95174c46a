//! What is counted, on both sides.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }
}

/// Of the side that answers, since the start.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    pub connections: Count,
    pub requests: Count,
    /// Bytes of blocks and manifests that were sent.
    pub bytes: Count,
    /// Callers without a certificate of this cache that is valid now.
    pub refused_identity: Count,
    /// Callers of another version, or with other blocks.
    pub refused_incompatible: Count,
    /// Requests for a data set that this node wasn't told of.
    pub refused_dataset: Count,
    /// Callers beyond the number of connections.
    pub refused_busy: Count,
    /// Connections ended because what came over them meant nothing.
    pub malformed: Count,
    /// Requests that the caller gave up.
    pub cancelled: Count,
}

/// Of the side that asks, since the start.
#[derive(Debug, Default)]
pub struct ClientMetrics {
    pub requests: Count,
    /// Bytes of blocks and manifests that came.
    pub bytes: Count,
    /// Requests that failed because of the peer: away, silent, not proven, nonsense.
    pub failures: Count,
    /// Requests that weren't sent, because the peer had failed a moment before.
    pub bypassed: Count,
    /// Peers that answered a probe after they had failed.
    pub recovered: Count,
    /// Second requests for what had not shown a sign of life in the usual time.
    pub hedges: Count,
    /// Of those, the ones that brought the bytes.
    pub hedges_won: Count,
    /// Requests that went to a later rank because an earlier one failed.
    pub failovers: Count,
    /// Requests that a busy owner sent on to another node that has the block.
    pub sent_on: Count,
}
