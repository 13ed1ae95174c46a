//! What the messages of `wire` mean, as types that can't hold a wrong value, and the way back.
//! Pure: knows messages. Does not know frames or sockets.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use forebay_wire::block::{BlockId, BlockIndex, BlockSize, Extent, ObjectId, ObjectRef};
use forebay_wire::id::NodeName;
use forebay_wire::peer_message as wire;
use prost::Message;

use super::error::{Refusal, SourceFailure, SourceFailureKind};

/// A data set's name is two DNS labels; a UID is shorter.
const DATASET_BYTES_MAX: usize = 128;
/// Of S3 1 KiB, of files 4 KiB; the manifest's limit.
const KEY_BYTES_MAX: usize = 16 << 10;
const VERSION_BYTES_MAX: usize = 4 << 10;
/// Paths of one `Free`.
const PATHS_MAX: usize = 1000;
/// Blocks of one `Holds`: at some 40 bytes each they fit into a frame.
pub const HOLDS_MAX: usize = 2048;
/// Bytes of a listing that are given at once: the caller has them in memory.
pub const LISTING_BYTES_MAX: u64 = 16 << 20;
/// A sentence for people; what is longer is cut.
const DETAIL_BYTES_MAX: usize = 1 << 10;

/// Names a data set to all nodes of a cache: its name, or in Kubernetes its UID. 1 to 128 printable ASCII characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DatasetId(Arc<str>);

impl DatasetId {
    pub fn new(text: &str) -> Option<Self> {
        let is_good = (1..=DATASET_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_good.then(|| Self(text.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatasetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A block, with all that its owner needs to fill it: it may not have listed the object yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub dataset: DatasetId,
    /// Never empty.
    pub object: ObjectRef,
    /// As the source spells it, below the source's prefix.
    pub key: Bytes,
    pub version: Bytes,
    /// Inside the object.
    pub index: BlockIndex,
}

impl BlockRef {
    pub fn id(&self) -> BlockId {
        BlockId { object: self.object.id, index: self.index }
    }
}

/// What is asked of a peer beyond what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: no request goes to the source.
    Held,
    /// What is missing it fills.
    Fill,
}

/// Asks for bytes of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub block: BlockRef,
    /// Of the object, inside the block.
    pub extent: Extent,
    pub want: Want,
    /// Nobody waits for it.
    pub background: bool,
    /// The caller asks another node if it is told to. Set by `fetch`.
    pub elsewhere: bool,
}

/// Gives a block, whose bytes follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRequest {
    pub block: BlockRef,
    /// Only while many nodes ask for it.
    pub by_demand: bool,
}

/// Asks for the manifest if it is newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRequest {
    pub dataset: DatasetId,
    /// Term and sequence of the one that the caller has; (0, 0) for none.
    pub than: (u64, u64),
    /// The source is to be listed first, if it is the asked node that does it.
    pub refresh: bool,
}

/// How the listing of a data set is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListingState {
    /// Since the last one that succeeded; `None` when there was none.
    pub age_ms: Option<u64>,
    /// Why the last one failed, and a number for who must act; empty when it didn't.
    pub error: String,
    pub trouble: u32,
    /// The question wanted a listing, and there was one.
    pub listed: bool,
    /// One goes on, of which a `ListingRequest` asks.
    pub running: bool,
}

/// Asks for what a listing that goes on has got beyond what the caller has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListingRequest {
    pub dataset: DatasetId,
    /// Which of the data set's sources, in their order.
    pub source: u32,
    /// The listing that the caller has the first `have` bytes of; 0: none.
    pub listing: u64,
    pub have: u64,
}

/// What of a listing follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListingHead {
    pub listing: u64,
    /// The request's `have`, or 0 of another listing.
    pub start: u64,
    pub bytes: u64,
    /// Term and sequence of the manifest that it is to become.
    pub number: (u64, u64),
    pub began_ms_ago: u64,
}

/// What a manifest that follows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub term: u64,
    pub sequence: u64,
    /// Of the file.
    pub bytes: u64,
    /// Since its listing began; `None` when that isn't known any more.
    pub began_ms_ago: Option<u64>,
    /// The question wanted a listing, and there was one.
    pub listed: bool,
}

/// Asks to drop what is cached below paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeRequest {
    pub dataset: DatasetId,
    pub paths: Vec<String>,
}

