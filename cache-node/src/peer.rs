//! The other nodes of the cache: whose a block is, and how to get it from them.
//! Knows the list of nodes, the placement over it, and the connections. Does not know files, sources or the store.
//! Invariant: the list is whole and names this node, at any time; one that doesn't is refused and the last one stays.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use arc_swap::ArcSwap;
use forebay_daemon::identity::{Identity, IdentityError};
use forebay_peer::{Introduction, Network, PeerLimits, Peers, Security};
use forebay_placement::{Peer, PeerIndex, Placement, PlacementError, RANKS_KEPT, Shelf, Slot, Weight, within_zone};
use forebay_wire::block::{BlockId, BlockSize};
use forebay_wire::id::NodeName;
use forebay_wire::node_config::{PeerNode, Peers as PeersConfig};
use tokio::sync::watch;
use tracing::info;

#[derive(Debug, thiserror::Error)]
pub enum PeerSetupError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Placement(#[from] PlacementError),
    #[error("join the cache: {node} is not in its list of nodes")]
    Unlisted { node: NodeName },
    #[error("join the cache: `{cache}` is no DNS name; correct `peers.cache`")]
    Name { cache: String },
    #[error("listen on {at} for other nodes: {cause}; choose another address in `peers.listen`")]
    Listen { at: String, cause: std::io::Error },
}

/// Whom to ask for a block before its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nobody: it is this node's.
    Own,
    Others {
        /// Best first, at least one.
        ranks: Vec<NodeName>,
        /// When they all fail, it is this node that reads the source for the others too.
        is_next: bool,
    },
    /// These have a copy, at least one of them: it is to be here too.
    Copies { ranks: Vec<NodeName> },
}

/// How the others are reached.
pub enum By {
    /// By TCP and TLS. Shows this identity; without one, the certificates that the configuration names.
    Tls(Option<Arc<Identity>>),
    /// By a network in the same process: that of the simulation, whose nodes share their placements.
    Brought { network: Arc<dyn Network>, shelf: Arc<Shelf> },
}

/// Who is to have a block, seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// Whether this node is one of them.
    pub own: bool,
    /// The others, best first.
    pub others: Vec<NodeName>,
}

/// This node among the others. Used behind an `Arc`.
pub struct Neighbours {
    own: NodeName,
    introduction: Introduction,
    security: Security,
    shelf: Arc<Shelf>,
    peers: Arc<Peers>,
    view: ArcSwap<View>,
    /// Told when another list came into force.
    changes: watch::Sender<()>,
}

/// One list of nodes, seen from here.
pub struct View {
    nodes: Vec<PeerNode>,
    placement: Arc<Placement>,
    own: PeerIndex,
    /// Of all weights, in all zones: each zone reads the source for itself.
    share: f64,
    /// Of the weights in its own zone, which is a cache of its own.
    cache_share: f64,
    /// By peer: how often in a row it was guessed in vain, or not asked, that it has a block of this node's.
    vain: Box<[AtomicU32]>,
}

/// A node that is guessed to have a block, by one list.
pub struct Guess {
    pub name: NodeName,
    view: Arc<View>,
    block: BlockId,
    rank: usize,
}

impl Guess {
    /// It had it.
    pub fn was_right(&self) {
        let at = self.view.placement.ranks(self.block).as_slice()[self.rank];
        self.view.vain[at.position()].store(0, Relaxed);
    }
    /// Who may have it if this one has not.
    pub fn next(&self) -> Option<Self> {
        self.view.guess_from(self.block, self.rank + 1)
    }
}

/// So often a node may be asked in vain for what it might have; from then on once in `ASKED_ONCE_IN`, so that a cold cache hardly pays for it.
const VAIN_MAX: u32 = 8;
const ASKED_ONCE_IN: u32 = 32;

