//! How much of a data set is held here: a walk over its list, when somebody asks and the last one is old.
//! Knows list and store, and what a preload that is done has brought. Does not know how it is brought.
//! Invariant: one walk of a data set at a time, and walks that are asked for take one twentieth of one core at most (about a microsecond a file).

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::Dataset;
use crate::control::{NodeCoverage, PreloadState};
use crate::fill::chain;
use crate::fs::for_each_below;
use crate::peer::Neighbours;
use crate::preload::Wanted;
use forebay_peer::{Coverage, DatasetId};
use forebay_wire::block::{BlockId, BlockIndex};

/// The next walk begins so long after the last one, at least.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// And so many times as long as that one took.
const PAUSE_FACTOR: u32 = 20;
/// Who asks gets what was found before when a walk takes longer. Shorter than another node waits for a sign.
const PATIENCE: Duration = Duration::from_millis(600);

/// Nodes that are asked what they hold.
const ASKED_AT_ONCE: usize = 64;

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) coverage: Coverage,
    /// What a preload has brought and what of it is still here; `None` where none was done when the walk began.
    pub(crate) wanted: Option<Wanted>,
}

/// What the walks of one data set have found.
#[derive(Debug, Default)]
pub(super) struct Walks {
    /// Guards the last one.
    last: Mutex<Option<Walk>>,
    /// Whose turn it is to walk.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct Walk {
    held: Held,
    ended: Instant,
    took: Duration,
}

impl Walk {
    fn pause(&self) -> Duration {
        (self.took * PAUSE_FACTOR).max(PAUSE_MIN)
    }
}

impl Dataset {
    /// What the last walk found; `None` before the first.
    pub(crate) fn held(&self) -> Option<Held> {
        self.walks.last.lock().map(|walk| walk.held)
    }

    /// The same, after a walk, if the last one is old and a new one is quick; a longer one goes on for who asks later.
    pub(crate) async fn held_now(self: &Arc<Self>) -> Option<Held> {
        let dataset = self.clone();
        // Either way the answer is what is known then.
        drop(timeout(PATIENCE, tokio::spawn(async move { dataset.walk_if_due().await })).await);
        self.held()
    }

    /// Keeps what `held` says fresh until the data set ends.
    pub(crate) async fn keep_counted(self: Arc<Self>) {
        let stop = self.stopped();
        loop {
            self.walk_if_due().await;
            let pause = self.walks.last.lock().map_or(PAUSE_MIN, |walk| walk.pause());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What each node of the cache holds, by name; a node that can't tell says why.
    pub(super) async fn held_by_all(self: &Arc<Self>, neighbours: &Neighbours) -> Vec<NodeCoverage> {
        let view = neighbours.view();
        let others = view.others().map(|(name, _)| name);
        let asked = futures::stream::iter(others).map(|name| async move {
            let told = match DatasetId::new(self.fs.name()) {
                Some(dataset) => neighbours.peers().coverage(&name, &dataset).await.map_err(|error| chain(&error)),
                None => Err("its name can't be asked for".to_owned()),
            };
            line(name.to_string(), told)
        });
        let own = self.held_now().await.map(|held| held.coverage);
        let mut lines = asked.buffer_unordered(ASKED_AT_ONCE).collect::<Vec<_>>().await;
        lines.push(line(neighbours.own().to_string(), Ok(own)));
        lines.sort_by(|a, b| a.node.cmp(&b.node));
        lines
    }

    async fn walk_if_due(self: &Arc<Self>) {
        let _turn = self.walks.turn.lock().await;
        let last = *self.walks.last.lock();
        if last.is_some_and(|walk| walk.ended.elapsed() < walk.pause()) {
            return;
        }
        let dataset = self.clone();
        let walk = move || {
            let begin = Instant::now();
            let held = dataset.walk()?;
            Some(Walk { held, ended: Instant::now(), took: begin.elapsed() })
        };
        if let Ok(Some(walk)) = tokio::task::spawn_blocking(walk).await {
            *self.walks.last.lock() = Some(walk);
        }
    }

    /// `None` before there is a list, or when it can't be read.
    fn walk(&self) -> Option<Held> {
        let manifest = self.fs.manifest()?;
        let is_done = self.preload.progress().borrow().as_ref().is_some_and(|progress| progress.state == PreloadState::Done);
        let summary = manifest.summary();
        let mut coverage = Coverage {
            version: (summary.term, summary.sequence),
            lacking_copies: self.copies.as_ref().map_or(0, |copies| copies.lacking()),
            ..Coverage::default()
        };
        let walked = for_each_below(&manifest, b"/", &mut |entry, _| {
            let Ok(object) = manifest.object(entry) else { return };
            let here = self.fs.reader().here(&object.object);
            coverage.own_bytes += here.own;
            coverage.held_bytes += here.held;
            coverage.copied_bytes += here.copied;
            // Where its first block is at home, so that a file is counted once.
            let first = BlockId { object: object.object.id, index: BlockIndex(0) };
            if self.fs.reader().fill().owns(first) {
                coverage.own_files += 1;
                coverage.held_files += u64::from(here.held == here.own);
            }
        });
        if let Err(error) = walked {
            tracing::debug!(error = %chain(&error), "the list can't be walked; the figures stay as they were");
            return None;
        }
        let wanted = is_done.then(|| self.preload.wanted(&self.paths_to_load()));
        let wanted = wanted.transpose().unwrap_or_else(|error| {
            tracing::debug!(error = %chain(&error), "what is wanted can't be walked");
            None
        });
        Some(Held { coverage, wanted })
    }
}

fn line(node: String, told: Result<Option<Coverage>, String>) -> NodeCoverage {
    let coverage = match told {
        Ok(Some(coverage)) => coverage,
        Ok(None) => return NodeCoverage { node, unknown: "it has not counted yet; ask again".to_owned(), ..NodeCoverage::default() },
        Err(unknown) => return NodeCoverage { node, unknown, ..NodeCoverage::default() },
    };
    let Coverage { held_files, held_bytes, own_files, own_bytes, copied_bytes, lacking_copies, version: (term, sequence) } = coverage;
    let unknown = String::new();
    NodeCoverage { node, unknown, held_files, held_bytes, own_files, own_bytes, copied_bytes, lacking_copies, term, sequence }
}
