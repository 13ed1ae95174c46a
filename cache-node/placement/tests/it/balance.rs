//! How evenly blocks are spread: by weight, over racks, and with a bound.

use forebay_placement::{IMBALANCE_MAX, Peer, Placement, PlacementError, RANKS_KEPT, Slot, Weight, within_zone};
use forebay_wire::block::{BlockId, BlockIndex, ObjectId};
use forebay_wire::id::{NodeName, TopologyLabel};

use crate::{equal, peer, racked, ranks, slots};

/// Slots that each node owns, of the given ones, by position.
fn owned(placement: &Placement, slots: impl Iterator<Item = Slot>) -> Vec<u64> {
    let mut owned = vec![0; placement.peers().len()];
    for slot in slots {
        let owner = placement.peer(placement.ranks_of_slot(slot).owner());
        owned[placement.peers().iter().position(|peer| peer.name == owner.name).unwrap()] += 1;
    }
    owned
}

/// The fullest node's part of what it should have, and the emptiest one's.
fn extremes(count: usize, slot_count: u32) -> (f64, f64) {
    let owned = owned(&Placement::new(equal(count)).unwrap(), slots(slot_count));
    let share = f64::from(slot_count) / count as f64;
    (*owned.iter().max().unwrap() as f64 / share, *owned.iter().min().unwrap() as f64 / share)
}

/// Over all slots: `FOREBAY_TORTURE=1` measures 1,000 nodes, which takes a minute.
#[test]
fn the_imbalance_is_as_documented() {
    let (fullest, emptiest) = extremes(4, Slot::COUNT);
    assert!(fullest < 1.002 && emptiest > 0.998, "{fullest} {emptiest}");
    if std::env::var_os("FOREBAY_TORTURE").is_some() {
        for count in [100, 300, 1000] {
            let (fullest, emptiest) = extremes(count, Slot::COUNT);
            println!("{count} nodes: {emptiest:.4} to {fullest:.4}");
            assert!(fullest <= IMBALANCE_MAX && emptiest >= 2.0 - IMBALANCE_MAX);
        }
    }
}

/// A part of the slots shows the same with the wider bound that a smaller number has: 5 standard deviations.
#[test]
fn a_thousand_nodes_have_what_chance_gives() {
    let count = 1 << 17;
    let (fullest, emptiest) = extremes(1000, count);
    let deviation = (1000.0 / f64::from(count)).sqrt();
    assert!(fullest <= 1.0 + 5.0 * deviation && emptiest >= 1.0 - 5.0 * deviation, "{fullest} {emptiest} {deviation}");
}

#[test]
fn weights_are_respected_at_every_rank_that_matters() {
    let terabytes = [1, 1, 2, 4, 8];
    let placement = Placement::new(terabytes.iter().enumerate().map(|(at, weight)| peer(at, weight << 40)).collect()).unwrap();
    let count = 1 << 18;
    let owned = owned(&placement, slots(count));
    for (at, weight) in terabytes.iter().enumerate() {
        let share = f64::from(count) * *weight as f64 / 16.0;
        assert!((owned[at] as f64 / share - 1.0).abs() < 0.03, "node {at}: {} of {share}", owned[at]);
    }
}

#[test]
fn copies_go_to_different_racks_while_there_are_any() {
    for (count, racks) in [(12, 3), (1000, 25), (5, 2), (3, 1)] {
        let plain = Placement::new(equal(count)).unwrap();
        let placement = Placement::new(racked(equal(count), racks)).unwrap();
        for slot in slots(500) {
            let ranked = placement.all_ranks(slot);
            let mut all: Vec<_> = ranked.clone();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count, "each node once");
            let mut first: Vec<_> = ranked[..racks].iter().map(|peer| placement.peer(*peer).rack.clone()).collect();
            first.sort();
            first.dedup();
            assert_eq!(first.len(), racks, "each rack once before any twice");
            assert_eq!(placement.ranks_of_slot(slot).as_slice(), &ranked[..RANKS_KEPT.min(count)]);
            assert_eq!(ranks(&placement, slot)[0], ranks(&plain, slot)[0], "racks don't decide who owns");
        }
    }
}

#[test]
fn kept_ranks_are_the_first_of_all_ranks() {
    for count in [1, 2, 4, 16, 17, 300] {
        let placement = Placement::new(equal(count)).unwrap();
        for slot in slots(200) {
            for _ in 0..2 {
                assert_eq!(placement.ranks_of_slot(slot).as_slice(), &placement.all_ranks(slot)[..RANKS_KEPT.min(count)]);
            }
        }
    }
}

#[test]
fn blocks_of_an_object_are_in_many_slots_and_a_block_in_one() {
    let block = |object, index| BlockId { object: ObjectId(object), index: BlockIndex(index) };
    let mut seen: Vec<u32> = (0..1000).map(|index| Slot::of(block(7, index)).number()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 990, "{}", seen.len());
    assert_eq!(Slot::of(block(7, 3)), Slot::of(block(7, 3)));
    // Neither half of an id decides: objects of one part of either order are spread over all slots.
    for objects in [(0..4096_u128).collect::<Vec<_>>(), (0..4096_u128).map(|n| n << 64).collect()] {
        let quarter = objects.iter().filter(|object| Slot::of(block(**object, 0)).number() < Slot::COUNT / 4).count();
        assert!((900..1150).contains(&quarter), "{quarter}");
    }
}

#[test]
fn zones_are_caches_of_their_own() {
    let zone = |text| TopologyLabel::new(text);
    let peers: Vec<Peer> = equal(6).into_iter().zip(["a", "a", "b", "b", "", ""]).map(|(peer, z)| Peer { zone: zone(z), ..peer }).collect();
    let name = |number: usize| NodeName::new(&format!("node-{number}")).unwrap();
    let check = |own: usize, expected: &[usize]| {
        let names: Vec<NodeName> = within_zone(&peers, &name(own)).into_iter().map(|peer| peer.name).collect();
        assert_eq!(names, expected.iter().map(|number| name(*number)).collect::<Vec<_>>());
    };
    check(0, &[0, 1]);
    check(3, &[2, 3]);
    check(5, &[4, 5]);
    assert!(within_zone(&peers, &name(9)).is_empty());
}

#[test]
fn a_wrong_list_is_refused_with_its_cure() {
    assert_eq!(Placement::new(Vec::new()).err().unwrap(), PlacementError::Empty);
    let twice = Placement::new(vec![peer(1, 1), peer(2, 1), peer(1, 5)]).err().unwrap();
    assert!(twice.to_string().contains("node-1 is in the list twice; give each"), "{twice}");
    assert!(matches!(Placement::new(equal(20_000)).err().unwrap(), PlacementError::TooMany { count: 20_000 }));
    assert_eq!((Weight::new(0), Weight::new(1)), (None, Some(Weight::ONE)));
    assert_eq!((Slot::new(Slot::COUNT), Slot::new(0).map(Slot::number)), (None, Some(0)));
}
