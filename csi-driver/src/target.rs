//! A pod's view of a session: its mount, bound to the folder that kubelet named, and unbound again.
//! Knows mount(2) and the kernel's table. Does not know sessions beyond their mount. All calls block; none waits for a daemon.
//! Invariant: each call may be repeated: what is done already is done, what is gone already is gone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use forebay_mounter::busy;
use forebay_mounter::device::{self, ConnectionId, MountRow};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::error::Error;
use crate::kubelet::{Kubelet, OpenError, Target};

/// Mounts stacked on one target that are taken off at once: one is usual, a second comes from a race that ended long ago.
const STACKED_MAX: usize = 8;

pub(crate) fn mounts() -> Result<Vec<MountRow>, Error> {
    device::mounts().map_err(Error::io("read", Path::new("/proc/self/mountinfo")))
}

/// The connection that is seen at `target`, if it is one of Forebay.
pub(crate) fn bound(target: &Target) -> Result<Option<ConnectionId>, Error> {
    Ok(device::topmost(&mounts()?, target.path()).filter(|row| row.is_forebay).map(|row| row.connection))
}

/// Binds the session's mount, whose connection is `connection`, to `target`. Makes the folder, not its parents. `is_live` tells whether a
/// connection found there is a session's: a dead one is replaced.
pub(crate) fn bind(
    kubelet: &Kubelet,
    mount: &Path,
    connection: ConnectionId,
    target: &Target,
    is_live: impl Fn(ConnectionId) -> bool,
) -> Result<(), Error> {
    match device::topmost(&mounts()?, target.path()) {
        Some(row) if row.is_forebay && row.connection == connection && row.is_read_only => return Ok(()),
        Some(row) if row.is_forebay && row.connection != connection && is_live(row.connection) => {
            return Err(Error::OtherDataset { path: shown(target) });
        }
        Some(row) if row.is_forebay => take_off(kubelet, target, UnmountFlags::DETACH)?,
        Some(_) => return Err(Error::Occupied { path: shown(target) }),
        None => {}
    }
    let folder = make(kubelet, target)?;
    // A copy of the session's mount has its flags: read-only, nosuid, nodev. So there is no moment at which a pod could see it without.
    let tree = rustix::mount::open_tree(rustix::fs::CWD, mount, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|error| Error::io("copy the mount", mount)(error.into()))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", &folder, "", flags).map_err(|error| Error::io("mount on", target.path())(error.into()))?;
    match device::topmost(&mounts()?, target.path()) {
        Some(row) if row.is_forebay && row.connection == connection && row.is_read_only => Ok(()),
        found => Err(Error::Broken { detail: format!("{} isn't what was mounted there: {found:?}", shown(target)) }),
    }
}

/// Takes off what Forebay has mounted on `target`.
pub(crate) fn unbind(kubelet: &Kubelet, target: &Target) -> Result<(), Error> {
    match device::topmost(&mounts()?, target.path()) {
        None => Ok(()),
        Some(row) if row.is_forebay => take_off(kubelet, target, UnmountFlags::empty()),
        Some(_) => Err(Error::Occupied { path: shown(target) }),
    }
}

/// Removes the folder that a pod had, which must be empty: nothing of a pod's is ever deleted here.
pub(crate) fn remove(kubelet: &Kubelet, target: &Target) -> Result<(), Error> {
    let (parent, name) = match kubelet.open_parent(target) {
        Err(OpenError::Absent) => return Ok(()),
        other => other.map_err(|error| opened(error, target))?,
    };
    match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::io("remove the folder", target.path())(error.into())),
    }
}

fn take_off(kubelet: &Kubelet, target: &Target, flags: UnmountFlags) -> Result<(), Error> {
    let (parent, name) = kubelet.open_parent(target).map_err(|error| opened(error, target))?;
    let place = below(parent.as_fd(), name);
    for _ in 0..STACKED_MAX {
        match rustix::mount::unmount(&place, UnmountFlags::NOFOLLOW | flags) {
            Ok(()) => {}
            // No mount is left, or kubelet was quicker.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) => return Err(Error::Busy { path: shown(target), users: busy::users(target.path()) }),
            Err(error) => return Err(Error::io("unmount", target.path())(error.into())),
        }
        // What lies below may be somebody else's.
        if !device::topmost(&mounts()?, target.path()).is_some_and(|row| row.is_forebay) {
            return Ok(());
        }
    }
    Err(Error::Broken { detail: format!("more than {STACKED_MAX} mounts on {}", shown(target)) })
}

/// The folder to mount on, made if it is absent.
fn make(kubelet: &Kubelet, target: &Target) -> Result<std::os::fd::OwnedFd, Error> {
    let (parent, name) = kubelet.open_parent(target).map_err(|error| opened(error, target))?;
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU | Mode::RGRP | Mode::XGRP) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(Error::io("make the folder", target.path())(error.into())),
    }
    kubelet.open_target(target).map_err(|error| opened(error, target))
}

/// A name in an open folder, as a path: the folder itself can't be exchanged any more.
fn below(parent: BorrowedFd<'_>, name: &Path) -> std::path::PathBuf {
    Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name)
}

fn opened(error: OpenError, target: &Target) -> Error {
    match error {
        OpenError::Absent => Error::io("open the folder of", target.path())(std::io::ErrorKind::NotFound.into()),
        OpenError::Escapes(error) => Error::Path(error),
        OpenError::Io { path, cause } => Error::io("open", &path)(cause),
    }
}

fn shown(target: &Target) -> String {
    target.path().display().to_string()
}
