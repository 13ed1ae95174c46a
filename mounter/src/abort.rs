//! Ends a connection, so that every waiting and every later request fails instead of hanging.

use std::fs;
use std::io;
use std::path::Path;

use crate::device::ConnectionId;

/// Aborts by the control filesystem, mounting it when it isn't there; else by a forced unmount, which aborts before it finds the mount busy.
pub fn abort(connection: ConnectionId, mount_point: &Path) -> io::Result<()> {
    let control = format!("/sys/fs/fuse/connections/{}/abort", connection.0);
    if !Path::new(&control).exists() {
        // Without the privilege this fails, and the forced unmount below will tell.
        let _ = rustix::mount::mount("fusectl", "/sys/fs/fuse/connections", "fusectl", rustix::mount::MountFlags::empty(), None);
    }
    if fs::write(&control, b"1").is_ok() {
        return Ok(());
    }
    match rustix::mount::unmount(mount_point, rustix::mount::UnmountFlags::FORCE) {
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
