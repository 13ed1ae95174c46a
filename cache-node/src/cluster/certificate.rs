//! The node's certificate, which the operator gives it: it calls, asks for a request, and looks at the token of our pod before it signs.
//! Knows where certificate and token are. Does not know what the token says.
//! Invariant: the token leaves only to who has proved to be the operator: `identity::incoming` lets nobody else in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use forebay_daemon::identity::issued::{IssueError, Issued};
use forebay_daemon::identity::{Identity, IdentityError};
use forebay_wire::control_service::CertificateRequestReply;

/// A token is some hundred bytes.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("read the token of this pod at {path}")]
    Token { path: PathBuf, cause: io::Error },
}

pub(super) struct Certificate {
    issued: Arc<Issued>,
    token: PathBuf,
}

/// Where certificate and key are kept for the next start.
pub(super) fn folder(run: &Path) -> PathBuf {
    run.join("identity")
}

impl Certificate {
    /// Within a runtime.
    pub(super) fn load(identity: &Path, run: &Path) -> Result<Self, IdentityError> {
        Ok(Self { issued: Issued::load(identity, &folder(run))?, token: identity.join("token") })
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        self.issued.identity()
    }

    pub(super) fn is_due(&self) -> bool {
        self.issued.is_due(SystemTime::now())
    }

    /// Reads the token anew: kubelet replaces it. Blocks on the disk.
    pub(super) fn request(&self) -> Result<CertificateRequestReply, CertificateError> {
        let failed = |cause| CertificateError::Token { path: self.token.clone(), cause };
        let file = std::fs::File::open(&self.token).map_err(failed)?;
        let mut token = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, TOKEN_BYTES_MAX), &mut token).map_err(failed)?;
        Ok(CertificateRequestReply { request: self.issued.request()?, token: token.trim().to_owned() })
    }

    /// Blocks on the disk.
    pub(super) fn take(&self, certificate: &str) -> Result<(), CertificateError> {
        match self.issued.take(certificate) {
            // In use all the same; a restart asks again.
            Err(error @ IssueError::Keep { .. }) => {
                tracing::warn!(error = %crate::fill::chain(&error), "another certificate is needed at the next start")
            }
            outcome => outcome?,
        }
        tracing::info!("a certificate of the operator is in use");
        Ok(())
    }
}
