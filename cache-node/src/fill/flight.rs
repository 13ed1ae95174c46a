//! One block on its way from a source, shared by everybody who wants it.
//! Knows how far it got and how it ended. Does not know the source or the store.
//! Invariant: a flight ends exactly once, also when its task is dropped, so nobody waits for ever.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, watch};
use xxhash_rust::xxh3::xxh3_128;

use super::FillError;
use super::stream::{Growing, Part, Writer};

/// Where the bytes of a block came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supplier {
    Source,
    Peer,
    /// It was here already.
    Store,
}

/// What waiters see.
#[derive(Clone, Debug)]
struct Progress {
    /// Of the bytes that are still to come.
    from: Supplier,
    /// Bytes from the block's start that may be served: all or nothing where the block must be verified whole.
    readable: usize,
    /// The store's answer, after a good outcome: whether the block is kept.
    kept: Option<bool>,
    outcome: Option<Result<(), FillError>>,
}

/// The shared side.
pub(super) struct Flight {
    /// Of the whole block.
    len: usize,
    buffer: OnceLock<Arc<Growing>>,
    progress: watch::Sender<Progress>,
    /// Told when a reader joins a flight that began in the background.
    urgent: Notify,
    /// Bytes that were handed to readers: a block that was read through once is of no more use to a sequential reader.
    served: AtomicU64,
    digest: OnceLock<u128>,
}

impl Flight {
    pub(super) fn new(len: usize, from: Supplier) -> Arc<Self> {
        Arc::new(Self {
            len,
            buffer: OnceLock::new(),
            progress: watch::Sender::new(Progress { from, readable: 0, kept: None, outcome: None }),
            urgent: Notify::new(),
            served: AtomicU64::new(0),
            digest: OnceLock::new(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Allocates the buffer. Called once, when the memory was granted.
    pub(super) fn begin(&self) -> Writer {
        let (buffer, writer) = Growing::new(self.len);
        assert!(self.buffer.set(buffer).is_ok(), "a flight begins once");
        writer
    }

    /// Lets readers have the first `readable` bytes.
    pub(super) fn publish(&self, readable: usize) {
        self.progress.send_modify(|progress| progress.readable = readable);
    }

    /// Ends the flight; only the first call counts.
    pub(super) fn finish(&self, outcome: Result<(), FillError>) {
        self.progress.send_if_modified(|progress| {
            let first = progress.outcome.is_none();
            if first {
                if outcome.is_ok() {
                    progress.readable = self.len;
                }
                progress.outcome = Some(outcome);
            }
            first
        });
    }

    /// Tells the store's answer; only the first call counts.
    pub(super) fn settle(&self, kept: bool) {
        self.progress.send_if_modified(|progress| {
            let first = progress.kept.is_none();
            progress.kept = progress.kept.or(Some(kept));
            first
        });
    }

    pub(super) fn has_begun(&self) -> bool {
        self.buffer.get().is_some()
    }

    /// The whole block, after it ended well.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        let whole = matches!(self.progress.borrow().outcome, Some(Ok(())));
        self.buffer.get().filter(|_| whole).map(|buffer| buffer.filled())
    }

    /// The same, without a copy: it keeps the buffer.
    pub(super) fn shared_bytes(&self) -> Option<Bytes> {
        let whole = matches!(self.progress.borrow().outcome, Some(Ok(())));
        self.buffer.get().filter(|_| whole).map(|buffer| Part::of(buffer, 0..self.len))
    }

    /// Of the whole block, after it ended well. Computed once.
    pub(super) fn digest(&self) -> Option<u128> {
        let bytes = self.bytes()?;
        Some(*self.digest.get_or_init(|| xxh3_128(bytes)))
    }

    /// A reader waits: what is still queued goes to the front.
    pub(super) fn hurry(&self) {
        self.urgent.notify_one();
    }
    pub(super) async fn hurried(&self) {
        self.urgent.notified().await;
    }

    /// Whether every byte has been handed out at least as often as once on average.
    pub(super) fn is_used_up(&self) -> bool {
        self.served.load(Relaxed) >= self.len as u64
    }

    pub(super) fn supplier(&self) -> Supplier {
        self.progress.borrow().from
    }

    /// The rest comes from elsewhere.
    pub(super) fn turn_to(&self, from: Supplier) {
        self.progress.send_modify(|progress| progress.from = from);
    }

    /// Waits until the bytes come from here, or have come; not while another node is asked for them.
    pub(super) async fn leaves_peers(&self) {
        let mut receiver = self.progress.subscribe();
        // An error says that the flight ended.
        drop(receiver.wait_for(|progress| progress.from != Supplier::Peer || progress.outcome.is_some()).await);
    }

    /// What is there of the block's bytes `[from, to)`, at least one, as soon as it is there: for other nodes, so it doesn't count as handed out.
    pub(super) async fn next(&self, from: usize, to: usize) -> Result<Bytes, FillError> {
        assert!(from < to && to <= self.len, "[{from}, {to}) is inside the block of {} bytes", self.len);
        let mut receiver = self.progress.subscribe();
        let progress = receiver.wait_for(|progress| progress.readable > from || progress.outcome.is_some()).await;
        let progress = progress.map(|progress| progress.clone()).map_err(|_| FillError::Aborted)?;
        match (progress.readable > from, &self.buffer.get(), progress.outcome) {
            (true, Some(buffer), _) => Ok(Part::of(buffer, from..progress.readable.min(to))),
            (_, _, Some(Err(error))) => Err(error),
            (_, _, Some(Ok(())) | None) => Err(FillError::Aborted),
        }
    }

    /// Appends the block's bytes `[from, to)` to `into` as soon as they are there. Dropping the future only stops waiting.
    pub(super) async fn read(&self, from: usize, to: usize, into: &mut BytesMut) -> Result<(), FillError> {
        assert!(from < to && to <= self.len, "[{from}, {to}) is inside the block of {} bytes", self.len);
        let mut receiver = self.progress.subscribe();
        let progress = receiver.wait_for(|progress| progress.readable >= to || progress.outcome.is_some()).await;
        let progress = progress.map(|progress| progress.clone()).map_err(|_| FillError::Aborted)?;
        if progress.readable < to {
            return match progress.outcome {
                Some(Err(error)) => Err(error),
                Some(Ok(())) | None => Err(FillError::Aborted),
            };
        }
        let buffer = self.buffer.get().expect("readable bytes are in a buffer");
        into.extend_from_slice(&buffer.filled()[from..to]);
        self.served.fetch_add((to - from) as u64, Relaxed);
        Ok(())
    }

    /// Waits for the end.
    pub(super) async fn finished(&self) -> Result<(), FillError> {
        let mut receiver = self.progress.subscribe();
        let progress = receiver.wait_for(|progress| progress.outcome.is_some()).await.map_err(|_| FillError::Aborted)?;
        progress.outcome.clone().unwrap_or(Err(FillError::Aborted))
    }

    /// Waits for the store's answer; whether the block is kept.
    pub(super) async fn settled(&self) -> bool {
        let mut receiver = self.progress.subscribe();
        receiver.wait_for(|progress| progress.kept.is_some()).await.is_ok_and(|progress| progress.kept == Some(true))
    }
}
