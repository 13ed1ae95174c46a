//! Which copy of a byte to use, in order: the store, a flight that brings it, the node whose it is, the source.
//! Knows objects and extents. Does not know file names or FUSE.
//! Invariant: what it answers has passed the store's checksum or came from the source as the version that was asked for.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tracing::warn;

use crate::fill::window::Windows;
use crate::fill::{FileObject, Fill, FillError, Proof, Supplier, chain};
use forebay_source::metrics::Counter;
use forebay_store::{ReadOutcome, Store};
use forebay_wire::block::{BlockId, BlockIndex, BlockSize, Extent};

/// Counted since the start, over all data sets of the node unless a data set keeps its own.
#[derive(Debug, Default)]
pub struct ReaderMetrics {
    /// Reads that the store answered.
    pub hits: Counter,
    /// Reads that needed a flight or the source.
    pub misses: Counter,
    pub bytes_store: Counter,
    pub bytes_source: Counter,
    /// From other nodes of the cache.
    pub bytes_peer: Counter,
}

/// Reads of one data set. The store and the fills are the node's.
pub struct Reader {
    store: Arc<Store>,
    fill: Arc<Fill>,
    block_size: BlockSize,
    windows: Windows,
    metrics: ReaderMetrics,
    /// Serve no byte of an object before all of it agreed with the source's checksum, where there is one.
    strict: bool,
}

/// An object that leaves the store again and again before it is read is not waited for any longer.
const STRICT_ATTEMPTS_MAX: u32 = 3;

/// Bytes of an object that a node holds. A block is the own one of the node that is first in its rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// In own blocks, held or not.
    pub own: u64,
    /// In own blocks that are held.
    pub held: u64,
    /// In blocks that are held and others' own.
    pub copied: u64,
}

impl Reader {
    pub fn new(store: Arc<Store>, fill: Arc<Fill>, block_size: BlockSize) -> Self {
        Self { store, fill, block_size, windows: Windows::default(), metrics: ReaderMetrics::default(), strict: false }
    }

    /// The same with `verify: Strict`.
    pub fn strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    pub fn metrics(&self) -> &ReaderMetrics {
        &self.metrics
    }
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
    pub fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Fills `into` with `extent` (of the same length) from the store; `false` when not all of it is here. Waits for the local disk only.
    pub fn try_read(&self, object: &forebay_wire::block::ObjectRef, extent: Extent, into: &mut [u8]) -> bool {
        if self.strict && object.size > self.block_size.bytes() && !self.store.is_complete(object) {
            return false;
        }
        match self.store.read(object, extent, into) {
            Ok(ReadOutcome::Hit) => {
                self.metrics.hits.add(1);
                self.metrics.bytes_store.add(extent.len());
                true
            }
            Ok(ReadOutcome::Miss) => false,
            Err(error) => {
                warn!(object = %object.id, error = %chain(&error), "a local read failed; the source is asked");
                false
            }
        }
    }

    /// Bytes of the object that the store has.
    pub fn held_bytes(&self, object: &forebay_wire::block::ObjectRef) -> u64 {
        self.held_bytes_of(object, (0..self.block_size.count(object.size)).map(forebay_wire::block::BlockIndex))
    }

    /// How much of an object is here.
    pub fn here(&self, object: &forebay_wire::block::ObjectRef) -> Here {
        let mut here = Here::default();
        for index in (0..self.block_size.count(object.size)).map(BlockIndex) {
            let bytes = self.block_size.extent(index, object.size).map_or(0, Extent::len);
            let is_held = self.store.contains(object, index);
            match self.fill.owns(BlockId { object: object.id, index }) {
                true => {
                    here.own += bytes;
                    here.held += if is_held { bytes } else { 0 };
                }
                false => here.copied += if is_held { bytes } else { 0 },
            }
        }
        here
    }

    /// Bytes of some of its blocks that the store has.
    pub fn held_bytes_of(
        &self,
        object: &forebay_wire::block::ObjectRef,
        blocks: impl Iterator<Item = forebay_wire::block::BlockIndex>,
    ) -> u64 {
        let here = blocks.filter(|index| self.store.contains(object, *index));
        here.filter_map(|index| self.block_size.extent(index, object.size)).map(|extent| extent.len()).sum()
    }

    /// Blocks to be filled ahead when `extent` is read; `None` for objects of one block. Cheap: the hit path calls it too.
    pub fn observe(&self, object: &forebay_wire::block::ObjectRef, extent: Extent) -> Option<crate::fill::window::Advice> {
        (object.size > self.block_size.bytes()).then(|| self.windows.observe(object, extent, self.block_size))
    }

