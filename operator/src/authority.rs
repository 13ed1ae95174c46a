//! The operator's own certificate authority: who may call a cache node, and which node is one.
//! Knows how certificates are made and when they are renewed. Does not know where they are kept: `authority/keep.rs` does.
//! Invariant: a new authority is trusted for `Lives::settle` before anything is signed by it, and an old one stays trusted until nothing that it
//! signed is good any more.

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
/// Clocks of two machines differ by less, where certificates live long.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

/// How long what lasts, but the authority itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// How long a new authority is only trusted: longer than kubelet needs to bring a changed ConfigMap to every pod, which is some two minutes.
    pub settle: Duration,
    /// Of a certificate; renewed at half of it.
    pub certificate: Duration,
}

impl Lives {
    /// A certificate is good from so long before it is made.
    fn clocks_differ(self) -> Duration {
        CLOCKS_DIFFER.min(self.certificate / 24)
    }

    /// From the making of an authority until nothing is good any more that an older one signed.
    fn overlap(self) -> Duration {
        self.settle + self.certificate + self.clocks_differ()
    }
}

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
    pub fn certify(&self, host: &str, lives: Lives, now: u64) -> Result<Certified, Error> {
        let key = KeyPair::generate()?;
        let certificate = leaf(host, host, lives, now)?.signed_by(&key, &self.issuer()?)?;
        Ok(Certified { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate for `host` of the key that `request` (PKCS #10, PEM) proves to be the asker's. Nothing else of the request counts.
    pub fn sign(&self, request: &str, host: &str, name: &str, lives: Lives, now: u64) -> Result<String, Error> {
        let request = CertificateSigningRequestParams::from_pem(request)?;
        Ok(leaf(host, name, lives, now)?.signed_by(&request.public_key, &self.issuer()?)?.pem())
    }

    /// Made again from what it was made from: the same name and key, which is all that a signature takes from it.
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        Ok(Issuer::new(params(self.since)?, KeyPair::from_pem(&self.key)?))
    }
}

/// For both ends of a connection. `name` is for people.
fn leaf(host: &str, name: &str, lives: Lives, now: u64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = named(name);
    (params.not_before, params.not_after) =
        (at(now.saturating_sub(lives.clocks_differ().as_secs())), at(now + lives.certificate.as_secs()));
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

/// Drops what has expired and what nothing good is signed by, and adds an authority when there is none that is young enough, or when `is_asked`.
/// Sorted by age, oldest first. Gives whether anything changed.
pub fn rotate(authorities: &mut Vec<Authority>, lives: Lives, is_asked: bool, now: u64) -> Result<bool, Error> {
    let before = authorities.len();
    let is_over = |since: u64, life: Duration| now.saturating_sub(since) >= life.as_secs();
    // The newest that has signed for so long that all others' certificates are over.
    let successor = authorities.iter().rev().find(|authority| is_over(authority.since, lives.overlap())).map(|authority| authority.since);
    authorities
        .retain(|authority| !is_over(authority.since, AUTHORITY_LIFE) && successor.is_none_or(|successor| authority.since >= successor));
    let mut changed = authorities.len() != before;
    if is_asked || authorities.last().is_none_or(|newest| is_due(newest.since, AUTHORITY_LIFE, now)) {
        // Each has a name of its own by when it was made.
        authorities.push(Authority::make(authorities.last().map_or(now, |newest| now.max(newest.since + 1)))?);
        changed = true;
    }
    Ok(changed)
}

/// The authority that signs: the newest that everybody has had time to hear of, else the oldest.
pub fn signer(authorities: &[Authority], lives: Lives, now: u64) -> Option<&Authority> {
    let is_settled = |authority: &&Authority| now.saturating_sub(authority.since) >= lives.settle.as_secs();
    authorities.iter().rev().find(is_settled).or(authorities.first())
}

/// Everything that is trusted, PEM.
pub fn bundle(authorities: &[Authority]) -> String {
    authorities.iter().map(|authority| authority.certificate.as_str()).collect()
}

/// The authorities in force and the operator's own certificate. Guards both; never held across I/O.
pub struct Keeper {
    lives: Lives,
    kept: RwLock<Kept>,
}

struct Kept {
    authorities: Vec<Authority>,
    own: Certified,
    own_since: u64,
    /// `since` of the authority that signed it.
    own_signer: u64,
    version: u64,
}

impl Keeper {
    pub fn new(authorities: Vec<Authority>, lives: Lives, now: u64) -> Result<Self, Error> {
        let signer = one(&authorities, lives, now)?;
        let (own, own_signer) = (signer.certify(names::OPERATOR_HOST, lives, now)?, signer.since);
        Ok(Self { lives, kept: RwLock::new(Kept { authorities, own, own_since: now, own_signer, version: 0 }) })
    }

    /// What to call nodes with, and a number that changes whenever that does.
    pub fn credentials(&self) -> (u64, Credentials) {
        let kept = self.kept.read();
        let credentials =
            Credentials { certificate: kept.own.certificate.clone(), key: kept.own.key.clone(), authorities: bundle(&kept.authorities) };
        (kept.version, credentials)
    }

    /// A certificate for a node of a policy: see `Authority::sign`.
    pub fn sign(&self, request: &str, host: &str, name: &str, now: u64) -> Result<String, Error> {
        one(&self.kept.read().authorities, self.lives, now)?.sign(request, host, name, self.lives, now)
    }

    /// Which authority signs now, by when it was made.
    pub fn signer(&self, now: u64) -> u64 {
        signer(&self.kept.read().authorities, self.lives, now).map_or(0, |signer| signer.since)
    }

    pub fn bundle(&self) -> String {
        bundle(&self.kept.read().authorities)
    }

    /// Takes the authorities as they are now, and renews the operator's own certificate when it is due, they changed, or another one signs.
    pub fn renew(&self, authorities: Vec<Authority>, now: u64) -> Result<(), Error> {
        let mut kept = self.kept.write();
        let signer = one(&authorities, self.lives, now)?;
        if kept.authorities != authorities || kept.own_signer != signer.since || is_due(kept.own_since, self.lives.certificate, now) {
            (kept.own, kept.own_signer) = (signer.certify(names::OPERATOR_HOST, self.lives, now)?, signer.since);
            kept.own_since = now;
            kept.authorities = authorities;
            kept.version += 1;
        }
        Ok(())
    }
}

fn one(authorities: &[Authority], lives: Lives, now: u64) -> Result<&Authority, Error> {
    signer(authorities, lives, now).ok_or_else(|| Error::Authority(names::AUTHORITY_SECRET.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const HALF: u64 = AUTHORITY_LIFE.as_secs() / 2;
    const DAY: Duration = Duration::from_secs(86400);
    const LIVES: Lives = Lives { settle: DAY, certificate: DAY };

    fn since(authorities: &[Authority]) -> Vec<u64> {
        authorities.iter().map(|authority| authority.since).collect()
    }

    #[test]
    fn a_new_authority_is_trusted_before_it_signs_and_an_old_one_until_what_it_signed_is_over() {
        let mut authorities = Vec::new();
        let rotated = |authorities: &mut Vec<Authority>, now: u64| rotate(authorities, LIVES, false, now).unwrap();
        assert!(rotated(&mut authorities, NOW));
        assert!(!rotated(&mut authorities, NOW + HALF - 1));
        assert_eq!(signer(&authorities, LIVES, NOW).unwrap().since, NOW, "the only one signs at once");
        assert!(rotated(&mut authorities, NOW + HALF));
        let signs = |now: u64| signer(&authorities, LIVES, now).unwrap().since;
        assert_eq!(signs(NOW + HALF), NOW);
        assert_eq!(signs(NOW + HALF + LIVES.settle.as_secs()), NOW + HALF);
        assert_eq!(bundle(&authorities).matches("BEGIN CERTIFICATE").count(), 2);
        let over = NOW + HALF + LIVES.overlap().as_secs();
        assert!(!rotated(&mut authorities, over - 1));
        assert!(rotated(&mut authorities, over));
        assert_eq!(since(&authorities), [NOW + HALF]);
    }

    #[test]
    fn one_that_is_asked_for_replaces_the_others_in_the_same_steps() {
        let mut authorities = vec![Authority::make(NOW).unwrap()];
        assert!(rotate(&mut authorities, LIVES, true, NOW + 5).unwrap());
        assert!(rotate(&mut authorities, LIVES, true, NOW + 10).unwrap());
        assert_eq!(since(&authorities), [NOW, NOW + 5, NOW + 10]);
        assert!(rotate(&mut authorities, LIVES, false, NOW + 10 + LIVES.overlap().as_secs()).unwrap());
        assert_eq!(since(&authorities), [NOW + 10]);
    }

    #[test]
    fn the_operators_certificate_is_renewed_at_half_of_its_life_and_when_another_signs() {
        let authorities = vec![Authority::make(NOW).unwrap()];
        let keeper = Keeper::new(authorities.clone(), LIVES, NOW).unwrap();
        let half = LIVES.certificate.as_secs() / 2;
        keeper.renew(authorities.clone(), NOW + half - 1).unwrap();
        assert_eq!(keeper.credentials().0, 0);
        keeper.renew(authorities.clone(), NOW + half).unwrap();
        assert_eq!(keeper.credentials().0, 1);
        let both = [authorities, vec![Authority::make(NOW + half).unwrap()]].concat();
        keeper.renew(both.clone(), NOW + half).unwrap();
        assert_eq!((keeper.credentials().0, keeper.signer(NOW + half)), (2, NOW));
        let settled = NOW + half + LIVES.settle.as_secs();
        keeper.renew(both.clone(), settled).unwrap();
        assert_eq!((keeper.credentials().0, keeper.signer(settled)), (3, NOW + half));
        keeper.renew(both, settled + 1).unwrap();
        assert_eq!(keeper.credentials().0, 3);
    }

    #[test]
    fn half_of_a_short_life_is_not_over_when_it_begins() {
        for seconds in [60, 180, 86400] {
            let lives = Lives { certificate: Duration::from_secs(seconds), ..LIVES };
            assert!(lives.clocks_differ() * 2 < lives.certificate, "{lives:?}");
        }
    }
}
