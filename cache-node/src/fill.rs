//! From the source, or from the node whose block it is, to the store, and to everybody who waits for it: one flight per block, however many want it.
//! Knows objects, blocks, budgets. Does not know file names, FUSE or why a block is wanted.
//! Invariant: bytes are handed out only after the source vouched for their version, and an object of one block only whole and verified.
//! An object is complete in the store only when all of it agreed with the source's checksum, if there is one: see `verify`.
//!
//! Start at `Fill::read`; a flight's life is `run`: admitted (memory and a place), brought, served, put, settled. `bring` gets, `give` is for others.

mod bring;
mod copy;
mod demand;
mod flight;
mod give;
mod lane;
mod metrics;
mod promise;
mod stream;
mod verify;
pub mod window;

pub use copy::CopyMetrics;
pub use demand::{COOL_EVERY, LENT_UNREAD};
pub use flight::Supplier;
pub use give::Asked;
pub use metrics::FillMetrics;
pub use verify::Proof;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use forebay_peer::{BlockRef, DatasetId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::aside;
use crate::peer::{Neighbours, Way};
use crate::rules::Placement;
use flight::Flight;
use forebay_source::{Key, Priority, SourceError, SourceHandle, Version};
use forebay_store::{DatasetSlot, PutOutcome, ReadOutcome, Store};
use forebay_wire::block::{BlockId, BlockIndex, BlockSize, Extent, ObjectRef};
use forebay_wire::rule::{Copies, LocalCopy};
use lane::Lanes;

/// Where the bytes of a data set's source come from, and how they are to be treated.
pub struct Origin {
    pub handle: SourceHandle,
    /// Part of each object's id, the same on all nodes: no two data sets and no two servers share blocks, even where key and version are alike.
    pub identity: String,
    pub slot: DatasetSlot,
    /// What other nodes call the data set.
    pub dataset: DatasetId,
    /// Serve no byte of a block before all of it is here; `Reader::strict` says the same of the object.
    pub strict: bool,
}

/// One object version that can be filled.
pub struct FileObject {
    pub object: ObjectRef,
    pub key: Key,
    pub version: Version,
    pub origin: Arc<Origin>,
    pub placement: Placement,
    /// What to do with blocks of it that are another node's.
    pub local_copy: LocalCopy,
    /// How many nodes are to have each block.
    pub copies: Copies,
}

impl FileObject {
    /// For logs: `s3://bucket/prefix/key`.
    pub fn describe(&self) -> String {
        format!("{}{}", self.origin.handle.name(), self.key.0.escape_ascii())
    }

    /// What other nodes are told of a block.
    fn block_ref(&self, index: BlockIndex) -> BlockRef {
        let (dataset, key, version) = (self.origin.dataset.clone(), self.key.0.clone(), self.version.0.clone());
        BlockRef { dataset, object: self.object, key, version, index }
    }
}

/// Why a block didn't come. `origin` is the object's URI.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    #[error("fill block {index} of {origin}: the object has another version now")]
    Replaced { index: u32, origin: String },
    #[error("fill block {index} of {origin}: the object is gone")]
    Gone { index: u32, origin: String },
    #[error("fill block {index} of {origin}")]
    Source {
        index: u32,
        origin: String,
        #[source]
        cause: SourceError,
    },
    /// The process is stopping, or the task that filled panicked.
    #[error("fill: given up before it ended")]
    Aborted,
}

/// Limits of all fills of a node together.
#[derive(Clone, Copy, Debug)]
pub struct FillLimits {
    /// Flights at once.
    pub fills_max: u32,
    /// Memory of all flights; at least four blocks.
    pub buffer_bytes: u64,
}

/// Blocks that the store refused stay this long for the rest of a sequential reader's requests: 8 blocks of 4 MiB, part of the budget.
const LINGER_BYTES_MAX: u64 = 32 << 20;
const SHARDS: usize = 64;
/// Blocks of other nodes that are remembered, 4 bytes each: a second read within so many is a read again.
const SEEN_MAX: usize = 1 << 20;
/// A random read up to this size is not worth a block at the first touch: 32 KiB are 0.8 % of 4 MiB, so reading at random, then filling, costs the
/// source at most 1.008 times the data.
pub const DIRECT_BYTES_MAX: u64 = 32 << 10;

