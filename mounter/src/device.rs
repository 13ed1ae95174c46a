//! The device and the mount: open /dev/fuse, mount(2) or fusermount3, unmount, and find what the kernel calls the connection.
//! Never stats the mount point of a live mount: that could wait for a daemon that is gone. /proc/self/mountinfo tells the same.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::MountError;
use crate::protocol;

/// Minor device number of the mount, the kernel's name for the connection in /sys/fs/fuse/connections and /sys/class/bdi.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ConnectionId(pub u32);

/// How to mount. Always read-only, nosuid, nodev, with the kernel's own permission checks.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Shown in /proc/mounts; its type is `fuse.forebay`.
    pub source: String,
    pub allow_other: bool,
}

/// Opens the device and mounts it on `mount_point`, an absolute path without symbolic links. INIT waits in the device afterwards.
/// Without the privilege to mount, fusermount3 is asked, which mounts for the user that calls it.
pub fn mount(mount_point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device: OwnedFd = File::options().read(true).write(true).open("/dev/fuse").map_err(|cause| MountError::Device { cause })?.into();
    match mount_directly(&device, mount_point, options) {
        Ok(()) => Ok(device),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => mount_by_helper(mount_point, options),
        Err(error) => Err(MountError::Mount {
            mount_point: mount_point.display().to_string(),
            cure: "is it an existing folder, and may this user mount there?",
            cause: error.into(),
        }),
    }
}

fn mount_directly(device: &OwnedFd, mount_point: &Path, options: &MountOptions) -> rustix::io::Result<()> {
    use rustix::mount::MountFlags;
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let data = format!("fd={},rootmode=40000,user_id={user},group_id={group},default_permissions{allow_other}", device.as_raw_fd());
    let data = CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(options.source.as_str(), mount_point, "fuse.forebay", flags, data.as_c_str())
}

/// fusermount3 opens the device, mounts, and sends the descriptor over the socket whose number it finds in `_FUSE_COMMFD`.
fn mount_by_helper(mount_point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |cause: io::Error, cure: &'static str| MountError::Mount { mount_point: mount_point.display().to_string(), cure, cause };
    let (ours, theirs) = protocol::stream_pair().map_err(|cause| failed(cause, "out of descriptors?"))?;
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    let list = format!("ro,nosuid,nodev,default_permissions,fsname={},subtype=forebay{allow_other}", options.source.replace(',', "_"));
    // The child must inherit its end under a number that it can be told: without close-on-exec, only in the child.
    let number = theirs.as_raw_fd();
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(list).arg("--").arg(mount_point).env("_FUSE_COMMFD", number.to_string());
    // SAFETY: fcntl is async-signal-safe, and the descriptor is open in the child, which is a copy of this process.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            if libc::fcntl(number, libc::F_SETFD, 0) == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let status =
        command.status().map_err(|cause| failed(cause, "mounting needs root, or fusermount3 (package `fuse3`) for other users"))?;
    drop(theirs);
    if !status.success() {
        return Err(failed(io::Error::other(format!("fusermount3: {status}")), "its message is above; may this user mount there?"));
    }
    protocol::receive_one_descriptor(&ours).map_err(|cause| failed(cause, "fusermount3 sent no device"))
}

/// Unmounts; `Busy` when something is open there. Never lazy: a mount that is gone for new users but not for old ones hides who uses it.
pub fn unmount(mount_point: &Path) -> Result<(), MountError> {
    use rustix::io::Errno;
    let shown = || mount_point.display().to_string();
    match rustix::mount::unmount(mount_point, rustix::mount::UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy { mount_point: shown() }),
        Err(Errno::PERM) => {
            let status = Command::new("fusermount3").arg("-u").arg("--").arg(mount_point).status();
            match status {
                Ok(status) if status.success() => Ok(()),
                Ok(_) => Err(MountError::Busy { mount_point: shown() }),
                Err(cause) => Err(MountError::Io { op: "unmount", path: shown(), cause }),
            }
        }
        // Not a mount point any more: somebody else unmounted it.
        Err(Errno::INVAL | Errno::NOENT) if !is_mounted(mount_point) => Ok(()),
        Err(error) => Err(MountError::Io { op: "unmount", path: shown(), cause: error.into() }),
    }
}

