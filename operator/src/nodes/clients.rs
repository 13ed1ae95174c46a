//! Which data sets each client is told of: those that pods on its node use, and no other, since secrets come with them.
//! Pure: a table. Does not know pods; whoever fills it decides.
//! Invariant: a node that isn't in the table is told nothing, not even that there is nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::DatasetKey;

/// By node's name. Empty until it is filled for the first time.
#[derive(Debug, Default)]
pub(super) struct Clients(BTreeMap<String, Told>);

#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) datasets: BTreeSet<DatasetKey>,
    /// Of what it is told; `None`: something of it changed since.
    pub(super) generation: Option<String>,
}

/// What a client that answers says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serves {
    /// Data sets that are wanted somewhere and mounted there.
    pub mounted: BTreeSet<DatasetKey>,
    /// It has nothing at all, not even what is wanted no more.
    pub is_idle: bool,
}

impl Clients {
    pub(super) fn get_mut(&mut self, node: &str) -> Option<&mut Told> {
        self.0.get_mut(node)
    }

    pub(super) fn generation(&self, node: &str) -> Option<&String> {
        self.0.get(node)?.generation.as_ref()
    }

    /// Makes the table what `datasets` says; gives whether that changed anything.
    pub(super) fn replace(&mut self, datasets: BTreeMap<String, BTreeSet<DatasetKey>>) -> bool {
        let mut changed = false;
        let mut before = std::mem::take(&mut self.0);
        for (node, datasets) in datasets {
            let told = match before.remove(&node) {
                Some(told) if told.datasets == datasets => told,
                Some(_) | None => {
                    changed = true;
                    Told { datasets, generation: None }
                }
            };
            self.0.insert(node, told);
        }
        changed || !before.is_empty()
    }

    /// The data set changed, or is there no more.
    pub(super) fn outdate(&mut self, key: &DatasetKey) {
        for told in self.0.values_mut().filter(|told| told.datasets.contains(key)) {
            told.generation = None;
        }
    }
}
