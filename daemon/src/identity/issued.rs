//! A certificate that is asked for: its key is made here and never leaves this machine, whoever is believed signs a request for it.
//! Knows requests, files and how long a certificate is good. Does not know who signs, or how they are asked.
//! Invariant: what is in use is a certificate of the key beside it; until there is one, a self-signed one that nobody believes.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::material::{self, Material};
use super::{Identity, IdentityError, LOOK_EVERY};

/// A certificate that will be good in so long is good: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("make a key")]
    Key(#[from] rcgen::Error),
    #[error("no certificate was asked for, or another since")]
    NotAsked,
    #[error("take a certificate: {0}")]
    Refused(String),
    #[error("keep a certificate in {folder}")]
    Keep { folder: PathBuf, cause: io::Error },
}

/// Used behind an `Arc`.
#[derive(Debug)]
pub struct Issued {
    identity: Arc<Identity>,
    /// Has `ca.crt`.
    trusted: PathBuf,
    /// Has `tls.crt` and `tls.key`, for the next start.
    kept: PathBuf,
    /// Guards the key of the request that was made last.
    asked: Mutex<Option<KeyPair>>,
}

impl Issued {
    /// Believes whom `ca.crt` in `trusted` says, read again every ten seconds. Its own certificate is the one in `kept`, while that is good, else
    /// one that nobody believes. Within a runtime.
    pub fn load(trusted: &Path, kept: &Path) -> Result<Arc<Self>, IdentityError> {
        let authorities = material::certificates(&trusted.join("ca.crt"))?;
        let (chain, key) = match usable(kept, SystemTime::now()) {
            Some(found) => found,
            None => unbelieved().map_err(|error| IdentityError::Unusable { folder: kept.to_owned(), detail: error.to_string() })?,
        };
        let material = Material { chain, key, authorities };
        material.check().map_err(|detail| IdentityError::Unusable { folder: trusted.to_owned(), detail })?;
        let identity = Arc::new(Identity { folder: kept.to_owned(), current: RwLock::new(Arc::new(material)) });
        let issued = Arc::new(Self { identity, trusted: trusted.to_owned(), kept: kept.to_owned(), asked: Mutex::default() });
        let followed = Arc::downgrade(&issued);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(issued) = followed.upgrade() else { return };
                issued.look();
            }
        });
        Ok(issued)
    }

    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Whether another certificate should be asked for: there is none, or half of its life is over.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let (since, until) = self.identity.current.read().validity();
        let life = until.duration_since(since).unwrap_or_default();
        now >= since + life / 2
    }

    /// A new key, and the request (PKCS #10, PEM) for a certificate of it. What was asked before is forgotten.
    pub fn request(&self) -> Result<String, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // Who signs says what the certificate is made out to: it knows who asks.
        let request = CertificateParams::new(Vec::<String>::new())?.serialize_request(&key)?.pem()?;
        *self.asked.lock() = Some(key);
        Ok(request)
    }

    /// Uses what was asked for last, from now on and after a restart. Blocks on the disk.
    pub fn take(&self, certificate: &str) -> Result<(), IssueError> {
        let key = self.asked.lock().take().ok_or(IssueError::NotAsked)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| IssueError::Refused(error.to_string()))?;
        let authorities = self.identity.current.read().authorities.clone();
        let material = Material { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(), authorities };
        material.check().map_err(IssueError::Refused)?;
        *self.identity.current.write() = Arc::new(material);
        keep(&self.kept, certificate, &key.serialize_pem()).map_err(|cause| IssueError::Keep { folder: self.kept.clone(), cause })
    }

    /// Believes whom the file says now, if it can be read; else whom it said last.
    fn look(&self) {
        match material::certificates(&self.trusted.join("ca.crt")) {
            Ok(authorities) => {
                let mut current = self.identity.current.write();
                if current.authorities != authorities {
                    let Material { chain, key, .. } = &**current;
                    *current = Arc::new(Material { chain: chain.clone(), key: key.clone_key(), authorities });
                    tracing::info!(folder = %self.trusted.display(), "other authorities are believed from now on");
                }
            }
            Err(error) => tracing::warn!(%error, "authorities can't be read; those of before are believed"),
        }
    }
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What an earlier run kept, if it belongs together and is good now.
fn usable(kept: &Path, now: SystemTime) -> Option<Pair> {
    let (chain, key) = (material::certificates(&kept.join("tls.crt")).ok()?, material::key(&kept.join("tls.key")).ok()?);
    let material = Material { authorities: chain.clone(), chain, key };
    let (since, until) = material.validity();
    let is_good = material.check().is_ok() && since <= now + CLOCKS_DIFFER && now < until;
    is_good.then_some((material.chain, material.key))
}

