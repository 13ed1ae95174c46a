//! What fills count. Does not know why.

use super::CopyMetrics;
use forebay_source::metrics::{Counter, Histogram};

/// Counted since the start.
#[derive(Debug, Default)]
pub struct FillMetrics {
    /// Blocks whose fill began.
    pub started: Counter,
    /// Blocks whose fill failed for good.
    pub failed: Counter,
    /// Bytes that were taken from sources into blocks and by direct reads.
    pub bytes: Counter,
    /// Bytes that were taken from other nodes.
    pub peer_bytes: Counter,
    /// Blocks that no other node gave, so that this one asked the source for them though they aren't its own.
    pub turned: Counter,
    /// Blocks of this node's that it lacked and the next in rank had.
    pub guessed: Counter,
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
    pub copies: CopyMetrics,
    /// From the start of a flight to its last byte.
    pub duration: Histogram,
}
