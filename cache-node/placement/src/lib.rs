//! Which node owns a block, and who is next: slots, each with its nodes ranked by weighted rendezvous hashing.
//! Knows node names, weights, zones, racks, block ids; it is pure. Does not know addresses, which node is alive, or what is cached where.
//! Invariant: the same nodes in any order give the same ranks on every node, every machine and in every release.
//!
//! Start at `Placement::new`; `Ranks` is what a reader goes by.

mod peer;
mod rendezvous;
mod shelf;
mod slot;
mod table;

pub use peer::{Peer, Weight, within_zone};
pub use shelf::Shelf;
pub use slot::Slot;

use forebay_wire::block::BlockId;
use forebay_wire::id::NodeName;

use rendezvous::Scorer;
use table::Table;

/// Nodes of one cache. More would not fit into the table's 16 bits, and a cache of this size is several caches.
pub const PEERS_MAX: usize = 16_384;
/// Ranks that are kept at hand: the owner and whom to ask when it is away, or who else holds a copy. Later ones are computed when asked for.
pub const RANKS_KEPT: usize = 4;
/// Up to so many nodes a slot is ranked anew each time, in under 0.3 us: a small cache needs no memory for its placement.
const UNTABLED_PEERS_MAX: usize = 16;

/// Why a list of nodes is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("place blocks: the list of nodes is empty; a cache needs at least one")]
    Empty,
    #[error("place blocks: node {name} is in the list twice; give each node a name of its own")]
    Duplicate { name: NodeName },
    #[error("place blocks: {count} nodes are more than {PEERS_MAX}; make several caches of them")]
    TooMany { count: usize },
}

/// Position of a node in `Placement::peers`. Means nothing in another placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIndex(u16);

impl PeerIndex {
    /// `position` is below `PEERS_MAX`.
    fn at(position: usize) -> Self {
        Self(u16::try_from(position).expect("a placement has at most PEERS_MAX nodes"))
    }
    /// In `Placement::peers`.
    pub fn position(self) -> usize {
        usize::from(self.0)
    }
}

/// The first nodes of a slot, best first: 1 to `RANKS_KEPT`, all different. The first is the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    peers: [PeerIndex; RANKS_KEPT],
    count: u8,
}

impl Ranks {
    /// `peers` holds at least one; what is beyond `RANKS_KEPT` is left out.
    fn of(peers: &[PeerIndex]) -> Self {
        let count = peers.len().min(RANKS_KEPT);
        let mut ranks = Self { peers: [peers[0]; RANKS_KEPT], count: count as u8 };
        ranks.peers[..count].copy_from_slice(&peers[..count]);
        ranks
    }
    pub fn as_slice(&self) -> &[PeerIndex] {
        &self.peers[..usize::from(self.count)]
    }
    pub fn owner(&self) -> PeerIndex {
        self.peers[0]
    }
    /// The rank of `peer`, from 0; `None` when it isn't among the first.
    pub fn rank_of(&self, peer: PeerIndex) -> Option<usize> {
        self.as_slice().iter().position(|other| *other == peer)
    }
}

/// Who has which slots, for one list of nodes; another list is another placement. Shared by threads.
///
/// Nothing is stored but a table of the ranks that were asked for: none up to 16 nodes, else 32 MiB, of which pages are taken as they are
/// used. A rank that isn't in the table costs O(nodes): 3 us with 1,000 nodes, 10 us with racks.
///
/// **Balance.** A node's share of the slots is binomial with its share of the weights `p`: a standard deviation of `sqrt((1 - p) / (p * 2^22))`
/// of the share. Measured over all slots with equal weights, nodes have 0.998 to 1.002 times their share in a cache of 4, 0.987 to 1.010 in one
/// of 100, 0.936 to 1.052 in one of 1,000; `IMBALANCE_MAX` bounds both sides up to there. Blocks spread over the slots of a node at random, which adds `1 / sqrt(blocks of the node)`.
pub struct Placement {
    /// Sorted by name.
    peers: Vec<Peer>,
    scorer: Scorer,
    table: Option<Table>,
}

/// What the fullest node may have, as a multiple of its share by weight, in a cache of up to 1,000 nodes of equal weight; the emptiest has at
/// least `2 - IMBALANCE_MAX`.
pub const IMBALANCE_MAX: f64 = 1.07;

impl Placement {
    /// Places blocks over `peers`, in any order. O(peers).
    pub fn new(mut peers: Vec<Peer>) -> Result<Self, PlacementError> {
        if peers.is_empty() {
            return Err(PlacementError::Empty);
        }
        if peers.len() > PEERS_MAX {
            return Err(PlacementError::TooMany { count: peers.len() });
        }
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = peers.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(PlacementError::Duplicate { name: pair[0].name.clone() });
        }
        let table = (peers.len() > UNTABLED_PEERS_MAX).then(Table::new);
        Ok(Self { scorer: Scorer::new(&peers), peers, table })
    }

    /// Sorted by name.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }
    pub fn peer(&self, index: PeerIndex) -> &Peer {
        &self.peers[index.position()]
    }
    /// `None` when no such node is in the list. O(log peers).
    pub fn find(&self, name: &NodeName) -> Option<PeerIndex> {
        self.peers.binary_search_by(|peer| peer.name.cmp(name)).ok().map(PeerIndex::at)
    }

    /// The node that reads `block` from the source and keeps it.
    pub fn owner(&self, block: BlockId) -> &Peer {
        self.peer(self.ranks(block).owner())
    }

    /// The first nodes for `block`, best first.
    pub fn ranks(&self, block: BlockId) -> Ranks {
        self.ranks_of_slot(Slot::of(block))
    }

    /// The first nodes for a slot, best first. Never waits: threads that rank the same slot at once write the same row.
    pub fn ranks_of_slot(&self, slot: Slot) -> Ranks {
        let Some(table) = &self.table else { return self.scorer.ranks(slot) };
        table.get(slot).unwrap_or_else(|| {
            let ranks = self.scorer.ranks(slot);
            table.put(slot, &ranks);
            ranks
        })
    }

    /// All nodes for a slot, best first; it begins with `ranks_of_slot`. O(peers * log peers), more with racks.
    pub fn all_ranks(&self, slot: Slot) -> Vec<PeerIndex> {
        self.scorer.all_ranks(slot)
    }
}