/// Everything on its way. Used behind an `Arc`.
pub struct Fill {
    store: Arc<Store>,
    block_size: BlockSize,
    runtime: tokio::runtime::Handle,
    /// Guards which flights exist: found or made under the shard's lock, so a block has at most one.
    shards: [Mutex<HashMap<BlockId, Arc<Flight>>>; SHARDS],
    /// For what the source is asked for.
    lanes: Lanes,
    /// For what other nodes are asked for.
    peer_lanes: Lanes,
    /// Set once, before the first read.
    shared: OnceLock<Shared>,
    /// Guards blocks that are served but not kept, oldest first.
    lingering: Mutex<Lingering>,
    touches: window::Touches,
    verifier: verify::Verifier,
    metrics: FillMetrics,
}

/// What a cache of several nodes needs.
struct Shared {
    neighbours: Arc<Neighbours>,
    /// Blocks of others that were read here.
    seen: window::Touches,
    /// Memory of what is being given to others.
    giving: Arc<tokio::sync::Semaphore>,
    copying: copy::Copying,
    demand: demand::Demand,
    promises: promise::Promises,
}

#[derive(Default)]
struct Lingering {
    blocks: VecDeque<(BlockId, Arc<Flight>)>,
    bytes: u64,
}

/// Ends a flight whose task is dropped or panics: waiters get `Aborted`, and the block can be asked for again.
struct Landing {
    fill: Arc<Fill>,
    block: BlockId,
    flight: Arc<Flight>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flight.finish(Err(FillError::Aborted));
        self.flight.settle(false);
        self.fill.take_out(self.block, &self.flight);
        self.fill.metrics.in_flight.subtract(1);
    }
}

impl Fill {
    pub fn new(store: Arc<Store>, block_size: BlockSize, limits: FillLimits, runtime: tokio::runtime::Handle) -> Arc<Self> {
        let flying = limits.buffer_bytes.saturating_sub(LINGER_BYTES_MAX).max(4 * block_size.bytes());
        Arc::new(Self {
            store,
            block_size,
            runtime,
            shards: std::array::from_fn(|_| Mutex::default()),
            lanes: Lanes::new(limits.fills_max, flying),
            // Half as much again, where there are other nodes.
            peer_lanes: Lanes::new(limits.fills_max, (flying / 2).max(4 * block_size.bytes())),
            shared: OnceLock::new(),
            lingering: Mutex::default(),
            touches: window::Touches::default(),
            verifier: verify::Verifier::default(),
            metrics: FillMetrics::default(),
        })
    }

    /// Shares the cache with other nodes. To be called once, before the first read.
    pub fn share_with(&self, neighbours: Arc<Neighbours>) {
        let units = self.lanes.all.memory_units() as usize;
        let giving = Arc::new(tokio::sync::Semaphore::new(units));
        let copying = copy::Copying::new(units / 4);
        let shared = Shared {
            neighbours,
            seen: window::Touches::new(SEEN_MAX),
            giving,
            copying,
            demand: demand::Demand::default(),
            promises: promise::Promises::default(),
        };
        assert!(self.shared.set(shared).is_ok(), "a node is in one cache");
    }

    pub fn metrics(&self) -> &FillMetrics {
        &self.metrics
    }

    /// Whether a block is to be here: it is this node's, or its rule wants a copy everywhere.
    pub fn wants(&self, local_copy: LocalCopy, block: BlockId) -> bool {
        local_copy == LocalCopy::Always || self.owns(block)
    }

    /// Whether there are no other nodes.
    pub fn is_alone(&self) -> bool {
        self.shared.get().is_none()
    }

    /// Of what all nodes of the cache may ask the sources for, how much is for this one: above 0, at most 1.
    pub fn share(&self) -> f64 {
        self.shared.get().map_or(1.0, |shared| shared.neighbours.share())
    }

    /// Whether this node reads the block from the source for all: always, when there are no others.
    pub fn owns(&self, block: BlockId) -> bool {
        self.shared.get().is_none_or(|shared| shared.neighbours.owns(block))
    }

    /// What is never cached has no owner either: it is read through.
    fn way(&self, file: &FileObject, block: BlockId) -> Way {
        match (self.shared.get(), file.placement) {
            (Some(shared), Placement::Keep(_)) => shared.neighbours.way(block),
            (Some(_), Placement::Pass) | (None, _) => Way::Own,
        }
    }

