//! What this node gives of a block to another: from the store, or from a flight that asks the source.
//! Knows one block. Does not know who asks, or how it gets there.
//! Invariant: what is given was never asked of a third node, so no two nodes ever wait for each other.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use forebay_peer::{Body, Given, Refusal, SourceFailure, SourceFailureKind, Want};
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::flight::{Flight, Supplier};
use super::lane::BUFFER_UNIT_BYTES;
use super::{DIRECT_BYTES_MAX, FileObject, Fill, FillError, chain};
use crate::aside;
use crate::peer::Way;
use forebay_source::{Priority, SourceError};
use forebay_store::ReadOutcome;
use forebay_wire::block::{BlockId, BlockIndex, Extent};

/// Read from the store at once.
const PIECE_BYTES_MAX: u64 = 512 << 10;
/// How long a peer waits for a flight that waits for another node in its turn, which is only so while lists of nodes differ.
const TURN_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// How another node asks for a block.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub want: Want,
    /// Nobody waits for it.
    pub background: bool,
    /// It asks another node if it is told to.
    pub may_go_elsewhere: bool,
}

impl Fill {
    /// `extent` of block `index`, for another node. `Want::Fill` brings what isn't here, if this node is one of the first for the block.
    pub async fn give(self: &Arc<Self>, file: Arc<FileObject>, index: BlockIndex, extent: Extent, asked: Asked) -> Result<Given, Refusal> {
        let Asked { want, background, may_go_elsewhere } = asked;
        let block = BlockId { object: file.object.id, index };
        let whole = self.block_size.extent(index, file.object.size).ok_or_else(|| Refusal::Malformed("no such block".to_owned()))?;
        match want {
            Want::Held => self.touch_lent(block),
            Want::Fill if background => {}
            Want::Fill => {
                if let Some(other) = self.spread(&file, index, Self::part_of(extent, whole), may_go_elsewhere) {
                    return Err(Refusal::Elsewhere(other));
                }
            }
        }
        let is_here = self.store.contains(&file.object, index);
        if !is_here {
            match want {
                Want::Held => return Err(Refusal::NotHeld),
                Want::Fill if self.shared.get().is_some_and(|shared| !shared.neighbours.is_ranked(block)) => return Err(Refusal::NotMine),
                Want::Fill => {}
            }
            // As a reader of this node does it: a first small read at random takes its bytes only.
            let is_part = extent.len() < whole.len() && whole.len() < file.object.size;
            let is_small = is_part && extent.len() <= DIRECT_BYTES_MAX;
            if is_small && !file.origin.strict && self.find(block).is_none() && !self.touches.touch(block) {
                return Ok(Given { is_filling: true, body: self.clone().direct(file, extent) });
            }
        }
        let giving = Giving { fill: self.clone(), file, index, whole, left: Some(extent), want, background, flight: None, memory: None };
        Ok(Given { is_filling: !is_here, body: giving.body() })
    }

    /// Keeps a block that another node gives; whether it is kept.
    pub async fn take(self: &Arc<Self>, file: &Arc<FileObject>, index: BlockIndex, bytes: &[u8]) -> bool {
        let flight = Flight::new(bytes.len(), Supplier::Peer);
        let is_whole = flight.begin().append(bytes).is_some();
        flight.finish(Ok(()));
        is_whole && (self.store.contains(&file.object, index) || self.keep(file, index, &flight).await)
    }

    fn direct(self: Arc<Self>, file: Arc<FileObject>, extent: Extent) -> Body {
        let read = async move {
            let mut bytes = BytesMut::with_capacity(extent.len() as usize);
            self.read_source_direct(&file, extent, &mut bytes).await.map(|()| bytes.freeze()).map_err(|error| refusal(&error))
        };
        futures::stream::once(read).boxed()
    }
}

/// An answer under way.
struct Giving {
    fill: Arc<Fill>,
    file: Arc<FileObject>,
    index: BlockIndex,
    /// The block's bytes of the object.
    whole: Extent,
    /// What hasn't been given yet.
    left: Option<Extent>,
    want: Want,
    background: bool,
    flight: Option<Arc<Flight>>,
    memory: Option<OwnedSemaphorePermit>,
}

