//! Why a peer didn't give what was asked: it said so (`Refusal`), or it can't be talked to (`PeerError`).

use std::io;
use std::time::Duration;

use forebay_wire::id::NodeName;

use super::frame::FrameError;
use super::message::Malformed;

/// What a peer that lives said instead of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it failed: {0}")]
    Internal(String),
    #[error("it can't work with this node: {0}")]
    Incompatible(String),
    #[error("it couldn't understand what was asked: {0}")]
    Malformed(String),
    /// It hasn't been told of the data set, so it gives nothing of it.
    #[error("it doesn't serve this data set")]
    UnknownDataset,
    /// By its list of nodes it is none of the first for the block.
    #[error("it is not one of the block's nodes")]
    NotMine,
    /// Only to `Want::Held`.
    #[error("it doesn't have the block")]
    NotHeld,
    /// Only to who may be sent on: another node has it too, and is asked less.
    #[error("{0} has it too")]
    Elsewhere(NodeName),
    #[error("it has too much to do")]
    Busy,
    #[error("the request was cancelled")]
    Cancelled,
    #[error("its source failed")]
    Source(#[source] SourceFailure),
}

/// What the source said to the peer that asked it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SourceFailure {
    pub kind: SourceFailureKind,
    pub detail: String,
}

/// As the node's `SourceError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFailureKind {
    Gone,
    Replaced,
    Denied,
    Archived,
    Throttled,
    Unavailable,
    Corrupt,
    Unaskable,
    Missing,
    Permanent,
}

/// Why a request to a peer came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("ask {peer}: it is not in the list of nodes")]
    Unlisted { peer: NodeName },
    /// It failed a moment ago, and is tried again in the background.
    #[error("ask {peer}: it is bypassed, because it failed a moment ago")]
    Bypassed { peer: NodeName },
    #[error("connect to {peer} at {address}")]
    Connect {
        peer: NodeName,
        address: String,
        #[source]
        cause: ConnectError,
    },
    #[error("ask {peer}: both don't know how to {what}")]
    Unsupported { peer: NodeName, what: &'static str },
    /// Nothing came, not even a sign of life.
    #[error("ask {peer}: it was silent for {after:?}")]
    Silent { peer: NodeName, after: Duration },
    /// It lives and has not answered.
    #[error("ask {peer}: no answer within {after:?}")]
    Late { peer: NodeName, after: Duration },
    #[error("ask {peer}")]
    Broken {
        peer: NodeName,
        #[source]
        cause: FrameError,
    },
    #[error("ask {peer}")]
    Nonsense {
        peer: NodeName,
        #[source]
        cause: Malformed,
    },
    #[error("ask {peer}")]
    Refused {
        peer: NodeName,
        #[source]
        refusal: Refusal,
    },
}

impl PeerError {
    /// Whether the peer itself is in a bad way, so that others should be asked for a while.
    pub fn is_of_the_peer(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Silent { .. } | Self::Late { .. } | Self::Broken { .. } | Self::Nonsense { .. } => true,
            Self::Unlisted { .. } | Self::Bypassed { .. } | Self::Unsupported { .. } | Self::Refused { .. } => false,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("it can't be reached")]
    Unreachable(#[source] io::Error),
    #[error("it didn't answer within {0:?}")]
    Silent(Duration),
    /// One of the two certificates isn't of this cache, or has expired.
    #[error("it didn't prove that it is of this cache, or we didn't")]
    Untrusted(#[source] io::Error),
    #[error("our own certificates can't be used: {0}")]
    Certificates(String),
    #[error("its greeting broke off")]
    Broken(#[from] FrameError),
    #[error("its greeting makes no sense")]
    Nonsense(#[from] Malformed),
    #[error("it refused")]
    Refused(#[source] Refusal),
    /// Its address leads to another node.
    #[error("node {0} answered there: correct the address in the list of nodes")]
    Another(String),
}
