//! Why the filesystem refused. Mapped to an errno in one place only: `fuse/errno.rs`.

use super::NodeId;

/// What went wrong, in POSIX terms. Whoever made it has logged its cause, where there is one that a person could act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `ENOENT`: the folder has no such name.
    #[error("look up: no such name")]
    NotFound,
    /// `ENOTDIR`.
    #[error("{id} is not a directory")]
    NotADirectory { id: NodeId },
    /// `EISDIR`.
    #[error("{id} is a directory")]
    IsADirectory { id: NodeId },
    /// `ENAMETOOLONG`: over 255 bytes.
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// `ESTALE`: this inode's version is gone from the source and its bytes are not cached, or the daemon no longer knows the id,
    /// or a passthrough inode's local file is gone. The VFS looks the path up again after an `open` that failed so.
    #[error("{id} is stale")]
    Stale { id: NodeId },
    /// `ENODATA`: no extended attribute of this name.
    #[error("no such extended attribute")]
    NoAttribute,
    /// `EIO`: the source did not give the bytes after all retries, or a local file can't be read. The cause is in the log.
    #[error("input or output failed")]
    Io,
}
