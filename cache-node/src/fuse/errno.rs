//! The one place where an error of the filesystem becomes an errno.

use fuser::Errno;

use crate::fs::Error;

pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::NotADirectory { .. } => Errno::ENOTDIR,
        Error::IsADirectory { .. } => Errno::EISDIR,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::Stale { .. } => Errno::ESTALE,
        Error::NoAttribute => Errno::NO_XATTR,
        Error::Io => Errno::EIO,
    }
}