/// Asks which of some blocks a node has; at most `HOLDS_MAX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldsRequest {
    pub dataset: DatasetId,
    /// Each of its object, and inside it.
    pub blocks: Vec<(ObjectRef, BlockIndex)>,
}

/// How much of a data set a node holds. A block is the own one of the node that is first in its rank; a file that of its first block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Own files whose own blocks are all here.
    pub held_files: u64,
    /// Of own blocks.
    pub held_bytes: u64,
    pub own_files: u64,
    pub own_bytes: u64,
    /// Of blocks that are others' own, and are here too.
    pub copied_bytes: u64,
    /// Copies that the node is to have, that another node has, and that could not be brought yet.
    pub lacking_copies: u64,
    /// Term and sequence of the list that this was found by.
    pub version: (u64, u64),
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    pub files: u64,
    pub bytes: u64,
}

/// Why a message means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message can't be understood: {0}")]
pub struct Malformed(pub String);

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// Reads a message; its fields are checked by whoever takes it.
pub(crate) fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Malformed> {
    M::decode(payload).map_err(|error| Malformed(error.to_string()))
}

fn dataset(text: &str) -> Result<DatasetId, Malformed> {
    DatasetId::new(text).ok_or_else(|| Malformed("it names no data set".to_owned()))
}

/// An object that has this block, and the bytes of it that the block holds.
fn block_of(id: Vec<u8>, object_size: u64, index: u32, size: BlockSize) -> Result<(ObjectRef, Extent), Malformed> {
    let Ok(id) = <[u8; 16]>::try_from(id) else { return malformed("an object's id has 16 bytes") };
    let Some(extent) = size.extent(BlockIndex(index), object_size) else { return malformed("the object has no such block") };
    Ok((ObjectRef { id: ObjectId(u128::from_le_bytes(id)), size: object_size }, extent))
}

impl BlockRef {
    fn to_wire(&self) -> wire::Block {
        wire::Block {
            dataset: self.dataset.0.to_string(),
            object: self.object.id.0.to_le_bytes().to_vec(),
            size: self.object.size,
            key: self.key.to_vec(),
            version: self.version.to_vec(),
            index: self.index.0,
        }
    }

    /// With the bytes of the object that the block holds.
    fn from_wire(block: Option<wire::Block>, size: BlockSize) -> Result<(Self, Extent), Malformed> {
        let Some(wire::Block { dataset: name, object, size: object_size, key, version, index }) = block else {
            return malformed("it names no block");
        };
        if key.len() > KEY_BYTES_MAX || version.len() > VERSION_BYTES_MAX {
            return malformed("a key or version is too long");
        }
        let (object, extent) = block_of(object, object_size, index, size)?;
        Ok((Self { dataset: dataset(&name)?, object, key: key.into(), version: version.into(), index: BlockIndex(index) }, extent))
    }
}

impl ReadRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let want = match self.want {
            Want::Held => wire::Want::Held,
            Want::Fill => wire::Want::Fill,
        };
        let (start, end) = (self.extent.start(), self.extent.end());
        let block = Some(self.block.to_wire());
        wire::ReadRequest { block, start, end, want: want.into(), background: self.background, elsewhere: self.elsewhere }.encode_to_vec()
    }

    pub(crate) fn decode(payload: &[u8], size: BlockSize) -> Result<Self, Malformed> {
        let message: wire::ReadRequest = decode(payload)?;
        let want = match message.want() {
            wire::Want::Held => Want::Held,
            wire::Want::Fill => Want::Fill,
        };
        let wire::ReadRequest { block, start, end, want: _, background, elsewhere } = message;
        let (block, whole) = BlockRef::from_wire(block, size)?;
        match Extent::new(start, end).filter(|extent| whole.start() <= extent.start() && extent.end() <= whole.end()) {
            Some(extent) => Ok(Self { block, extent, want, background, elsewhere }),
            None => malformed("the bytes lie outside the block"),
        }
    }
}

impl StoreRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        wire::StoreRequest { block: Some(self.block.to_wire()), by_demand: self.by_demand }.encode_to_vec()
    }

    /// With the block's length in bytes.
    pub(crate) fn decode(payload: &[u8], size: BlockSize) -> Result<(Self, u64), Malformed> {
        let wire::StoreRequest { block, by_demand } = decode(payload)?;
        let (block, extent) = BlockRef::from_wire(block, size)?;
        Ok((Self { block, by_demand }, extent.len()))
    }
}

