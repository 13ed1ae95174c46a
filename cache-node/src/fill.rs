//! From the source to the store, and to everybody who waits for it: one flight per block, however many want it.
//! Knows objects, blocks, budgets. Does not know file names, FUSE or why a block is wanted.
//! Invariant: bytes are handed out only after the source vouched for their version, and an object of one block only whole and verified.
//! An object is complete in the store only when all of it agreed with the source's checksum, if there is one: see `verify`.
//!
//! Start at `Fill::read`; a flight's life is `run`: admitted (memory and a place), read, served, put, settled.

mod flight;
mod stream;
mod verify;
pub mod window;

pub use verify::Proof;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{debug, warn};

use crate::rules::Placement;
use flight::Flight;
use forebay_source::metrics::{Counter, Histogram};
use forebay_source::{Key, Priority, Source, SourceError, SourceHandle, Version};
use forebay_store::{DatasetSlot, PutOutcome, ReadOutcome, Store};
use forebay_wire::block::{BlockId, BlockIndex, BlockSize, Extent, ObjectRef};

/// Where the bytes of a data set's source come from, and how they are to be treated.
pub struct Origin {
    pub handle: SourceHandle,
    pub slot: DatasetSlot,
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
}

impl FileObject {
    /// For logs: `s3://bucket/prefix/key`.
    pub fn describe(&self) -> String {
        format!("{}{}", self.origin.handle.name(), self.key.0.escape_ascii())
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

/// Memory is granted in pieces of this size.
const BUFFER_UNIT_BYTES: u64 = 4096;
/// Blocks that the store refused stay this long for the rest of a sequential reader's requests: 8 blocks of 4 MiB, part of the budget.
const LINGER_BYTES_MAX: u64 = 32 << 20;
const SHARDS: usize = 64;
/// A random read up to this size is not worth a block at the first touch: 32 KiB are 0.8 % of 4 MiB, so reading at random, then filling, costs the
/// source at most 1.008 times the data.
pub const DIRECT_BYTES_MAX: u64 = 32 << 10;

/// Counted since the start.
#[derive(Debug, Default)]
pub struct FillMetrics {
    /// Blocks whose fill began.
    pub started: Counter,
    /// Blocks whose fill failed for good.
    pub failed: Counter,
    /// Bytes that were taken from sources into blocks and by direct reads.
    pub bytes: Counter,
    /// Reads that went to the source without filling a block.
    pub direct: Counter,
    /// Blocks asked for ahead of use.
    pub ahead: Counter,
    /// Blocks that the store did not keep.
    pub refused: Counter,
    /// Objects larger than a block whose bytes were compared with the source's checksum and agreed.
    pub verified: Counter,
    /// The same, and did not agree: nothing of them is kept.
    pub mismatched: Counter,
    /// Now in flight.
    pub in_flight: Counter,
    /// From the start of a flight to its last byte.
    pub duration: Histogram,
}

/// Everything on its way. Used behind an `Arc`.
pub struct Fill {
    store: Arc<Store>,
    block_size: BlockSize,
    runtime: tokio::runtime::Handle,
    /// Guards which flights exist: found or made under the shard's lock, so a block has at most one.
    shards: [Mutex<HashMap<BlockId, Arc<Flight>>>; SHARDS],
    all: Lane,
    /// What background flights take first, so that they never hold all of `all`.
    background: Lane,
    /// Guards blocks that are served but not kept, oldest first.
    lingering: Mutex<Lingering>,
    touches: window::Touches,
    verifier: verify::Verifier,
    metrics: FillMetrics,
}

/// Places and memory.
struct Lane {
    places: Semaphore,
    memory: Semaphore,
    memory_units: u32,
}

#[derive(Default)]
struct Lingering {
    blocks: VecDeque<(BlockId, Arc<Flight>)>,
    bytes: u64,
}

impl Lane {
    fn new(places: u32, bytes: u64) -> Self {
        let units = u32::try_from(bytes / BUFFER_UNIT_BYTES).unwrap_or(u32::MAX >> 3).max(1);
        Self { places: Semaphore::new(places.max(1) as usize), memory: Semaphore::new(units as usize), memory_units: units }
    }
    /// `None` only when the semaphores were closed, which nobody does.
    async fn enter(&self, len: usize) -> Option<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let units = u32::try_from((len as u64).div_ceil(BUFFER_UNIT_BYTES)).unwrap_or(u32::MAX).min(self.memory_units);
        let place = self.places.acquire().await.ok()?;
        Some((place, self.memory.acquire_many(units).await.ok()?))
    }
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
            all: Lane::new(limits.fills_max, flying),
            background: Lane::new(limits.fills_max - limits.fills_max / 4, flying / 4 * 3),
            lingering: Mutex::default(),
            touches: window::Touches::default(),
            verifier: verify::Verifier::default(),
            metrics: FillMetrics::default(),
        })
    }

    pub fn metrics(&self) -> &FillMetrics {
        &self.metrics
    }

    /// Appends `[from, to)` of block `index` (offsets in the block) to `into`. Joins the block's flight or starts it.
    pub async fn read(
        self: &Arc<Self>,
        file: &Arc<FileObject>,
        index: BlockIndex,
        from: usize,
        to: usize,
        into: &mut BytesMut,
    ) -> Result<(), FillError> {
        let (flight, joined) = self.join(file, index, Priority::OnDemand);
        if joined {
            flight.hurry();
        }
        let outcome = flight.read(from, to, into).await;
        if flight.is_used_up() {
            self.drop_lingering(BlockId { object: file.object.id, index });
        }
        outcome
    }

    /// Whether a random read of `extent` is better served by just its bytes: small, the first of its block, and the block is not on its way.
    pub fn prefers_direct(&self, file: &FileObject, index: BlockIndex, extent: Extent) -> bool {
        let block = BlockId { object: file.object.id, index };
        extent.len() <= DIRECT_BYTES_MAX && self.find(block).is_none() && !self.touches.touch(block)
    }

    /// Appends `extent` of the object to `into`, past blocks and store.
    pub async fn read_direct(&self, file: &FileObject, extent: Extent, into: &mut BytesMut) -> Result<(), FillError> {
        self.metrics.direct.add(1);
        let index = self.block_size.index(extent.start());
        let source = file.origin.handle.on_demand();
        let whole = extent.len() == file.object.size;
        let mut body = source.read(&file.key, &file.version, extent, whole).await.map_err(|cause| fail(file, index, cause))?;
        let mut left = extent.len();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|cause| fail(file, index, cause))?;
            left = left.checked_sub(piece.len() as u64).ok_or_else(|| fail(file, index, wrong_length(file)))?;
            into.extend_from_slice(&piece);
        }
        self.metrics.bytes.add(extent.len() - left);
        if left == 0 { Ok(()) } else { Err(fail(file, index, wrong_length(file))) }
    }

    /// Starts filling a block that nobody waits for yet. Never waits; does nothing when as much is queued as may run.
    pub fn ahead(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex) {
        let crowded = self.background.places.available_permits() == 0 || self.background.memory.available_permits() == 0;
        if crowded || file.placement == Placement::Pass || self.store.contains(&file.object, index) {
            return;
        }
        let (_, joined) = self.join(file, index, Priority::Background);
        if !joined {
            self.metrics.ahead.add(1);
        }
    }

    /// Fills a block in the background, unless the store has it, and waits for the store's answer: whether it is kept.
    pub async fn load(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex) -> Result<bool, FillError> {
        if self.store.contains(&file.object, index) {
            return Ok(true);
        }
        let (flight, _) = self.join(file, index, Priority::Background);
        flight.finished().await?;
        Ok(flight.settled().await)
    }

    /// The flight of a block, and whether it was there before.
    fn join(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, priority: Priority) -> (Arc<Flight>, bool) {
        let block = BlockId { object: file.object.id, index };
        if let Some(flight) = self.lingering.lock().find(block) {
            return (flight, true);
        }
        let extent = self.block_size.extent(index, file.object.size).expect("a reader asks for blocks of the object");
        let flight = {
            let mut flights = self.shard(block).lock();
            if let Some(flight) = flights.get(&block) {
                return (flight.clone(), true);
            }
            let flight = Flight::new(extent.len() as usize);
            flights.insert(block, flight.clone());
            flight
        };
        self.metrics.started.add(1);
        self.metrics.in_flight.add(1);
        let landing = Landing { fill: self.clone(), block, flight: flight.clone() };
        self.runtime.spawn(run(landing, file.clone(), index, extent, priority));
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

    /// Reads the source into the flight's buffer.
    async fn fetch(
        &self,
        file: &FileObject,
        index: BlockIndex,
        extent: Extent,
        flight: &Flight,
        source: Arc<dyn Source>,
    ) -> Result<(), FillError> {
        let whole = extent.len() == file.object.size;
        // Of one block: the answer's checksum covers all of it, and is known only at its end.
        let streams = !whole && !file.origin.strict;
        let mut writer = flight.begin();
        let mut body = source.read(&file.key, &file.version, extent, whole).await.map_err(|cause| fail(file, index, cause))?;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|cause| fail(file, index, cause))?;
            let filled = writer.append(&piece).ok_or_else(|| fail(file, index, wrong_length(file)))?;
            self.metrics.bytes.add(piece.len() as u64);
            if streams {
                flight.publish(filled);
            }
        }
        if writer.is_full() { Ok(()) } else { Err(fail(file, index, wrong_length(file))) }
    }

    /// The block was put since the caller looked: take it from the store instead of asking the source again.
    async fn take_stored(self: &Arc<Self>, object: ObjectRef, extent: Extent, flight: &Arc<Flight>) -> bool {
        let (store, flight) = (self.store.clone(), flight.clone());
        let read = move || {
            let mut bytes = vec![0; flight.len()];
            let hit = matches!(store.read(&object, extent, &mut bytes), Ok(ReadOutcome::Hit));
            if hit {
                let _ = flight.begin().append(&bytes);
            }
            hit
        };
        tokio::task::spawn_blocking(read).await.unwrap_or(false)
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
        tokio::task::spawn_blocking(put).await.ok().flatten().unwrap_or(false)
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
async fn run(landing: Landing, file: Arc<FileObject>, index: BlockIndex, extent: Extent, mut priority: Priority) {
    let (fill, flight) = (landing.fill.clone(), landing.flight.clone());
    let mut _background = None;
    if priority == Priority::Background {
        tokio::select! {
            biased;
            () = flight.hurried() => priority = Priority::OnDemand,
            entered = fill.background.enter(flight.len()) => _background = entered,
        }
    }
    let Some(_entered) = fill.all.enter(flight.len()).await else { return };
    if fill.store.contains(&file.object, index) && fill.take_stored(file.object, extent, &flight).await {
        flight.finish(Ok(()));
        flight.settle(true);
        return;
    }
    if flight.has_begun() {
        return;
    }
    let source = match priority {
        Priority::OnDemand => file.origin.handle.on_demand(),
        Priority::Background => file.origin.handle.background(),
    };
    let started = Instant::now();
    let outcome = fill.fetch(&file, index, extent, &flight, source).await;
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
    let kept = fill.keep(&file, index, &flight).await;
    if !kept {
        debug!(key = %file.describe(), block = index.0, "served, not kept");
        fill.metrics.refused.add(1);
        // Only then are there more requests to come that would ask for the same block.
        if !flight.is_used_up() {
            fill.linger(landing.block, flight.clone());
        }
    }
    flight.settle(kept);
}

fn fail(file: &FileObject, index: BlockIndex, cause: SourceError) -> FillError {
    let (index, origin) = (index.0, file.describe());
    match cause {
        SourceError::Replaced { .. } => FillError::Replaced { index, origin },
        SourceError::NotFound { .. } => FillError::Gone { index, origin },
        SourceError::Denied { .. }
        | SourceError::Archived { .. }
        | SourceError::Throttled { .. }
        | SourceError::Unavailable { .. }
        | SourceError::Corrupt { .. }
        | SourceError::Unaskable { .. }
        | SourceError::Missing { .. }
        | SourceError::Permanent { .. } => FillError::Source { index, origin, cause },
    }
}

fn wrong_length(file: &FileObject) -> SourceError {
    SourceError::Corrupt {
        op: "read",
        key: file.key.0.escape_ascii().to_string(),
        origin: file.origin.handle.name().to_owned(),
        detail: "the body is not as long as what was asked for".into(),
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