    /// Appends `[from, to)` of block `index` (offsets in the block) to `into`, and tells where they came from. Joins the block's flight or starts it.
    pub async fn read(
        self: &Arc<Self>,
        file: &Arc<FileObject>,
        index: BlockIndex,
        from: usize,
        to: usize,
        into: &mut BytesMut,
    ) -> Result<Supplier, FillError> {
        let flight = self.join_now(file, index);
        let outcome = flight.read(from, to, into).await;
        if flight.is_used_up() {
            self.drop_lingering(BlockId { object: file.object.id, index });
        }
        outcome.map(|()| flight.supplier())
    }

    /// Whether a random read of `extent` is better served by just its bytes: small, the first of its block, and the block is not on its way; or of
    /// any size, when the block is another node's and would not be kept here.
    pub fn prefers_direct(&self, file: &FileObject, index: BlockIndex, extent: Extent) -> bool {
        let block = BlockId { object: file.object.id, index };
        if self.find(block).is_some() {
            return false;
        }
        let is_to_be_here = self.shared.get().is_none_or(|shared| shared.neighbours.holds(block, file.copies.min));
        let would_stay = match (file.local_copy, is_to_be_here) {
            (_, true) | (LocalCopy::Always, false) => true,
            (LocalCopy::Hot, false) => self.store.has_room_beside(file.origin.slot, &file.object, self.block_size.bytes()),
            (LocalCopy::Never, false) => false,
        };
        !would_stay || extent.len() <= DIRECT_BYTES_MAX && !self.touches.touch(block)
    }

    /// Starts filling a block that nobody waits for yet. Never waits; does nothing when as much is queued as may run.
    pub fn ahead(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex) {
        let lanes = match self.owns(BlockId { object: file.object.id, index }) {
            true => &self.lanes,
            false => &self.peer_lanes,
        };
        if lanes.are_crowded() || file.placement == Placement::Pass || self.store.contains(&file.object, index) {
            return;
        }
        let (_, joined) = self.join(file, index, Priority::Background);
        if !joined {
            self.metrics.ahead.add(1);
        }
    }

    /// Fills a block in the background, unless the store has it, and waits for its answer: whether it is kept, now if it was refused when it came.
    pub async fn load(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex) -> Result<bool, FillError> {
        if self.store.contains(&file.object, index) {
            return Ok(true);
        }
        let (flight, joined) = self.join(file, index, Priority::Background);
        flight.finished().await?;
        Ok(flight.settled().await || joined && self.keep(file, index, &flight).await)
    }

    /// The flight of a block, and whether it was there before.
    fn join(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, priority: Priority) -> (Arc<Flight>, bool) {
        self.join_by(file, index, priority, || self.way(file, BlockId { object: file.object.id, index }))
    }

    /// The flight of a block that a reader waits for: also one that was in no hurry is, from now on.
    fn join_now(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex) -> Arc<Flight> {
        let (flight, joined) = self.join(file, index, Priority::OnDemand);
        if joined {
            flight.hurry();
        }
        flight
    }

    /// `join`, by this way if it begins now: most reads join a flight, and needn't know the way.
    fn join_by(
        self: &Arc<Self>,
        file: &Arc<FileObject>,
        index: BlockIndex,
        priority: Priority,
        way: impl FnOnce() -> Way,
    ) -> (Arc<Flight>, bool) {
        let block = BlockId { object: file.object.id, index };
        if let Some(flight) = self.lingering.lock().find(block) {
            return (flight, true);
        }
        let extent = self.block_size.extent(index, file.object.size).expect("a reader asks for blocks of the object");
        let (flight, way) = {
            let mut flights = self.shard(block).lock();
            if let Some(flight) = flights.get(&block) {
                return (flight.clone(), true);
            }
            let way = way();
            let from = if way == Way::Own { Supplier::Source } else { Supplier::Peer };
            let flight = Flight::new(extent.len() as usize, from);
            flights.insert(block, flight.clone());
            (flight, way)
        };
        self.metrics.started.add(1);
        self.metrics.in_flight.add(1);
        let landing = Landing { fill: self.clone(), block, flight: flight.clone() };
        self.runtime.spawn(run(landing, file.clone(), index, extent, priority, way));
        (flight, false)
    }

    fn find(&self, block: BlockId) -> Option<Arc<Flight>> {
        let found = self.shard(block).lock().get(&block).cloned();
        found.or_else(|| self.lingering.lock().find(block))
    }

