//! How much is asked of a source at once: adaptive concurrency and token buckets, on-demand requests first.
//! Knows requests, bytes, latencies. Does not know what a request means.
//! Invariant: requests in flight never exceed the ceiling, and a background request never delays an on-demand one that could start.

mod adaptive;
mod bucket;
mod queue;

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::time::Instant;

use self::adaptive::Kind;
use self::bucket::Bucket;
use self::queue::{Permit, Queue};
use super::metrics::{Counter, SourceMetrics};
use super::{Body, Checksum, Key, ListPage, ListRequest, Object, Source, SourceError, Version};
use forebay_wire::block::Extent;

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A reader.
    OnDemand,
    /// Nobody: preload, listing, read-ahead.
    Background,
}

/// Ceilings in time, for all sources that are given the same value: what all nodes of a cache may ask for, of which this one takes its share. On-demand
/// requests count, and come first.
pub struct Rates {
    requests: Option<Ceiling>,
    bytes: Option<Ceiling>,
}

struct Ceiling {
    /// Of all nodes together, per second.
    whole: f64,
    bucket: Bucket,
}

impl Ceiling {
    fn new(whole: f64) -> Self {
        Self { whole, bucket: Bucket::new(whole) }
    }
}

impl Rates {
    /// `None` is unlimited.
    pub fn new(bytes_per_second: Option<u64>, requests_per_second: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            requests: requests_per_second.map(|rate| Ceiling::new(f64::from(rate.max(1)))),
            bytes: bytes_per_second.map(|rate| Ceiling::new(rate.max(1) as f64)),
        })
    }

    /// This node asks for `share` of all, above 0 and at most 1: it reads what is its own for the others too.
    pub fn set_share(&self, share: f64) {
        for ceiling in [&self.requests, &self.bytes].into_iter().flatten() {
            ceiling.bucket.set_rate(ceiling.whole * share);
        }
    }
}

/// Ceilings of one source.
#[derive(Clone)]
pub struct Limits {
    pub rates: Arc<Rates>,
    /// Requests in flight at most; within it the number adapts.
    pub concurrency_max: u32,
}

/// 256 requests of 8 MB/s fill a link of 16 Gbit/s.
pub const CONCURRENCY_MAX: u32 = 256;

impl Default for Limits {
    fn default() -> Self {
        Self { rates: Rates::new(None, None), concurrency_max: CONCURRENCY_MAX }
    }
}

/// Shared by everything that asks one source.
pub struct Limiter {
    queue: Arc<Queue>,
    rates: Arc<Rates>,
    metrics: Arc<SourceMetrics>,
}

impl Limiter {
    pub fn new(limits: Limits, metrics: Arc<SourceMetrics>) -> Arc<Self> {
        Arc::new(Self { queue: Queue::new(limits.concurrency_max.max(1)), rates: limits.rates, metrics })
    }

    /// Requests through the result wait for their turn under this limiter.
    pub fn wrap(self: Arc<Self>, inner: Arc<dyn Source>, priority: Priority) -> Arc<dyn Source> {
        Arc::new(Limited { inner, limiter: self, priority })
    }

    /// Requests that may be in flight now.
    pub fn concurrency(&self) -> u32 {
        self.queue.limit()
    }

    /// Runs one request when its turn has come. The permit comes back with the answer: a body still needs it.
    async fn run<T>(
        &self,
        priority: Priority,
        kind: Kind,
        counter: &Counter,
        ask: impl Future<Output = Result<T, SourceError>>,
        refuse: impl FnOnce(String) -> SourceError,
    ) -> Result<(T, Flight), SourceError> {
        if let Some(requests) = &self.rates.requests {
            requests.bucket.take(1.0, priority).await;
        }
        let permit = self.queue.acquire(priority).await.map_err(refuse)?;
        counter.add(1);
        let flight = Flight::new(permit, self.metrics.clone());
        let started = Instant::now();
        match ask.await {
            Ok(value) => {
                let elapsed = started.elapsed();
                self.metrics.latency.observe(elapsed);
                self.queue.answered(kind, elapsed);
                Ok((value, flight))
            }
            Err(error) => {
                self.failed(&error);
                // A clear answer is as good a measure as a success.
                if error.is_permanent() {
                    self.queue.answered(kind, started.elapsed());
                }
                Err(error)
            }
        }
    }

