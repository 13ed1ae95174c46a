//! Nodes that come, go, grow: what moves is what must.

use forebay_placement::{Peer, Placement, RANKS_KEPT, Slot};
use forebay_wire::id::NodeName;
use proptest::prelude::*;

use crate::{equal, peer, racked, ranks, slots};

/// Slots that are compared: with 1,000 nodes each has 4.
const SLOTS: u32 = 4096;

fn placement(peers: &[Peer]) -> Placement {
    Placement::new(peers.to_vec()).unwrap()
}

/// A slot's ranks change only where `moved` was or comes among them, and there only `moved` comes or goes, with the next in rank for it.
fn only_what_must_moves(without: &Placement, with: &Placement, moved: &NodeName) -> usize {
    let mut owners = 0;
    for slot in slots(SLOTS) {
        let (before, after) = (ranks(without, slot), ranks(with, slot));
        let rest: Vec<&NodeName> = after.iter().filter(|name| *name != moved).collect();
        assert!(before.iter().zip(&rest).all(|(a, b)| a == *b), "the others keep their order: {before:?} {after:?}");
        assert!(after.contains(moved) || before == after);
        owners += usize::from(before[0] != after[0]);
    }
    owners
}

#[test]
fn of_a_thousand_nodes_one_that_comes_or_goes_moves_its_own_slots_only() {
    let all = equal(1001);
    for gone in [0, 500, 1000] {
        let rest: Vec<Peer> = all.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, peer)| peer.clone()).collect();
        let moved = only_what_must_moves(&placement(&rest), &placement(&all), &all[gone].name);
        assert!(moved <= 20, "{moved} of {SLOTS} slots, where 4 are expected");
    }
}

#[test]
fn with_racks_a_slot_moves_only_when_the_node_was_or_comes_among_its_ranks() {
    let all = racked(equal(1001), 40);
    let with = placement(&all);
    let without = placement(&all[..1000]);
    for slot in slots(SLOTS) {
        let (before, after) = (ranks(&without, slot), ranks(&with, slot));
        if after.contains(&all[1000].name) {
            let stayed = after.iter().filter(|name| before.contains(name)).count();
            assert_eq!(stayed, RANKS_KEPT - 1, "one comes, one leaves: {before:?} {after:?}");
        } else {
            assert_eq!(before, after);
        }
    }
}

#[test]
fn a_node_that_grows_takes_slots_and_nobody_else_does() {
    let mut peers = equal(1000);
    let small = placement(&peers);
    peers[7] = peer(7, 30);
    let large = placement(&peers);
    let mut taken = 0;
    for slot in slots(SLOTS) {
        let (before, after) = (ranks(&small, slot)[0].clone(), ranks(&large, slot)[0].clone());
        assert!(before == after || after == peers[7].name);
        taken += usize::from(before != after);
    }
    assert!((60..190).contains(&taken), "{taken}, where 30/1029 of {SLOTS} are 119");
}

#[test]
fn the_same_in_any_order_and_in_every_release() {
    let mut peers: Vec<Peer> = racked((0..1000).map(|number| peer(number, number as u64 % 7 + 1)).collect(), 30);
    let ordered = placement(&peers);
    peers.reverse();
    peers.rotate_left(311);
    let shuffled = placement(&peers);
    for slot in slots(SLOTS) {
        assert_eq!(ranks(&ordered, slot), ranks(&shuffled, slot));
    }
    // Other values here would move blocks when a cache is upgraded node by node.
    let named =
        |placement: &Placement, slot: u32| ranks(placement, Slot::new(slot).unwrap()).iter().map(NodeName::to_string).collect::<Vec<_>>();
    let five = placement(&equal(5));
    assert_eq!(named(&five, 0), GOLDEN[0]);
    assert_eq!(named(&five, 4_194_303), GOLDEN[1]);
    assert_eq!(named(&ordered, 1_000_000), GOLDEN[2]);
}

const GOLDEN: [[&str; RANKS_KEPT]; 3] =
    [["node-0", "node-4", "node-3", "node-1"], ["node-1", "node-4", "node-2", "node-3"], ["node-950", "node-426", "node-272", "node-208"]];

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whoever_goes_only_its_own_slots_move(weights in prop::collection::vec(1_u64..=1 << 44, 2..60), gone in any::<prop::sample::Index>()) {
        let all: Vec<Peer> = weights.iter().enumerate().map(|(number, weight)| peer(number, *weight)).collect();
        let gone = gone.index(all.len());
        let rest: Vec<Peer> = all.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, peer)| peer.clone()).collect();
        only_what_must_moves(&placement(&rest), &placement(&all), &all[gone].name);
    }
}
