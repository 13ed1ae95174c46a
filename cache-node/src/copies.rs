//! As many copies of each block as the rules ask for, on the nodes whose it is: brings what this node lacks, drops what others have now, and moves
//! what nobody else has before this node stops.
//! Knows one data set's list of files and the list of nodes. Does not know how a block travels: that is `fill`'s.
//! Invariants: a copy is dropped only after every node that is to have one said that it has it, and not while another node was told that it is here
//! (`fill/promise.rs`); a pass that is repeated costs only what is missing.
//!
//! Each node looks for what it lacks itself and brings it: so a block that many could give is brought once, nobody has to agree with anybody, and a
//! node that comes back after a crash needs no other to remember what it missed.

mod cool;
mod todo;

pub use cool::cool;
pub use todo::{Before, CopyTerms, Todo, todo};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use forebay_manifest::{Manifest, ManifestError};
use forebay_peer::HoldsRequest;
use forebay_wire::block::{BlockId, BlockIndex};
use forebay_wire::id::NodeName;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::aside;
use crate::fill::{FileObject, Fill, chain};
use crate::fs::{Filesystem, for_each_below};
use crate::peer::{Neighbours, View};
use crate::preload::Bucket;
use crate::rules::Placement;

/// Blocks that other nodes are asked about at once.
const BATCH: usize = 512;
const _: () = assert!(BATCH <= forebay_peer::HOLDS_MAX);
/// Blocks on their way at once. Fills have their own limits.
const BLOCKS_MAX: usize = 8;
/// What a pass brings or moves at most: an eighth of what a 10 GbE port carries, so that reads hardly notice it.
pub const BYTES_PER_SECOND_MAX: u64 = 150_000_000;
/// Copies that could not be sent at a fill are found by their node after so long at most.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// After a list of nodes changed, what others didn't have yet is looked at again so soon, then ever later.
const AGAIN_MIN: Duration = Duration::from_millis(250);
/// After its start a node looks so much later for what others have of its own: who starts together with others finds nobody, and nothing.
const JOINED_AFTER: Duration = Duration::from_secs(5);
/// A drain goes over the list again until it finds nothing more to move: what was filled meanwhile is little.
const DRAIN_PASSES_MAX: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum CopiesError {
    #[error("look for copies: the manifest can't be read")]
    Manifest(#[from] ManifestError),
    #[error("look for copies: the task was given up")]
    Aborted,
}

/// What a drain did. Blocks of all passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Blocks that are here.
    pub blocks: u64,
    /// Of them, those that were moved because no other node had a copy.
    pub moved: u64,
    pub moved_bytes: u64,
    /// Of them, those that no other node took: they are read from the source when this node is gone.
    pub left: u64,
}

/// Copies of one data set's blocks. Used behind an `Arc`.
pub struct Copies {
    fs: Arc<Filesystem>,
    neighbours: Arc<Neighbours>,
    /// Finished passes.
    passes: watch::Sender<u64>,
    /// Blocks that the last pass could not bring.
    lacking: AtomicU64,
}

/// A block that asks for something.
struct Row {
    file: Arc<FileObject>,
    index: BlockIndex,
    todo: Todo,
}

/// What a row's nodes said.
struct Asked {
    /// Best first.
    holders: Vec<NodeName>,
    /// Whether all of them did.
    answered: bool,
}

/// Once over the list.
struct Turn {
    bucket: Bucket,
    /// What could not be brought.
    lacking: AtomicU64,
    /// What waits for others: they are to have it before it is dropped here, or they didn't answer.
    open: AtomicU64,
    drained: Mutex<Drained>,
    /// Told how far a drain is.
    step: Option<Box<dyn Fn(Drained) + Send + Sync>>,
}

impl Turn {
    fn new(step: Option<Box<dyn Fn(Drained) + Send + Sync>>) -> Self {
        Self {
            bucket: Bucket::new(Some(BYTES_PER_SECOND_MAX)),
            lacking: AtomicU64::new(0),
            open: AtomicU64::new(0),
            drained: Mutex::default(),
            step,
        }
    }
}

impl Copies {
    pub fn new(fs: Arc<Filesystem>, neighbours: Arc<Neighbours>) -> Arc<Self> {
        Arc::new(Self { fs, neighbours, passes: watch::Sender::new(0), lacking: AtomicU64::new(0) })
    }

    /// Grows when a pass has ended.
    pub fn passes(&self) -> watch::Receiver<u64> {
        self.passes.subscribe()
    }
    /// Blocks that were to be here after the last pass, that another node had, and that could not be brought.
    pub fn lacking(&self) -> u64 {
        self.lacking.load(Relaxed)
    }

