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
use forebay_wire::block::{BlockId, BlockIndex, BlockSize, Extent, ObjectRef};

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
    pub fn try_read(&self, object: &ObjectRef, extent: Extent, into: &mut [u8]) -> bool {
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
    pub fn held_bytes(&self, object: &ObjectRef) -> u64 {
        self.held_bytes_of(object, (0..self.block_size.count(object.size)).map(BlockIndex))
    }

    /// Bytes of the object in blocks that are this node's own, and how many of them the store has.
    pub fn own_bytes(&self, object: &ObjectRef) -> (u64, u64) {
        let count = self.block_size.count(object.size);
        let own = |index: &u32| self.fill.owns(BlockId { object: object.id, index: BlockIndex(*index) });
        let bytes = |index: u32| self.block_size.extent(BlockIndex(index), object.size).map_or(0, Extent::len);
        (0..count).filter(own).fold((0, 0), |(own, held), index| {
            let here = if self.store.contains(object, BlockIndex(index)) { bytes(index) } else { 0 };
            (own + bytes(index), held + here)
        })
    }

    /// Bytes of some of its blocks that the store has.
    pub fn held_bytes_of(&self, object: &ObjectRef, blocks: impl Iterator<Item = BlockIndex>) -> u64 {
        let here = blocks.filter(|index| self.store.contains(object, *index));
        here.filter_map(|index| self.block_size.extent(index, object.size)).map(|extent| extent.len()).sum()
    }

    /// Blocks to be filled ahead when `extent` is read; `None` for objects of one block. Cheap: the hit path calls it too.
    pub fn observe(&self, object: &ObjectRef, extent: Extent) -> Option<crate::fill::window::Advice> {
        (object.size > self.block_size.bytes()).then(|| self.windows.observe(object, extent, self.block_size))
    }

    /// Starts fills of what `advice` names.
    pub fn ahead(&self, file: &Arc<FileObject>, blocks: std::ops::Range<u32>) {
        for index in blocks {
            self.fill.ahead(file, BlockIndex(index));
        }
    }

    /// The bytes of `extent`, which lies inside the object. `sequential` says that what is around them will be read too.
    pub async fn read(&self, file: &Arc<FileObject>, extent: Extent, sequential: bool) -> Result<Bytes, FillError> {
        if self.strict
            && file.object.size > self.block_size.bytes()
            && let Some(bytes) = self.read_proved(file, extent).await?
        {
            return Ok(bytes);
        }
        let mut missed = false;
        let mut read = Gathered::new(extent);
        while let Some(rest) = read.rest() {
            let index = self.block_size.index(rest.start());
            let block = self.block_size.extent(index, file.object.size).expect("the extent is inside the object");
            let part = Extent::new(rest.start(), rest.end().min(block.end())).expect("its start is inside the block");
            let (bytes, was_missing) = self.read_block(file, index, block, part, sequential).await?;
            missed |= was_missing;
            read.push(bytes);
        }
        if missed {
            self.metrics.misses.add(1)
        } else {
            self.metrics.hits.add(1)
        }
        Ok(read.bytes())
    }

    /// Bytes that agreed with the source's checksum of the whole object; `None` when there is no such checksum.
    async fn read_proved(&self, file: &Arc<FileObject>, extent: Extent) -> Result<Option<Bytes>, FillError> {
        let mut failed = FillError::Aborted;
        for _ in 0..STRICT_ATTEMPTS_MAX {
            match self.fill.prove(file).await? {
                Proof::Absent => return Ok(None),
                Proof::Stored => {
                    let mut bytes = BytesMut::zeroed(extent.len() as usize);
                    // It may have been evicted meanwhile.
                    if matches!(self.store.read(&file.object, extent, &mut bytes), Ok(ReadOutcome::Hit)) {
                        self.metrics.hits.add(1);
                        self.metrics.bytes_store.add(extent.len());
                        return Ok(Some(bytes.freeze()));
                    }
                }
                Proof::Digests(digests) => match self.read_blocks(file, extent, &digests).await {
                    Ok(bytes) => {
                        self.metrics.misses.add(1);
                        self.metrics.bytes_source.add(extent.len());
                        return Ok(Some(bytes));
                    }
                    Err(error) => failed = error,
                },
            }
        }
        Err(failed)
    }

    async fn read_blocks(&self, file: &Arc<FileObject>, extent: Extent, digests: &[u128]) -> Result<Bytes, FillError> {
        let mut read = Gathered::new(extent);
        while let Some(rest) = read.rest() {
            let index = self.block_size.index(rest.start());
            let block = self.block_size.extent(index, file.object.size).expect("the extent is inside the object");
            let offsets = ((rest.start() - block.start()) as usize, (rest.end().min(block.end()) - block.start()) as usize);
            read.push(self.fill.read_proved(file, index, offsets, digests).await?);
        }
        Ok(read.bytes())
    }

    /// `part` of one block, and whether it was missing in the store.
    async fn read_block(
        &self,
        file: &Arc<FileObject>,
        index: BlockIndex,
        block: Extent,
        part: Extent,
        sequential: bool,
    ) -> Result<(Bytes, bool), FillError> {
        if self.store.contains(&file.object, index) {
            let mut bytes = BytesMut::zeroed(part.len() as usize);
            if matches!(self.store.read(&file.object, part, &mut bytes), Ok(ReadOutcome::Hit)) {
                self.metrics.bytes_store.add(part.len());
                return Ok((bytes.freeze(), false));
            }
        }
        let one_block = file.object.size <= self.block_size.bytes();
        let (bytes, supplier) = if !one_block && !sequential && !self.strict && self.fill.prefers_direct(file, index, part) {
            let mut bytes = BytesMut::with_capacity(part.len() as usize);
            let supplier = self.fill.read_direct(file, part, &mut bytes).await?;
            (bytes.freeze(), supplier)
        } else {
            let offset = |at: u64| (at - block.start()) as usize;
            self.fill.read(file, index, offset(part.start()), offset(part.end())).await?
        };
        assert_eq!(bytes.len(), part.len() as usize, "a read is answered whole or fails");
        match supplier {
            // What was put a moment ago came from there, as far as this read goes.
            Supplier::Source | Supplier::Store => self.metrics.bytes_source.add(part.len()),
            Supplier::Peer => self.metrics.bytes_peer.add(part.len()),
        }
        Ok((bytes, true))
    }
}

/// The parts of one read in order: of one block as they came, of several joined.
struct Gathered {
    extent: Extent,
    first: Bytes,
    joined: BytesMut,
}

impl Gathered {
    fn new(extent: Extent) -> Self {
        Self { extent, first: Bytes::new(), joined: BytesMut::new() }
    }

    /// What hasn't come yet.
    fn rest(&self) -> Option<Extent> {
        let got = self.first.len().max(self.joined.len()) as u64;
        Extent::new(self.extent.start() + got, self.extent.end())
    }

    fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
            return;
        }
        if self.joined.is_empty() {
            self.joined.reserve(self.extent.len() as usize);
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(&bytes);
    }

    fn bytes(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}
