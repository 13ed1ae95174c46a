//! What is wrong with the disks of a policy's nodes, by the nodes' own words.
//! Pure: a view of the table. Does not judge what it means for the policy.

use super::{Hub, Members};

/// What one node says of one of its tiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub node: String,
    /// The folder and what is wrong with it, one sentence that says what to do.
    pub what: String,
}

/// Sorted by node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// Tiers that were given more than their filesystem can ever hold.
    pub too_small: Vec<Trouble>,
    /// Tiers that take no new blocks.
    pub degraded: Vec<Trouble>,
}

impl Hub {
    /// Of the nodes of `policy` that answer and are in `own`.
    pub fn disks(&self, policy: &str, own: &Members) -> Disks {
        let inner = self.inner.lock();
        let mut disks = Disks::default();
        for (node, state) in inner.observed.of_policy(policy).filter(|(node, _)| own.contains_key(*node)) {
            for tier in state.tiers.iter() {
                let trouble = |what: &str| Trouble { node: node.clone(), what: format!("{}: {what}", tier.path) };
                if !tier.too_small.is_empty() {
                    disks.too_small.push(trouble(&tier.too_small));
                }
                if !tier.degraded.is_empty() {
                    disks.degraded.push(trouble(&tier.degraded));
                }
            }
        }
        disks
    }
}
