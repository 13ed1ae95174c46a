//! Copies of blocks for other nodes: handed down when a block was filled, sent when this node is drained, brought when this one lacks its own.
//! Knows blocks and how many nodes are to have each. Does not know which blocks there are: `copies` does.
//! Invariant: nobody who reads waits for a copy; what finds no place in the queue is left to `copies`, which looks for what is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use forebay_peer::StoreRequest;
use forebay_wire::id::NodeName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use super::flight::Flight;
use super::lane::BUFFER_UNIT_BYTES;
use super::{FileObject, Fill, FillError, Shared, chain};
use crate::aside;
use crate::peer::Way;
use forebay_source::Priority;
use forebay_source::metrics::Counter;
use forebay_store::ReadOutcome;
use forebay_wire::block::{BlockId, BlockIndex};
use forebay_wire::rule::LocalCopy;

/// Blocks that wait for their copies to be sent, at about 1 KiB each.
const QUEUED_MAX: usize = 8192;
/// Copies under way to other nodes: of the connections to a node (`PeerLimits::connections_max`, 16) most stay for readers.
const SENDING_MAX: usize = 4;

/// Counted since the start.
#[derive(Debug, Default)]
pub struct CopyMetrics {
    /// Blocks that another node took a copy of.
    pub sent: Counter,
    /// Bytes of them.
    pub sent_bytes: Counter,
    /// Of the blocks that another node took, those that it has only while many ask for them.
    pub lent: Counter,
    /// Copies that another node did not take: it is away, or has no room.
    pub refused: Counter,
    /// Blocks whose copies were not sent at the fill, because as many waited as may.
    pub skipped: Counter,
    /// Copies that were brought here because this node is to have one.
    pub brought: Counter,
    /// Copies that were dropped because other nodes have them now.
    pub trimmed: Counter,
}

pub(super) struct Copying {
    queue: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Of blocks that needn't be read again from the disk, in units of `BUFFER_UNIT_BYTES`.
    memory: Arc<Semaphore>,
    /// This node is to be stopped: what it fills goes to the next node too.
    is_draining: AtomicBool,
}

impl Copying {
    pub(super) fn new(memory_units: usize) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            queue: semaphore(QUEUED_MAX),
            places: semaphore(SENDING_MAX),
            memory: semaphore(memory_units),
            is_draining: AtomicBool::new(false),
        }
    }
}

/// Bytes of a block, with the memory that was granted for them.
type Kept = (Bytes, OwnedSemaphorePermit);

impl Fill {
    /// Hands a block that was filled here down to the other nodes that are to have it. Never waits.
    pub(super) fn hand_down(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, flight: &Flight) {
        let Some(shared) = self.shared.get() else { return };
        let is_draining = shared.copying.is_draining.load(Relaxed);
        // With `Always` each node takes its own.
        if !is_draining && (file.copies.min == 1 || file.local_copy == LocalCopy::Always) {
            return;
        }
        let targets = self.others_to_hold(file, index);
        if targets.is_empty() {
            return;
        }
        let Ok(queued) = shared.copying.queue.clone().try_acquire_owned() else { return self.metrics.copies.skipped.add(1) };
        let units = u32::try_from((flight.len() as u64).div_ceil(BUFFER_UNIT_BYTES)).unwrap_or(u32::MAX);
        let granted = shared.copying.memory.clone().try_acquire_many_owned(units).ok();
        let kept = granted.and_then(|memory| flight.shared_bytes().map(|bytes| (bytes, memory)));
        let (fill, file) = (self.clone(), file.clone());
        self.runtime.spawn(async move {
            fill.send_copies(&file, index, kept, &targets).await;
            drop(queued);
        });
    }

    /// The other nodes that are to have the block; when this one is being drained, as if it weren't there.
    pub fn others_to_hold(&self, file: &FileObject, index: BlockIndex) -> Vec<NodeName> {
        let Some(shared) = self.shared.get() else { return Vec::new() };
        let (block, view) = (BlockId { object: file.object.id, index }, shared.neighbours.view());
        let holders = view.holders(block, file.copies.min);
        if holders.own && shared.copying.is_draining.load(Relaxed) {
            return view.holders(block, file.copies.min + 1).others;
        }
        holders.others
    }

    /// From now on, or no longer, what this node fills goes to the next node too.
    pub fn set_draining(&self, is_draining: bool) {
        if let Some(shared) = self.shared.get() {
            shared.copying.is_draining.store(is_draining, Relaxed);
        }
    }

