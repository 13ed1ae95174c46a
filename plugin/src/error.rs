//! What stops a command, and its exit code: the codes of all of Forebay's programs.
//! Each text says what to do.

use forebay_daemon::exit::Exit;
use forebay_daemon::logging::chain;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("find the cluster: {detail}; name a kubeconfig by --kubeconfig or KUBECONFIG, and a context of it by --context")]
    Kubeconfig { detail: String },
    #[error("there is no Dataset `{name}` in the namespace {namespace}; `kubectl forebay status -A` lists all")]
    NoDataset { namespace: String, name: String },
    #[error("{op}: the cluster doesn't know Forebay's kinds: is its chart installed?")]
    NoKinds { op: String },
    #[error("{op}: you may not ({detail}); docs/plugin.md has the rights that each command needs")]
    Forbidden { op: String, detail: String },
    /// What the user asks for makes no sense, or the API server refuses it.
    #[error("{0}")]
    Refused(String),
    #[error("{op}: somebody else writes this Dataset all the time: try again")]
    Conflict { op: String },
    #[error("{op}: {detail}")]
    Unavailable { op: String, detail: String },
    #[error("{0}")]
    Timeout(String),
}

impl Error {
    /// Of an answer of the API server, or of none.
    pub fn of(op: impl Into<String>, error: &kube::Error) -> Self {
        let op = op.into();
        match error {
            kube::Error::Api(answer) => match answer.code {
                401 | 403 => Self::Forbidden { op, detail: answer.message.clone() },
                404 if answer.message.contains("could not find the requested resource") || answer.message == "404 page not found" => {
                    Self::NoKinds { op }
                }
                409 => Self::Conflict { op },
                400 | 422 => Self::Refused(format!("{op}: {}", answer.message)),
                _ => Self::Unavailable { op, detail: answer.message.clone() },
            },
            kube::Error::SerdeError(_) => {
                Self::Unavailable { op, detail: format!("{}; is this plugin older than the cluster's Forebay?", chain(error)) }
            }
            _ => Self::Unavailable { op, detail: chain(error).to_string() },
        }
    }

    pub fn exit(&self) -> Exit {
        match self {
            Self::Kubeconfig { .. } | Self::Refused(_) => Exit::Usage,
            Self::NoDataset { .. } | Self::NoKinds { .. } => Exit::NoInput,
            Self::Forbidden { .. } => Exit::Permission,
            Self::Conflict { .. } | Self::Timeout(_) => Exit::Temporary,
            Self::Unavailable { .. } => Exit::Unavailable,
        }
    }
}
