//! From a data set's location to a source ready to use.
//! Knows which scheme is served by what, and the order of the wrappers. Does not know any protocol.

use std::sync::Arc;

use async_trait::async_trait;
use forebay_wire::block::Extent;
use forebay_wire::dataset_spec::Location;
use forebay_wire::secret::SourceAccess;

use parking_lot::RwLock;

use super::limit::{Limiter, Limits, Priority};
use super::metrics::SourceMetrics;
use super::retry::{CutStalls, Retry, RetryPolicy};
use super::{Body, Checksum, Key, ListPage, ListRequest, Object, Source, SourceError, Version, file, s3};

/// One source under its two priorities, which share limits, counters and connections.
#[derive(Clone)]
pub struct SourceHandle {
    on_demand: Arc<dyn Source>,
    background: Arc<dyn Source>,
    metrics: Arc<SourceMetrics>,
    client: Arc<Renewable>,
}

impl SourceHandle {
    /// Wraps any source (a fake one in tests) in limits and retries.
    pub fn wrap(inner: Arc<dyn Source>, limits: Limits, policy: RetryPolicy) -> Self {
        let metrics = Arc::new(SourceMetrics::default());
        let limiter = Limiter::new(limits, metrics.clone());
        let client = Arc::new(Renewable { name: inner.name().to_owned(), current: RwLock::new(inner) });
        let inner: Arc<dyn Source> = client.clone();
        let inner: Arc<dyn Source> = Arc::new(CutStalls::new(inner, policy.stall));
        let build = |priority| -> Arc<dyn Source> {
            Arc::new(Retry::new(limiter.clone().wrap(inner.clone(), priority), policy.clone(), metrics.clone()))
        };
        Self { on_demand: build(Priority::OnDemand), background: build(Priority::Background), metrics, client }
    }
    /// For readers that wait.
    pub fn on_demand(&self) -> Arc<dyn Source> {
        self.on_demand.clone()
    }
    /// For listing, preload and read-ahead: gives way to on-demand requests.
    pub fn background(&self) -> Arc<dyn Source> {
        self.background.clone()
    }
    pub fn metrics(&self) -> &Arc<SourceMetrics> {
        &self.metrics
    }
    /// The source's URI without credentials.
    pub fn name(&self) -> &str {
        self.on_demand.name()
    }

    /// How many seconds the source's clock is before ours, by its last answer to a listing; `None` for one that doesn't tell.
    pub fn clock_offset_seconds(&self) -> Option<i64> {
        self.client.current().clock_offset_seconds()
    }

    /// Uses other credentials, or other trust, from the next request on; limits and counters go on. `location` is the one it was opened with.
    pub fn renew(&self, location: &Location, access: &SourceAccess) -> Result<(), SourceError> {
        *self.client.current.write() = client(location, access)?;
        Ok(())
    }
}

/// The client below limits and retries, which may be another from one request to the next.
struct Renewable {
    name: String,
    /// Guards which client new requests take.
    current: RwLock<Arc<dyn Source>>,
}

impl Renewable {
    fn current(&self) -> Arc<dyn Source> {
        self.current.read().clone()
    }
}

#[async_trait]
impl Source for Renewable {
    fn name(&self) -> &str {
        &self.name
    }
    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        self.current().list(request).await
    }
    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        self.current().head(key).await
    }
    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        self.current().read(key, version, extent, whole).await
    }
    async fn checksum(&self, key: &Key, version: &Version) -> Result<Option<Checksum>, SourceError> {
        self.current().checksum(key, version).await
    }
}

/// Builds the source. Sends nothing: region and credentials are found at the first request, so a mount comes back while its source
/// is away.
pub fn open(location: &Location, access: &SourceAccess, limits: Limits) -> Result<SourceHandle, SourceError> {
    Ok(SourceHandle::wrap(client(location, access)?, limits, RetryPolicy::default()))
}

fn client(location: &Location, access: &SourceAccess) -> Result<Arc<dyn Source>, SourceError> {
    Ok(match location {
        Location::S3(s3) => Arc::new(s3::S3::new(s3, access)?),
        Location::File(folder) => Arc::new(file::FileSource::new(folder)?),
    })
}