impl ManifestRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (term, sequence) = self.than;
        wire::ManifestRequest { dataset: self.dataset.0.to_string(), term, sequence, refresh: self.refresh }.encode_to_vec()
    }
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let message: wire::ManifestRequest = decode(payload)?;
        Ok(Self { dataset: dataset(&message.dataset)?, than: (message.term, message.sequence), refresh: message.refresh })
    }
}

impl ManifestHead {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { term, sequence, bytes, began_ms_ago, listed } = *self;
        wire::ManifestHead { term, sequence, bytes, began_ms_ago, listed }.encode_to_vec()
    }
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let wire::ManifestHead { term, sequence, bytes, began_ms_ago, listed } = decode(payload)?;
        Ok(Self { term, sequence, bytes, began_ms_ago, listed })
    }
}

impl ListingState {
    pub(crate) fn to_wire(&self) -> wire::ListingState {
        let Self { age_ms, error, trouble, listed, running } = self.clone();
        wire::ListingState { age_ms, error: cut(&error).to_owned(), trouble, listed, running }
    }
    pub(crate) fn from_wire(state: Option<wire::ListingState>) -> Self {
        let wire::ListingState { age_ms, error, trouble, listed, running } = state.unwrap_or_default();
        Self { age_ms, error, trouble, listed, running }
    }
}

impl ListingRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { dataset, source, listing, have } = self;
        wire::ListingRequest { dataset: dataset.0.to_string(), source: *source, listing: *listing, have: *have }.encode_to_vec()
    }
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let wire::ListingRequest { dataset: name, source, listing, have } = decode(payload)?;
        Ok(Self { dataset: dataset(&name)?, source, listing, have })
    }
}

impl ListingHead {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { listing, start, bytes, number: (term, sequence), began_ms_ago } = *self;
        wire::ListingHead { listing, start, bytes, term, sequence, began_ms_ago }.encode_to_vec()
    }
    /// `bytes` is at least 1, and at most `LISTING_BYTES_MAX`.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let wire::ListingHead { listing, start, bytes, term, sequence, began_ms_ago } = decode(payload)?;
        if !(1..=LISTING_BYTES_MAX).contains(&bytes) {
            return malformed(format!("{bytes} bytes of a listing are none, or more than {LISTING_BYTES_MAX}"));
        }
        Ok(Self { listing, start, bytes, number: (term, sequence), began_ms_ago })
    }
}

/// At most `DETAIL_BYTES_MAX`.
fn cut(detail: &str) -> &str {
    let end = detail.char_indices().map(|(at, _)| at).take_while(|at| *at <= DETAIL_BYTES_MAX).last().unwrap_or(0);
    if detail.len() <= DETAIL_BYTES_MAX { detail } else { &detail[..end] }
}

impl FreeRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        wire::FreeRequest { dataset: self.dataset.0.to_string(), paths: self.paths.clone() }.encode_to_vec()
    }
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let message: wire::FreeRequest = decode(payload)?;
        if message.paths.len() > PATHS_MAX {
            return malformed(format!("{} paths are more than {PATHS_MAX}", message.paths.len()));
        }
        Ok(Self { dataset: dataset(&message.dataset)?, paths: message.paths })
    }
}

impl HoldsRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let held = |(object, index): &(ObjectRef, BlockIndex)| wire::Held {
            object: object.id.0.to_le_bytes().to_vec(),
            size: object.size,
            index: index.0,
        };
        wire::HoldsRequest { dataset: self.dataset.0.to_string(), blocks: self.blocks.iter().map(held).collect() }.encode_to_vec()
    }
    pub(crate) fn decode(payload: &[u8], size: BlockSize) -> Result<Self, Malformed> {
        let message: wire::HoldsRequest = decode(payload)?;
        if message.blocks.len() > HOLDS_MAX {
            return malformed(format!("{} blocks are more than {HOLDS_MAX}", message.blocks.len()));
        }
        let blocks = message.blocks.into_iter().map(|wire::Held { object, size: object_size, index }| {
            block_of(object, object_size, index, size).map(|(object, _)| (object, BlockIndex(index)))
        });
        Ok(Self { dataset: dataset(&message.dataset)?, blocks: blocks.collect::<Result<_, _>>()? })
    }
}

/// The question how much of a data set is held.
pub(crate) fn encode_coverage_request(dataset: &DatasetId) -> Vec<u8> {
    wire::CoverageRequest { dataset: dataset.0.to_string() }.encode_to_vec()
}

pub(crate) fn decode_coverage_request(payload: &[u8]) -> Result<DatasetId, Malformed> {
    dataset(&decode::<wire::CoverageRequest>(payload)?.dataset)
}

