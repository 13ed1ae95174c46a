//! From a data set's location to a source ready to use.
//! Knows which scheme is served by what, and the order of the wrappers. Does not know any protocol.

use std::sync::Arc;

use forebay_wire::dataset_spec::Location;
use forebay_wire::secret::SourceAccess;

use super::limit::{Limiter, Limits, Priority};
use super::metrics::SourceMetrics;
use super::retry::{CutStalls, Retry, RetryPolicy};
use super::{Source, SourceError, file, s3};

/// One source under its two priorities, which share limits, counters and connections.
#[derive(Clone)]
pub struct SourceHandle {
    on_demand: Arc<dyn Source>,
    background: Arc<dyn Source>,
    metrics: Arc<SourceMetrics>,
}

impl SourceHandle {
    /// Wraps any source (a fake one in tests) in limits and retries.
    pub fn wrap(inner: Arc<dyn Source>, limits: Limits, policy: RetryPolicy) -> Self {
        let metrics = Arc::new(SourceMetrics::default());
        let limiter = Limiter::new(limits, metrics.clone());
        let inner: Arc<dyn Source> = Arc::new(CutStalls::new(inner, policy.stall));
        let build = |priority| -> Arc<dyn Source> {
            Arc::new(Retry::new(limiter.clone().wrap(inner.clone(), priority), policy.clone(), metrics.clone()))
        };
        Self { on_demand: build(Priority::OnDemand), background: build(Priority::Background), metrics }
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
}

/// Builds the source. Sends nothing: region and credentials are found at the first request, so a mount comes back while its source
/// is away.
pub fn open(location: &Location, access: &SourceAccess, limits: Limits) -> Result<SourceHandle, SourceError> {
    let inner: Arc<dyn Source> = match location {
        Location::S3(s3) => Arc::new(s3::S3::new(s3, access)?),
        Location::File(folder) => Arc::new(file::FileSource::new(folder)?),
    };
    Ok(SourceHandle::wrap(inner, limits, RetryPolicy::default()))
}
