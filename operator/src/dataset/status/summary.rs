//! What all nodes together say of a Dataset, in the few facts that conditions and figures are made of.
//! Pure.

use std::collections::BTreeMap;

use forebay_api::Dataset;
use forebay_wire::control_service::Problem;
use forebay_wire::dataset_spec::file::SyncMode;
use forebay_wire::dataset_spec::{Eviction, PreloadWhen};
use forebay_wire::node_service::{DatasetStatus, ListingStatus, PreloadState};
use forebay_wire::rule::CacheMode;
use forebay_wire::unit;

use super::super::observe::Observed;
use crate::nodes::NodeView;

/// What one node says, unpacked.
#[derive(Clone, Debug)]
pub struct NodeSays {
    pub name: String,
    pub zone: String,
    pub problem: String,
    pub problem_kind: Problem,
    pub wanted: u64,
    pub held: u64,
    pub status: DatasetStatus,
    pub unreachable_samples: Vec<String>,
}

impl NodeSays {
    /// The digest of its list of files; empty before the first complete one.
    pub fn version(&self) -> &str {
        self.status.manifest.as_ref().map_or("", |manifest| &manifest.version)
    }

    /// Folders can be listed: from the complete list, which a source that fails now doesn't take away, or on demand while it grows.
    pub fn is_readable(&self) -> bool {
        let grows = |listing: &ListingStatus| listing.keys > 0 && listing.error.is_empty();
        !self.version().is_empty() || (self.problem.is_empty() && self.status.listing.as_ref().is_some_and(grows))
    }

    pub fn preload(&self) -> PreloadState {
        self.status.preload.as_ref().map_or(PreloadState::Waiting, |preload| preload.state())
    }

    /// `None` of a node that doesn't know the Dataset.
    pub(super) fn of(node: &NodeView) -> Option<Self> {
        let observed = node.dataset.as_ref()?;
        Some(Self {
            name: node.name.clone(),
            zone: node.zone.clone(),
            problem: observed.problem.clone(),
            problem_kind: observed.problem_kind(),
            wanted: observed.wanted_bytes,
            held: observed.wanted_held_bytes,
            status: observed.status.clone().unwrap_or_default(),
            unreachable_samples: observed.unreachable_samples.clone(),
        })
    }
}

#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Nodes that know the Dataset, by name.
    pub says: Vec<NodeSays>,
    /// Nodes that answer.
    pub answering: usize,
    /// Nodes that refuse what they were told as a whole, with the reason of the first.
    pub refusing: Option<(String, String)>,
    /// The smallest capacity of one node, all tiers together.
    pub capacity_min: Option<(String, u64)>,
    /// A tier that a node uses with less than it should.
    pub tier_degraded: Option<(String, String)>,
    /// Neither rules nor preload ask for files ahead of use.
    pub asks_for_nothing: bool,
    pub suspended: bool,
    pub frozen: bool,
    /// It asks for an eviction that the other data sets of its cache don't share.
    pub eviction_differs: bool,
    /// It asks for a higher priority than its CachePolicy lets it have: that one.
    pub priority_limited: Option<i32>,
    /// Rules or preload ask for files ahead of use.
    pub asks_ahead: bool,
    /// `spec.quota`, as it is written.
    pub quota: Option<String>,
    /// How old the list of files may be.
    pub interval_ms: u64,
}

/// Unless the spec says otherwise, as on a node.
const SYNC_INTERVAL_MS: u64 = 600_000;

