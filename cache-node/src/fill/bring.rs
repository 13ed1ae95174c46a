//! Gets a block's bytes: from the source, or from the nodes whose block it is, and from the source when they all fail.
//! Knows one block. Does not know who waits for it, or what becomes of it.
//! Invariant: the bytes that are in a flight's buffer are those of its version, wherever each came from.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use forebay_peer::{PeerError, ReadRequest, Refusal, SourceFailureKind, Unfetched, Want};
use futures::StreamExt;
use tracing::debug;

use super::flight::{Flight, Supplier};
use super::lane::{Entered, Lanes};
use super::stream::Writer;
use super::{FileObject, Fill, FillError, Shared, chain};
use crate::peer::Way;
use crate::rules::Placement;
use forebay_source::{Priority, Source, SourceError};
use forebay_wire::block::{BlockId, BlockIndex, Extent};
use forebay_wire::id::NodeName;
use forebay_wire::rule::LocalCopy;

/// Nodes that are asked for what may be there: of two that joined at once one may be next in rank after the other.
const GUESSES_MAX: usize = 2;

/// How a background flight got in, which it holds until it lands.
pub(super) struct Admitted<'a> {
    _all: Entered<'a>,
    _background: Option<Entered<'a>>,
}

impl Fill {
    /// Waits for a place and memory. A background flight that a reader joins meanwhile goes to the front. `None` only when the lanes were closed.
    pub(super) async fn enter<'a>(&self, lanes: &'a Lanes, flight: &Flight, priority: &mut Priority) -> Option<Admitted<'a>> {
        let mut background = None;
        if *priority == Priority::Background {
            tokio::select! {
                biased;
                () = flight.hurried() => *priority = Priority::OnDemand,
                entered = lanes.background.enter(flight.len()) => background = entered,
            }
        }
        Some(Admitted { _all: lanes.all.enter(flight.len()).await?, _background: background })
    }

    /// Fills the flight's buffer.
    pub(super) async fn bring(
        &self,
        file: &FileObject,
        index: BlockIndex,
        extent: Extent,
        flight: &Flight,
        mut priority: Priority,
        way: &Way,
    ) -> Result<(), FillError> {
        let mut writer = flight.begin();
        let (ranks, want, shared) = match (way, self.shared.get()) {
            (Way::Others { ranks, .. }, Some(shared)) => (ranks, Want::Fill, shared),
            (Way::Copies { ranks }, Some(shared)) => (ranks, Want::Held, shared),
            (Way::Own, _) | (_, None) => {
                let request = self.request(file, index, extent, priority);
                if self.bring_guessed(file, request, flight, &mut writer).await {
                    return Ok(());
                }
                return self.read_source(file, index, extent, flight, priority, &mut writer).await;
            }
        };
        let request = ReadRequest { want, ..self.request(file, index, extent, priority) };
        match self.fetch(shared, ranks, request, file.origin.strict, flight, &mut writer).await {
            Ok(()) => return Ok(()),
            Err(unfetched) => self.is_final(file, index, &unfetched)?,
        }
        flight.turn_to(Supplier::Source);
        self.metrics.turned.add(1);
        let Some(_admitted) = self.enter(&self.lanes, flight, &mut priority).await else { return Err(FillError::Aborted) };
        self.read_source(file, index, extent, flight, priority, &mut writer).await
    }

    /// A block of this node's from who may have it all the same; whether that gave all of it.
    async fn bring_guessed(&self, file: &FileObject, mut request: ReadRequest, flight: &Flight, writer: &mut Writer) -> bool {
        let Some(shared) = self.shared.get().filter(|_| file.placement != Placement::Pass) else { return false };
        request.want = Want::Held;
        let (begin, end) = (request.extent.start(), request.extent.end());
        let block = BlockId { object: request.block.object.id, index: request.block.index };
        let mut guess = shared.neighbours.view().guess(block);
        for _ in 0..GUESSES_MAX {
            let Some(asked) = guess else { return false };
            let ranks = std::slice::from_ref(&asked.name);
            if self.fetch(shared, ranks, request.clone(), file.origin.strict, flight, writer).await.is_ok() {
                asked.was_right();
                self.metrics.guessed.add(1);
                // Only now: who asked meanwhile was let join, as a node that is asked for what it holds asks nobody.
                flight.turn_to(Supplier::Peer);
                return true;
            }
            let Some(left) = Extent::new(begin + writer.filled() as u64, end) else { return false };
            request.extent = left;
            guess = asked.next();
        }
        false
    }

    /// Whether the block stays here: if it is this node's, or this node stands in for the one whose it is; else as the rule says.
    pub(super) fn stays(&self, file: &FileObject, block: BlockId, flight: &Flight, way: &Way) -> bool {
        let Way::Others { is_next, .. } = way else { return true };
        let Some(shared) = self.shared.get() else { return true };
        if *is_next && flight.supplier() == Supplier::Source || shared.neighbours.holds(block, file.copies.min) {
            return true;
        }
        match file.local_copy {
            LocalCopy::Always => true,
            LocalCopy::Never => false,
            LocalCopy::Hot => shared.seen.touch(block) && self.store.has_room_beside(file.origin.slot, &file.object, flight.len() as u64),
        }
    }

    /// Appends `extent` of the object to `into`, past blocks and store, and tells where it came from.
    pub async fn read_direct(&self, file: &FileObject, extent: Extent, into: &mut BytesMut) -> Result<Supplier, FillError> {
        self.metrics.direct.add(1);
        let index = self.block_size.index(extent.start());
        let mut left = Some(extent);
        if let (Way::Others { ranks, .. }, Some(shared)) = (self.way(file, BlockId { object: file.object.id, index }), self.shared.get()) {
            let request = self.request(file, index, extent, Priority::OnDemand);
            let begin = into.len();
            let mut take = |bytes: Bytes| {
                self.metrics.peer_bytes.add(bytes.len() as u64);
                into.extend_from_slice(&bytes);
            };
            match shared.neighbours.peers().fetch(&ranks, request, &mut take).await {
                Ok(()) => return Ok(Supplier::Peer),
                Err(unfetched) => self.is_final(file, index, &unfetched)?,
            }
            self.metrics.turned.add(1);
            left = Extent::new(extent.start() + (into.len() - begin) as u64, extent.end());
        }
        let Some(extent) = left else { return Ok(Supplier::Peer) };
        self.read_source_direct(file, extent, into).await.map(|()| Supplier::Source)
    }

    pub(super) async fn read_source_direct(&self, file: &FileObject, extent: Extent, into: &mut BytesMut) -> Result<(), FillError> {
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

    /// Reads what is missing of the flight's buffer from the source.
    async fn read_source(
        &self,
        file: &FileObject,
        index: BlockIndex,
        extent: Extent,
        flight: &Flight,
        priority: Priority,
        writer: &mut Writer,
    ) -> Result<(), FillError> {
        let source: Arc<dyn Source> = match priority {
            Priority::OnDemand => file.origin.handle.on_demand(),
            Priority::Background => file.origin.handle.background(),
        };
        let whole = extent.len() == file.object.size;
        // Of one block: the answer's checksum covers all of it, and is known only at its end.
        let streams = !whole && !file.origin.strict;
        // So what another node gave of such a one is read once more, past the buffer.
        let mut known = if whole { writer.filled() } else { 0 };
        let begin = extent.start() + if whole { 0 } else { writer.filled() as u64 };
        let Some(asked) = Extent::new(begin, extent.end()) else { return Ok(()) };
        let mut body = source.read(&file.key, &file.version, asked, whole).await.map_err(|cause| fail(file, index, cause))?;
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|cause| fail(file, index, cause))?;
            self.metrics.bytes.add(piece.len() as u64);
            let skipped = piece.split_to(known.min(piece.len()));
            known -= skipped.len();
            let filled = writer.append(&piece).ok_or_else(|| fail(file, index, wrong_length(file)))?;
            if streams {
                flight.publish(filled);
            }
        }
        if writer.is_full() { Ok(()) } else { Err(fail(file, index, wrong_length(file))) }
    }

    fn request(&self, file: &FileObject, index: BlockIndex, extent: Extent, priority: Priority) -> ReadRequest {
        ReadRequest {
            block: file.block_ref(index),
            extent,
            want: Want::Fill,
            background: priority == Priority::Background,
            elsewhere: false,
        }
    }

    /// Asks other nodes for the flight's bytes; again, and with haste, when a reader joins what nobody waited for.
    async fn fetch(
        &self,
        shared: &Shared,
        ranks: &[NodeName],
        mut request: ReadRequest,
        strict: bool,
        flight: &Flight,
        writer: &mut Writer,
    ) -> Result<(), Unfetched> {
        let begin = request.extent.start();
        let streams = !strict && request.extent.len() != request.block.object.size;
        loop {
            let mut take = |bytes: Bytes| {
                self.metrics.peer_bytes.add(bytes.len() as u64);
                let filled = writer.append(&bytes).expect("a peer's answer is as long as what was asked for");
                if streams {
                    flight.publish(filled);
                }
            };
            let asked = shared.neighbours.peers().fetch(ranks, request.clone(), &mut take);
            tokio::select! {
                biased;
                fetched = asked => return fetched,
                () = flight.hurried(), if request.background => request.background = false,
            }
            match Extent::new(begin + writer.filled() as u64, request.extent.end()) {
                Some(left) => request.extent = left,
                None => return Ok(()),
            }
        }
    }

    /// An error, if what the source told another node would be told to this one too; else the source is asked from here.
    fn is_final(&self, file: &FileObject, index: BlockIndex, unfetched: &Unfetched) -> Result<(), FillError> {
        let Some(error) = &unfetched.cause else { return Ok(()) };
        if let PeerError::Refused { refusal: Refusal::Source(failure), .. } = error {
            let (index, origin) = (index.0, file.describe());
            match failure.kind {
                SourceFailureKind::Replaced => return Err(FillError::Replaced { index, origin }),
                SourceFailureKind::Gone => return Err(FillError::Gone { index, origin }),
                SourceFailureKind::Denied
                | SourceFailureKind::Archived
                | SourceFailureKind::Throttled
                | SourceFailureKind::Unavailable
                | SourceFailureKind::Corrupt
                | SourceFailureKind::Unaskable
                | SourceFailureKind::Missing
                | SourceFailureKind::Permanent => {}
            }
        }
        debug!(key = %file.describe(), block = index.0, error = %chain(error), "no other node gives a block; the source is asked");
        Ok(())
    }
}

pub(super) fn fail(file: &FileObject, index: BlockIndex, cause: SourceError) -> FillError {
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

pub(super) fn wrong_length(file: &FileObject) -> SourceError {
    SourceError::Corrupt {
        op: "read",
        key: file.key.0.escape_ascii().to_string(),
        origin: file.origin.handle.name().to_owned(),
        detail: "the body is not as long as what was asked for".into(),
    }
}
