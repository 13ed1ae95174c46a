//! Certificates as the operator makes them, by its own authority or by another.
//! Knows where the operator keeps its authorities, and how a server is shown a certificate. Does not know what is said after that.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::cluster::{SYSTEM, kubectl};

/// A server that refused has hung up by then.
const ANSWER: Duration = Duration::from_secs(3);
/// How HTTP/2 begins, with an empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A certificate and its key.
pub struct Pair {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    certificate: String,
}

impl Authority {
    /// One that nobody has heard of.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let certificate = issuer.pem();
        Self::of(certificate, &issuer.key().serialize_pem())
    }

    /// The operator's, as a cluster's administrator may read them: oldest first.
    pub fn of_the_cluster() -> Result<Vec<Self>> {
        let template = "{{range $name, $value := .data}}{{$value | base64decode}}{{end}}";
        let pem = kubectl(&["-n", SYSTEM, "get", "secret", "forebay-authority", "-o", &format!("go-template={template}")])?;
        // By name: each has its age in it, and a certificate comes before its key.
        let each = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
        let authorities = each.map(|text| {
            let end = text.find("-----BEGIN PRIVATE KEY-----").context("a key beside the certificate")?;
            let (certificate, key) = text.split_at(end);
            Self::of(format!("-----BEGIN CERTIFICATE-----{certificate}"), key)
        });
        authorities.collect()
    }

    fn of(certificate: String, key: &str) -> Result<Self> {
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(key)?)?, certificate })
    }

    /// For `host`, good for a day from so many hours ago.
    pub fn certify(&self, host: &str, hours_ago: i64) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        let since = time::OffsetDateTime::now_utc() - time::Duration::hours(hours_ago + 1);
        (params.not_before, params.not_after) = (since, since + time::Duration::hours(24));
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { chain: vec![certificate.der().clone()], key: PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)? })
    }
}

/// Whether the server at `address` listens to who shows `pair`: it answers, or at least waits for more. An error where the server itself isn't one
/// whom `trusted` vouch for.
pub fn listens(address: SocketAddr, host: &str, protocol: &[u8], trusted: &[Authority], pair: Option<&Pair>) -> Result<bool> {
    let mut roots = RootCertStore::empty();
    for authority in trusted {
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes())?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match pair {
        Some(pair) => builder.with_client_auth_cert(pair.chain.clone(), pair.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned())?)?;
    let socket = TcpStream::connect_timeout(&address, ANSWER)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut connection = StreamOwned::new(session, socket);
    // Of our own protocol a server lets who has proved itself begin when it likes.
    let begin = if protocol == b"h2" { PREFACE } else { b"" };
    if connection.write_all(begin).and_then(|()| connection.flush()).is_err() {
        return Ok(false);
    }
    match connection.read(&mut [0; 64]) {
        Ok(read) => Ok(read > 0),
        Err(error) => Ok(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
    }
}