impl Coverage {
    pub(crate) fn to_wire(self) -> wire::Coverage {
        let Self { held_files, held_bytes, own_files, own_bytes, copied_bytes, lacking_copies, version: (term, sequence) } = self;
        wire::Coverage { held_files, held_bytes, own_files, own_bytes, copied_bytes, lacking_copies, term, sequence }
    }
    pub(crate) fn from_wire(message: wire::Coverage) -> Self {
        let wire::Coverage { held_files, held_bytes, own_files, own_bytes, copied_bytes, lacking_copies, term, sequence } = message;
        Self { held_files, held_bytes, own_files, own_bytes, copied_bytes, lacking_copies, version: (term, sequence) }
    }
}

/// What goes over the wire for a refusal.
pub(crate) fn encode_refusal(refusal: &Refusal) -> Vec<u8> {
    use wire::ErrorKind as Kind;
    let (kind, detail) = match refusal {
        Refusal::Internal(detail) => (Kind::Internal, detail.as_str()),
        Refusal::Incompatible(detail) => (Kind::Incompatible, detail.as_str()),
        Refusal::Malformed(detail) => (Kind::Malformed, detail.as_str()),
        Refusal::UnknownDataset => (Kind::UnknownDataset, ""),
        Refusal::NotMine => (Kind::NotMine, ""),
        Refusal::NotHeld => (Kind::NotHeld, ""),
        Refusal::Elsewhere(name) => (Kind::Elsewhere, name.as_str()),
        Refusal::Busy => (Kind::Busy, ""),
        Refusal::Cancelled => (Kind::Cancelled, ""),
        Refusal::Source(SourceFailure { kind, detail }) => {
            let kind = match kind {
                SourceFailureKind::Gone => Kind::SourceGone,
                SourceFailureKind::Replaced => Kind::SourceReplaced,
                SourceFailureKind::Denied => Kind::SourceDenied,
                SourceFailureKind::Archived => Kind::SourceArchived,
                SourceFailureKind::Throttled => Kind::SourceThrottled,
                SourceFailureKind::Unavailable => Kind::SourceUnavailable,
                SourceFailureKind::Corrupt => Kind::SourceCorrupt,
                SourceFailureKind::Unaskable => Kind::SourceUnaskable,
                SourceFailureKind::Missing => Kind::SourceMissing,
                SourceFailureKind::Permanent => Kind::SourcePermanent,
            };
            (kind, detail.as_str())
        }
    };
    wire::Error { kind: kind.into(), detail: cut(detail).to_owned() }.encode_to_vec()
}

pub(crate) fn decode_refusal(payload: &[u8]) -> Result<Refusal, Malformed> {
    use wire::ErrorKind as Kind;
    let message: wire::Error = decode(payload)?;
    let kind = message.kind();
    let detail = message.detail;
    let source = |kind, detail| Refusal::Source(SourceFailure { kind, detail });
    Ok(match kind {
        Kind::Internal => Refusal::Internal(detail),
        Kind::Incompatible => Refusal::Incompatible(detail),
        Kind::Malformed => Refusal::Malformed(detail),
        Kind::UnknownDataset => Refusal::UnknownDataset,
        Kind::NotMine => Refusal::NotMine,
        Kind::NotHeld => Refusal::NotHeld,
        Kind::Elsewhere => match NodeName::new(&detail) {
            Some(name) => Refusal::Elsewhere(name),
            None => return malformed("it sends to a node without a name"),
        },
        Kind::Busy => Refusal::Busy,
        Kind::Cancelled => Refusal::Cancelled,
        Kind::SourceGone => source(SourceFailureKind::Gone, detail),
        Kind::SourceReplaced => source(SourceFailureKind::Replaced, detail),
        Kind::SourceDenied => source(SourceFailureKind::Denied, detail),
        Kind::SourceArchived => source(SourceFailureKind::Archived, detail),
        Kind::SourceThrottled => source(SourceFailureKind::Throttled, detail),
        Kind::SourceUnavailable => source(SourceFailureKind::Unavailable, detail),
        Kind::SourceCorrupt => source(SourceFailureKind::Corrupt, detail),
        Kind::SourceUnaskable => source(SourceFailureKind::Unaskable, detail),
        Kind::SourceMissing => source(SourceFailureKind::Missing, detail),
        Kind::SourcePermanent => source(SourceFailureKind::Permanent, detail),
    })
}