/// Good for a handshake with who doesn't look at it, and over since 1970, so that another is due at once.
fn unbelieved() -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec!["nobody.forebay.dev".to_owned()])?;
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(1970, 1, 1), rcgen::date_time_ymd(1970, 1, 2));
    let certificate = params.self_signed(&key)?;
    Ok((vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

/// The key first: a certificate beside a key that isn't its own is asked for again at the next start.
fn keep(folder: &Path, certificate: &str, key: &str) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    for (name, text) in [("tls.key", key), ("tls.crt", certificate)] {
        let next = folder.join(format!("{name}.next"));
        let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&next)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        std::fs::rename(&next, folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use rcgen::{BasicConstraints, CertificateSigningRequestParams, CertifiedIssuer, IsCa};

    use super::*;

    struct Signer(CertifiedIssuer<'static, KeyPair>);

    impl Signer {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        /// Good from so many hours ago for 24.
        fn sign(&self, request: &str, hours_ago: i64) -> String {
            let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
            let since = time::OffsetDateTime::now_utc() - time::Duration::hours(hours_ago);
            (request.params.not_before, request.params.not_after) = (since, since + time::Duration::hours(24));
            request.signed_by(&self.0).unwrap().pem()
        }
    }

    #[tokio::test]
    async fn a_certificate_is_asked_for_kept_and_asked_for_again_at_half_of_its_life() {
        let (folder, signer) = (tempfile::tempdir().unwrap(), Signer::new());
        std::fs::write(folder.path().join("ca.crt"), signer.0.pem()).unwrap();
        let kept = folder.path().join("kept");
        let load = || Issued::load(folder.path(), &kept).unwrap();
        let is_due = |issued: &Issued| issued.is_due(SystemTime::now());
        let issued = load();
        assert!(is_due(&issued), "there is none");
        assert!(matches!(issued.take("anything"), Err(IssueError::NotAsked)));

        let (old, request) = (issued.request().unwrap(), issued.request().unwrap());
        assert!(matches!(issued.take(&signer.sign(&old, 1)), Err(IssueError::Refused(_))), "of a key that was given up");
        assert!(matches!(issued.take(&signer.sign(&request, 1)), Err(IssueError::NotAsked)), "each is taken once");
        issued.take(&signer.sign(&issued.request().unwrap(), 11)).unwrap();
        assert!(!is_due(&issued));
        assert!(!is_due(&load()), "after a restart");
        issued.take(&signer.sign(&issued.request().unwrap(), 13)).unwrap();
        assert!(is_due(&issued), "half of its life is over");
        issued.take(&signer.sign(&issued.request().unwrap(), 25)).unwrap();
        assert!(load().identity.current.read().chain != issued.identity.current.read().chain, "one that is over isn't used");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(kept.join("tls.key")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn other_authorities_are_believed_without_another_certificate() {
        let (folder, signer) = (tempfile::tempdir().unwrap(), Signer::new());
        std::fs::write(folder.path().join("ca.crt"), signer.0.pem()).unwrap();
        let issued = Issued::load(folder.path(), &folder.path().join("kept")).unwrap();
        std::fs::write(folder.path().join("ca.crt"), format!("{}{}", signer.0.pem(), Signer::new().0.pem())).unwrap();
        issued.look();
        assert_eq!(issued.identity.current.read().authorities.len(), 2);
        std::fs::write(folder.path().join("ca.crt"), "").unwrap();
        issued.look();
        assert_eq!(issued.identity.current.read().authorities.len(), 2, "nothing is no answer");
    }
}
