//! What the nodes of one policy are to know, and what a node that knows an earlier state has to be told.
//! Pure: a table with its history. Does not know who calls.
//! Invariant: a node is told changes only from a state that it acknowledged; from any other it is told the whole.

use std::collections::VecDeque;

use forebay_wire::control_service::{Desired, DesiredDataset, Peer};
use forebay_wire::versioned::Versioned;

use super::generation::{self, DatasetDigest};
use super::places::Places;
use super::{DatasetKey, Wanted};

/// States that are remembered. One is made a second at most, so a node that was away for some minutes is told changes only.
const REMEMBERED_MAX: usize = 512;

#[derive(Default)]
pub(super) struct PolicyDesired {
    /// By UID.
    datasets: Versioned<Row>,
    pub(super) places: Places,
    /// States that nodes were told, newest last.
    told: VecDeque<Told>,
}

#[derive(PartialEq)]
struct Row {
    wanted: Wanted,
    digest: DatasetDigest,
}

struct Told {
    generation: String,
    /// What its parts were at.
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct At {
    datasets: u64,
    peers: u64,
}

impl PolicyDesired {
    /// Gives whether that changed anything.
    pub(super) fn set(&mut self, wanted: Wanted) -> bool {
        let (uid, digest) = (wanted.dataset.uid.clone(), generation::of_dataset(&wanted.dataset));
        self.datasets.set(&uid, Row { wanted, digest })
    }

    pub(super) fn remove(&mut self, uid: &str) -> Option<Wanted> {
        self.datasets.remove(uid).map(|row| row.wanted)
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Wanted> {
        self.datasets.get(uid).map(|row| &row.wanted)
    }
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.datasets.values().map(|row| &row.wanted)
    }
    pub(super) fn keys(&self) -> impl Iterator<Item = &DatasetKey> {
        self.wanted().map(|wanted| &wanted.key)
    }
    pub(super) fn len(&self) -> usize {
        self.datasets.len()
    }

    /// What is wanted now has been told to nobody unless this is its name.
    pub(super) fn is_current(&self, generation: &str) -> bool {
        self.told.back().is_some_and(|told| told.at == self.now() && told.generation == generation)
    }

    /// The name of the whole.
    pub(super) fn generation(&mut self, policy: &str) -> String {
        let at = self.now();
        if let Some(told) = self.told.back().filter(|told| told.at == at) {
            return told.generation.clone();
        }
        let digests = self.datasets.values().map(|row| &row.digest);
        let generation = generation::of(policy, digests, self.places.listed().values());
        self.told.push_back(Told { generation: generation.clone(), at });
        if self.told.len() > REMEMBERED_MAX {
            self.told.pop_front();
        }
        generation
    }

    pub(super) fn whole(&self, policy: &str) -> Desired {
        let datasets = self.wanted().map(|wanted| wanted.dataset.clone()).collect();
        Desired { policy: policy.to_owned(), datasets, peers: self.places.listed().values().cloned().collect(), ..Desired::default() }
    }

    /// What is other than in the state of that name; `None`: it isn't remembered.
    pub(super) fn changes(&self, policy: &str, since: &str) -> Option<Desired> {
        let At { datasets, peers } = self.told.iter().rev().find(|told| told.generation == since)?.at;
        let (datasets, peers) = (self.datasets.since(datasets)?, self.places.listed().since(peers)?);
        let owned = |keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect();
        Some(Desired {
            policy: policy.to_owned(),
            datasets: datasets.set.into_iter().map(|row| row.wanted.dataset.clone()).collect::<Vec<DesiredDataset>>(),
            peers: peers.set.into_iter().cloned().collect::<Vec<Peer>>(),
            since: since.to_owned(),
            datasets_gone: owned(datasets.gone),
            peers_gone: owned(peers.gone),
        })
    }

    fn now(&self) -> At {
        At { datasets: self.datasets.now(), peers: self.places.listed().now() }
    }
}
