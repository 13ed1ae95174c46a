//! What POSIX calls mean on a data set: look a name up, tell attributes, list a folder, read bytes.
//! Knows names, node ids, freshness, errors. Does not know FUSE's protocol, kernel buffers or how bytes are fetched.
//! Invariant: an open file's bytes are of one version; a name shows a version that the source had within the declared window.

mod error;
mod node_id;

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

pub use error::Error;
pub use node_id::{IoMode, NodeId};

/// The answer of a `try_` call, which never waits: on `Wait` the caller spawns the async twin.
#[derive(Debug)]
pub enum Attempt<T> {
    Ready(Result<T, Error>),
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

/// What `stat` shows. `id` is the node id with its mode bit; the inode number to show is `id.content()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub id: NodeId,
    pub kind: Kind,
    /// In bytes; 0 for a directory.
    pub size: u64,
    /// Unix time; the modification, change and access time are the same.
    pub modified_seconds: i64,
    /// Permission bits, such as 0o444.
    pub permissions: u16,
    pub uid: u32,
    pub gid: u32,
    /// How long the kernel may keep these. Content never changes under an id, so this is long.
    pub ttl: Duration,
}

/// A name that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub attributes: Attributes,
    /// How long the kernel may keep the name -> id binding.
    pub entry_ttl: Duration,
}

/// One name of a listing, `.` and `..` included.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryRow<'a> {
    /// Where a later call goes on after this row. Positive as `i64`.
    pub cookie: u64,
    pub name: &'a [u8],
    pub node: Node,
}

/// A complete local file that the kernel may read by itself. Never changes; its bytes stay for as long as this is held.
pub type LocalFile = Arc<dyn AsFd + Send + Sync>;

/// How an `open` is to be answered.
#[derive(Clone)]
pub enum Opened {
    /// `ENOSYS`: the kernel stops asking, for the whole connection.
    NoOpen,
    /// Read through the daemon; the kernel keeps its pages over opens (content never changes under an id).
    Cached,
    /// The kernel reads this file by itself.
    Passthrough(LocalFile),
}

/// What the kernel must forget, in the order to be written. Sent to whoever holds the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The name's binding in a folder (also a negative one), and the folder's cached listing.
    Entry { parent: NodeId, name: Vec<u8> },
    /// The pages and attributes of an inode.
    Inode { id: NodeId },
    /// The cached listing of a folder.
    Listing { directory: NodeId },
    /// Not for the kernel: everything up to this manifest sequence has been sent before this one; write it to the hand-over record.
    Notified { sequence: u64 },
}

/// Whether the connection answers OPEN. Goes from `Open` to `NoOpen` only, never back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Open,
    NoOpen,
}

/// What the hand-over record of the last daemon says about this connection; the default for a connection without a past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// OPEN was answered with `ENOSYS` already.
    pub no_open: bool,
    /// The last `Invalidation::Notified`; `None` when the kernel can't know any name yet.
    pub notified: Option<u64>,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
    /// The listing is complete; before that the numbers are what has been found so far.
    pub complete: bool,
}

/// One data set as a filesystem. `Send + Sync`; used behind an `Arc`.
pub struct Filesystem {}

impl Filesystem {
    /// Tells what the kernel may know from before, once, before the first request: replays invalidations that were not notified.
    pub fn adopt(&self, _adopted: Adopted) {
        todo!()
    }

    /// Memory and mapped files only.
    pub fn try_lookup(&self, _parent: NodeId, _name: &[u8]) -> Attempt<Node> {
        todo!()
    }
    /// May list the folder at the source, before the first manifest is complete.
    pub async fn lookup(&self, _parent: NodeId, _name: &[u8]) -> Result<Node, Error> {
        todo!()
    }
    /// How long the kernel may keep that a name does not exist; zero means not at all.
    pub fn negative_ttl(&self) -> Duration {
        todo!()
    }

    pub fn try_attributes(&self, _id: NodeId) -> Attempt<Attributes> {
        todo!()
    }
    pub async fn attributes(&self, _id: NodeId) -> Result<Attributes, Error> {
        todo!()
    }

    pub fn try_open(&self, _id: NodeId) -> Attempt<Opened> {
        todo!()
    }
    /// May check a whole local file before its first passthrough.
    pub async fn open(&self, _id: NodeId) -> Result<Opened, Error> {
        todo!()
    }

    /// Fills `into` from `offset`; `Ready(Ok(n))` with `n < into.len()` only at the end of the file. Reads the local disk, never the source.
    pub fn try_read(&self, _id: NodeId, _offset: u64, _into: &mut [u8]) -> Attempt<usize> {
        todo!()
    }
    /// The bytes `[offset, min(offset + len, size))`. Dropping the future abandons the wait, not the fill that others may share.
    pub async fn read(&self, _id: NodeId, _offset: u64, _len: usize) -> Result<Bytes, Error> {
        todo!()
    }

    /// Gives rows after `cookie` (0 = from the start) until `sink` breaks; the row it broke at was not taken.
    pub fn try_read_directory(&self, _id: NodeId, _cookie: u64, _sink: &mut dyn FnMut(DirectoryRow<'_>) -> ControlFlow<()>) -> Attempt<()> {
        todo!()
    }
    /// Makes `try_read_directory` ready: lists the folder at the source, before the first manifest is complete.
    pub async fn prepare_directory(&self, _id: NodeId) -> Result<(), Error> {
        todo!()
    }

    pub fn statistics(&self) -> Statistics {
        todo!()
    }

    /// Names of the extended attributes of `id`: `user.forebay.*`.
    pub fn extended_attribute_names(&self, _id: NodeId) -> Result<Vec<&'static str>, Error> {
        todo!()
    }
    pub fn extended_attribute(&self, _id: NodeId, _name: &[u8]) -> Result<Vec<u8>, Error> {
        todo!()
    }

    /// The kernel evicted this inode.
    pub fn forget(&self, _id: NodeId) {
        todo!()
    }

    /// What must be written to the kernel. One consumer: `None` when it was taken before.
    pub fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        todo!()
    }

    pub fn serving(&self) -> Serving {
        todo!()
    }
}
