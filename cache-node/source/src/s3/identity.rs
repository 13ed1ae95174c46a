//! Credentials, kept until shortly before they expire: one cache for our own requests and for the SDK's.
//! Knows when they expire. Does not know where they come from, or what is signed by them.
//! Invariant: one at a time asks the provider, however many requests wait; what is kept is never given once it expired; nothing here prints it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_runtime_api::client::identity::Identity;

/// New ones are asked for this long before the old ones expire, or at half of what is left where that is less: a provider may be slow, and a
/// request may be on its way for a while after it was signed.
const EARLY: Duration = Duration::from_secs(120);
/// Of those that don't say when they expire. They may be a file's, which somebody changes.
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);
/// Between two attempts to replace what hasn't expired yet.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// All attempts of a provider together: it has retries of its own.
const ASKED_WITHIN: Duration = Duration::from_secs(25);

/// Cheap to clone; clones share what is kept.
#[derive(Clone)]
pub(super) struct IdentityCache(Arc<Shared>);

struct Shared {
    provider: SharedCredentialsProvider,
    kept: ArcSwapOption<Kept>,
    /// Held by who asks the provider.
    asking: tokio::sync::Mutex<()>,
}

/// What the provider gave last.
pub(super) struct Kept {
    credentials: Credentials,
    pub(super) identity: Identity,
    /// From then on the next request asks for others.
    fresh_until: SystemTime,
}

impl Kept {
    fn new(credentials: Credentials, now: SystemTime) -> Self {
        let fresh_for = match credentials.expiry() {
            Some(expiry) => {
                let left = expiry.duration_since(now).unwrap_or_default();
                left - EARLY.min(left / 2)
            }
            None => KEPT_FOR,
        };
        Self { identity: credentials.clone().into(), credentials, fresh_until: now + fresh_for }
    }

    fn is_valid(&self, now: SystemTime) -> bool {
        self.credentials.expiry().is_none_or(|expiry| now < expiry)
    }
}

impl IdentityCache {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self(Arc::new(Shared { provider, kept: ArcSwapOption::empty(), asking: tokio::sync::Mutex::new(()) }))
    }

    /// Those to sign with at `now`. Waits for the provider only where nothing valid is kept, or for who asks it for all.
    pub(super) async fn get(&self, now: SystemTime) -> Result<Arc<Kept>, CredentialsError> {
        let Shared { provider, kept, asking } = &*self.0;
        let fresh = || kept.load_full().filter(|kept| now < kept.fresh_until);
        if let Some(fresh) = fresh() {
            return Ok(fresh);
        }
        let _turn = match kept.load_full().filter(|kept| kept.is_valid(now)) {
            // The others go on with what they have.
            Some(old) => match asking.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(old),
            },
            None => asking.lock().await,
        };
        if let Some(fresh) = fresh() {
            return Ok(fresh);
        }
        let asked = tokio::time::timeout(ASKED_WITHIN, provider.provide_credentials()).await;
        let next = match asked.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(ASKED_WITHIN))) {
            Ok(credentials) => Kept::new(credentials, now),
            Err(error) => match kept.load_full().filter(|kept| kept.is_valid(now)) {
                Some(old) => {
                    tracing::warn!(error = %super::error::chain(&error), "new credentials can't be had; the old ones are used until they expire");
                    let Kept { credentials, identity, .. } = &*old;
                    Kept { credentials: credentials.clone(), identity: identity.clone(), fresh_until: now + ASK_AGAIN_AFTER }
                }
                None => return Err(error),
            },
        };
        let next = Arc::new(next);
        kept.store(Some(next.clone()));
        Ok(next)
    }
}

impl ProvideCredentials for IdentityCache {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let given = async || -> provider::Result { Ok(self.get(SystemTime::now()).await?.credentials.clone()) };
        future::ProvideCredentials::new(given())
    }
}

impl fmt::Debug for IdentityCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityCache(***)")
    }
}

#[cfg(test)]
mod tests;
