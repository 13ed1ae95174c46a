//! Certificates as the operator makes them, by its own authority or by another.
//! Knows where the operator keeps its authorities. Does not know who is shown a certificate.

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::cluster::{SYSTEM, kubectl};

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

    /// The operator's, as a cluster's administrator may read it.
    pub fn of_the_cluster() -> Result<Self> {
        let template = "{{range $name, $value := .data}}{{$value | base64decode}}{{end}}";
        let pem = kubectl(&["-n", SYSTEM, "get", "secret", "forebay-authority", "-o", &format!("go-template={template}")])?;
        let end = pem.find("-----BEGIN PRIVATE KEY-----").context("a key beside the certificate")?;
        let (certificate, key) = pem.split_at(end);
        Self::of(certificate.to_owned(), key)
    }

    fn of(certificate: String, key: &str) -> Result<Self> {
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(key)?)?, certificate })
    }

    pub fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        Ok(roots)
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
