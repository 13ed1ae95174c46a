//! Connections between nodes: TCP, inside TLS 1.3 on which both prove that they are of this cache.
//! Knows sockets and certificates. Does not know frames.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use forebay_daemon::identity::{Identity, Protocol};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::error::ConnectError;

/// How nodes prove themselves. Cheap to clone.
#[derive(Clone)]
pub struct Security(Kind);

#[derive(Clone)]
enum Kind {
    Tls { identity: Arc<Identity>, cache: ServerName<'static>, host: Arc<str> },
    Plain,
}

impl Security {
    /// TLS 1.3 on both sides, with certificates that carry the name `cache` and are read anew when they change. `None` when that is no DNS name.
    pub fn tls(identity: Arc<Identity>, cache: &str) -> Option<Self> {
        let name = ServerName::try_from(cache.to_owned()).ok()?;
        Some(Self(Kind::Tls { identity, cache: name, host: cache.into() }))
    }

    /// Bare TCP, over which nobody proves anything: to measure by, and for tests of what goes over it.
    pub fn plain() -> Self {
        Self(Kind::Plain)
    }

    /// Connects to `host:port`; a name is looked up each time.
    pub(crate) async fn connect(&self, address: &str) -> Result<Stream, ConnectError> {
        let tcp = TcpStream::connect(address).await.map_err(ConnectError::Unreachable)?;
        // A request is smaller than a packet, and waits for nothing.
        tcp.set_nodelay(true).map_err(ConnectError::Unreachable)?;
        match &self.0 {
            Kind::Plain => Ok(Stream::Plain(tcp)),
            Kind::Tls { identity, cache, .. } => {
                let connector = identity.connector(Protocol::Peer).map_err(|error| ConnectError::Certificates(error.to_string()))?;
                let proven = connector.connect(cache.clone(), tcp).await.map_err(ConnectError::Untrusted)?;
                Ok(Stream::Tls(Box::new(proven.into())))
            }
        }
    }

    pub(crate) async fn accept(&self, tcp: TcpStream) -> Result<Stream, ConnectError> {
        tcp.set_nodelay(true).map_err(ConnectError::Unreachable)?;
        match &self.0 {
            Kind::Plain => Ok(Stream::Plain(tcp)),
            Kind::Tls { identity, host, .. } => {
                let acceptor = identity.acceptor(host, Protocol::Peer).map_err(|error| ConnectError::Certificates(error.to_string()))?;
                let proven = acceptor.accept(tcp).await.map_err(ConnectError::Untrusted)?;
                Ok(Stream::Tls(Box::new(proven.into())))
            }
        }
    }
}

/// A connection, proven or plain.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