impl View {
    /// `own` is to be among `nodes`.
    pub fn new(nodes: &[PeerNode], own: &NodeName, shelf: &Shelf) -> Result<Self, PeerSetupError> {
        let all: Vec<Peer> = nodes.iter().map(placed).collect();
        let placement = match within_zone(&all, own) {
            alone if alone.is_empty() => return Err(PeerSetupError::Unlisted { node: own.clone() }),
            zone => shelf.place(zone)?,
        };
        let own = placement.find(own).ok_or_else(|| PeerSetupError::Unlisted { node: own.clone() })?;
        let whole: f64 = all.iter().map(|peer| peer.weight.get() as f64).sum();
        let weight = placement.peer(own).weight.get() as f64;
        let of_cache: f64 = placement.peers().iter().map(|peer| peer.weight.get() as f64).sum();
        let vain = placement.peers().iter().map(|_| AtomicU32::new(0)).collect();
        Ok(Self { nodes: nodes.to_vec(), placement, own, share: weight / whole, cache_share: weight / of_cache, vain })
    }

    /// The first `count` nodes of a block, or all when there are fewer.
    pub fn holders(&self, block: BlockId, count: u32) -> Holders {
        let (slot, count) = (Slot::of(block), count as usize);
        let (few, all);
        let ranks = if count <= RANKS_KEPT {
            few = self.placement.ranks_of_slot(slot);
            few.as_slice()
        } else {
            all = self.placement.all_ranks(slot);
            &all
        };
        let first = &ranks[..count.min(ranks.len())];
        let others = first.iter().filter(|peer| **peer != self.own).map(|peer| self.placement.peer(*peer).name.clone());
        Holders { own: first.contains(&self.own), others: others.collect() }
    }

    /// The other nodes before and after this one in the ranks of a block, best first. Of those after it only the first few.
    pub fn order(&self, block: BlockId) -> (Vec<NodeName>, Vec<NodeName>) {
        let ranks = self.placement.ranks_of_slot(Slot::of(block));
        let ranks = ranks.as_slice();
        let names = |ranks: &[PeerIndex]| ranks.iter().map(|peer| self.placement.peer(*peer).name.clone()).collect();
        match ranks.iter().position(|peer| *peer == self.own) {
            Some(at) => (names(&ranks[..at]), names(&ranks[at + 1..])),
            None => (names(ranks), Vec::new()),
        }
    }

    /// Who may have a block that is this node's: the next in rank had it before this node joined, has a copy, or stood in for it. `None` where it isn't
    /// this node's, or those that are next had nothing of late.
    pub fn guess(self: &Arc<Self>, block: BlockId) -> Option<Guess> {
        if self.placement.ranks(block).owner() == self.own { self.guess_from(block, 1) } else { None }
    }

    fn guess_from(self: &Arc<Self>, block: BlockId, rank: usize) -> Option<Guess> {
        let ranks = self.placement.ranks(block);
        let is_worth_it = |(_, peer): &(usize, &PeerIndex)| {
            let vain = self.vain[peer.position()].fetch_add(1, Relaxed);
            vain < VAIN_MAX || vain.is_multiple_of(ASKED_ONCE_IN)
        };
        let (rank, at) = ranks.as_slice().iter().enumerate().skip(rank).find(is_worth_it)?;
        Some(Guess { name: self.placement.peer(*at).name.clone(), view: self.clone(), block, rank })
    }

    /// Who is ranked how for each block.
    pub fn placement(&self) -> &Arc<Placement> {
        &self.placement
    }

    /// Whether this node shares blocks with one of that name.
    pub fn has(&self, name: &NodeName) -> bool {
        self.placement.find(name).is_some()
    }

    /// Name and address of the others that share blocks with this node.
    pub fn others(&self) -> impl Iterator<Item = (NodeName, String)> {
        let shares = |node: &&PeerNode| self.placement.find(&node.name).is_some_and(|index| index != self.own);
        self.nodes.iter().filter(shares).map(|node| (node.name.clone(), node.address.clone()))
    }
}

