//! Lists a source in parallel by key range, with no hints, and tells how far it got.
//! Knows keys and ranges. Does not know files, folders or where the rows go.
//! Invariant: the ranges are disjoint and cover the key space; each yields its keys in ascending order, each key once.
//!
//! One range begins; whenever a request could be sent and no range waits for its next page, the range that seems to have most left
//! is cut at guessed keys (`split`), and what is right of a cut becomes a range of its own, whose first page is also the probe: when
//! it is empty, the left range has learnt where it ends. A wrong guess costs one page.

mod checkpoint;
mod plan;
mod split;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::checkpoint::{Checkpoint, Range, RangeId};
use self::plan::{Job, Plan};
use super::{ListRequest, Object, Source, SourceError};

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
/// 1000 rows; as many pages as requests may be in flight besides). Returns when all was sent; a closed `sink` ends it early without
/// an error. Cancel by dropping the future.
pub async fn list_parallel(
    source: Arc<dyn Source>,
    prefix: Bytes,
    checkpoint: Checkpoint,
    options: ListOptions,
    sink: mpsc::Sender<ListEvent>,
) -> Result<(), SourceError> {
    let parallel = options.parallel.max(1);
    let mut plan = Plan::new(&prefix, checkpoint);
    let mut requests = JoinSet::new();
    let mut events = Vec::new();
    loop {
        while requests.len() < parallel {
            let Some(Job { range, after, before }) = plan.next(parallel - requests.len(), &mut events) else { break };
            let (source, prefix) = (source.clone(), prefix.clone());
            requests.spawn(async move {
                let request = ListRequest { prefix, after, before, one_level: false };
                (range, source.list(&request).await)
            });
        }
        for event in events.drain(..) {
            if sink.send(event).await.is_err() {
                return Ok(());
            }
        }
        match requests.join_next().await {
            None => return Ok(()),
            Some(Ok((range, page))) => plan.commit(range, page?, &mut events),
            Some(Err(failure)) => {
                let detail = format!("a listing task failed: {failure}");
                let (key, origin) = (String::from_utf8_lossy(&prefix).into_owned(), source.name().to_owned());
                return Err(SourceError::Unavailable { op: "list", key, origin, detail });
            }
        }
    }
}

#[cfg(test)]
mod tests;