    fn failed(&self, error: &SourceError) {
        self.metrics.errors.add(1);
        match error {
            SourceError::Throttled { .. } => {
                self.metrics.throttles.add(1);
                self.queue.throttled();
            }
            SourceError::Corrupt { .. } => self.metrics.corrupt.add(1),
            SourceError::NotFound { .. }
            | SourceError::Replaced { .. }
            | SourceError::Denied { .. }
            | SourceError::Archived { .. }
            | SourceError::Unavailable { .. }
            | SourceError::Unaskable { .. }
            | SourceError::Missing { .. }
            | SourceError::Permanent { .. } => {}
        }
    }
}

/// A request in flight, until its body is read or dropped.
struct Flight {
    metrics: Arc<SourceMetrics>,
    _permit: Permit,
}

impl Flight {
    fn new(permit: Permit, metrics: Arc<SourceMetrics>) -> Self {
        metrics.in_flight.add(1);
        Self { metrics, _permit: permit }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.metrics.in_flight.subtract(1);
    }
}

struct Limited {
    inner: Arc<dyn Source>,
    limiter: Arc<Limiter>,
    priority: Priority,
}

impl Limited {
    fn refuse(&self, op: &'static str, key: &Key) -> impl FnOnce(String) -> SourceError + use<> {
        let (key, origin) = (key.clone(), self.inner.name().to_owned());
        move |detail| SourceError::Throttled { op, key: String::from_utf8_lossy(&key.0).escape_debug().to_string(), origin, detail }
    }
}

#[async_trait]
impl Source for Limited {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        let refuse = self.refuse("list", &Key(request.prefix.clone()));
        let metrics = &self.limiter.metrics;
        let (page, _) = self.limiter.run(self.priority, Kind::List, &metrics.lists, self.inner.list(request), refuse).await?;
        Ok(page)
    }

    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        let refuse = self.refuse("head", key);
        let metrics = &self.limiter.metrics;
        let (object, _) = self.limiter.run(self.priority, Kind::Head, &metrics.heads, self.inner.head(key), refuse).await?;
        Ok(object)
    }

    async fn checksum(&self, key: &Key, version: &Version) -> Result<Option<Checksum>, SourceError> {
        let refuse = self.refuse("head", key);
        let metrics = &self.limiter.metrics;
        let ask = self.inner.checksum(key, version);
        let (checksum, _) = self.limiter.run(self.priority, Kind::Head, &metrics.heads, ask, refuse).await?;
        Ok(checksum)
    }

    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        let refuse = self.refuse("read", key);
        let ask = self.inner.read(key, version, extent, whole);
        let (body, flight) = self.limiter.run(self.priority, Kind::Read, &self.limiter.metrics.reads, ask, refuse).await?;
        let (limiter, priority) = (self.limiter.clone(), self.priority);
        Ok(futures::stream::unfold((body, flight), move |(mut body, flight)| {
            let limiter = limiter.clone();
            async move {
                let next = body.next().await?;
                match &next {
                    Ok(bytes) => {
                        limiter.metrics.bytes.add(bytes.len() as u64);
                        if let Some(ceiling) = &limiter.rates.bytes {
                            ceiling.bucket.take(bytes.len() as f64, priority).await;
                        }
                    }
                    Err(error) => limiter.failed(error),
                }
                Some((next, (body, flight)))
            }
        })
        .boxed())
    }
}

#[cfg(test)]
mod tests;
