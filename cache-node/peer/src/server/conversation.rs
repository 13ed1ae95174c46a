//! One peer's requests, one after the other, and their answers.
//! Knows one connection. Does not know how it was made.
//! Invariant: each request is answered on its own stream with a last frame, also when it was cancelled, so both sides know where the next begins.

use std::pin::Pin;

use bytes::Bytes;
use forebay_wire::peer_message as wire;
use futures::{StreamExt, TryFutureExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Server;
use crate::blocks::{Body, Given, Offered};
use crate::connection::{Reader, Writer};
use crate::error::Refusal;
use crate::frame::{Frame, FrameError, Kind, PAYLOAD_BYTES_MAX};
use crate::handshake::{Agreed, Capabilities};
use crate::message::{self, Coverage, FreeRequest, HoldsRequest, ListingRequest, ManifestRequest, ReadRequest, StoreRequest};

/// Pieces of a block on their way from the connection to the store.
const PIECES_MAX: usize = 2;

/// How a connection ended.
pub(super) enum Ended {
    Closed,
    Broken(FrameError),
    /// It was closed because of what came over it.
    Malformed(String),
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed => Self::Closed,
            FrameError::Io(_) | FrameError::Truncated => Self::Broken(error),
            FrameError::TooLong { .. } | FrameError::Checksum | FrameError::Unknown { .. } | FrameError::Reserved => {
                Self::Malformed(error.to_string())
            }
        }
    }
}

/// What became of work for a peer that may lose interest.
enum Went<T> {
    On(T),
    Cancelled,
}