    /// Looks for what is missing and what is too much: at the start, when the list of nodes changes, and now and then, until `stop`.
    pub async fn run(self: Arc<Self>, mut synced: watch::Receiver<u64>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            arrived = synced.wait_for(|synced| *synced > 0) => if arrived.is_err() { return },
        }
        let mut changes = self.neighbours.changes();
        let mut before: Option<Arc<View>> = None;
        let mut has_looked = false;
        let mut pause = AGAIN_MIN;
        loop {
            changes.mark_unchanged();
            let view = self.neighbours.view();
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                // The rest by the newer list; what has been done is found done.
                changed = changes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                ended = self.pass(before.clone(), has_looked, view.clone()) => ended,
            };
            match ended {
                Ok(_) if !std::mem::replace(&mut has_looked, true) => pause = JOINED_AFTER,
                Ok(true) => {
                    before = Some(view);
                    pause = LOOK_AGAIN;
                }
                // Others have to do their part first.
                Ok(false) => pause = (pause * 2).min(LOOK_AGAIN),
                Err(error) => warn!(dataset = self.fs.name(), error = %chain(&error), "copies can't be looked for"),
            }
            self.passes.send_modify(|passes| *passes += 1);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => match changed {
                    Ok(()) => pause = AGAIN_MIN,
                    Err(_) => return,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Once over the list, by `view`; `before` is the one by which all is in place, if any, `has_looked` says that it isn't the first time. Whether all is
    /// in place by this one, as far as this node goes.
    async fn pass(&self, before: Option<Arc<View>>, has_looked: bool, view: Arc<View>) -> Result<bool, CopiesError> {
        let changed = before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &view));
        let store = self.fs.reader().store().clone();
        let todo = move |file: &FileObject, index: BlockIndex| {
            let block = BlockId { object: file.object.id, index };
            let terms = CopyTerms { min: file.copies.min, local_copy: file.local_copy };
            let is_here = store.contains(&file.object, index);
            let before = match (&before, has_looked) {
                (Some(before), _) => Before::List(before),
                (None, true) => Before::Join,
                (None, false) => Before::Start,
            };
            todo::todo(&view, before, changed, block, terms, is_here)
        };
        let turn = Turn::new(None);
        let metrics = &self.fs.reader().fill().metrics().copies;
        let (brought, trimmed) = (metrics.brought.get(), metrics.trimmed.get());
        self.each(todo, &turn).await?;
        self.lacking.store(turn.lacking.load(Relaxed), Relaxed);
        let (brought, trimmed) = (metrics.brought.get() - brought, metrics.trimmed.get() - trimmed);
        if brought + trimmed > 0 {
            info!(dataset = self.fs.name(), brought, trimmed, lacking = self.lacking(), "brought copies in line with the list of nodes");
        }
        Ok(turn.open.load(Relaxed) == 0 && self.lacking() == 0)
    }

    async fn act(&self, row: Row, asked: Asked, turn: &Turn) {
        let Asked { holders, answered } = asked;
        match &row.todo {
            // Nobody has it: it comes from the source when somebody reads it.
            Todo::Bring { .. } if holders.is_empty() && answered => {}
            Todo::Bring { .. } if holders.is_empty() => drop(turn.open.fetch_add(1, Relaxed)),
            Todo::Bring { .. } => self.bring(&row, holders, turn).await,
            Todo::Drop { once } if holders.len() == once.len() => {
                if drop_copy(self.fs.reader().fill(), &row).await == Some(false) {
                    turn.open.fetch_add(1, Relaxed);
                }
            }
            Todo::Drop { .. } => drop(turn.open.fetch_add(1, Relaxed)),
            Todo::Move { to } => self.give_away(&row, to, &holders, turn).await,
        }
    }

    async fn bring(&self, row: &Row, holders: Vec<NodeName>, turn: &Turn) {
        turn.bucket.take(self.bytes_of(row)).await;
        match self.fs.reader().fill().bring_copy(&row.file, row.index, holders).await {
            Ok(true) => {}
            Ok(false) => drop(turn.lacking.fetch_add(1, Relaxed)),
            Err(error) => {
                turn.lacking.fetch_add(1, Relaxed);
                warn!(key = %row.file.describe(), block = row.index.0, error = %chain(&error), "a copy can't be brought; it is tried again");
            }
        }
    }

    async fn give_away(&self, row: &Row, to: &[NodeName], holders: &[NodeName], turn: &Turn) {
        let bytes = self.bytes_of(row);
        if holders.is_empty() {
            turn.bucket.take(bytes).await;
        }
        let is_elsewhere = !holders.is_empty();
        let is_moved = !is_elsewhere && self.fs.reader().fill().send(&row.file, row.index, to).await > 0;
        let drained = {
            let mut drained = turn.drained.lock();
            drained.blocks += 1;
            drained.moved += u64::from(is_moved);
            drained.moved_bytes += if is_moved { bytes } else { 0 };
            drained.left += u64::from(!is_moved && !is_elsewhere);
            *drained
        };
        if let Some(step) = &turn.step {
            step(drained);
        }
    }

    /// Moves what no other node has to the nodes that are to have it without this one. Tells `step` as it goes. Whoever calls has told `fill` to drain,
    /// so that what is filled meanwhile goes there too.
    pub async fn drain(&self, step: impl Fn(Drained) + Send + Sync + 'static) -> Result<Drained, CopiesError> {
        let turn = Turn::new(Some(Box::new(step)));
        for _ in 0..DRAIN_PASSES_MAX {
            let before = {
                let mut drained = turn.drained.lock();
                (drained.blocks, drained.left) = (0, 0);
                drained.moved
            };
            let (store, fill) = (self.fs.reader().store().clone(), self.fs.reader().fill().clone());
            let todo = move |file: &FileObject, index: BlockIndex| {
                store.contains(&file.object, index).then(|| Todo::Move { to: fill.others_to_hold(file, index) })
            };
            self.each(todo, &turn).await?;
            if turn.drained.lock().moved == before {
                break;
            }
        }
        let drained = *turn.drained.lock();
        Ok(drained)
    }

    fn bytes_of(&self, row: &Row) -> u64 {
        self.fs.reader().block_size().extent(row.index, row.file.object.size).map_or(0, |extent| extent.len())
    }

    /// Acts on each block that `todo` says something of, several at once.
    async fn each(&self, todo: impl Fn(&FileObject, BlockIndex) -> Option<Todo> + Send + 'static, turn: &Turn) -> Result<(), CopiesError> {
        let Some(manifest) = self.fs.manifest() else { return Ok(()) };
        let (feeder, mut receiver) = aside::queue(BATCH);
        let fs = self.fs.clone();
        let walk = aside::spawn(move || walk(&fs, &manifest, todo, &feeder));
        let mut rows = Vec::with_capacity(BATCH);
        loop {
            let room = BATCH - rows.len();
            if receiver.recv_many(&mut rows, room).await == 0 {
                break;
            }
            // Full, but for the last one: a question costs a round trip.
            if rows.len() == BATCH {
                self.act_on(std::mem::take(&mut rows), turn).await;
            }
        }
        self.act_on(rows, turn).await;
        walk.await.map_err(|_| CopiesError::Aborted)?
    }

    async fn act_on(&self, rows: Vec<Row>, turn: &Turn) {
        let asked = ask(&self.neighbours, &rows).await;
        let rows = futures::stream::iter(rows.into_iter().zip(asked));
        rows.for_each_concurrent(BLOCKS_MAX, |(row, asked)| self.act(row, asked, turn)).await;
    }
}

