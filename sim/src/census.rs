//! Who has which block, looked at again and again: what somebody had must be with somebody, until a disk is lost.
//! Knows stores and the ranks of blocks. Does not know why a node dropped anything.
//! Invariant: between two looks no node ends and no disk is emptied: whoever ends one looks before, as a node that is away isn't asked; whoever empties a
//! disk looks before, too, and forgets it after.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_placement::Placement;
use forebay_wire::block::{BlockId, BlockIndex, ObjectRef};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::cache::{Alive, Cache, name};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
const TOLD_MAX: usize = 20;

#[derive(Default)]
pub(crate) struct Census {
    /// Guards who had what at the last look, by the blocks' numbers.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holders: Vec<Vec<u16>>,
    dropped: u64,
    told: Vec<String>,
}

impl Census {
    /// Looks; what nobody has any more that somebody had is a fault. Nodes that are away keep what they have.
    pub(crate) fn take(&self, cache: &Cache) {
        let mut state = self.state.lock();
        let (alive, away) = cache.by_name();
        let lists = lists(&alive);
        let mut next = Vec::with_capacity(cache.data.blocks());
        for file in 0..cache.data.files {
            let object = cache.data.object(file);
            for index in (0..cache.data.blocks_of(file)).map(BlockIndex) {
                let before = state.holders.get(next.len()).cloned().unwrap_or_default();
                let holders = holders(&alive, &away, &lists, &object, index, &before);
                if holders.is_empty() && !before.is_empty() {
                    state.dropped += 1;
                    if state.told.len() < TOLD_MAX {
                        let at = cache.seconds();
                        state
                            .told
                            .push(format!("at {at:.3} s nobody has block {} of file {file}, which {before:?} had: a lost copy", index.0));
                    }
                }
                next.push(holders);
            }
        }
        state.holders = next;
    }

    /// A disk was emptied: what it had is not missed.
    pub(crate) fn forget(&self, number: usize) {
        for holders in &mut self.state.lock().holders {
            holders.retain(|holder| usize::from(*holder) != number);
        }
    }

    /// Looks now and then, for ever.
    pub(crate) async fn keep_taking(&self, cache: &Arc<Cache>) {
        loop {
            sleep(EVERY).await;
            self.take(cache);
        }
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut complaints = state.told.clone();
        if state.dropped > complaints.len() as u64 {
            complaints.push(format!("in all {} blocks lost their last copy", state.dropped));
        }
        complaints
    }
}

/// The lists that are in force with any node, each once.
fn lists(alive: &HashMap<String, (usize, Alive)>) -> Vec<Arc<Placement>> {
    let mut lists: Vec<Arc<Placement>> = Vec::new();
    for (_, alive) in alive.values() {
        let Some((neighbours, _)) = alive.node.shared() else { continue };
        let view = neighbours.view();
        if !lists.iter().any(|list| Arc::ptr_eq(list, view.placement())) {
            lists.push(view.placement().clone());
        }
    }
    lists
}

/// Of the nodes that are ranked for the block by any list, and of those that had it.
fn holders(
    alive: &HashMap<String, (usize, Alive)>,
    away: &[usize],
    lists: &[Arc<Placement>],
    object: &ObjectRef,
    index: BlockIndex,
    before: &[u16],
) -> Vec<u16> {
    let block = BlockId { object: object.id, index };
    let mut asked: Vec<String> = before.iter().map(|number| name(usize::from(*number)).to_string()).collect();
    for list in lists {
        asked.extend(list.ranks(block).as_slice().iter().map(|peer| list.peer(*peer).name.to_string()));
    }
    asked.sort_unstable();
    asked.dedup();
    let has = |(number, alive): &(usize, Alive)| alive.node.store().contains(object, index).then_some(*number as u16);
    let mut holders: Vec<u16> = asked.iter().filter_map(|name| alive.get(name)).filter_map(has).collect();
    holders.extend(before.iter().filter(|number| away.contains(&usize::from(**number))));
    holders
}
