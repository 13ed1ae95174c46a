//! From a checked configuration to a source ready to use.
//! Knows which scheme is served by what, and the order of the wrappers. Does not know any protocol.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::limit::{Limiter, Limits, Priority};
use super::metrics::SourceMetrics;
use super::retry::{Retry, RetryPolicy};
use super::{Source, SourceError, file, s3};

/// Which storage, and how to reach it. The prefix in the URI is part of the source: keys are below it.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// `s3://bucket/prefix/` or `file:///folder`.
    pub uri: String,
    pub s3: S3Options,
    pub credentials: Credentials,
}

#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// `https://host:port`; `None`: AWS itself.
    pub endpoint: Option<String>,
    /// `None`: found out by asking.
    pub region: Option<String>,
    pub addressing: Addressing,
    /// PEM of authorities to trust beside the system's own.
    pub ca_bundle_pem: Option<Vec<u8>>,
    pub requester_pays: bool,
    /// A role to assume (STS) with the credentials.
    pub role_arn: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Path style for an endpoint of one's own and for bucket names with dots, else virtual-host style.
    #[default]
    Auto,
    Path,
    VirtualHost,
}

/// Who asks.
#[derive(Clone, Default)]
pub enum Credentials {
    /// The provider's own chain: environment, profile files, web identity, instance.
    Ambient,
    #[default]
    Anonymous,
    /// The provider's own names: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
    Keys(BTreeMap<String, String>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambient => f.write_str("Ambient"),
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Keys(keys) => write!(f, "Keys({:?}: ***)", keys.keys().collect::<Vec<_>>()),
        }
    }
}

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

/// Checks `config` and builds the source. Sends nothing: region and credentials are found at the first request, so a mount
/// comes back while its source is away.
pub fn open(config: SourceConfig, limits: Limits) -> Result<SourceHandle, SourceError> {
    let inner: Arc<dyn Source> = match config.uri.split_once("://") {
        Some(("s3", _)) => Arc::new(s3::S3::new(config)?),
        Some(("file", _)) => Arc::new(file::FileSource::new(&config.uri)?),
        _ => {
            return Err(SourceError::Permanent {
                op: "open",
                key: String::new(),
                detail: "this scheme is not offered; use s3:// or file://".into(),
                origin: config.uri,
            });
        }
    };
    Ok(SourceHandle::wrap(inner, limits, RetryPolicy::default()))
}
