//! What a node gives its peers, as the server needs it: a trait that whoever has a store fills in.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::error::Refusal;
use super::message::{
    Coverage, DatasetId, FreeRequest, Freed, HoldsRequest, ListingHead, ListingRequest, ListingState, ManifestHead, ManifestRequest,
    ReadRequest, StoreRequest,
};

/// Bytes in order, in pieces of any size. Dropped when nobody wants the rest.
pub type Body = BoxStream<'static, Result<Bytes, Refusal>>;

/// The bytes of a read.
pub struct Given {
    /// Whether the bytes are still on their way here: the caller is told at once, and doesn't look elsewhere.
    pub is_filling: bool,
    /// Exactly the extent's bytes, or an error; each piece is sent as it comes.
    pub body: Body,
}

/// The list of files of a data set, as it is here.
pub struct Offered {
    pub listing: ListingState,
    /// `None` when the caller's is as new.
    pub newer: Option<(ManifestHead, Body)>,
}

/// One node's blocks and manifests, for its peers. The caller has proved that it is of this cache; whether this node was told of the data set is for
/// each method to find out, and `UnknownDataset` if not. A future that is dropped gives up the wait, not a fill that others share.
#[async_trait]
pub trait Blocks: Send + Sync + 'static {
    /// Never asks another peer: a request goes over one node at most.
    async fn read(&self, request: ReadRequest) -> Result<Given, Refusal>;
    /// Takes a block of `body`'s bytes; whether it is kept. Need not read `body` to its end.
    async fn store(&self, request: StoreRequest, body: Body) -> Result<bool, Refusal>;
    /// May wait for a listing, when that was asked for.
    async fn manifest(&self, request: ManifestRequest) -> Result<Offered, Refusal>;
    /// What a listing that goes on here has got beyond what the caller has; `None`: nothing.
    async fn listing(&self, request: ListingRequest) -> Result<Option<(ListingHead, Bytes)>, Refusal>;
    async fn free(&self, request: FreeRequest) -> Result<Freed, Refusal>;
    /// Which of the blocks are here, in their order.
    async fn holds(&self, request: HoldsRequest) -> Result<Vec<bool>, Refusal>;
    /// How much of the data set is here; `None` while that isn't known yet.
    async fn coverage(&self, dataset: DatasetId) -> Result<Option<Coverage>, Refusal>;
}
