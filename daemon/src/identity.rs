//! Who this process is to others, and whom it believes: certificates in a folder, read again when they change, and connections that prove themselves.
//! Knows TLS. Does not know what is said over a connection.
//! Invariant: a connection that comes out of `incoming`, `acceptor` or `connector` has shown a certificate of our authority, valid then, with the
//! name that was asked for.

pub mod issued;
mod material;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use material::Material;

/// How often the folder is looked at: far more often than certificates are renewed, and rotation needs no signal.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A peer that doesn't finish its handshake is let go.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Connections that have proved themselves and wait to be taken; more wait in the kernel.
const WAITING_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("read {path}: {detail}; the folder must hold tls.crt, tls.key and ca.crt in PEM")]
    File { path: PathBuf, detail: String },
    #[error("use the certificates in {folder}: {detail}")]
    Unusable { folder: PathBuf, detail: String },
}

/// What is spoken inside a connection, told in its handshake: who calls the wrong port is refused there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    /// Blocks between the nodes of a cache.
    Peer,
}

impl Protocol {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Peer => vec![b"forebay-peer".to_vec()],
        }
    }
}

/// The certificates of this process. Used behind an `Arc`.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    /// Guards what new connections use.
    current: RwLock<Arc<Material>>,
}

impl Identity {
    /// Reads `tls.crt`, `tls.key` and `ca.crt`, and looks for others every ten seconds. Within a runtime.
    pub fn load(folder: &Path) -> Result<Arc<Self>, IdentityError> {
        let material = Material::read(folder)?;
        material.check().map_err(|detail| IdentityError::Unusable { folder: folder.to_owned(), detail })?;
        let identity = Arc::new(Self { folder: folder.to_owned(), current: RwLock::new(Arc::new(material)) });
        let followed = Arc::downgrade(&identity);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(identity) = followed.upgrade() else { return };
                identity.look();
            }
        });
        Ok(identity)
    }

    /// Takes what the folder holds now, if it is whole; else what was read last goes on.
    pub fn look(&self) {
        match Material::read(&self.folder) {
            Ok(material) if material == **self.current.read() => {}
            Ok(material) => match material.check() {
                Ok(()) => {
                    *self.current.write() = Arc::new(material);
                    tracing::info!(folder = %self.folder.display(), "new certificates are in use");
                }
                Err(detail) => tracing::warn!(detail, "new certificates can't be used; the old ones go on"),
            },
            Err(error) => tracing::warn!(%error, "certificates can't be read; the old ones go on"),
        }
    }

    /// For one new connection from a peer that is to be called `peer`.
    pub fn acceptor(&self, peer: &str, protocol: Protocol) -> Result<TlsAcceptor, IdentityError> {
        let material = self.current.read().clone();
        material.server(peer, protocol).map(|config| TlsAcceptor::from(Arc::new(config))).map_err(|detail| self.unusable(detail))
    }

    /// For one new connection to a peer, whose name the caller says when it connects.
    pub fn connector(&self, protocol: Protocol) -> Result<TlsConnector, IdentityError> {
        let material = self.current.read().clone();
        material.client(protocol).map(|config| TlsConnector::from(Arc::new(config))).map_err(|detail| self.unusable(detail))
    }

    fn unusable(&self, detail: String) -> IdentityError {
        IdentityError::Unusable { folder: self.folder.clone(), detail }
    }
}

/// The connections that `listener` accepts from peers whose certificate names them `peer`; all others are refused, with a line in the log.
/// Ends when the receiver is dropped.
pub fn incoming(listener: TcpListener, identity: Arc<Identity>, peer: &'static str) -> mpsc::Receiver<io::Result<TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        loop {
            let (connection, from) = tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of descriptors: it passes, or it is seen elsewhere.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let acceptor = match identity.acceptor(peer, Protocol::Grpc) {
                Ok(acceptor) => acceptor,
                Err(error) => {
                    tracing::error!(%error, "our own certificates can't be used");
                    continue;
                }
            };
            let sender = sender.clone();
            // On a task of its own: a peer that says nothing holds nobody up.
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(connection)).await {
                    // Nobody takes it any more when the process stops.
                    Ok(Ok(proven)) => drop(sender.send(Ok(proven)).await),
                    Ok(Err(error)) => tracing::warn!(%from, %error, "a caller was refused: it didn't prove that it is {peer}"),
                    Err(_) => tracing::warn!(%from, "a caller was let go: it didn't finish its handshake"),
                }
            });
        }
    });
    receiver
}
