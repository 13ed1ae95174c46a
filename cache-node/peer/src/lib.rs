//! Blocks and manifests between the nodes of one cache: a framed protocol over TCP and TLS 1.3, both sides of it.
//! Knows peers, frames, certificates, patience. Does not know which node owns a block, what a file is, or where bytes come from.
//! Invariants: bytes that come out have passed their checksum; nothing goes in or out before both sides proved that they are of this cache.
//!
//! Start at `Peers::fetch` for the side that asks and at `server::run` for the side that answers, which fills in `Blocks`; what goes over the wire is
//! in `frame`, and in `wire`'s `peer_message`.

pub mod answer;
pub mod blocks;
mod connection;
pub mod error;
mod exchange;
pub mod fetch;
pub mod frame;
pub mod handshake;
mod health;
pub mod message;
pub mod metrics;
pub mod peers;
pub mod server;
mod transport;

pub use answer::{Answer, Event};
pub use blocks::{Blocks, Body, Given, Offered};
pub use error::{ConnectError, PeerError, Refusal, SourceFailure, SourceFailureKind};
pub use fetch::Unfetched;
pub use handshake::{Capabilities, Introduction};
pub use message::{
    BlockRef, Coverage, DatasetId, FreeRequest, Freed, HOLDS_MAX, HoldsRequest, LISTING_BYTES_MAX, ListingHead, ListingRequest,
    ListingState, ManifestHead, ManifestRequest, ReadRequest, StoreRequest, Want,
};
pub use metrics::{ClientMetrics, ServerMetrics};
pub use peers::{Listed, PeerLimits, Peers};
pub use server::{Server, ServerLimits};
pub use transport::{Duplex, Listener, Network, Pipe, Security};
