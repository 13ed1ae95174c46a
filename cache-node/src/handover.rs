//! The daemon's side of the hand-over: gets the fuse fd and the record from whoever holds the mount, tells it what changes.
//! Knows the holder's protocol. Does not know what is served.
//! Invariant: a backing id is in the holder's record before any OPEN was answered with it.

use std::os::fd::OwnedFd;
use std::path::Path;

use forebay_mounter::protocol::ProtocolError;
use forebay_mounter::record::Record;

/// A connection to the holder; cheap to share.
#[derive(Clone, Debug)]
pub struct Handover {}

/// What an adopter gets.
#[derive(Debug)]
pub struct Adopted {
    pub device: OwnedFd,
    pub record: Record,
}

impl Handover {
    /// Connects to the socket given by `serve --holder`.
    pub fn connect(_socket: &Path) -> Result<Handover, ProtocolError> {
        todo!()
    }

    /// Asks for the mount. The holder gives it only while no other daemon that it gave it to lives.
    pub fn adopt(&self) -> Result<Adopted, ProtocolError> {
        todo!()
    }
}
