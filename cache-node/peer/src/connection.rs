//! Frames over a connection, in both directions at once.
//! Knows sockets and frames. Does not know what is said.
//! Invariants: a read that is given up loses nothing; a write that is given up ends the connection, so nobody may go on with it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::frame::{self, Frame, FrameError, HEADER_BYTES, Kind, PAYLOAD_BYTES_MAX};
use super::transport::Stream;

pub(crate) struct Reader {
    stream: ReadHalf<Stream>,
    received: BytesMut,
}

pub(crate) struct Writer(WriteHalf<Stream>);

/// Both directions of a connection.
pub(crate) fn split(stream: Stream) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(stream);
    (Reader { stream: reader, received: BytesMut::new() }, Writer(writer))
}

impl Reader {
    /// The next frame that is known here. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Frame, FrameError> {
        loop {
            let before = self.received.len();
            if let Some(frame) = frame::decode(&mut self.received)? {
                return Ok(frame);
            }
            if self.received.len() < before {
                continue;
            }
            // While a header is missing, as much as one whole frame: so the next one's bytes stay in the socket, and what was received is never
            // copied to be joined with them.
            let wanted = match frame::wanted(&self.received)? {
                HEADER_BYTES if self.received.len() < HEADER_BYTES => HEADER_BYTES + PAYLOAD_BYTES_MAX,
                wanted => wanted,
            };
            let missing = wanted - self.received.len();
            self.received.reserve(missing);
            if self.stream.read_buf(&mut (&mut self.received).limit(missing)).await? == 0 {
                return Err(if self.received.is_empty() { FrameError::Closed } else { FrameError::Truncated });
            }
        }
    }
}

impl Writer {
    /// Sends one frame, header and payload from where they are.
    pub(crate) async fn send(&mut self, kind: Kind, is_last: bool, stream: u32, payload: Bytes) -> Result<(), FrameError> {
        let header = frame::header(kind, is_last, stream, &payload);
        self.0.write_all_buf(&mut Buf::chain(&header[..], payload)).await?;
        self.0.flush().await?;
        Ok(())
    }
}