impl Giving {
    fn body(self) -> Body {
        futures::stream::unfold(Some(self), |giving| async move {
            let mut giving = giving?;
            let left = giving.left?;
            match giving.next(left).await {
                Ok(bytes) => {
                    giving.left = Extent::new(left.start() + bytes.len() as u64, left.end());
                    Some((Ok(bytes), Some(giving)))
                }
                Err(refusal) => Some((Err(refusal), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self, left: Extent) -> Result<Bytes, Refusal> {
        self.remember(left).await;
        if self.flight.is_none() {
            if let Some(bytes) = self.read_store(left).await {
                return Ok(bytes);
            }
            if self.want == Want::Held {
                return Err(Refusal::NotHeld);
            }
            self.flight = Some(self.join().await?);
        }
        let flight = self.flight.as_ref().ok_or(Refusal::Busy)?;
        let offset = |at: u64| (at - self.whole.start()) as usize;
        flight.next(offset(left.start()), offset(left.end())).await.map_err(|error| refusal(&error))
    }

    /// Takes memory for what is given, once: readers that are slow must not hold more than there is.
    async fn remember(&mut self, extent: Extent) {
        if let (None, Some(shared)) = (&self.memory, self.fill.shared.get()) {
            let units = extent.len().div_ceil(BUFFER_UNIT_BYTES).min(u64::from(self.fill.lanes.all.memory_units()));
            self.memory = shared.giving.clone().acquire_many_owned(u32::try_from(units).unwrap_or(1)).await.ok();
        }
    }

    /// The next piece, if it is here.
    async fn read_store(&self, left: Extent) -> Option<Bytes> {
        if !self.fill.store.contains(&self.file.object, self.index) {
            return None;
        }
        let piece = Extent::new(left.start(), left.end().min(left.start() + PIECE_BYTES_MAX))?;
        let (store, object) = (self.fill.store.clone(), self.file.object);
        let read = move || {
            let mut bytes = vec![0; piece.len() as usize];
            match store.read_for_others(&object, piece, &mut bytes) {
                Ok(ReadOutcome::Hit) => Some(bytes),
                Ok(ReadOutcome::Miss) => None,
                Err(error) => {
                    tracing::warn!(object = %object.id, error = %chain(&error), "a local read for another node failed; the source is asked");
                    None
                }
            }
        };
        aside::spawn(read).await.ok().flatten().map(Bytes::from)
    }

    /// The block's flight, which asks the source.
    async fn join(&self) -> Result<Arc<Flight>, Refusal> {
        let priority = if self.background { Priority::Background } else { Priority::OnDemand };
        let (flight, joined) = self.fill.join_by(&self.file, self.index, priority, || Way::Own);
        if joined && !self.background {
            flight.hurry();
        }
        // One that a reader of this node began by another list of nodes: it may wait for the very node that asks.
        match tokio::time::timeout(TURN_WITHIN, flight.leaves_peers()).await {
            Ok(()) => Ok(flight),
            Err(_) => Err(Refusal::NotMine),
        }
    }
}

/// What another node is told.
fn refusal(error: &FillError) -> Refusal {
    let source = |kind, detail| Refusal::Source(SourceFailure { kind, detail });
    match error {
        FillError::Replaced { .. } => source(SourceFailureKind::Replaced, chain(error)),
        FillError::Gone { .. } => source(SourceFailureKind::Gone, chain(error)),
        FillError::Aborted => Refusal::Busy,
        FillError::Source { cause, .. } => {
            let kind = match cause {
                SourceError::NotFound { .. } => SourceFailureKind::Gone,
                SourceError::Replaced { .. } => SourceFailureKind::Replaced,
                SourceError::Denied { .. } => SourceFailureKind::Denied,
                SourceError::Archived { .. } => SourceFailureKind::Archived,
                SourceError::Throttled { .. } => SourceFailureKind::Throttled,
                SourceError::Unavailable { .. } => SourceFailureKind::Unavailable,
                SourceError::Corrupt { .. } => SourceFailureKind::Corrupt,
                SourceError::Unaskable { .. } => SourceFailureKind::Unaskable,
                SourceError::Missing { .. } => SourceFailureKind::Missing,
                SourceError::Permanent { .. } => SourceFailureKind::Permanent,
            };
            source(kind, chain(error))
        }
    }
}
