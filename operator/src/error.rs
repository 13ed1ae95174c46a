//! What fails on the way to the API server, and whether trying again can help.

use std::time::Duration;

/// A step that failed. The text says which; the cause says why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action}")]
    Kube {
        action: String,
        #[source]
        cause: Box<kube::Error>,
    },
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("the Secret `{0}` holds no usable certificate authority: delete it to have a new one made")]
    Authority(String),
    #[error("write {0} as JSON")]
    Json(&'static str, #[source] serde_json::Error),
    #[error("this object can't be read by this version of the operator: {0}")]
    Unreadable(String),
}

/// Names the step for an error of the API server's client.
pub trait During<T> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|cause| Error::Kube { action: action(), cause: Box::new(cause) })
    }
}

impl Error {
    /// What the API server answered, if it did.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube { cause, .. } => match &**cause {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Certificate(_) | Self::Authority(_) | Self::Json(..) | Self::Unreadable(_) => None,
        }
    }

    /// Whether the same again, unchanged, can't help: the API server refused it (not: was busy, or somebody was faster).
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Kube { .. } => matches!(self.code(), Some(400 | 403 | 405 | 422)),
            Self::Certificate(_) => false,
            Self::Authority(_) | Self::Json(..) | Self::Unreadable(_) => true,
        }
    }

    /// One sentence for a condition: the API server's own words where there are any.
    pub fn sentence(&self) -> String {
        match self {
            Self::Kube { action, cause } => match &**cause {
                kube::Error::Api(status) => format!("{action}: {}", status.message),
                other => format!("{action}: {other}"),
            },
            other => forebay_daemon::logging::chain(other).to_string(),
        }
    }
}

/// How long to wait before the next attempt, after `failures` in a row (from 1): doubled from 1 s up to 1 minute.
pub fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1_u64 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}
