//! Weighted rendezvous hashing: each node has a score for each slot, and the best scores are the slot's ranks.
//! Thaler and Ravishankar 1998; weights by the logarithm method of Schindelhauer and Schomaker 2005: with `u` a hash of node and slot in (0, 1),
//! `-ln(u) / weight` is exponentially distributed with the weight as its rate, so each node has the smallest one with its share of the weights.
//! Our deviation: ranks behind the first prefer racks that have no copy yet.
//! Invariant: a score depends on its node and slot only, so a node that comes takes slots and a node that goes gives its own, and nobody else's move.

use std::cmp::Ordering;

use forebay_wire::id::TopologyLabel;
use xxhash_rust::xxh3::xxh3_64;

use super::{Peer, PeerIndex, RANKS_KEPT, Ranks, Slot};

/// What scoring needs of each node, by position.
pub(super) struct Scorer {
    nodes: Vec<Node>,
    /// How many racks there are; `None` when no two nodes share one, which spares the spreading.
    racks: Option<usize>,
}

#[derive(Clone, Copy)]
struct Node {
    hash: u64,
    /// 1 / weight: a product is faster than a quotient.
    inverse: f64,
    rack: u16,
}

#[derive(Clone, Copy)]
struct Scored {
    /// The smaller, the better.
    score: f64,
    peer: PeerIndex,
}

impl Scored {
    /// Equal scores, which take equal hashes, go by name.
    fn order(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.peer.cmp(&other.peer))
    }
}

impl Scorer {
    /// `peers` are sorted by name.
    pub(super) fn new(peers: &[Peer]) -> Self {
        let mut labels: Vec<&TopologyLabel> = peers.iter().filter_map(|peer| peer.rack.as_ref()).collect();
        labels.sort();
        labels.dedup();
        let mut racks = labels.len();
        let nodes: Vec<Node> = peers
            .iter()
            .map(|peer| {
                let labelled = peer.rack.as_ref().and_then(|rack| labels.binary_search(&rack).ok());
                // Without a label: a rack of its own.
                let rack = labelled.unwrap_or_else(|| {
                    racks += 1;
                    racks - 1
                });
                let rack = u16::try_from(rack).expect("there are at most as many racks as nodes");
                Node { hash: xxh3_64(peer.name.as_str().as_bytes()), inverse: 1.0 / peer.weight.get() as f64, rack }
            })
            .collect();
        let racks = (racks < nodes.len()).then_some(racks);
        Self { nodes, racks }
    }

    pub(super) fn ranks(&self, slot: Slot) -> Ranks {
        if self.racks.is_none() {
            return self.first(slot);
        }
        Ranks::of(&self.spread(self.scores(slot), RANKS_KEPT))
    }

    pub(super) fn all_ranks(&self, slot: Slot) -> Vec<PeerIndex> {
        let mut scores = self.scores(slot);
        scores.sort_unstable_by(Scored::order);
        match self.racks {
            None => scores.iter().map(|scored| scored.peer).collect(),
            Some(_) => self.spread(scores, self.nodes.len()),
        }
    }

    /// The best few without racks, in one pass that takes few logarithms: `1 - u` is never above `-ln(u)`, and settles it for most nodes.
    fn first(&self, slot: Slot) -> Ranks {
        let mut best = [Scored { score: f64::INFINITY, peer: PeerIndex(0) }; RANKS_KEPT];
        for (at, node) in self.nodes.iter().enumerate() {
            let unit = unit(node.hash, slot);
            if (1.0 - unit) * node.inverse > best[RANKS_KEPT - 1].score {
                continue;
            }
            let scored = Scored { score: -ln(unit) * node.inverse, peer: PeerIndex::at(at) };
            // Nodes come in order, so among equals the first stays first.
            let place = best.iter().position(|other| scored.score < other.score);
            if let Some(place) = place {
                best[place..].rotate_right(1);
                best[place] = scored;
            }
        }
        let count = self.nodes.len().min(RANKS_KEPT);
        Ranks::of(&best.map(|scored| scored.peer)[..count])
    }

    fn scores(&self, slot: Slot) -> Vec<Scored> {
        let scored = |(at, node): (usize, &Node)| Scored { score: -ln(unit(node.hash, slot)) * node.inverse, peer: PeerIndex::at(at) };
        self.nodes.iter().enumerate().map(scored).collect()
    }

    /// The best node, then the best of those in racks that were not used since each was used once, and so on. O(count * peers).
    fn spread(&self, mut left: Vec<Scored>, count: usize) -> Vec<PeerIndex> {
        let mut used = vec![false; self.racks.unwrap_or(0)];
        let mut ranks = Vec::with_capacity(count.min(left.len()));
        while ranks.len() < count && !left.is_empty() {
            let rack_of = |scored: &Scored| usize::from(self.nodes[scored.peer.position()].rack);
            let fresh = left.iter().enumerate().filter(|(_, scored)| !used[rack_of(scored)]);
            match fresh.min_by(|(_, a), (_, b)| a.order(b)) {
                Some((at, scored)) => {
                    used[rack_of(scored)] = true;
                    ranks.push(scored.peer);
                    left.swap_remove(at);
                }
                // Every rack that still has nodes has a copy: the next round begins.
                None => used.fill(false),
            }
        }
        ranks
    }
}

/// A number in (0, 1) from a node and a slot, in steps of 2^-53: SplitMix64's finaliser (Steele, Lea and Flood 2014) over both.
fn unit(node: u64, slot: Slot) -> f64 {
    let mut z = node ^ u64::from(slot.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// The natural logarithm of a positive, normal number, to 12 digits. Written out because the C library's differs in its last digit from machine to
/// machine, and two nodes that differ there disagree about an owner; IEEE 754 fixes each operation used here.
///
/// `x = 2^e * m` with `m` in [sqrt(1/2), sqrt(2)), and `ln m = 2 artanh((m - 1) / (m + 1))` by its series, whose argument is below 0.172.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as f64 - 1023.0;
    let mut mantissa = f64::from_bits(bits & MANTISSA | 1.0_f64.to_bits());
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let q = s * s;
    let series = 1.0
        + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * (1.0 / 13.0 + q * (1.0 / 15.0)))))));
    2.0 * s * series + exponent * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        let mut x = 1e-16;
        while x < 1.0 {
            assert!((ln(x) - x.ln()).abs() <= 1e-12 * x.ln().abs(), "{x}: {} is not {}", ln(x), x.ln());
            x *= 1.000_37;
        }
        for slot in 0..100_000 {
            let unit = unit(7, Slot::new(slot).expect("below the count"));
            assert!(unit > 0.0 && unit < 1.0 && 1.0 - unit <= -ln(unit));
        }
    }
}
