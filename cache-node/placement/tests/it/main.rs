//! Integration tests of the placement, one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod balance;
mod membership;

use forebay_placement::{Peer, Placement, Slot, Weight};
use forebay_wire::id::{NodeName, TopologyLabel};

/// Node `number` with this weight, in no zone and no rack.
fn peer(number: usize, weight: u64) -> Peer {
    Peer { name: NodeName::new(&format!("node-{number}")).unwrap(), weight: Weight::new(weight).unwrap(), zone: None, rack: None }
}

fn equal(count: usize) -> Vec<Peer> {
    (0..count).map(|number| peer(number, 1)).collect()
}

/// The same nodes, each in one of `racks` racks.
fn racked(peers: Vec<Peer>, racks: usize) -> Vec<Peer> {
    let rack = |at: usize| TopologyLabel::new(&format!("rack-{}", at % racks));
    peers.into_iter().enumerate().map(|(at, peer)| Peer { rack: rack(at), ..peer }).collect()
}

/// `count` slots spread over all.
fn slots(count: u32) -> impl Iterator<Item = Slot> {
    let step = Slot::COUNT / count;
    (0..count).map(move |at| Slot::new(at * step).unwrap())
}

/// The names of a slot's kept ranks.
fn ranks(placement: &Placement, slot: Slot) -> Vec<NodeName> {
    placement.ranks_of_slot(slot).as_slice().iter().map(|peer| placement.peer(*peer).name.clone()).collect()
}