/// Whether the kernel still sends requests on `device`: not after an abort or an unmount.
pub fn is_connected(device: impl AsFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(&device, rustix::event::PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
}

/// Whether a mount of Forebay is on top of `mount_point`.
pub fn is_mounted(mount_point: &Path) -> bool {
    connection(mount_point).is_ok()
}

/// The connection of the topmost mount on `mount_point`; NotFound when that isn't one of Forebay.
pub fn connection(mount_point: &Path) -> io::Result<ConnectionId> {
    topmost(&mounts()?, mount_point)
        .filter(|row| row.is_forebay)
        .map(|row| row.connection)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no mount of Forebay there"))
}

/// A mount of this process' mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRow {
    /// Of a mount of Forebay; of another one its minor device number.
    pub connection: ConnectionId,
    pub mount_point: PathBuf,
    pub is_forebay: bool,
    pub is_read_only: bool,
}

/// All mounts, in the order in which they were made.
pub fn mounts() -> io::Result<Vec<MountRow>> {
    /// A table that changes while it is read may lack a row that was there all the time, so it is read until it stays the same.
    const READS_MAX: usize = 4;
    const TABLE: &str = "/proc/self/mountinfo";
    let mut table = fs::read(TABLE)?;
    for _ in 1..READS_MAX {
        let again = fs::read(TABLE)?;
        if again == table {
            break;
        }
        table = again;
    }
    Ok(table.split(|byte| *byte == b'\n').filter_map(MountRow::parse).collect())
}

/// What is seen at `mount_point`, if it is one.
pub fn topmost<'a>(mounts: &'a [MountRow], mount_point: &Path) -> Option<&'a MountRow> {
    mounts.iter().rev().find(|row| row.mount_point == mount_point)
}

impl MountRow {
    /// `36 35 0:45 / /mnt ro,nosuid - fuse.forebay source options`, with any number of fields before the dash.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = std::str::from_utf8(fields.nth(2)?).ok()?;
        let connection = ConnectionId(device.split_once(':')?.1.parse().ok()?);
        let mount_point = unescape(fields.nth(1)?);
        let is_read_only = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
        let is_forebay = fields.skip_while(|field| *field != b"-").nth(1)? == b"fuse.forebay";
        Some(Self { connection, mount_point, is_forebay, is_read_only })
    }
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Raises what INIT caps at 128 KiB: how far the kernel reads ahead on this mount. Needs root.
pub fn set_read_ahead(connection: ConnectionId, kibibytes: u32) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/0:{}/read_ahead_kb", connection.0), kibibytes.to_string())
}

/// The absolute path without symbolic links of a folder that is not yet mounted on.
pub fn canonical(mount_point: &Path) -> io::Result<PathBuf> {
    // Of a path that is mounted on already, only the parent may be looked at.
    let parent = mount_point.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match mount_point.file_name() {
        Some(name) if name.as_bytes() != b".." => {
            let joined = fs::canonicalize(parent)?.join(name);
            if is_mounted(&joined) { Ok(joined) } else { fs::canonicalize(&joined) }
        }
        _ => fs::canonicalize(mount_point),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_with_an_escaped_path_and_optional_fields_is_read() {
        let line = b"36 35 0:45 / /mnt/a\\040b\\134c ro,nosuid shared:1 master:2 - fuse.forebay forebay:x ro,user_id=0";
        let row = MountRow::parse(line).expect("well-formed");
        assert_eq!(row.connection, ConnectionId(45));
        assert_eq!(row.mount_point, PathBuf::from("/mnt/a b\\c"));
        assert!(row.is_forebay && row.is_read_only);
        assert!(MountRow::parse(b"").is_none());
    }
}
