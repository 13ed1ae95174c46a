//! Where the nodes of one policy are and how much each holds: the list that they all go by, so that they are one cache.
//! Pure: a table. Does not know pods or policies; whoever fills it does.
//! Invariant: who was in the list stays in it, at its weight, until it leaves the policy: one that is silent for a while keeps its blocks, so that
//! an upgrade moves nothing.
//!
//! What is found out comes into force by `publish` only: a thousand nodes that join one after another are a few lists, not a thousand.

use std::collections::BTreeMap;

use forebay_wire::control_service::Peer;
use forebay_wire::node_service::TierStatus;
use forebay_wire::versioned::Versioned;

/// A capacity that differs by less than this share moves no blocks.
const WEIGHT_DIFFERS_FROM: f64 = 0.1;

/// Nodes that a policy has, with the zone of each: empty where the policy knows no zones.
pub type Members = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub(super) struct Places {
    /// `None` before the policy was looked at.
    members: Option<Members>,
    known: BTreeMap<String, Place>,
    /// In force.
    listed: Versioned<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    address: String,
    weight_bytes: u64,
}

impl Places {
    /// Gives whether that makes another list.
    pub(super) fn set_members(&mut self, members: Members) -> bool {
        let before = self.found();
        self.known.retain(|node, _| members.contains_key(node));
        self.members = Some(members);
        before != self.found()
    }

    /// Takes what a node says of itself, and of others that haven't said it themselves: a new operator has the list from there. Gives whether that
    /// makes another list.
    pub(super) fn answered(&mut self, node: &str, address: &str, tiers: &[TierStatus], told: &[Peer]) -> bool {
        let mut changed = false;
        for Peer { name, address, weight_bytes, zone: _ } in told {
            if !self.known.contains_key(name) {
                changed |= self.place(name, Place { address: address.clone(), weight_bytes: *weight_bytes });
            }
        }
        let capacity = tiers.iter().map(|tier| tier.capacity_bytes).sum::<u64>().max(1);
        let known = self.known.get(node).map(|place| place.weight_bytes);
        let weight_bytes = known.filter(|weight| !differs(*weight, capacity)).unwrap_or(capacity);
        self.place(node, Place { address: address.to_owned(), weight_bytes }) | changed
    }

    /// Gives whether that makes another list. A thousand nodes answer every few seconds, so the list isn't made to find out.
    fn place(&mut self, node: &str, place: Place) -> bool {
        if self.known.get(node) == Some(&place) {
            return false;
        }
        self.known.insert(node.to_owned(), place);
        self.members.as_ref().is_some_and(|members| members.contains_key(node))
    }

    /// Lets what was found out come into force; gives whether that changed anything.
    pub(super) fn publish(&mut self) -> bool {
        let found = self.found();
        self.listed.replace(found)
    }

    /// Whether the node may be told what to serve: it is in the list, with what it holds, or is to be in none.
    pub(super) fn may_be_told(&self, node: &str) -> bool {
        self.members.as_ref().is_some_and(|members| !members.contains_key(node) || self.listed.contains_key(node))
    }

    /// Of a node that the policy has; empty for others.
    pub(super) fn zone(&self, node: &str) -> &str {
        self.members.as_ref().and_then(|members| members.get(node)).map_or("", String::as_str)
    }

    /// In force, by name.
    pub(super) fn listed(&self) -> &Versioned<Peer> {
        &self.listed
    }

    fn found(&self) -> BTreeMap<String, Peer> {
        let members = self.members.iter().flatten();
        let peer = |(name, zone): (&String, &String)| {
            let Place { address, weight_bytes } = self.known.get(name)?.clone();
            Some((name.clone(), Peer { name: name.clone(), address, weight_bytes, zone: zone.clone() }))
        };
        members.filter_map(peer).collect()
    }
}

fn differs(before: u64, now: u64) -> bool {
    (before as f64 - now as f64).abs() > WEIGHT_DIFFERS_FROM * before as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(capacity_bytes: u64) -> Vec<TierStatus> {
        vec![TierStatus { capacity_bytes, ..TierStatus::default() }]
    }

    fn members(names: &str) -> Members {
        names.split_whitespace().map(|name| (name.to_owned(), String::new())).collect()
    }

    fn list(places: &mut Places) -> Vec<Peer> {
        places.publish();
        places.listed().values().cloned().collect()
    }

    fn names(places: &mut Places) -> String {
        list(places).iter().map(|peer| format!("{}@{}/{}", peer.name, peer.address, peer.weight_bytes)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_node_is_in_the_list_from_its_first_answer_until_it_leaves_the_policy() {
        let mut places = Places::default();
        assert!(!places.may_be_told("a"), "the policy wasn't looked at");
        assert!(!places.set_members(members("a b")));
        assert!(!places.may_be_told("a"), "nobody knows yet what it holds");
        assert!(places.may_be_told("x"), "one that the policy doesn't have has no place to wait for");
        assert!(places.answered("a", "1:7", &tier(100), &[]));
        assert!(!places.may_be_told("a"), "it isn't in force yet");
        assert!(places.publish());
        assert!(places.may_be_told("a") && !places.may_be_told("b"));
        assert!(places.answered("b", "2:7", &tier(200), &[]));
        assert!(!places.answered("b", "2:7", &tier(200), &[]));
        assert_eq!(names(&mut places), "a@1:7/100 b@2:7/200");
        // Its pod was replaced.
        assert!(places.answered("a", "3:7", &tier(100), &[]));
        assert_eq!(names(&mut places), "a@3:7/100 b@2:7/200");
        assert!(places.set_members(members("b c")));
        assert_eq!(names(&mut places), "b@2:7/200");
        assert!(!places.answered("a", "3:7", &tier(100), &[]), "it left");
    }

    #[test]
    fn a_capacity_that_wobbles_moves_nothing() {
        let mut places = Places::default();
        places.set_members(members("a"));
        places.answered("a", "1:7", &tier(100), &[]);
        for (capacity, expected) in [(109, 100), (91, 100), (111, 111), (0, 1)] {
            places.answered("a", "1:7", &tier(capacity), &[]);
            assert_eq!(list(&mut places)[0].weight_bytes, expected, "{capacity}");
        }
    }

    #[test]
    fn a_new_operator_has_silent_nodes_from_what_the_others_were_told() {
        let mut before = Places::default();
        before.set_members(members("a b"));
        before.answered("a", "1:7", &tier(100), &[]);
        before.answered("b", "2:7", &tier(200), &[]);
        let told = list(&mut before);
        let mut places = Places::default();
        // Before and after the policy is looked at: what comes first doesn't matter.
        places.answered("a", "1:7", &tier(100), &told);
        places.set_members(members("a b"));
        assert_eq!(list(&mut places), told);
        // What it says itself counts for more than what others were told.
        places.answered("b", "9:7", &tier(200), &told);
        assert_eq!(names(&mut places), "a@1:7/100 b@9:7/200");
        places.answered("a", "1:7", &tier(100), &told);
        assert_eq!(names(&mut places), "a@1:7/100 b@9:7/200");
    }
}