fn placed(node: &PeerNode) -> Peer {
    let weight = node.weight.and_then(|bytes| Weight::new(bytes.bytes())).unwrap_or(Weight::ONE);
    Peer { name: node.name.clone(), weight, zone: node.zone.clone(), rack: node.rack.clone() }
}

impl Neighbours {
    /// Connects to nobody yet. Within a runtime.
    pub fn new(config: &PeersConfig, by: By, block_size: BlockSize, limits: PeerLimits) -> Result<Arc<Self>, PeerSetupError> {
        let (security, shelf) = match by {
            By::Tls(identity) => {
                let identity = identity.map_or_else(|| Identity::load(&config.certificates), Ok)?;
                let security = Security::tls(identity, &config.cache);
                (security.ok_or_else(|| PeerSetupError::Name { cache: config.cache.clone() })?, Arc::default())
            }
            By::Brought { network, shelf } => (Security::brought(network), shelf),
        };
        let view = View::new(&config.nodes, &config.name, &shelf)?;
        let introduction = Introduction::new(config.name.clone(), block_size);
        let peers = Peers::new(introduction.clone(), security.clone(), limits);
        peers.set(view.others());
        Ok(Arc::new(Self {
            own: config.name.clone(),
            introduction,
            security,
            shelf,
            peers,
            view: ArcSwap::from_pointee(view),
            changes: watch::Sender::new(()),
        }))
    }

    /// Goes by another list of nodes from now on. Flights end by the one they began with.
    pub fn set(&self, nodes: &[PeerNode]) -> Result<(), PeerSetupError> {
        if self.view.load().nodes == nodes {
            return Ok(());
        }
        let view = View::new(nodes, &self.own, &self.shelf)?;
        info!(nodes = view.placement.peers().len(), "another list of nodes is in force");
        self.peers.set(view.others());
        self.view.store(Arc::new(view));
        self.changes.send_replace(());
        Ok(())
    }

    /// Whether this node reads the block from the source and keeps it for all.
    pub fn owns(&self, block: BlockId) -> bool {
        let view = self.view.load();
        view.placement.ranks(block).owner() == view.own
    }

    /// Of what all nodes may ask the sources for, how much is for this one: above 0, at most 1.
    pub fn share(&self) -> f64 {
        self.view.load().share
    }

    /// Of what the whole cache may hold, how much is for this one: above 0, at most 1. Each zone is a cache.
    pub fn cache_share(&self) -> f64 {
        self.view.load().cache_share
    }

    /// The list in force.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }
    /// Changes when another list came into force.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether this node is among the first `count` for the block.
    pub fn holds(&self, block: BlockId, count: u32) -> bool {
        self.view.load().holders(block, count).own
    }

    /// Whether others may turn to this node for the block, when those before it fail.
    pub fn is_ranked(&self, block: BlockId) -> bool {
        let view = self.view.load();
        view.placement.ranks(block).rank_of(view.own).is_some()
    }

    pub fn way(&self, block: BlockId) -> Way {
        let view = self.view.load();
        let ranks = view.placement.ranks(block);
        let own = ranks.rank_of(view.own);
        let before = &ranks.as_slice()[..own.unwrap_or(ranks.as_slice().len())];
        if before.is_empty() {
            return Way::Own;
        }
        Way::Others { ranks: before.iter().map(|peer| view.placement.peer(*peer).name.clone()).collect(), is_next: own.is_some() }
    }

    pub fn own(&self) -> &NodeName {
        &self.own
    }
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }
    pub fn introduction(&self) -> &Introduction {
        &self.introduction
    }
    pub fn security(&self) -> &Security {
        &self.security
    }
}

/// Takes the port for other nodes; with port 0 a free one.
pub fn listen(config: &PeersConfig) -> Result<TcpListener, PeerSetupError> {
    let failed = |cause| PeerSetupError::Listen { at: config.listen.to_string(), cause };
    let listener = TcpListener::bind(config.listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
