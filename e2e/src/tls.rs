//! TLS in front of a server that has none, with a certificate that only a private authority vouches for.
//! Knows sockets. Does not know what goes through them.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// Listens until it is dropped.
pub struct Tls {
    pub address: SocketAddr,
    /// The authority's certificate, in PEM.
    pub authority: String,
    _runtime: Runtime,
}

impl Tls {
    /// At `host`, an IP address of this machine, in front of `server`.
    pub fn in_front_of(host: &str, server: SocketAddr) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &authority)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((host, 0))).with_context(|| format!("listen at {host}"))?;
        let address = listener.local_addr()?;
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), server));
        Ok(Self { address, authority: authority.pem(), _runtime: runtime })
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, server: SocketAddr) {
    while let Ok((socket, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who doesn't believe the certificate hangs up: that is what a test may want to see.
            let Ok(mut outer) = acceptor.accept(socket).await else { return };
            let Ok(mut inner) = TcpStream::connect(server).await else { return };
            drop(tokio::io::copy_bidirectional(&mut outer, &mut inner).await);
        });
    }
}