pub(super) struct Conversation<'a> {
    server: &'a Server,
    reader: Reader,
    writer: Writer,
    agreed: Agreed,
    /// Of the request that is being answered.
    stream: u32,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(server: &'a Server, reader: Reader, writer: Writer, agreed: Agreed) -> Self {
        Self { server, reader, writer, agreed, stream: 0 }
    }

    pub(super) async fn run(mut self) -> Ended {
        loop {
            let frame = match timeout(self.server.limits.idle, self.reader.next()).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(error)) => return error.into(),
                Err(_) => return Ended::Closed,
            };
            // The answer was complete when the caller lost interest.
            if frame.kind == Kind::Cancel && frame.stream <= self.stream {
                continue;
            }
            if frame.stream <= self.stream {
                return Ended::Malformed(format!("request {} came after {}", frame.stream, self.stream));
            }
            self.stream = frame.stream;
            self.server.metrics.requests.add(1);
            if let Err(ended) = self.answer(frame).await {
                if let Ended::Malformed(why) = &ended {
                    // The connection ends either way.
                    let _ = self.refuse(&Refusal::Malformed(why.clone())).await;
                }
                return ended;
            }
        }
    }

    async fn answer(&mut self, frame: Frame) -> Result<(), Ended> {
        let malformed = |why: message::Malformed| Ended::Malformed(why.0);
        let size = self.server.own.block_size;
        let (needed, payload) = (needed(frame.kind), frame.payload);
        let blocks = &self.server.blocks;
        if needed.is_none_or(|needed| !self.agreed.capabilities.has(needed)) {
            return Err(Ended::Malformed(format!("a {:?} came where a request was expected", frame.kind)));
        }
        match frame.kind {
            Kind::Read => self.read(ReadRequest::decode(&payload, size).map_err(malformed)?).await,
            Kind::Store => {
                let (request, bytes) = StoreRequest::decode(&payload, size).map_err(malformed)?;
                self.store(request, bytes).await
            }
            Kind::Manifest => self.manifest(ManifestRequest::decode(&payload).map_err(malformed)?).await,
            Kind::Listing => {
                let request = ListingRequest::decode(&payload).map_err(malformed)?;
                match self.while_wanted(blocks.listing(request)).await? {
                    Went::Cancelled => self.refuse(&Refusal::Cancelled).await,
                    Went::On(Err(refusal)) => self.refuse(&refusal).await,
                    Went::On(Ok(None)) => self.done(wire::Done::default()).await,
                    Went::On(Ok(Some((head, bytes)))) => {
                        self.send(Kind::ListingHead, false, head.encode().into()).await?;
                        self.pour(futures::stream::iter([Ok(bytes)]).boxed(), head.bytes).await
                    }
                }
            }
            Kind::Free => {
                let request = FreeRequest::decode(&payload).map_err(malformed)?;
                let freed =
                    blocks.free(request).map_ok(|freed| wire::Done { files: freed.files, bytes: freed.bytes, ..wire::Done::default() });
                self.finish(freed).await
            }
            Kind::Holds => {
                let request = HoldsRequest::decode(&payload, size).map_err(malformed)?;
                self.finish(blocks.holds(request).map_ok(|held| wire::Done { held, ..wire::Done::default() })).await
            }
            Kind::Coverage => {
                let dataset = message::decode_coverage_request(&payload).map_err(malformed)?;
                let told = |found: Option<Coverage>| wire::Done { coverage: found.map(Coverage::to_wire), ..wire::Done::default() };
                self.finish(blocks.coverage(dataset).map_ok(told)).await
            }
            _ => Ok(()),
        }
    }

    /// Waits for what ends a request that isn't answered with bytes, and sends it.
    async fn finish(&mut self, work: impl Future<Output = Result<wire::Done, Refusal>>) -> Result<(), Ended> {
        match self.while_wanted(work).await? {
            Went::Cancelled => self.refuse(&Refusal::Cancelled).await,
            Went::On(Err(refusal)) => self.refuse(&refusal).await,
            Went::On(Ok(done)) => self.done(done).await,
        }
    }

    async fn read(&mut self, request: ReadRequest) -> Result<(), Ended> {
        let (blocks, bytes) = (self.server.blocks.clone(), request.extent.len());
        match self.while_wanted(blocks.read(request)).await? {
            Went::Cancelled => self.refuse(&Refusal::Cancelled).await,
            Went::On(Err(refusal)) => self.refuse(&refusal).await,
            Went::On(Ok(Given { is_filling, body })) => {
                if is_filling {
                    self.send(Kind::Waiting, false, Bytes::new()).await?;
                }
                self.pour(body, bytes).await
            }
        }
    }

    async fn manifest(&mut self, request: ManifestRequest) -> Result<(), Ended> {
        let blocks = self.server.blocks.clone();
        match self.while_wanted(blocks.manifest(request)).await? {
            Went::Cancelled => self.refuse(&Refusal::Cancelled).await,
            Went::On(Err(refusal)) => self.refuse(&refusal).await,
            Went::On(Ok(Offered { listing, newer: None })) => {
                self.done(wire::Done { listing: Some(listing.to_wire()), ..wire::Done::default() }).await
            }
            Went::On(Ok(Offered { newer: Some((head, body)), .. })) => {
                self.send(Kind::ManifestHead, false, head.encode().into()).await?;
                self.pour(body, head.bytes).await
            }
        }
    }

    /// Sends `bytes` of `body` as they come.
    async fn pour(&mut self, mut body: Body, bytes: u64) -> Result<(), Ended> {
        let mut left = bytes;
        while left > 0 {
            match self.while_wanted(body.next()).await? {
                Went::Cancelled => return self.refuse(&Refusal::Cancelled).await,
                Went::On(None) => return self.refuse(&Refusal::Internal("the bytes ended early".to_owned())).await,
                Went::On(Some(Err(refusal))) => return self.refuse(&refusal).await,
                Went::On(Some(Ok(mut piece))) => {
                    if piece.len() as u64 > left {
                        return self.refuse(&Refusal::Internal("more bytes came than were asked for".to_owned())).await;
                    }
                    while !piece.is_empty() {
                        let part = piece.split_to(piece.len().min(PAYLOAD_BYTES_MAX));
                        left -= part.len() as u64;
                        self.server.metrics.bytes.add(part.len() as u64);
                        self.send(Kind::Data, left == 0, part).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands the block that follows to the store, piece by piece; what the store doesn't read any more is read and dropped.
    async fn store(&mut self, request: StoreRequest, bytes: u64) -> Result<(), Ended> {
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let body = futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) });
        let blocks = self.server.blocks.clone();
        let mut work: Pin<Box<dyn Future<Output = _> + Send>> = blocks.store(request, body.boxed());
        let (mut sender, mut left, mut piece, mut outcome) = (Some(sender), bytes, None::<Bytes>, None);
        while outcome.is_none() || left > 0 {
            tokio::select! {
                biased;
                stored = &mut work, if outcome.is_none() => {
                    outcome = Some(stored);
                    (sender, piece) = (None, None);
                }
                permit = reserve(sender.clone()), if piece.is_some() => match (permit, piece.take()) {
                    (Some(permit), Some(piece)) => drop(permit.send(Ok(piece))),
                    // The store lost interest.
                    (None, _) | (_, None) => sender = None,
                },
                frame = self.reader.next(), if left > 0 && piece.is_none() => {
                    let Frame { kind, stream, is_last, payload } = frame?;
                    if kind == Kind::Cancel && stream == self.stream {
                        return self.refuse(&Refusal::Cancelled).await;
                    }
                    let after = left.checked_sub(payload.len() as u64).filter(|after| (*after == 0) == is_last);
                    let (Kind::Data, Some(after), true) = (kind, after, stream == self.stream) else {
                        return Err(Ended::Malformed("a block's bytes were expected".to_owned()));
                    };
                    left = after;
                    piece = sender.is_some().then_some(payload);
                }
                () = sleep(self.server.limits.heartbeat) => self.send(Kind::Waiting, false, Bytes::new()).await?,
            }
            if left == 0 && piece.is_none() {
                // The body's end.
                sender = None;
            }
        }
        match outcome.unwrap_or(Err(Refusal::Cancelled)) {
            Ok(kept) => self.done(wire::Done { kept, ..wire::Done::default() }).await,
            Err(refusal) => self.refuse(&refusal).await,
        }
    }

    /// Works for the peer while it wants that, with a sign of life now and then.
    async fn while_wanted<T>(&mut self, work: impl Future<Output = T>) -> Result<Went<T>, Ended> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(Went::On(done)),
                frame = self.reader.next() => {
                    let Frame { kind, stream, .. } = frame?;
                    return if kind == Kind::Cancel && stream == self.stream {
                        Ok(Went::Cancelled)
                    } else {
                        Err(Ended::Malformed(format!("a {kind:?} came within an answer")))
                    };
                }
                () = sleep(self.server.limits.heartbeat) => self.send(Kind::Waiting, false, Bytes::new()).await?,
            }
        }
    }

    async fn done(&mut self, done: wire::Done) -> Result<(), Ended> {
        self.send(Kind::Done, true, done.encode_to_vec().into()).await
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), Ended> {
        match refusal {
            Refusal::UnknownDataset => self.server.metrics.refused_dataset.add(1),
            Refusal::Cancelled => self.server.metrics.cancelled.add(1),
            _ => {}
        }
        self.send(Kind::Error, true, message::encode_refusal(refusal).into()).await
    }

    async fn send(&mut self, kind: Kind, is_last: bool, payload: Bytes) -> Result<(), Ended> {
        match timeout(self.server.limits.write_stall, self.writer.send(kind, is_last, self.stream, payload)).await {
            Ok(sent) => sent.map_err(Ended::from),
            Err(_) => Err(Ended::Broken(FrameError::Io(std::io::ErrorKind::TimedOut.into()))),
        }
    }
}

/// What a caller must have named to ask this; `None` for what is no request.
fn needed(kind: Kind) -> Option<Capabilities> {
    match kind {
        Kind::Read => Some(Capabilities::READ),
        Kind::Store => Some(Capabilities::STORE),
        Kind::Manifest => Some(Capabilities::MANIFEST),
        Kind::Free => Some(Capabilities::FREE),
        Kind::Holds => Some(Capabilities::HOLDS),
        Kind::Coverage => Some(Capabilities::COVERAGE),
        Kind::Listing => Some(Capabilities::LISTING),
        Kind::ListingHead
        | Kind::Hello
        | Kind::Welcome
        | Kind::Error
        | Kind::Cancel
        | Kind::Data
        | Kind::ManifestHead
        | Kind::Done
        | Kind::Waiting => None,
    }
}

/// `None` when whoever receives is gone.
async fn reserve(sender: Option<mpsc::Sender<Result<Bytes, Refusal>>>) -> Option<mpsc::OwnedPermit<Result<Bytes, Refusal>>> {
    sender?.reserve_owned().await.ok()
}
