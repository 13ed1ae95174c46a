//! A node as the placement sees it: a name, a weight, and where it stands.

use std::num::NonZeroU64;

use forebay_wire::id::{NodeName, TopologyLabel};

/// How much a node takes of the whole: the bytes of its tiers' quotas, or any other unit that is the same for all nodes. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZeroU64);

impl Weight {
    /// For nodes that are alike.
    pub const ONE: Self = Self(NonZeroU64::MIN);

    /// `None` for 0: a node that holds nothing is not in the list.
    pub fn new(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).map(Self)
    }
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// One node of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: NodeName,
    pub weight: Weight,
    /// Blocks don't cross zones: each is a cache of its own.
    pub zone: Option<TopologyLabel>,
    /// Copies of a block go to different racks while there are any. A node without one is a rack of its own.
    pub rack: Option<TopologyLabel>,
}

/// The nodes that share a cache with `own`: those of its zone, `own` among them. Those without a zone are a zone together.
/// Empty when `own` isn't in the list.
pub fn within_zone(peers: &[Peer], own: &NodeName) -> Vec<Peer> {
    let Some(zone) = peers.iter().find(|peer| peer.name == *own).map(|peer| &peer.zone) else { return Vec::new() };
    peers.iter().filter(|peer| peer.zone == *zone).cloned().collect()
}
