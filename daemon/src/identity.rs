//! Who this process is to others, and whom it believes: certificates in a folder, read again when they change, and connections that prove themselves.
//! Knows TLS. Does not know what is said over a connection.
//! Invariant: a connection that comes out of `incoming`, `acceptor` or `connector` has shown a certificate of our authority, valid then, with the
//! name that was asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

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

#[derive(Debug, PartialEq, Eq)]
struct Material {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// One, or two while an authority is replaced.
    authorities: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Reads `tls.crt`, `tls.key` and `ca.crt`, and looks for others every ten seconds. Within a runtime.
    pub fn load(folder: &Path) -> Result<Arc<Self>, IdentityError> {
        let material = Material::read(folder)?;
        material.server("any.name", Protocol::Grpc).map_err(|detail| IdentityError::Unusable { folder: folder.to_owned(), detail })?;
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
            Ok(material) => match material.server("any.name", Protocol::Grpc) {
                Ok(_) => {
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

impl Material {
    fn read(folder: &Path) -> Result<Self, IdentityError> {
        let failed = |path: &Path, detail: String| IdentityError::File { path: path.to_owned(), detail };
        let certificates = |name: &str| {
            let path = folder.join(name);
            let found = CertificateDer::pem_file_iter(&path).and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
            match found {
                Ok(found) if found.is_empty() => Err(failed(&path, "it holds no certificate".to_owned())),
                Ok(found) => Ok(found),
                Err(error) => Err(failed(&path, error.to_string())),
            }
        };
        let key = folder.join("tls.key");
        Ok(Self {
            chain: certificates("tls.crt")?,
            authorities: certificates("ca.crt")?,
            // The error of a key tells its kind, never its bytes.
            key: PrivateKeyDer::from_pem_file(&key).map_err(|error| failed(&key, error.to_string()))?,
        })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(|error| format!("ca.crt: {error}"))?;
        }
        Ok(roots)
    }

    fn client(&self, protocol: Protocol) -> Result<ClientConfig, String> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| error.to_string())?;
        config.alpn_protocols = protocol.alpn();
        Ok(config)
    }

    fn server(&self, peer: &str, protocol: Protocol) -> Result<ServerConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots()?);
        let chain_verifier =
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().map_err(|error| error.to_string())?;
        let name = ServerName::try_from(peer.to_owned()).map_err(|error| error.to_string())?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(Arc::new(Named { chain: chain_verifier, name }))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| error.to_string())?;
        config.alpn_protocols = protocol.alpn();
        Ok(config)
    }
}

/// Believes a client whose certificate is of our authority and carries one name.
#[derive(Debug)]
struct Named {
    chain: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(certificate, between, now)?;
        let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
        rustls::client::verify_server_name(&parsed, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
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
