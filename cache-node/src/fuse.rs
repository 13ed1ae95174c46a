//! The FUSE session: the kernel's requests in, answers of a filesystem out.
//! Knows the protocol, the session, passthrough. Holds no policy: what a name means and how a file is read is said by a `Serve`.
//! Invariant: no request is kept in a form that the next daemon would miss; what is unanswered at death is sent again by the kernel.

mod adopt;
mod alive;
mod errno;
mod follow;
mod in_force;
mod mode;
mod notify;
mod passthrough;
mod reply;
mod serve;
mod session;

use std::num::NonZeroUsize;
use std::sync::Arc;

use forebay_mounter::protocol::ProtocolError;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use in_force::InForce;
pub use passthrough::PassthroughUse;
pub use reply::{Latencies, Operation};
pub use serve::Serve;

use crate::fs;
use crate::handover::{Adopted, Handover};

/// Why a session could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    #[error(transparent)]
    Holder(#[from] ProtocolError),
    #[error("serve the mount: its holder is gone, so reads fail from now on; unmount it and mount it again")]
    HolderGone,
    #[error("{op} the FUSE session")]
    Session {
        op: &'static str,
        #[source]
        cause: std::io::Error,
    },
}

/// What one session may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that read requests. Each answers what is cached by itself, also when that waits for the local disk.
    pub threads: NonZeroUsize,
    /// Let the kernel read complete files by itself, where it can.
    pub passthrough: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: default_threads(), passthrough: true }
    }
}

/// Two a core, since one may wait for the disk; at least 4, so that a slow disk doesn't stop lookups, and at most 32, whose wake-ups already cost more than they bring.
fn default_threads() -> NonZeroUsize {
    const THREADS: std::ops::RangeInclusive<usize> = 4..=32;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new((2 * cores).clamp(*THREADS.start(), *THREADS.end())).unwrap_or(NonZeroUsize::MIN)
}

/// A session that serves. Dropping it stops nothing: a session ends with its mount or its process.
#[derive(Debug)]
pub struct Running {
    ended: oneshot::Receiver<Result<(), FuseError>>,
    passthrough: Arc<passthrough::Passthrough>,
    in_force: InForce,
}

impl Running {
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Waits until the mount is gone (`Ok`), or the session or its holder broke.
    pub async fn ended(&mut self) -> Result<(), FuseError> {
        match (&mut self.ended).await {
            Ok(result) => result,
            Err(_) => Err(FuseError::Session { op: "follow", cause: std::io::Error::other("its thread is gone") }),
        }
    }

    pub fn passthrough_use(&self) -> PassthroughUse {
        self.passthrough.usage()
    }
}

/// What the record says about this mount's past, for the filesystem.
pub fn past(adopted: &Adopted) -> fs::Adopted {
    let record = &adopted.record;
    fs::Adopted { no_open: record.no_open, notified: (record.epoch > 1).then_some(record.notified) }
}

/// Takes the mount over and serves it with `serve` on threads of its own. `serve` must be ready for requests, which come before this returns.
pub fn start<S: Serve>(
    handover: &Handover,
    adopted: Adopted,
    serve: Arc<S>,
    runtime: Handle,
    options: &Options,
    latencies: Arc<Latencies>,
) -> Result<Running, FuseError> {
    session::start(handover, adopted, serve, runtime, options, latencies)
}
