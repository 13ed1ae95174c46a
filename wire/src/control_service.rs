//! The service that the operator calls on each cache node, generated from `proto/control.proto`.
#![expect(clippy::allow_attributes, reason = "generated")]

use std::collections::BTreeMap;

tonic::include_proto!("forebay.control.v1alpha1");

impl Desired {
    /// The whole that `self`, which is changes, makes of `before`.
    pub fn onto(self, before: &Self) -> Self {
        let Self { policy, datasets, peers, since: _, datasets_gone, peers_gone } = self;
        let datasets = changed(&before.datasets, datasets, &datasets_gone, |dataset| &dataset.uid);
        let peers = changed(&before.peers, peers, &peers_gone, |peer| &peer.name);
        Self { policy, datasets, peers, ..Self::default() }
    }
}

/// By key.
fn changed<T: Clone>(before: &[T], set: Vec<T>, gone: &[String], key: impl Fn(&T) -> &String) -> Vec<T> {
    let mut rows: BTreeMap<String, T> = before.iter().map(|row| (key(row).clone(), row.clone())).collect();
    for key in gone {
        rows.remove(key);
    }
    rows.extend(set.into_iter().map(|row| (key(&row).clone(), row)));
    rows.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_make_a_whole_of_the_one_before() {
        let dataset =
            |uid: &str, object: &str| DesiredDataset { uid: uid.to_owned(), object: object.to_owned(), ..DesiredDataset::default() };
        let peer = |name: &str, weight_bytes| Peer { name: name.to_owned(), weight_bytes, ..Peer::default() };
        let before = Desired {
            policy: "p".to_owned(),
            datasets: vec![dataset("a", "1"), dataset("b", "1"), dataset("c", "1")],
            peers: vec![peer("n1", 1), peer("n2", 1)],
            ..Desired::default()
        };
        let changes = Desired {
            policy: "p".to_owned(),
            datasets: vec![dataset("b", "2"), dataset("aa", "1")],
            peers: vec![peer("n0", 1), peer("n2", 2)],
            since: "g".to_owned(),
            datasets_gone: vec!["c".to_owned(), "b".to_owned()],
            peers_gone: vec!["n1".to_owned()],
        };
        let after = Desired {
            policy: "p".to_owned(),
            datasets: vec![dataset("a", "1"), dataset("aa", "1"), dataset("b", "2")],
            peers: vec![peer("n0", 1), peer("n2", 2)],
            ..Desired::default()
        };
        assert_eq!(changes.onto(&before), after);
    }
}