impl Summary {
    pub fn of(dataset: &Dataset, observed: &Observed) -> Self {
        let says: Vec<NodeSays> = observed.nodes.iter().filter_map(NodeSays::of).collect();
        let refusing = observed.nodes.iter().find(|node| !node.refused.is_empty()).map(|node| (node.name.clone(), node.refused.clone()));
        let capacity = |node: &NodeView| node.tiers.iter().map(|tier| tier.capacity_bytes).sum::<u64>();
        let capacity_min = observed
            .nodes
            .iter()
            .filter(|node| !node.tiers.is_empty())
            .map(|node| (node.name.clone(), capacity(node)))
            .min_by_key(|(_, bytes)| *bytes);
        let tier_degraded = observed.nodes.iter().find_map(|node| {
            let tier = node.tiers.iter().find(|tier| !tier.degraded.is_empty())?;
            Some((node.name.clone(), tier.degraded.clone()))
        });
        let spec = &dataset.spec;
        let preload = spec.preload.clone().unwrap_or_default();
        let sync = spec.sync.clone().unwrap_or_default();
        let interval = sync.interval.as_deref().and_then(|text| unit::parse_duration(text).ok());
        let asks_ahead = !matches!(preload.when, None | Some(PreloadWhen::Never | PreloadWhen::Manual))
            || spec.rules.iter().flatten().any(|rule| rule.cache == Some(CacheMode::Pin));
        Self {
            answering: observed.nodes.len(),
            refusing,
            capacity_min,
            tier_degraded,
            asks_ahead,
            asks_for_nothing: !asks_ahead && says.iter().all(|node| node.wanted == 0),
            suspended: preload.suspend.unwrap_or(false),
            frozen: sync.mode == Some(SyncMode::Never),
            eviction_differs: spec.eviction.is_some_and(|wish| wish != Eviction::Hold && wish != observed.eviction),
            priority_limited: observed.policy.as_ref().ok().map(|policy| policy.spec.max_priority).filter(|max| spec.priority > Some(*max)),
            quota: spec.quota.clone(),
            interval_ms: interval.map_or(SYNC_INTERVAL_MS, |interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)),
            says,
        }
    }

    /// The node whose list of files is the newest: what it says of files and bytes is told.
    pub fn newest(&self) -> Option<&NodeSays> {
        let rank = |node: &&NodeSays| {
            let manifest = node.status.manifest.as_ref();
            (manifest.map_or((0, 0), |manifest| (manifest.term, manifest.sequence)), node.status.files)
        };
        self.says.iter().filter(|node| !node.version().is_empty()).max_by_key(rank)
    }

    pub fn readable(&self) -> usize {
        self.says.iter().filter(|node| node.is_readable()).count()
    }

    pub fn with_problem(&self) -> impl Iterator<Item = &NodeSays> {
        self.says.iter().filter(|node| !node.problem.is_empty())
    }

    /// Bytes that every zone's cache holds: of the one that holds the least. Each node tells of the blocks that are its own; while lists of nodes
    /// differ for a moment, one may be told twice.
    pub fn cached(&self) -> u64 {
        let mut zones: BTreeMap<&str, u64> = BTreeMap::new();
        for node in &self.says {
            *zones.entry(&node.zone).or_default() += node.status.cached_bytes;
        }
        let size = self.newest().map_or(0, |newest| newest.status.bytes);
        zones.into_values().min().unwrap_or(0).min(size)
    }

    /// Bytes that count to the quota, of the zone that holds the most: each is a cache of its own.
    pub fn stored(&self) -> u64 {
        self.most_of_a_zone(|node| node.status.stored_bytes)
    }

    /// Bytes that rules and preload ask for and only the quota keeps out.
    pub fn over_quota(&self) -> u64 {
        if !self.asks_ahead {
            // What nodes tell is of a preload that nobody wants any more.
            return 0;
        }
        self.most_of_a_zone(|node| node.status.preload.as_ref().map_or(0, |preload| preload.bytes_over_quota))
    }

    fn most_of_a_zone(&self, bytes: impl Fn(&NodeSays) -> u64) -> u64 {
        let mut zones: BTreeMap<&str, u64> = BTreeMap::new();
        for node in &self.says {
            *zones.entry(&node.zone).or_default() += bytes(node);
        }
        zones.into_values().max().unwrap_or(0)
    }

    pub fn wanted(&self) -> u64 {
        self.says.iter().map(|node| node.wanted).sum()
    }

    pub fn held(&self) -> u64 {
        self.says.iter().map(|node| node.held.min(node.wanted)).sum()
    }
}
