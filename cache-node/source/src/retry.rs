//! Asks again what failed for a while, and goes on with a broken body at the byte where it stopped.
//! Knows which errors may pass. Does not know any protocol.
//! Invariant: a body's bytes come once each and in order, all of the version that was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use rand::RngExt;
use tokio::time::{Instant, timeout};

use super::metrics::SourceMetrics;
use super::{Body, Checksum, Key, ListPage, ListRequest, Object, Source, SourceError, Version};
use forebay_wire::block::Extent;

/// Whole objects up to this length (the largest block) are gathered before the first byte is handed on, so that a checksum that
/// fails at the end is mended by reading again and nobody has seen the wrong bytes.
const GATHER_BYTES_MAX: u64 = 16 << 20;
/// A body that breaks again and again, but always gets further, is still cut off after this many repeats.
const RESUMES_MAX: u32 = 1000;
/// Repeats that may come at the usual pace; each success gives half of one back. When they are spent, as with a source that is
/// gone, repeats wait the longest pause, so that a thousand waiting readers don't become a flood.
const BUDGET_MAX: i64 = 400;

/// When to ask again, and when to stop.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts of one request without progress, the first included.
    pub attempts_max: u32,
    /// The first pause is up to this, each next one up to twice the one before.
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// No attempt starts this long after the first failure since the last progress.
    pub deadline: Duration,
    /// A request or body that gives no byte for this long is cut and asked again.
    pub stall: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 10,
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
            stall: Duration::from_secs(15),
        }
    }
}

/// A source whose passing failures are mended. Its errors are permanent ones, or the last of all attempts.
#[derive(Clone)]
pub struct Retry {
    inner: Arc<dyn Source>,
    policy: RetryPolicy,
    metrics: Arc<SourceMetrics>,
    /// Half repeats that are left; see `BUDGET_MAX`.
    budget: Arc<AtomicI64>,
}

impl Retry {
    pub fn new(inner: Arc<dyn Source>, policy: RetryPolicy, metrics: Arc<SourceMetrics>) -> Self {
        Self { inner, policy, metrics, budget: Arc::new(AtomicI64::new(BUDGET_MAX)) }
    }

    fn succeeded(&self) {
        if self.budget.load(Relaxed) < BUDGET_MAX {
            self.budget.fetch_add(1, Relaxed);
        }
    }

    /// Runs `ask` until it succeeds, or until no further attempt is due.
    async fn again<T, F>(&self, tries: &mut Tries, mut ask: impl FnMut() -> F) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        loop {
            match ask().await {
                Ok(value) => {
                    self.succeeded();
                    return Ok(value);
                }
                Err(error) => self.pause(tries, error).await?,
            }
        }
    }

    /// Waits before the next attempt, or gives the error back when there is none.
    async fn pause(&self, tries: &mut Tries, error: SourceError) -> Result<(), SourceError> {
        tries.count += 1;
        let first = *tries.first_failure.get_or_insert_with(Instant::now);
        if error.is_permanent() || tries.count >= self.policy.attempts_max {
            return Err(error);
        }
        let doublings = tries.count - 1 + if matches!(error, SourceError::Throttled { .. }) { 2 } else { 0 };
        let ceiling = self.policy.pause_min.saturating_mul(1 << doublings.min(20)).min(self.policy.pause_max);
        let is_spent = self.budget.fetch_sub(2, Relaxed) <= 0;
        if is_spent {
            self.budget.fetch_max(0, Relaxed);
        }
        // Full jitter, so that those who failed together don't come back together.
        let floor = if is_spent { self.policy.pause_max / 2 } else { Duration::ZERO };
        let pause = rand::rng().random_range(floor..=ceiling.max(floor));
        if first.elapsed() + pause >= self.policy.deadline {
            return Err(error);
        }
        tracing::debug!(%error, attempt = tries.count, pause_ms = pause.as_millis() as u64, "asking again");
        self.metrics.retries.add(1);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// All bytes of a small whole object; a broken body is read from the start, so that its checksum means something.
    async fn gather(&self, key: &Key, version: &Version, extent: Extent) -> Result<Vec<Bytes>, SourceError> {
        self.again(&mut Tries::default(), || async {
            let mut body = self.inner.read(key, version, extent, true).await?;
            let mut parts = Vec::new();
            while let Some(part) = body.next().await {
                parts.push(part?);
            }
            Ok(parts)
        })
        .await
    }
}

