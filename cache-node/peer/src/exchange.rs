//! One request to a peer and its answer, over a connection that nobody else uses meanwhile.
//! Knows frames and patience. Does not know which peer to ask.
//! Invariant: a connection goes back only when its answer was read to the last frame; what fails or is left in the middle of a frame is closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{Reader, Writer};
use super::error::{PeerError, Refusal};
use super::frame::{Frame, FrameError, Kind};
use super::handshake::Capabilities;
use super::message::{self, Malformed};
use super::peers::Peer;

/// A connection whose answer nobody wants is read to its end for so long, to be used again; after that it is cheaper to make another.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// An open connection to a peer.
pub(crate) struct Line {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) capabilities: Capabilities,
    /// Of the last request.
    pub(crate) stream: u32,
    pub(crate) made_at: Instant,
    pub(crate) used_at: Instant,
}

/// An answer under way. Dropping it cancels the request.
pub(crate) struct Exchange {
    peer: Arc<Peer>,
    /// `None` once the connection was given back or has failed.
    line: Option<Line>,
    place: Option<OwnedSemaphorePermit>,
    asked_at: Instant,
    has_heard: bool,
    /// From the question to the last frame; `None` where only silence counts.
    deadline: Option<Duration>,
}

impl Exchange {
    /// Sends a request; `payload` was encoded for `kind`.
    pub(crate) async fn begin(
        peer: Arc<Peer>,
        mut line: Line,
        place: OwnedSemaphorePermit,
        (kind, payload): (Kind, Bytes),
        deadline: Option<Duration>,
    ) -> Result<Self, PeerError> {
        line.stream += 1;
        let asked_at = Instant::now();
        let is_last = kind != Kind::Store;
        let sent = timeout(peer.limits().silence, line.writer.send(kind, is_last, line.stream, payload)).await;
        match sent {
            Ok(Ok(())) => {
                let place = Some(place);
                Ok(Self { peer, line: Some(line), place, asked_at, has_heard: false, deadline })
            }
            Ok(Err(cause)) => {
                peer.failed();
                Err(PeerError::Broken { peer: peer.name().clone(), cause })
            }
            Err(_) => {
                peer.fell_silent();
                Err(PeerError::Silent { peer: peer.name().clone(), after: peer.limits().silence })
            }
        }
    }

    pub(crate) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Sends bytes that belong to the request.
    pub(crate) async fn send(&mut self, is_last: bool, payload: Bytes) -> Result<(), PeerError> {
        let silence = self.peer.limits().silence;
        let Some(line) = &mut self.line else { return Err(self.closed()) };
        let (stream, patience) = (line.stream, silence.saturating_mul(4));
        match timeout(patience, line.writer.send(Kind::Data, is_last, stream, payload)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(self.fail(PeerError::Broken { peer: self.peer.name().clone(), cause })),
            Err(_) => Err(self.fail(PeerError::Silent { peer: self.peer.name().clone(), after: patience })),
        }
    }

    /// The next frame of the answer. An error ends the exchange; a refusal is one. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Frame, PeerError> {
        let limits = *self.peer.limits();
        // Not from the last frame on: a caller that was busy meanwhile must not take its own silence for the peer's.
        let silent_at = Instant::now() + limits.silence;
        let late_at = self.deadline.map(|deadline| self.asked_at + deadline);
        let until = late_at.map_or(silent_at, |late_at| late_at.min(silent_at));
        let Some(line) = &mut self.line else { return Err(self.closed()) };
        let stream = line.stream;
        let frame = match timeout_at(until, line.reader.next()).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(cause)) => return Err(self.fail(PeerError::Broken { peer: self.peer.name().clone(), cause })),
            Err(_) => {
                let peer = self.peer.name().clone();
                return Err(self.fail(match self.deadline {
                    Some(after) if late_at == Some(until) => PeerError::Late { peer, after },
                    Some(_) | None => PeerError::Silent { peer, after: limits.silence },
                }));
            }
        };
        if frame.stream != stream && frame.stream != 0 {
            return Err(self.nonsense(format!("an answer to request {} came to {stream}", frame.stream)));
        }
        if !std::mem::replace(&mut self.has_heard, true) {
            self.peer.observe(self.asked_at.elapsed());
        }
        if frame.kind == Kind::Error {
            let refusal = match message::decode_refusal(&frame.payload) {
                Ok(refusal) => refusal,
                Err(cause) => return Err(self.nonsense(cause.0)),
            };
            // On the connection itself, or because of what we said: it closes.
            if frame.stream == 0 || matches!(refusal, Refusal::Malformed(_)) {
                self.line = None;
            } else {
                self.give_back();
            }
            return Err(PeerError::Refused { peer: self.peer.name().clone(), refusal });
        }
        if frame.is_last {
            self.give_back();
        }
        Ok(frame)
    }

    /// What came means nothing; the connection is closed.
    pub(crate) fn nonsense(&mut self, what: String) -> PeerError {
        self.fail(PeerError::Nonsense { peer: self.peer.name().clone(), cause: Malformed(what) })
    }

    fn fail(&mut self, error: PeerError) -> PeerError {
        self.line = None;
        match &error {
            PeerError::Silent { .. } => self.peer.fell_silent(),
            _ => self.peer.failed(),
        }
        error
    }

    fn closed(&self) -> PeerError {
        PeerError::Broken { peer: self.peer.name().clone(), cause: FrameError::Closed }
    }

    fn give_back(&mut self) {
        self.peer.succeeded();
        if let Some(line) = self.line.take() {
            self.peer.give_back(line);
        }
        self.place = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (Some(mut line), Ok(runtime)) = (self.line.take(), Handle::try_current()) else { return };
        let (peer, place) = (self.peer.clone(), self.place.take());
        runtime.spawn(async move {
            let stream = line.stream;
            let ended = timeout(CANCEL_WITHIN, async {
                line.writer.send(Kind::Cancel, true, stream, Bytes::new()).await?;
                loop {
                    let frame = line.reader.next().await?;
                    if frame.is_last || frame.stream != stream {
                        return Ok::<_, FrameError>(frame.stream == stream);
                    }
                }
            });
            if let Ok(Ok(true)) = ended.await {
                peer.give_back(line);
            }
            drop(place);
        });
    }
}
