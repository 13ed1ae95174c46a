//! Makes the library serve a mount that was made by somebody else, long ago.
//! The library insists on a handshake, so it gets a recorded one over a socket pair; then the device takes that descriptor's place,
//! and the kernel is asked to send again what the daemon before this one left unanswered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use forebay_mounter::{init, notify};
use fuser::{Config, Filesystem, Session, SessionACL};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::handover::Adopted;

/// A session on the adopted device. Requests wait in the kernel until it runs.
pub(super) fn session<F: Filesystem>(filesystem: F, adopted: &Adopted, threads: usize) -> io::Result<Session<F>> {
    // SEQPACKET: the library expects one message a read.
    let (ours, theirs): (OwnedFd, OwnedFd) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::write(&ours, &init::synthetic(&adopted.handshake))?;

    let mut config = Config::default();
    config.n_threads = Some(threads);
    // A request that was read through a clone of the descriptor dies with the daemon, instead of being sent again.
    config.clone_fd = false;
    // The kernel checks permissions (`default_permissions`) and who may use the mount (`allow_other`).
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;

    // SAFETY: both descriptors are open and owned for the whole call; the target keeps its owner, which from now on owns a copy of the device.
    if unsafe { libc::dup3(adopted.device.as_raw_fd(), session.as_fd().as_raw_fd(), libc::O_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    if adopted.features().resend && adopted.record.epoch > 1 {
        notify::resend(&adopted.device)?;
    }
    Ok(session)
}
