//! A connection between two nodes: bytes that arrive later than they were sent, or never.
//! Knows bytes and when each is due. Does not know what they say, or why a link is cut.
//! Invariant: bytes arrive in order, whole, and not before they are due.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::net::Net;

/// Bytes on their way in one direction at most: a TCP window.
const WINDOW_BYTES: usize = 512 << 10;

/// One direction.
pub(crate) struct Lane {
    net: Arc<Net>,
    pub(crate) from: usize,
    pub(crate) to: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    parts: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The writer has ended: what is on its way still arrives.
    is_shut: bool,
    /// The reader has gone.
    is_left: bool,
    is_reader_reset: bool,
    is_writer_reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Lane {
    pub(crate) fn new(net: Arc<Net>, from: usize, to: usize) -> Arc<Self> {
        Arc::new(Self { net, from, to, state: Mutex::default() })
    }

    /// The link may carry bytes again.
    pub(crate) fn wake(&self) {
        self.state.lock().wake();
    }

    /// Breaks the connection, as it is seen by either side.
    pub(crate) fn reset(&self, for_reader: bool, for_writer: bool) {
        let mut state = self.state.lock();
        state.is_reader_reset |= for_reader;
        state.is_writer_reset |= for_writer;
        if state.is_reader_reset {
            state.parts.clear();
        }
        state.wake();
    }
}

/// One node's end of a connection.
pub(crate) struct End {
    reads: Arc<Lane>,
    writes: Arc<Lane>,
    due: Option<Pin<Box<Sleep>>>,
}

impl End {
    pub(crate) fn new(reads: Arc<Lane>, writes: Arc<Lane>) -> Self {
        Self { reads, writes, due: None }
    }

    fn write(&self, cx: &Context<'_>, len: usize, take: impl FnOnce(usize) -> Bytes) -> Poll<io::Result<usize>> {
        let lane = &self.writes;
        let mut state = lane.state.lock();
        if state.is_writer_reset || state.is_left {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(state.bytes).min(len);
        if room == 0 && len > 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let part = take(room);
        let last = state.parts.back().map(|(due, _)| *due);
        let due = lane.net.due(lane.from, lane.to, room).max(last.unwrap_or_else(Instant::now));
        state.bytes += room;
        state.parts.push_back((due, part));
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(room))
    }
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let lane = self.reads.clone();
        let mut state = lane.state.lock();
        loop {
            if state.is_reader_reset {
                return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
            }
            let is_open = !lane.net.is_cut(lane.from, lane.to);
            let is_shut = state.is_shut;
            match state.parts.front_mut() {
                Some((due, part)) if is_open && *due <= Instant::now() => {
                    let len = part.len().min(buf.remaining());
                    buf.put_slice(&part[..len]);
                    part.advance(len);
                    if part.is_empty() {
                        state.parts.pop_front();
                    }
                    state.bytes -= len;
                    if let Some(writer) = state.writer.take() {
                        writer.wake();
                    }
                    return Poll::Ready(Ok(()));
                }
                Some((due, _)) if is_open => {
                    let due = *due;
                    state.reader = Some(cx.waker().clone());
                    let sleep = self.due.get_or_insert_with(|| Box::pin(sleep_until(due)));
                    sleep.as_mut().reset(due);
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                None if is_open && is_shut => return Poll::Ready(Ok(())),
                Some(_) | None => {
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, buf.len(), |len| Bytes::copy_from_slice(&buf[..len]))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.write(cx, bufs.iter().map(|buf| buf.len()).sum(), |len| {
            let mut part = BytesMut::with_capacity(len);
            for buf in bufs {
                part.extend_from_slice(&buf[..buf.len().min(len - part.len())]);
            }
            part.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.writes.state.lock();
        state.is_shut = true;
        state.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut writes = self.writes.state.lock();
        writes.is_shut = true;
        writes.wake();
        drop(writes);
        let mut reads = self.reads.state.lock();
        reads.is_left = true;
        reads.parts.clear();
        reads.wake();
    }
}