/// Failures since the last progress.
#[derive(Default)]
struct Tries {
    count: u32,
    first_failure: Option<Instant>,
}

#[async_trait]
impl Source for Retry {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        self.again(&mut Tries::default(), || self.inner.list(request)).await
    }

    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        self.again(&mut Tries::default(), || self.inner.head(key)).await
    }

    async fn checksum(&self, key: &Key, version: &Version) -> Result<Option<Checksum>, SourceError> {
        self.again(&mut Tries::default(), || self.inner.checksum(key, version)).await
    }

    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        if whole && extent.len() <= GATHER_BYTES_MAX {
            let parts = self.gather(key, version, extent).await?;
            return Ok(futures::stream::iter(parts.into_iter().map(Ok)).boxed());
        }
        let body = self.again(&mut Tries::default(), || self.inner.read(key, version, extent, whole)).await?;
        let state = Resumed {
            retry: self.clone(),
            key: key.clone(),
            version: version.clone(),
            left: Some(extent),
            body: Some(body),
            tries: Tries::default(),
            resumes: 0,
        };
        Ok(futures::stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            match state.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), Some(state))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }
}

/// A body that is asked for again where it broke.
struct Resumed {
    retry: Retry,
    key: Key,
    version: Version,
    /// What hasn't come yet.
    left: Option<Extent>,
    body: Option<Body>,
    tries: Tries,
    resumes: u32,
}

impl Resumed {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            let body = match (&mut self.body, self.left) {
                (Some(body), _) => body,
                // The last byte is here, and only the end of the body failed: every byte was counted.
                (None, None) => return Ok(None),
                (None, Some(left)) => {
                    let Self { retry, key, version, tries, .. } = self;
                    let body = retry.again(tries, || retry.inner.read(key, version, left, false)).await?;
                    self.body.insert(body)
                }
            };
            let error = match body.next().await {
                None => return Ok(None),
                Some(Ok(bytes)) => {
                    if let Some(left) = self.left {
                        self.left = Extent::new(left.start() + bytes.len() as u64, left.end());
                    }
                    self.tries = Tries::default();
                    return Ok(Some(bytes));
                }
                Some(Err(error)) => error,
            };
            self.body = None;
            self.resumes += 1;
            // Corrupt: what was handed on may be wrong, which going on would hide.
            if self.resumes > RESUMES_MAX || matches!(error, SourceError::Corrupt { .. }) {
                return Err(error);
            }
            self.retry.pause(&mut self.tries, error).await?;
        }
    }
}

/// Cuts what gives no byte for `stall`. Innermost, so that waiting for a turn doesn't count.
pub struct CutStalls {
    inner: Arc<dyn Source>,
    stall: Duration,
}

impl CutStalls {
    pub fn new(inner: Arc<dyn Source>, stall: Duration) -> Self {
        Self { inner, stall }
    }

    async fn cut<T>(&self, op: &'static str, key: &Key, ask: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
        timeout(self.stall, ask).await.unwrap_or_else(|_| Err(stalled(op, key, self.inner.name(), self.stall)))
    }
}

fn stalled(op: &'static str, key: &Key, origin: &str, stall: Duration) -> SourceError {
    let key = String::from_utf8_lossy(&key.0).escape_debug().to_string();
    SourceError::Unavailable { op, key, origin: origin.to_owned(), detail: format!("no byte came for {stall:?}") }
}

#[async_trait]
impl Source for CutStalls {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        self.cut("list", &Key(request.prefix.clone()), self.inner.list(request)).await
    }
    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        self.cut("head", key, self.inner.head(key)).await
    }
    async fn checksum(&self, key: &Key, version: &Version) -> Result<Option<Checksum>, SourceError> {
        self.cut("head", key, self.inner.checksum(key, version)).await
    }
    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        let body = self.cut("read", key, self.inner.read(key, version, extent, whole)).await?;
        let (stall, key, origin) = (self.stall, key.clone(), self.inner.name().to_owned());
        Ok(futures::stream::unfold(Some((body, key, origin)), move |state| async move {
            let (mut body, key, origin) = state?;
            match timeout(stall, body.next()).await {
                Ok(next) => next.map(|next| (next, Some((body, key, origin)))),
                Err(_) => Some((Err(stalled("read", &key, &origin, stall)), None)),
            }
        })
        .boxed())
    }
}
