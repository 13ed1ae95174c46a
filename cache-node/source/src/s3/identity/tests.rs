use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::UNIX_EPOCH;

use futures::FutureExt;
use tokio::sync::Semaphore;

use super::*;

const CANARY: &str = "canary";

#[derive(Debug)]
struct Fake {
    asked: AtomicU32,
    /// When what it gives now expires.
    expiry: parking_lot::Mutex<Option<SystemTime>>,
    fails: AtomicBool,
    /// One permit for each answer.
    gate: Semaphore,
}

#[derive(Clone, Debug)]
struct Provider(Arc<Fake>);

impl Provider {
    /// Answers at once.
    fn until(expiry: Option<SystemTime>) -> Self {
        let gate = Semaphore::new(1000);
        Self(Arc::new(Fake { asked: AtomicU32::new(0), expiry: parking_lot::Mutex::new(expiry), fails: AtomicBool::new(false), gate }))
    }
    fn close(&self) {
        self.0.gate.forget_permits(1000);
    }
    fn asked(&self) -> u32 {
        self.0.asked.load(SeqCst)
    }
    fn cache(&self) -> IdentityCache {
        IdentityCache::new(SharedCredentialsProvider::new(self.clone()))
    }
    async fn give(&self) -> provider::Result {
        let number = self.0.asked.fetch_add(1, SeqCst) + 1;
        self.0.gate.acquire().await.expect("nobody closes it").forget();
        if self.0.fails.load(SeqCst) {
            return Err(CredentialsError::provider_error("told to"));
        }
        let expiry = *self.0.expiry.lock();
        Ok(Credentials::new(format!("key-{number}"), CANARY, Some(CANARY.to_owned()), expiry, "test"))
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.give())
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

async fn key(cache: &IdentityCache, seconds: u64) -> String {
    cache.get(at(seconds)).await.expect("given").credentials.access_key_id().to_owned()
}

#[tokio::test]
async fn many_requests_ask_for_credentials_once() {
    let provider = Provider::until(Some(at(3600)));
    provider.close();
    let cache = provider.cache();
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn({
                let cache = cache.clone();
                async move { key(&cache, 0).await }
            })
        })
        .collect();
    while provider.asked() == 0 {
        tokio::task::yield_now().await;
    }
    provider.0.gate.add_permits(1000);
    for one in waiting {
        assert_eq!(one.await.expect("it ends"), "key-1");
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn credentials_are_replaced_before_they_expire() {
    for (lifetime, last_fresh) in [(Some(3600), 3600 - 121), (Some(60), 29), (None, 899)] {
        let provider = Provider::until(lifetime.map(at));
        let cache = provider.cache();
        assert_eq!(key(&cache, 0).await, "key-1");
        assert_eq!(key(&cache, last_fresh).await, "key-1", "{lifetime:?}");
        *provider.0.expiry.lock() = lifetime.map(|lifetime| at(2 * lifetime));
        assert_eq!(key(&cache, last_fresh + 1).await, "key-2", "{lifetime:?}");
        assert_eq!(key(&cache, last_fresh + 2).await, "key-2", "{lifetime:?}");
    }
}

#[tokio::test]
async fn who_asks_for_new_ones_keeps_nobody_waiting() {
    let provider = Provider::until(Some(at(3600)));
    let cache = provider.cache();
    key(&cache, 0).await;
    provider.close();
    let mut first = Box::pin(key(&cache, 3500));
    assert!(futures::poll!(first.as_mut()).is_pending(), "it waits for the provider");
    assert_eq!(key(&cache, 3501).now_or_never().as_deref(), Some("key-1"), "the others go on with what they have");
    let mut late = Box::pin(key(&cache, 3600));
    assert!(futures::poll!(late.as_mut()).is_pending(), "what has expired is not given");
    *provider.0.expiry.lock() = Some(at(7200));
    provider.0.gate.add_permits(10);
    assert_eq!(first.await, "key-2");
    assert_eq!(late.await, "key-2");
}

#[tokio::test]
async fn a_provider_that_fails_leaves_the_old_ones_until_they_expire() {
    let provider = Provider::until(Some(at(3600)));
    let cache = provider.cache();
    key(&cache, 0).await;
    provider.0.fails.store(true, SeqCst);
    assert_eq!(key(&cache, 3500).await, "key-1");
    assert_eq!(key(&cache, 3505).await, "key-1");
    assert_eq!(provider.asked(), 2, "it isn't asked again at once");
    assert_eq!(key(&cache, 3511).await, "key-1");
    assert_eq!(provider.asked(), 3);
    let error = cache.get(at(3600)).await.err().expect("they have expired");
    assert!(matches!(error, CredentialsError::ProviderError(_)), "{error:?}");
    provider.0.fails.store(false, SeqCst);
    *provider.0.expiry.lock() = Some(at(9000));
    assert_eq!(key(&cache, 3601).await, "key-5");
}

#[tokio::test]
async fn nothing_prints_a_credential() {
    let cache = Provider::until(None).cache();
    let kept = cache.get(at(0)).await.expect("given");
    assert_eq!(kept.credentials.secret_access_key(), CANARY);
    let text = format!("{cache:?} {:?} {:?}", kept.identity, kept.credentials);
    assert!(!text.contains(CANARY), "{text}");
}
