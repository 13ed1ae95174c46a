//! The frames that everything between nodes travels in: a header of 16 bytes, then a payload. Pure: bytes in, frames out.
//! Knows lengths, kinds, checksums. Does not know sockets, or what a payload says.
//! Invariant: a frame that `decode` gives has passed its checksum, and nothing that arrives makes it take more memory than one frame may have.
//!
//! | bytes | what, little-endian |
//! |---|---|
//! | 0 | kind |
//! | 1 | flags: 1 = the last frame of its stream in this direction |
//! | 2..4 | 0 |
//! | 4..8 | stream: the number of the request on its connection, from 1; 0 is the connection itself |
//! | 8..12 | bytes of the payload, at most `PAYLOAD_BYTES_MAX` |
//! | 12..16 | crc32c of bytes 0..12 and the payload |
//!
//! **Kinds that aren't known**: from `SKIPPABLE_FROM` up a frame is read and dropped; below, it ends the connection. So a later release may add
//! what can be missed as it likes, and what can't be missed behind a bit of `capabilities`.

use bytes::{Buf, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;
/// What the kernel asks a file system for at once: a read of that size is one frame.
pub const PAYLOAD_BYTES_MAX: usize = 128 << 10;
/// From this kind up, who doesn't know a frame drops it.
pub const SKIPPABLE_FROM: u8 = 128;

const LAST: u8 = 1;

/// What a payload is. A number that was given out never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message of `wire`'s `peer_message`, as are all but `Data`.
    Hello = 1,
    Welcome = 2,
    /// Ends its stream; on stream 0 the connection.
    Error = 3,
    Read = 4,
    Store = 5,
    Manifest = 6,
    Free = 7,
    /// The caller no longer wants the answer. Empty.
    Cancel = 8,
    /// The next bytes of a block, manifest or listing, as they are.
    Data = 9,
    ManifestHead = 10,
    Done = 11,
    Holds = 12,
    Coverage = 13,
    Listing = 14,
    ListingHead = 15,
    /// The answer takes time, and whoever owes it lives. Empty.
    Waiting = 128,
}

impl Kind {
    const ALL: [Self; 16] = [
        Self::Hello,
        Self::Welcome,
        Self::Error,
        Self::Read,
        Self::Store,
        Self::Manifest,
        Self::Free,
        Self::Cancel,
        Self::Data,
        Self::ManifestHead,
        Self::Done,
        Self::Holds,
        Self::Coverage,
        Self::Listing,
        Self::ListingHead,
        Self::Waiting,
    ];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Why bytes are no frame, or none came. All of them end the connection.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes is longer than {PAYLOAD_BYTES_MAX}")]
    TooLong { length: u32 },
    #[error("a frame's checksum is wrong: its bytes changed on the way")]
    Checksum,
    #[error("a frame of kind {kind} isn't known here")]
    Unknown { kind: u8 },
    #[error("a frame has bits set that mean nothing yet")]
    Reserved,
    /// Orderly, between two frames.
    #[error("the connection was closed")]
    Closed,
    #[error("the connection ended within a frame")]
    Truncated,
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
}

/// One frame, with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub is_last: bool,
    pub stream: u32,
    pub payload: Bytes,
}

/// The header of a frame with this payload, which follows it. Panics over `PAYLOAD_BYTES_MAX`: the sender cuts before.
pub fn header(kind: Kind, is_last: bool, stream: u32, payload: &[u8]) -> [u8; HEADER_BYTES] {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a frame holds at most {PAYLOAD_BYTES_MAX} bytes, not {}", payload.len());
    let mut header = [0; HEADER_BYTES];
    header[0] = kind as u8;
    header[1] = if is_last { LAST } else { 0 };
    header[4..8].copy_from_slice(&stream.to_le_bytes());
    header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let sum = checksum(&header[..12], payload);
    header[12..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// How long the frame at the front of `received` is, header included; what a header needs while that isn't there.
pub fn wanted(received: &[u8]) -> Result<usize, FrameError> {
    let Some(header) = received.first_chunk::<HEADER_BYTES>() else { return Ok(HEADER_BYTES) };
    let length = u32_at(header, 8);
    if length as usize > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong { length });
    }
    Ok(HEADER_BYTES + length as usize)
}

/// Takes the frame at the front out of `received`, without copying it. `None`: it isn't all there, or it was one to be skipped, in which case
/// `received` is shorter by it; `wanted` tells which.
pub fn decode(received: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let whole = wanted(received)?;
    let Some(header) = received.first_chunk::<HEADER_BYTES>().copied() else { return Ok(None) };
    if received.len() < whole {
        return Ok(None);
    }
    let mut payload = received.split_to(whole).freeze();
    payload.advance(HEADER_BYTES);
    if checksum(&header[..12], &payload) != u32_at(&header, 12) {
        return Err(FrameError::Checksum);
    }
    let Some(kind) = Kind::from_number(header[0]) else {
        return if header[0] >= SKIPPABLE_FROM { Ok(None) } else { Err(FrameError::Unknown { kind: header[0] }) };
    };
    if header[1] & !LAST != 0 || header[2..4] != [0, 0] {
        return Err(FrameError::Reserved);
    }
    Ok(Some(Frame { kind, is_last: header[1] & LAST != 0, stream: u32_at(&header, 4), payload }))
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// CRC-32C (Castagnoli 1993), which processors have an instruction for.
fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(payload);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests;
