//! Certificates, a key and whom they make us believe, as one thing: it is replaced whole.
//! Knows TLS and PEM. Does not know where they come from or when they change.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::{IdentityError, Protocol};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Material {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    /// One, or two while an authority is replaced.
    pub(super) authorities: Vec<CertificateDer<'static>>,
}

/// Of a file with at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let failed = |detail: String| IdentityError::File { path: path.to_owned(), detail };
    let found = CertificateDer::pem_file_iter(path).and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
    match found {
        Ok(found) if found.is_empty() => Err(failed("it holds no certificate".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Of a file. The error tells its kind, never its bytes.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| IdentityError::File { path: path.to_owned(), detail: error.to_string() })
}

impl Material {
    pub(super) fn read(folder: &Path) -> Result<Self, IdentityError> {
        Ok(Self {
            chain: certificates(&folder.join("tls.crt"))?,
            authorities: certificates(&folder.join("ca.crt"))?,
            key: key(&folder.join("tls.key"))?,
        })
    }

    /// Whether both ends of a connection could be made of it; else why not, such as a key that isn't the certificate's.
    pub(super) fn check(&self) -> Result<(), String> {
        self.server("any.name", Protocol::Grpc).map(drop)
    }

    /// From when to when the certificate is good; the start of 1970 for both where it can't be read.
    pub(super) fn validity(&self) -> (SystemTime, SystemTime) {
        let parsed = self.chain.first().and_then(|first| x509_parser::parse_x509_certificate(first).ok());
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        parsed.map_or((UNIX_EPOCH, UNIX_EPOCH), |(_, certificate)| {
            let validity = certificate.validity();
            (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
        })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(|error| format!("ca.crt: {error}"))?;
        }
        Ok(roots)
    }

    pub(super) fn client(&self, protocol: Protocol) -> Result<ClientConfig, String> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| error.to_string())?;
        config.alpn_protocols = protocol.alpn();
        Ok(config)
    }

    pub(super) fn server(&self, peer: &str, protocol: Protocol) -> Result<ServerConfig, String> {
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
