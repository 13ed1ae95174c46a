//! Connections between nodes: TCP, inside TLS 1.3 on which both prove that they are of this cache; or a network that a program brings along.
//! Knows sockets and certificates. Does not know frames.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use forebay_daemon::identity::{Identity, Protocol};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsStream;

use super::error::ConnectError;

/// How nodes prove themselves. Cheap to clone.
#[derive(Clone)]
pub struct Security(Kind);

#[derive(Clone)]
enum Kind {
    Tls { identity: Arc<Identity>, cache: ServerName<'static>, host: Arc<str> },
    Plain,
    Brought(Arc<dyn Network>),
}

/// A network in place of TCP, seen from one node: that of the simulation.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    async fn connect(&self, address: &str) -> io::Result<Pipe>;
}

/// A connection of such a network. Who is at its other end is the network's to vouch for.
pub type Pipe = Box<dyn Duplex>;

/// Both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where callers come in.
pub enum Listener {
    Tcp(TcpListener),
    /// Those of a network that was brought, with the caller's address, for logs.
    Brought(mpsc::UnboundedReceiver<(Pipe, String)>),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// The next caller, and from where it calls. Never returns once a network that was brought is gone.
    pub(crate) async fn accept(&mut self) -> io::Result<(Caller, String)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(tcp, from)| (Caller::Tcp(tcp), from.to_string())),
            Self::Brought(arrivals) => match arrivals.recv().await {
                Some((pipe, from)) => Ok((Caller::Brought(pipe), from)),
                None => std::future::pending().await,
            },
        }
    }
}

/// Somebody who has connected and proved nothing yet.
pub(crate) enum Caller {
    Tcp(TcpStream),
    Brought(Pipe),
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

    /// Over `network`, which vouches for who is at the other end.
    pub fn brought(network: Arc<dyn Network>) -> Self {
        Self(Kind::Brought(network))
    }

    /// Connects to `host:port`; a name is looked up each time.
    pub(crate) async fn connect(&self, address: &str) -> Result<Stream, ConnectError> {
        if let Kind::Brought(network) = &self.0 {
            return network.connect(address).await.map(Stream::Brought).map_err(ConnectError::Unreachable);
        }
        let tcp = TcpStream::connect(address).await.map_err(ConnectError::Unreachable)?;
        // A request is smaller than a packet, and waits for nothing.
        tcp.set_nodelay(true).map_err(ConnectError::Unreachable)?;
        match &self.0 {
            Kind::Plain | Kind::Brought(_) => Ok(Stream::Plain(tcp)),
            Kind::Tls { identity, cache, .. } => {
                let connector = identity.connector(Protocol::Peer).map_err(|error| ConnectError::Certificates(error.to_string()))?;
                let proven = connector.connect(cache.clone(), tcp).await.map_err(ConnectError::Untrusted)?;
                Ok(Stream::Tls(Box::new(proven.into())))
            }
        }
    }

    pub(crate) async fn accept(&self, caller: Caller) -> Result<Stream, ConnectError> {
        let tcp = match caller {
            Caller::Tcp(tcp) => tcp,
            Caller::Brought(pipe) => return Ok(Stream::Brought(pipe)),
        };
        tcp.set_nodelay(true).map_err(ConnectError::Unreachable)?;
        match &self.0 {
            Kind::Plain | Kind::Brought(_) => Ok(Stream::Plain(tcp)),
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
    Brought(Pipe),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Brought(pipe) => Pin::new(pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Brought(pipe) => Pin::new(pipe).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Brought(pipe) => Pin::new(pipe).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Brought(pipe) => pipe.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Brought(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Brought(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}
