//! The small process that keeps a mount alive on a laptop: it mounts, keeps the fd, starts `forebay-node serve` and starts it again when it dies.
//! Knows `mounter`, child processes and the run folder. Does not know data sets, sources or blocks: what `serve` is told travels as plain arguments.
//! Invariant: a read of the mount is answered by a daemon or fails; it never hangs for longer than `ADOPT_WITHIN` and never sees zeros.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_mounter::busy::User;
use forebay_mounter::protocol::HolderStatus;

/// What `forebay-node mount` asks of a holder. Is written to `mount.json` in the run folder, so it must hold no secret.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct MountRequest {
    /// Absolute path of an existing, empty or not, folder.
    pub mount_point: PathBuf,
    /// Shown as the mount's source: `forebay:NAME` in /proc/mounts.
    pub name: String,
    /// What follows `forebay-node serve --holder SOCKET`; the holder never reads it.
    pub serve_arguments: Vec<OsString>,
    /// Other users may read, too (as root always possible; else needs `user_allow_other` in /etc/fuse.conf).
    pub allow_other: bool,
    /// Register complete files with the kernel, where it can.
    pub passthrough: bool,
    /// How long `start` waits for the first `serve` to be ready.
    pub ready_within: Duration,
}

/// A mount that answers.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Mounted {
    pub mount_point: PathBuf,
    /// `holder.sock`, `node.sock`, `mount.json` and `log` of this mount.
    pub folder: PathBuf,
    pub holder_pid: u32,
    pub node_pid: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    #[error(
        "mount {mount_point}: already a mount of Forebay, held by pid {pid}; unmount it first with `forebay-node unmount {mount_point}`"
    )]
    AlreadyMounted { mount_point: String, pid: u32 },
    #[error("unmount {mount_point}: in use by {}; close these first, then unmount again", Users(.users))]
    Busy { mount_point: String, users: Vec<User> },
    #[error("{mount_point} is not a mount of Forebay: `forebay-node status` lists them")]
    NotMounted { mount_point: String },
    #[error("mount {mount_point}")]
    Mount {
        mount_point: String,
        #[source]
        cause: forebay_mounter::MountError,
    },
    #[error("mount {mount_point}: the daemon did not become ready: {detail}; its log is {log}")]
    NotReady { mount_point: String, detail: String, log: String },
    #[error("{op} {path}")]
    Io {
        op: &'static str,
        path: String,
        #[source]
        cause: std::io::Error,
    },
}

struct Users<'a>(&'a [User]);

impl std::fmt::Display for Users<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, user) in self.0.iter().enumerate() {
            write!(f, "{}{user}", if i == 0 { "" } else { ", " })?;
        }
        if self.0.is_empty() {
            f.write_str("a process that this user can't see")?;
        }
        Ok(())
    }
}

/// Starts a detached holder (`forebay-node holder --folder F`) and waits until its daemon serves the mount. Blocking.
pub fn start(_request: &MountRequest) -> Result<Mounted, HolderError> {
    todo!()
}

/// The same in this process, until SIGTERM or SIGINT (then it unmounts): `mount --foreground`.
pub fn run_foreground(_request: &MountRequest) -> Result<(), HolderError> {
    todo!()
}

/// The body of the hidden `forebay-node holder --folder F`: mounts what `F/mount.json` says, reports one line on stdout, holds until unmounted.
pub fn run(_folder: &Path) -> Result<(), HolderError> {
    todo!()
}

/// Unmounts, then stops the daemon and the holder. `Busy` leaves everything as it was.
pub fn unmount(_mount_point: &Path) -> Result<(), HolderError> {
    todo!()
}

/// The mounts of this user's run folder, dead ones left out.
pub fn list() -> Result<Vec<HolderStatus>, HolderError> {
    todo!()
}

/// Where the control socket of the daemon that serves `mount_point` is; `NotMounted` without a live holder.
pub fn node_socket(_mount_point: &Path) -> Result<PathBuf, HolderError> {
    todo!()
}
