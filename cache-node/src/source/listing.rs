//! Lists a source in parallel by key range, with no hints, and tells how far it got.
//! Knows keys and ranges. Does not know files, folders or where the rows go.
//! Invariant: the ranges are disjoint and cover the key space; each yields its keys in ascending order, each key once.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Object, Source, SourceError};

/// Names a range in one listing; numbers are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RangeId(pub u32);

/// Keys in `(after, before)` still to come of one range; `started_after` is where the range began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub id: RangeId,
    pub started_after: Option<Bytes>,
    /// The last key that was yielded, or `started_after`.
    pub after: Option<Bytes>,
    /// Exclusive end; `None`: the end of the key space.
    pub before: Option<Bytes>,
    pub done: bool,
}

/// All ranges of one listing. `apply` every event in order, and at any moment it can be written down and gone on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub ranges: Vec<Range>,
}

impl Default for Checkpoint {
    /// A listing that hasn't begun: one range over everything.
    fn default() -> Self {
        Self { ranges: vec![Range { id: RangeId(0), started_after: None, after: None, before: None, done: false }] }
    }
}

impl Checkpoint {
    /// Takes what the consumer has safely kept into account.
    pub fn apply(&mut self, _event: &ListEvent) {
        todo!("first landing: signatures")
    }
    pub fn is_done(&self) -> bool {
        self.ranges.iter().all(|range| range.done)
    }
    pub fn encode(&self) -> Vec<u8> {
        todo!("first landing: signatures")
    }
    /// `None` when the bytes are not a checkpoint.
    pub fn decode(_bytes: &[u8]) -> Option<Self> {
        todo!("first landing: signatures")
    }
}

/// What the consumer gets, in order.
#[derive(Debug)]
pub enum ListEvent {
    /// Range `into` now has the keys of `from` strictly after `at`; comes before any page of `into`.
    Split { from: RangeId, at: Bytes, into: RangeId },
    /// Next rows of a range, ascending; `after` is how far the range is done (at least the last key).
    Page { range: RangeId, objects: Vec<Object>, after: Bytes },
    /// Nothing more comes of this range.
    Done { range: RangeId },
}

#[derive(Clone, Copy, Debug)]
pub struct ListOptions {
    /// Requests in flight.
    pub parallel: usize,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self { parallel: 64 }
    }
}

/// Lists every key below `prefix` that `checkpoint` hasn't done yet into `sink`, whose bound is the bound on memory (a page has up to
/// 1000 rows). Returns when all was sent; a closed `sink` ends it early without an error. Cancel by dropping the future.
pub async fn list_parallel(
    _source: Arc<dyn Source>,
    _prefix: Bytes,
    _checkpoint: Checkpoint,
    _options: ListOptions,
    _sink: mpsc::Sender<ListEvent>,
) -> Result<(), SourceError> {
    todo!("first landing: signatures")
}
