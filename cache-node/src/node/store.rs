//! The node's store: what it is made of, and by which strategy, quotas and priorities it goes.
//! Knows the node's file and the specs of data sets. Does not know blocks.

use std::time::Duration;

use forebay_store::evict::EvictionKind;
use forebay_store::{Capacity, DatasetSlot, StoreConfig, Terms, TierConfig, TierKind};
use forebay_wire::block::BlockSize;
use forebay_wire::dataset_spec::{self, Eviction};
use forebay_wire::node_config::NodeConfig;
use forebay_wire::unit::Capacity as CapacitySpec;

use super::{Node, memory};

/// Descriptors that the store may keep open; `RLIMIT_NOFILE` is 1024 where nobody raised it.
const OPEN_FILES_MAX: usize = 512;
/// How long a full or failing tier is left alone.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

impl Node {
    /// Lets the cache of all data sets go by `eviction` from now on.
    pub fn set_eviction(&self, eviction: Eviction) {
        self.store.set_eviction(kind(eviction));
    }

    /// Lets the store go by the quota and the priority that the spec gives its data set. Blocks on the disk.
    pub(super) fn set_terms(&self, slot: DatasetSlot, spec: &dataset_spec::Dataset) {
        let share = self.shared.as_ref().map_or(1.0, |(neighbours, _)| neighbours.cache_share());
        let quota_bytes = spec.quota.map(|quota| (quota.bytes() as f64 * share) as u64);
        self.store.set_terms(slot, Terms { quota_bytes, priority: spec.priority.get() });
    }
}

fn kind(eviction: Eviction) -> EvictionKind {
    match eviction {
        Eviction::Hold => EvictionKind::Hold,
        Eviction::Lru => EvictionKind::Lru,
        Eviction::S3Fifo => EvictionKind::S3Fifo,
    }
}

pub(super) fn config(config: &NodeConfig, block_size: BlockSize, eviction: Eviction) -> StoreConfig {
    let tier = |tier: &forebay_wire::node_config::Tier| TierConfig {
        kind: if memory::is_tmpfs(&tier.path) { TierKind::Memory } else { TierKind::Disk },
        path: tier.path.clone(),
        capacity: match tier.capacity {
            CapacitySpec::Bytes(size) => Capacity::Bytes(size.bytes()),
            CapacitySpec::Percent(percent) => Capacity::Percent(percent.get()),
        },
        keep_free_percent: tier.keep_free.get(),
    };
    StoreConfig {
        tiers: config.tiers.iter().map(tier).collect(),
        block_size,
        passthrough_min_bytes: config.passthrough_min.bytes(),
        eviction: kind(eviction),
        open_files_max: OPEN_FILES_MAX,
        probe_interval: PROBE_INTERVAL,
        // What the mount's page cache holds is not paid for twice.
        drop_pages_after_read: true,
    }
}
