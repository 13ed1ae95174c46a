//! The operator's own certificate authority: who may call a cache node, and which node is one.
//! Knows how certificates are made and when they are renewed. Does not know where they are kept: `authority/keep.rs` does.
//! Invariant: a new authority is trusted for `SETTLE` before anything is signed by it, and an old one stays trusted until it expires.

pub mod keep;

use std::time::Duration;

use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use crate::error::Error;
use crate::names;
use crate::nodes::call::Credentials;

/// Life of an authority; the next one is made at half of it.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(2 * 365 * 86400);
/// How long a new authority is only trusted: longer than kubelet needs to bring a changed ConfigMap to every pod.
pub const SETTLE: Duration = Duration::from_secs(86400);
/// Life of a certificate; renewed at half of it.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(86400);
/// Clocks of two machines differ by less.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

/// One authority. Its key never leaves the operator and its Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// Unix seconds.
    pub since: u64,
    /// PEM.
    pub certificate: String,
    pub key: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn make(now: u64) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let certificate = params(now)?.self_signed(&key)?;
        Ok(Self { since: now, certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate for `host`, usable on both ends of a connection.
    pub fn certify(&self, host: &str, now: u64) -> Result<Certified, Error> {
        let key = KeyPair::generate()?;
        let certificate = leaf(host, host, now)?.signed_by(&key, &self.issuer()?)?;
        Ok(Certified { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate for `host` of the key that `request` (PKCS #10, PEM) proves to be the asker's. Nothing else of the request counts.
    pub fn sign(&self, request: &str, host: &str, name: &str, now: u64) -> Result<String, Error> {
        let request = CertificateSigningRequestParams::from_pem(request)?;
        Ok(leaf(host, name, now)?.signed_by(&request.public_key, &self.issuer()?)?.pem())
    }

    /// Made again from what it was made from: the same name and key, which is all that a signature takes from it.
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        Ok(Issuer::new(params(self.since)?, KeyPair::from_pem(&self.key)?))
    }
}

/// For both ends of a connection. `name` is for people.
fn leaf(host: &str, name: &str, now: u64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = named(name);
    (params.not_before, params.not_after) = (at(now.saturating_sub(CLOCKS_DIFFER.as_secs())), at(now + CERTIFICATE_LIFE.as_secs()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(since: u64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    // Two authorities in force at once have different names, so that a chain is never tried with the wrong one.
    params.distinguished_name = named(&format!("Forebay {since}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (at(since.saturating_sub(CLOCKS_DIFFER.as_secs())), at(since + AUTHORITY_LIFE.as_secs()));
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn at(seconds: u64) -> OffsetDateTime {
    i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Whether something made at `since` that lives for `life` is due.
pub fn is_due(since: u64, life: Duration, now: u64) -> bool {
    now.saturating_sub(since) >= life.as_secs() / 2
}

/// Drops what has expired, and adds an authority when there is none that is young enough. Sorted by age, oldest first. Gives whether anything changed.
pub fn rotate(authorities: &mut Vec<Authority>, now: u64) -> Result<bool, Error> {
    let before = authorities.len();
    authorities.retain(|authority| now.saturating_sub(authority.since) < AUTHORITY_LIFE.as_secs());
    let mut changed = authorities.len() != before;
    if authorities.last().is_none_or(|newest| is_due(newest.since, AUTHORITY_LIFE, now)) {
        authorities.push(Authority::make(now)?);
        changed = true;
    }
    Ok(changed)
}

/// The authority that signs: the newest that everybody has had time to hear of, else the oldest.
pub fn signer(authorities: &[Authority], now: u64) -> Option<&Authority> {
    authorities.iter().rev().find(|authority| now.saturating_sub(authority.since) >= SETTLE.as_secs()).or(authorities.first())
}

/// Everything that is trusted, PEM.
pub fn bundle(authorities: &[Authority]) -> String {
    authorities.iter().map(|authority| authority.certificate.as_str()).collect()
}

/// The authorities in force and the operator's own certificate. Guards both; never held across I/O.
pub struct Keeper(RwLock<Kept>);

struct Kept {
    authorities: Vec<Authority>,
    own: Certified,
    own_since: u64,
    version: u64,
}

impl Keeper {
    pub fn new(authorities: Vec<Authority>, now: u64) -> Result<Self, Error> {
        let signer = signer(&authorities, now).ok_or_else(|| Error::Authority(names::AUTHORITY_SECRET.to_owned()))?;
        let own = signer.certify(names::OPERATOR_HOST, now)?;
        Ok(Self(RwLock::new(Kept { authorities, own, own_since: now, version: 0 })))
    }

    /// What to call nodes with, and a number that changes whenever that does.
    pub fn credentials(&self) -> (u64, Credentials) {
        let kept = self.0.read();
        let credentials =
            Credentials { certificate: kept.own.certificate.clone(), key: kept.own.key.clone(), authorities: bundle(&kept.authorities) };
        (kept.version, credentials)
    }

    /// A certificate for a node of a policy: see `Authority::sign`.
    pub fn sign(&self, request: &str, host: &str, name: &str, now: u64) -> Result<String, Error> {
        let kept = self.0.read();
        let signer = signer(&kept.authorities, now).ok_or_else(|| Error::Authority(names::AUTHORITY_SECRET.to_owned()))?;
        signer.sign(request, host, name, now)
    }

    pub fn bundle(&self) -> String {
        bundle(&self.0.read().authorities)
    }

    /// Takes the authorities as they are now, and renews the operator's own certificate when it is due or they changed.
    pub fn renew(&self, authorities: Vec<Authority>, now: u64) -> Result<(), Error> {
        let mut kept = self.0.write();
        if kept.authorities != authorities || is_due(kept.own_since, CERTIFICATE_LIFE, now) {
            let signer = signer(&authorities, now).ok_or_else(|| Error::Authority(names::AUTHORITY_SECRET.to_owned()))?;
            kept.own = signer.certify(names::OPERATOR_HOST, now)?;
            kept.own_since = now;
            kept.authorities = authorities;
            kept.version += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const HALF: u64 = AUTHORITY_LIFE.as_secs() / 2;

    #[test]
    fn a_new_authority_is_trusted_before_it_signs_and_an_old_one_until_it_expires() {
        let mut authorities = Vec::new();
        assert!(rotate(&mut authorities, NOW).unwrap());
        assert!(!rotate(&mut authorities, NOW + HALF - 1).unwrap());
        assert_eq!(signer(&authorities, NOW).unwrap().since, NOW, "the only one signs at once");
        assert!(rotate(&mut authorities, NOW + HALF).unwrap());
        let since = |now: u64| signer(&authorities, now).unwrap().since;
        assert_eq!(since(NOW + HALF), NOW);
        assert_eq!(since(NOW + HALF + SETTLE.as_secs()), NOW + HALF);
        assert_eq!(bundle(&authorities).matches("BEGIN CERTIFICATE").count(), 2);
        assert!(rotate(&mut authorities, NOW + 2 * HALF).unwrap());
        assert_eq!(authorities.iter().map(|authority| authority.since).collect::<Vec<_>>(), [NOW + HALF, NOW + 2 * HALF]);
    }

    #[test]
    fn the_operators_certificate_is_renewed_at_half_of_its_life() {
        let authorities = vec![Authority::make(NOW).unwrap()];
        let keeper = Keeper::new(authorities.clone(), NOW).unwrap();
        let half = CERTIFICATE_LIFE.as_secs() / 2;
        keeper.renew(authorities.clone(), NOW + half - 1).unwrap();
        assert_eq!(keeper.credentials().0, 0);
        keeper.renew(authorities, NOW + half).unwrap();
        assert_eq!(keeper.credentials().0, 1);
    }
}