    /// Sends a block that is here to `targets`; how many of them have it then. Waits for its turn.
    pub async fn send(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, targets: &[NodeName]) -> usize {
        self.send_copies(file, index, None, targets).await
    }

    /// Sends a block that is here to `target`, for as long as it is asked for often; whether it has it then. Waits for its turn.
    pub(super) async fn lend(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, target: &NodeName) -> bool {
        let Some(shared) = self.shared.get() else { return false };
        let Ok(_place) = shared.copying.places.acquire().await else { return false };
        let Some(bytes) = self.read_whole(file, index).await else { return false };
        let is_lent = self.send_one(shared, file, index, target, bytes, true).await;
        self.metrics.copies.lent.add(u64::from(is_lent));
        is_lent
    }

    async fn send_copies(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, kept: Option<Kept>, targets: &[NodeName]) -> usize {
        let Some(shared) = self.shared.get() else { return 0 };
        let Ok(_place) = shared.copying.places.acquire().await else { return 0 };
        let (bytes, _memory) = match kept {
            Some((bytes, memory)) => (bytes, Some(memory)),
            None => match self.read_whole(file, index).await {
                Some(bytes) => (bytes, None),
                // Evicted meanwhile: there is nothing to copy.
                None => return 0,
            },
        };
        let mut taken = 0;
        for target in targets {
            taken += usize::from(self.send_one(shared, file, index, target, bytes.clone(), false).await);
        }
        taken
    }

    async fn send_one(
        &self,
        shared: &Shared,
        file: &FileObject,
        index: BlockIndex,
        target: &NodeName,
        bytes: Bytes,
        by_demand: bool,
    ) -> bool {
        let (len, request) = (bytes.len() as u64, StoreRequest { block: file.block_ref(index), by_demand });
        let is_taken = match shared.neighbours.peers().store(target, &request, bytes).await {
            Ok(is_taken) => is_taken,
            Err(error) => {
                debug!(key = %file.describe(), block = index.0, peer = %target, error = %chain(&error), "a copy was not taken");
                false
            }
        };
        let copies = &self.metrics.copies;
        if is_taken {
            copies.sent.add(1);
            copies.sent_bytes.add(len);
        } else {
            copies.refused.add(1);
        }
        is_taken
    }

    /// A block of the store. Its memory is bounded by `SENDING_MAX`.
    async fn read_whole(&self, file: &FileObject, index: BlockIndex) -> Option<Bytes> {
        let extent = self.block_size.extent(index, file.object.size)?;
        let (store, object) = (self.store.clone(), file.object);
        let read = move || {
            let mut bytes = vec![0; extent.len() as usize];
            matches!(store.read(&object, extent, &mut bytes), Ok(ReadOutcome::Hit)).then_some(bytes)
        };
        aside::spawn(read).await.ok().flatten().map(Bytes::from)
    }

    /// Brings a block here that this node is to have, from `holders`, which said that they have it; from the source if none of them gives it after
    /// all. Whether it is kept.
    pub async fn bring_copy(
        self: &Arc<Self>,
        file: &Arc<FileObject>,
        index: BlockIndex,
        holders: Vec<NodeName>,
    ) -> Result<bool, FillError> {
        if self.store.contains(&file.object, index) {
            return Ok(true);
        }
        let block = BlockId { object: file.object.id, index };
        let lingering = self.lingering.lock().find(block);
        if let Some(flight) = lingering {
            // A reader took it by another list of nodes, so it was not kept; it is at hand.
            let kept = self.keep(file, index, &flight).await;
            self.metrics.copies.brought.add(u64::from(kept));
            return Ok(kept);
        }
        let (flight, joined) = self.join_by(file, index, Priority::Background, || Way::Copies { ranks: holders });
        flight.finished().await?;
        let kept = flight.settled().await;
        if kept && !joined {
            self.metrics.copies.brought.add(1);
        }
        Ok(kept)
    }

    /// Memory for a block that another node gives. `None` in a cache of one node.
    pub async fn memory_to_take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let shared = self.shared.get()?;
        let units = bytes.div_ceil(BUFFER_UNIT_BYTES).min(u64::from(self.lanes.all.memory_units()));
        shared.giving.clone().acquire_many_owned(u32::try_from(units).unwrap_or(1)).await.ok()
    }
}