/// Whether that is settled: not while somebody counts on the copy. `None` when it was given up.
async fn drop_copy(fill: &Arc<Fill>, row: &Row) -> Option<bool> {
    let (dropping, object, index) = (fill.clone(), row.file.object, row.index);
    let dropped = aside::spawn(move || dropping.drop_copy(&object, index)).await.ok()?;
    // Nothing of a file whose blocks are all here: it leaves by eviction.
    fill.metrics().copies.trimmed.add(u64::from(dropped.is_some_and(|bytes| bytes > 0)));
    Some(dropped.is_some())
}

/// Which of its nodes has each row's block, best first.
async fn ask(neighbours: &Neighbours, rows: &[Row]) -> Vec<Asked> {
    let mut asked: HashMap<NodeName, Vec<usize>> = HashMap::new();
    for (at, row) in rows.iter().enumerate() {
        for node in row.todo.nodes() {
            asked.entry(node.clone()).or_default().push(at);
        }
    }
    let question = |(node, asked): (NodeName, Vec<usize>)| {
        let blocks = asked.iter().map(|at| (rows[*at].file.object, rows[*at].index)).collect();
        let request = HoldsRequest { dataset: rows[asked[0]].file.origin.dataset.clone(), blocks };
        let peers = neighbours.peers().clone();
        async move {
            let held = peers.holds(&node, &request).await.ok()?;
            let has: HashSet<usize> = asked.into_iter().zip(held).filter(|(_, held)| *held).map(|(at, _)| at).collect();
            Some((node, has))
        }
    };
    let questions: Vec<_> = asked.into_iter().map(question).collect();
    let answers: HashMap<NodeName, HashSet<usize>> = futures::future::join_all(questions).await.into_iter().flatten().collect();
    let has = |at: usize, node: &NodeName| answers.get(node).is_some_and(|held| held.contains(&at));
    let of = |(at, row): (usize, &Row)| Asked {
        holders: row.todo.nodes().iter().filter(|node| has(at, node)).cloned().collect(),
        answered: row.todo.nodes().iter().all(|node| answers.contains_key(node)),
    };
    rows.iter().enumerate().map(of).collect()
}

/// Sends what `todo` says of each block that rules let into the cache. Blocks.
fn walk(
    fs: &Filesystem,
    manifest: &Manifest,
    todo: impl Fn(&FileObject, BlockIndex) -> Option<Todo>,
    feeder: &aside::Feeder<Row>,
) -> Result<(), CopiesError> {
    let blocks = fs.reader().block_size();
    for_each_below(manifest, b"/", &mut |entry, _| {
        if feeder.is_closed() {
            return;
        }
        let Ok((file, _)) = fs.file_of_entry(manifest, entry) else { return };
        if file.placement == Placement::Pass {
            return;
        }
        for index in (0..blocks.count(file.object.size)).map(BlockIndex) {
            if let Some(todo) = todo(&file, index) {
                feeder.put(Row { file: file.clone(), index, todo });
            }
        }
    })?;
    Ok(())
}
