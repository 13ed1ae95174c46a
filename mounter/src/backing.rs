//! Backing files: a file descriptor registered with the kernel, so that reads of a FUSE file go to it without a message.
//! Knows the two ioctls. Needs CAP_SYS_ADMIN in the kernel's first user namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Number that an OPEN answers with; valid on one connection, until closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackingId(pub u32);

#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

// _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t): direction 1 << 30, size << 16, type << 8, number.
const BACKING_OPEN: libc::Ioctl = (1 << 30 | (size_of::<BackingMap>() as u32) << 16 | 229 << 8 | 1) as libc::Ioctl;
const BACKING_CLOSE: libc::Ioctl = (1 << 30 | (size_of::<u32>() as u32) << 16 | 229 << 8 | 2) as libc::Ioctl;

/// Registers `file` on the connection of `device`. The kernel keeps the file open until `close` and the last user.
///
/// EPERM: not privileged. ELOOP: the file's own filesystem is stacked (overlayfs). EOPNOTSUPP: passthrough was not negotiated.
pub fn open(device: impl AsFd, file: impl AsFd) -> io::Result<BackingId> {
    let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: both descriptors are borrowed for the call, and `map` has the layout of struct fuse_backing_map.
    let id = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_OPEN, &raw const map) };
    match u32::try_from(id) {
        Ok(id) => Ok(BackingId(id)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Forgets `id`. Files that are open through it stay; a new open of them with another id fails with EIO, so close it after the last release only.
pub fn close(device: impl AsFd, id: BackingId) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads one u32.
    let result = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_CLOSE, &raw const id.0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
