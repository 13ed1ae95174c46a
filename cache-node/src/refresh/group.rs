//! Nodes that share the listing of a data set: one lists, the others take its manifest.
//! Knows who may list, in which order, and how to ask. Does not know when a listing is due or what is done with a manifest.
//! Invariant: what a node takes from another is newer than all that it ever showed: numbers of manifests grow, whoever made them.
//!
//! The order is that of the ranks of a block that stands for the data set, so each data set has its own, and nobody has to be told. A node lists when
//! none of those before it answers. Two that list at once, by different lists of nodes or in a partition, cost the source requests and nothing else:
//! a manifest's term is the time by the source's own clock at which its listing began, so of two the one that saw the source later wins, everywhere.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_peer::{DatasetId, Listed, ListingState, ManifestHead, ManifestRequest, PeerError};
use forebay_wire::block::{BlockId, BlockIndex, ObjectId};
use forebay_wire::id::NodeName;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tracing::debug;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::fill::chain;
use crate::peer::Neighbours;

/// How often the lister is asked for something newer: what it found is with all nodes within two seconds.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same while there is no list yet, and somebody waits for it.
pub(super) const ASK_FIRST_EVERY: Duration = Duration::from_millis(200);
/// A frozen data set changes only when two nodes listed it.
pub(super) const ASK_FROZEN_EVERY: Duration = Duration::from_secs(30);
/// Of a lister whose listings fail, the next in rank waits so long beyond the interval before it tries itself; the one after it twice as long.
const STAND_IN_AFTER: Duration = Duration::from_secs(30);
/// Moments that are remembered, one a second.
const MOMENTS_MAX: usize = 4096;

/// One data set's listing among the nodes of its cache.
pub struct Group {
    neighbours: Arc<Neighbours>,
    dataset: DatasetId,
    /// A node waits so long for those before it: at a start of all nodes some are there a moment later than others.
    take_over: Duration,
    /// Guards what `fs` called the listing that would have begun then: which of its repairs a manifest of another node knows of.
    moments: Mutex<VecDeque<(Instant, u64)>>,
}

/// What another node said.
#[derive(Debug)]
pub(super) enum Heard {
    /// It is the lister, or has what the lister has: nothing newer.
    Same(ListingState),
    /// A newer manifest, which lies at `path` now. Its listing began `began` ago, if that is known; `listed`: after the question.
    Newer { path: PathBuf, number: (u64, u64), began: Option<Duration>, listed: bool },
}

impl Group {
    pub fn new(neighbours: Arc<Neighbours>, dataset: DatasetId, take_over: Duration) -> Self {
        Self { neighbours, dataset, take_over, moments: Mutex::default() }
    }

    pub(super) fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }
    pub(super) fn dataset(&self) -> &DatasetId {
        &self.dataset
    }
    pub(super) fn take_over(&self) -> Duration {
        self.take_over
    }

    /// A number below 65,536 that hardly any other node has.
    pub(super) fn own_part(&self) -> u64 {
        xxh3_64(self.neighbours.own().as_str().as_bytes()) & 0xffff
    }

    /// Those before this node, best first, and those after it.
    pub(super) fn order(&self) -> (Vec<NodeName>, Vec<NodeName>) {
        // What stands for the data set among the blocks.
        let block = BlockId { object: ObjectId(xxh3_128(self.dataset.as_str().as_bytes())), index: BlockIndex(0) };
        self.neighbours.view().order(block)
    }

    /// Asks `nodes` one after the other until one answers; with `refresh`, has it list first and waits for that. A manifest comes to `path`.
    pub(super) async fn ask(
        &self,
        nodes: &[NodeName],
        than: (u64, u64),
        refresh: bool,
        path: &std::path::Path,
    ) -> Option<(NodeName, Heard)> {
        let request = ManifestRequest { dataset: self.dataset.clone(), than, refresh };
        for node in nodes {
            match self.ask_one(node, &request, path).await {
                Ok(heard) => return Some((node.clone(), heard)),
                Err(error) => {
                    debug!(dataset = self.dataset.as_str(), peer = %node, error = %chain(&error), "no list of files comes from a node")
                }
            }
        }
        None
    }

    async fn ask_one(&self, node: &NodeName, request: &ManifestRequest, path: &std::path::Path) -> Result<Heard, AskError> {
        match self.neighbours.peers().manifest(node, request).await? {
            Listed::Same(state) => Ok(Heard::Same(state)),
            Listed::Newer(ManifestHead { term, sequence, began_ms_ago, listed, .. }, mut answer) => {
                let begin = Instant::now();
                let mut file = tokio::fs::File::create(path).await?;
                while let Some(piece) = answer.next().await {
                    file.write_all(&piece?).await?;
                }
                file.sync_all().await?;
                let began = began_ms_ago.map(|ago| Duration::from_millis(ago) + begin.elapsed());
                Ok(Heard::Newer { path: path.to_owned(), number: (term, sequence), began, listed })
            }
        }
    }

    /// Remembers what a listing that begins now would be called.
    pub(super) fn note_moment(&self, number: u64) {
        let mut moments = self.moments.lock();
        if moments.len() >= MOMENTS_MAX {
            moments.pop_front();
        }
        moments.push_back((Instant::now(), number));
    }

    /// What a listing that began so long ago would have been called here: never later than it was. 0 for one before all that is remembered.
    pub(super) fn number_of(&self, began: Option<Duration>) -> u64 {
        let Some(at) = began.and_then(|began| Instant::now().checked_sub(began)) else { return 0 };
        let moments = self.moments.lock();
        moments.iter().rev().find(|(moment, _)| *moment <= at).map_or(0, |(_, number)| *number)
    }
}

/// For how long a lister's listings may fail before the node at `place` among those that may list (from 1) lists itself.
pub(super) fn patience(has_list: bool, interval: Option<Duration>, place: usize) -> Duration {
    let turn = STAND_IN_AFTER * u32::try_from(place).unwrap_or(u32::MAX);
    match (has_list, interval) {
        (false, _) => turn,
        (true, Some(interval)) => interval + turn,
        // What was listed once is good for ever.
        (true, None) => Duration::MAX,
    }
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("keep a list of files")]
    Disk(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_in_rank_stands_in_for_a_lister_whose_listings_fail() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(true, Some(seconds(60)), 1), seconds(90));
        assert_eq!(patience(true, Some(seconds(60)), 2), seconds(120));
        assert_eq!(patience(false, Some(seconds(60)), 1), seconds(30));
        assert_eq!(patience(true, None, 1), Duration::MAX);
    }
}
