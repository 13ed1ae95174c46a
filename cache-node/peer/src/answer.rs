//! The bytes that a peer gives, as they come.

use std::sync::Arc;

use bytes::Bytes;

use super::error::PeerError;
use super::exchange::Exchange;
use super::frame::{Frame, Kind};
use super::peers::Peer;

/// Bytes under way from a peer: exactly as many as were asked for, or an error. Dropping it cancels the request.
pub struct Answer {
    exchange: Exchange,
    left: u64,
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer lives and is getting the bytes.
    Waiting,
    /// The next bytes; their checksum is right.
    Data(Bytes),
    /// There are no more.
    End,
}

impl Answer {
    pub(crate) fn new(exchange: Exchange, bytes: u64) -> Self {
        Self { exchange, left: bytes }
    }

    pub(crate) fn peer(&self) -> &Arc<Peer> {
        self.exchange.peer()
    }

    /// The next event. Fails when the peer is silent for too long, although bytes came before. May be dropped and called again.
    pub async fn event(&mut self) -> Result<Event, PeerError> {
        if self.left == 0 {
            return Ok(Event::End);
        }
        let Frame { kind, is_last, payload, .. } = self.exchange.next().await?;
        match kind {
            Kind::Waiting if !is_last => Ok(Event::Waiting),
            Kind::Data => match self.left.checked_sub(payload.len() as u64) {
                Some(left) if (left == 0) == is_last && !payload.is_empty() => {
                    self.left = left;
                    self.peer().metrics().bytes.add(payload.len() as u64);
                    Ok(Event::Data(payload))
                }
                Some(_) | None => Err(self.exchange.nonsense("another number of bytes came than was asked for".to_owned())),
            },
            _ => Err(self.exchange.nonsense(format!("a {kind:?} came instead of bytes"))),
        }
    }

    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, PeerError>> {
        loop {
            match self.event().await {
                Ok(Event::Waiting) => {}
                Ok(Event::Data(bytes)) => return Some(Ok(bytes)),
                Ok(Event::End) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// All bytes in one piece.
    pub async fn whole(mut self) -> Result<Vec<u8>, PeerError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }
}
