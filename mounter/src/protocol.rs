//! What the holder of a mount and its daemons say to each other: one JSON message a packet over a SEQPACKET Unix socket, descriptors beside it.
//! Compatible changes: new requests (an older holder answers `Failed`), new fields with a default. Breaking: anything else.

use std::io::{self, IoSlice, IoSliceMut, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::busy::User;
use crate::device::ConnectionId;
use crate::init::Features;
use crate::notify::Notification;
use crate::record::NodeNumber;

/// Largest packet: safely below the default send buffer of a socket (208 KiB), which bounds a packet.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// Most descriptors beside one message that we ever send: the device and the record.
const DESCRIPTORS_MAX: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Give me the mount. Answer: `Adopted` with two descriptors, the device and a memory file holding the record.
    Adopt,
    /// The daemon serves from now on. No answer.
    Ready,
    /// The daemon's loop and its runtime went round once more: sent every second or so, on a connection of its own. No answer.
    Alive,
    /// Register the descriptor beside this message for `node`. Answer: `Registered`; the same id again if the node has one.
    Register { node: NodeNumber },
    /// A daemon that may make the ioctl itself has registered `node`. No answer.
    Registered { node: NodeNumber, backing: u32 },
    /// These nodes have no open file any more: close their backing ids. No answer.
    Close { nodes: Vec<NodeNumber> },
    /// Write these to the kernel. Answer: `Done`, which can take as long as a lookup of another daemon takes. Then `sequence`, if given, is recorded as notified.
    Notify { notifications: Vec<Notification>, sequence: Option<u64> },
    /// OPEN will be answered with ENOSYS from now on. Answer: `Done`, when it is in the record.
    NoOpen,
    /// Answer: `Done`.
    ReadAhead { kibibytes: u32 },
    /// Answer: `Status`.
    Status,
    /// From a daemon that serves, to a holder that was started again: the descriptors beside this message are the device and a memory file holding
    /// the record as the daemon knows it. Answer: `Done`, and what follows on this connection is the adopter's; `Failed` where nothing was lost.
    GiveBack,
    /// Unmount, stop the daemon, end. Answer: `Done`, or `Busy` and all stays.
    Unmount,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Adopted,
    Registered {
        backing: u32,
    },
    Done,
    Busy {
        users: Vec<User>,
    },
    Status(HolderStatus),
    /// `errno` where the kernel gave one.
    Failed {
        errno: Option<i32>,
        detail: String,
    },
}

/// What a holder knows of its mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HolderStatus {
    pub mount_point: PathBuf,
    pub folder: PathBuf,
    pub name: String,
    pub holder_pid: u32,
    /// The daemon that adopted the mount, if one lives.
    pub node_pid: Option<u32>,
    /// That daemon said that it serves.
    pub ready: bool,
    /// Number of adoptions so far.
    pub epoch: u64,
    pub connection: ConnectionId,
    pub features: Features,
    pub no_open: bool,
    pub backing_ids: usize,
    /// Why the connection was aborted: every read fails until it is mounted again.
    #[serde(default)]
    pub aborted: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("{op} the holder's socket {path}")]
    Socket {
        op: &'static str,
        path: String,
        #[source]
        cause: io::Error,
    },
    #[error("{op} the holder: {detail}")]
    Refused { op: &'static str, errno: Option<i32>, detail: String },
    #[error("{op} the holder: an answer that doesn't fit: {detail}")]
    Malformed { op: &'static str, detail: String },
    #[error(transparent)]
    Record(#[from] crate::record::RecordError),
}

/// A socket that listens at `path`, mode 0600; what lies there is removed first.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Nobody can connect before `listen`, so the mode is set in time.
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// The next connection of a peer that runs as this user, as root or as `peer_uid`, and its pid; others are dropped unheard.
/// Fails with EINVAL once the listener was shut down.
pub fn accept(listener: impl AsFd, peer_uid: Option<u32>) -> io::Result<(OwnedFd, u32)> {
    loop {
        let connection = match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
            other => other?,
        };
        let peer = credentials(&connection)?;
        if peer.uid != 0 && peer.uid != rustix::process::geteuid().as_raw() && Some(peer.uid) != peer_uid {
            tracing::warn!(uid = peer.uid, "connection of another user refused");
            continue;
        }
        match u32::try_from(peer.pid) {
            Ok(pid) if pid != 0 => return Ok((connection, pid)),
            // Its death could not be seen, so it can't adopt.
            _ => tracing::warn!(
                uid = peer.uid,
                "connection of a process that isn't visible here refused: run the holder with the host's pids"
            ),
        }
    }
}

/// Not rustix's: its type can't hold the pid 0 of a process in a pid namespace that isn't below ours.
fn credentials(socket: impl AsFd) -> io::Result<libc::ucred> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes at most `length` bytes into a struct of that size.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut found).cast(), &raw mut length)
    };
    if result == 0 { Ok(found) } else { Err(io::Error::last_os_error()) }
}

/// A file in memory that holds `bytes`, to be sent as a descriptor.
pub(crate) fn memory_file(bytes: &[u8]) -> io::Result<std::fs::File> {
    let mut file: std::fs::File = rustix::fs::memfd_create("forebay-record", rustix::fs::MemfdFlags::CLOEXEC)?.into();
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with descriptors beside it. Blocks while the peer's queue is full.
pub fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes; at most {MESSAGE_BYTES_MAX}", bytes.len()),
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives one message; `None` when the peer is gone.
pub fn receive<T: for<'a> Deserialize<'a>>(socket: impl AsFd, buffer: &mut Vec<u8>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    buffer.resize(MESSAGE_BYTES_MAX, 0);
    let (bytes, descriptors) = match receive_raw(socket, buffer) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        other => other?,
    };
    if bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..bytes])?, descriptors)))
}

fn receive_raw(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((received.bytes, descriptors))
}

/// What fusermount3 sends: one byte and the device.
pub(crate) fn receive_one_descriptor(socket: impl AsFd) -> io::Result<OwnedFd> {
    let (_, mut descriptors) = receive_raw(socket, &mut [0; 1])?;
    descriptors.pop().ok_or_else(|| io::Error::other("no descriptor came"))
}