    /// Starts fills of what `advice` names.
    pub fn ahead(&self, file: &Arc<FileObject>, blocks: std::ops::Range<u32>) {
        for index in blocks {
            self.fill.ahead(file, forebay_wire::block::BlockIndex(index));
        }
    }

    /// The bytes of `extent`, which lies inside the object. `sequential` says that what is around them will be read too.
    pub async fn read(&self, file: &Arc<FileObject>, extent: Extent, sequential: bool) -> Result<Bytes, FillError> {
        let mut bytes = BytesMut::with_capacity(extent.len() as usize);
        if self.strict && file.object.size > self.block_size.bytes() && self.read_proved(file, extent, &mut bytes).await? {
            return Ok(bytes.freeze());
        }
        let mut missed = false;
        let mut at = extent.start();
        while at < extent.end() {
            let index = self.block_size.index(at);
            let block = self.block_size.extent(index, file.object.size).expect("the extent is inside the object");
            let part = Extent::new(at, extent.end().min(block.end())).expect("at is inside the block");
            missed |= self.read_block(file, index, block, part, sequential, &mut bytes).await?;
            at = part.end();
        }
        if missed {
            self.metrics.misses.add(1)
        } else {
            self.metrics.hits.add(1)
        }
        Ok(bytes.freeze())
    }

    /// Fills `into` with bytes that agreed with the source's checksum of the whole object; `false` when there is no such checksum.
    async fn read_proved(&self, file: &Arc<FileObject>, extent: Extent, into: &mut BytesMut) -> Result<bool, FillError> {
        let mut failed = FillError::Aborted;
        for _ in 0..STRICT_ATTEMPTS_MAX {
            into.clear();
            match self.fill.prove(file).await? {
                Proof::Absent => return Ok(false),
                Proof::Stored => {
                    into.resize(extent.len() as usize, 0);
                    // It may have been evicted meanwhile.
                    if matches!(self.store.read(&file.object, extent, into), Ok(ReadOutcome::Hit)) {
                        self.metrics.hits.add(1);
                        self.metrics.bytes_store.add(extent.len());
                        return Ok(true);
                    }
                }
                Proof::Digests(digests) => match self.read_blocks(file, extent, &digests, into).await {
                    Ok(()) => {
                        self.metrics.misses.add(1);
                        self.metrics.bytes_source.add(extent.len());
                        return Ok(true);
                    }
                    Err(error) => failed = error,
                },
            }
        }
        into.clear();
        Err(failed)
    }

    async fn read_blocks(&self, file: &Arc<FileObject>, extent: Extent, digests: &[u128], into: &mut BytesMut) -> Result<(), FillError> {
        let mut at = extent.start();
        while at < extent.end() {
            let index = self.block_size.index(at);
            let block = self.block_size.extent(index, file.object.size).expect("the extent is inside the object");
            let end = extent.end().min(block.end());
            let offsets = ((at - block.start()) as usize, (end - block.start()) as usize);
            self.fill.read_proved(file, index, offsets, digests, into).await?;
            at = end;
        }
        Ok(())
    }

    /// Appends `part` of one block; whether it was missing in the store.
    async fn read_block(
        &self,
        file: &Arc<FileObject>,
        index: forebay_wire::block::BlockIndex,
        block: Extent,
        part: Extent,
        sequential: bool,
        into: &mut BytesMut,
    ) -> Result<bool, FillError> {
        let start = into.len();
        if self.store.contains(&file.object, index) {
            into.resize(start + part.len() as usize, 0);
            if matches!(self.store.read(&file.object, part, &mut into[start..]), Ok(ReadOutcome::Hit)) {
                self.metrics.bytes_store.add(part.len());
                return Ok(false);
            }
            into.truncate(start);
        }
        let one_block = file.object.size <= self.block_size.bytes();
        let supplier = if !one_block && !sequential && !self.strict && self.fill.prefers_direct(file, index, part) {
            self.fill.read_direct(file, part, into).await?
        } else {
            let offset = |at: u64| (at - block.start()) as usize;
            self.fill.read(file, index, offset(part.start()), offset(part.end()), into).await?
        };
        assert_eq!(into.len() - start, part.len() as usize, "a read is answered whole or fails");
        match supplier {
            // What was put a moment ago came from there, as far as this read goes.
            Supplier::Source | Supplier::Store => self.metrics.bytes_source.add(part.len()),
            Supplier::Peer => self.metrics.bytes_peer.add(part.len()),
        }
        Ok(true)
    }
}