    /// Only this very flight: after a failure a newer one may be under way.
    fn take_out(&self, block: BlockId, flight: &Arc<Flight>) {
        let mut flights = self.shard(block).lock();
        if flights.get(&block).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            flights.remove(&block);
        }
    }

    fn shard(&self, block: BlockId) -> &Mutex<HashMap<BlockId, Arc<Flight>>> {
        &self.shards[(block.object.0 as usize ^ block.index.0 as usize) % SHARDS]
    }

    /// The block was put since the caller looked: take it from the store instead of asking the source again.
    async fn take_stored(self: &Arc<Self>, object: ObjectRef, extent: Extent, flight: &Arc<Flight>) -> bool {
        let (store, flight) = (self.store.clone(), flight.clone());
        let read = move || {
            let mut bytes = vec![0; flight.len()];
            let hit = matches!(store.read(&object, extent, &mut bytes), Ok(ReadOutcome::Hit));
            if hit {
                flight.turn_to(Supplier::Store);
                let _ = flight.begin().append(&bytes);
            }
            hit
        };
        aside::spawn(read).await.unwrap_or(false)
    }

    /// Hands the block to the store; whether it is kept.
    async fn keep(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, flight: &Arc<Flight>) -> bool {
        let Placement::Keep(admission) = file.placement else { return false };
        let Some(_put) = self.may_put(file, index, flight).await else { return false };
        let (store, file, flight) = (self.store.clone(), file.clone(), flight.clone());
        let put = move || {
            let bytes = flight.bytes()?;
            match store.put(file.origin.slot, &file.object, index, bytes, admission) {
                Ok(outcome) => Some(outcome == PutOutcome::Stored),
                Err(error) => {
                    warn!(key = %file.describe(), block = index.0, error = %chain(&error), "a block could not be kept; it is served from the source");
                    Some(false)
                }
            }
        };
        aside::spawn(put).await.ok().flatten().unwrap_or(false)
    }

    fn linger(&self, block: BlockId, flight: Arc<Flight>) {
        let mut lingering = self.lingering.lock();
        lingering.bytes += flight.len() as u64;
        lingering.blocks.push_back((block, flight));
        while lingering.bytes > LINGER_BYTES_MAX {
            let (_, oldest) = lingering.blocks.pop_front().expect("bytes are of blocks");
            lingering.bytes -= oldest.len() as u64;
        }
    }

    fn drop_lingering(&self, block: BlockId) {
        let mut lingering = self.lingering.lock();
        if let Some(at) = lingering.blocks.iter().position(|(id, _)| *id == block) {
            let (_, flight) = lingering.blocks.remove(at).expect("it was found");
            lingering.bytes -= flight.len() as u64;
        }
    }
}

impl Lingering {
    fn find(&self, block: BlockId) -> Option<Arc<Flight>> {
        self.blocks.iter().find(|(id, _)| *id == block).map(|(_, flight)| flight.clone())
    }
}

/// A flight's whole life. Not cancelled by readers; dropped only with the runtime, where `Landing` ends it.
async fn run(landing: Landing, file: Arc<FileObject>, index: BlockIndex, extent: Extent, mut priority: Priority, way: Way) {
    let (fill, flight) = (landing.fill.clone(), landing.flight.clone());
    let lanes = if way == Way::Own { &fill.lanes } else { &fill.peer_lanes };
    let Some(_entered) = fill.enter(lanes, &flight, &mut priority).await else { return };
    if fill.store.contains(&file.object, index) && fill.take_stored(file.object, extent, &flight).await {
        flight.finish(Ok(()));
        flight.settle(true);
        return;
    }
    if flight.has_begun() {
        return;
    }
    let started = Instant::now();
    let outcome = fill.bring(&file, index, extent, &flight, priority, &way).await;
    fill.metrics.duration.observe(started.elapsed());
    let failed = outcome.is_err();
    if outcome.is_err() {
        // Out of the map before anybody hears of the failure: a retry must begin a new flight, not join the dead one.
        fill.shard(landing.block).lock().remove(&landing.block);
    }
    flight.finish(outcome);
    if failed {
        fill.metrics.failed.add(1);
        return;
    }
    let kept = fill.stays(&file, landing.block, &flight, &way) && fill.keep(&file, index, &flight).await;
    if !kept {
        debug!(key = %file.describe(), block = index.0, "served, not kept");
        fill.metrics.refused.add(1);
        // Only then are there more requests to come that would ask for the same block.
        if !flight.is_used_up() {
            fill.linger(landing.block, flight.clone());
        }
    }
    flight.settle(kept);
    if kept && flight.supplier() == Supplier::Source {
        fill.hand_down(&file, index, &flight);
    }
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
