//! A mount whose holder died: the daemon that serves it still has the device, and gives it to the holder that was started next.
//! Knows both sides of that one message. Does not know what a daemon serves, or who starts a holder.
//! Invariant: only a device that the kernel still sends requests on is taken, and only with a record that says how it was negotiated.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::device::ConnectionId;
use crate::init::{Features, Handshake};
use crate::protocol::{self, ProtocolError, Reply, Request};
use crate::record::Record;

/// Between two looks whether it is hopeless.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a peer that connected may take to say what it wants.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(1);

/// What a daemon gave back. It waits for its answer, which `Hold::resume` sends.
#[derive(Debug)]
pub struct GivenBack {
    pub(crate) device: OwnedFd,
    pub(crate) record: Record,
    pub(crate) connection: ConnectionId,
    pub(crate) features: Features,
    pub(crate) peer: OwnedFd,
    pub(crate) pid: u32,
}

/// The daemon's side: gives `device` and `record` to the holder at the other end of `socket` (see `protocol::connect`), and waits for its answer.
///
/// After `Ok` the daemon is the adopter again, and `socket` takes its requests as the connection before did. `Refused`: the holder has the mount,
/// or wants another one; the daemon goes on without it, or ends. `Socket`: the holder is gone again; connect and repeat. Blocking.
pub fn give_back(socket: impl AsFd, device: impl AsFd, record: &Record) -> Result<(), ProtocolError> {
    const OP: &str = "give the mount back to";
    let broken = |cause: io::Error| ProtocolError::Socket { op: OP, path: String::new(), cause };
    let file = protocol::memory_file(&record.encode()?).map_err(broken)?;
    protocol::send(&socket, &Request::GiveBack, &[device.as_fd(), file.as_fd()]).map_err(broken)?;
    match protocol::receive(&socket, &mut Vec::new()).map_err(broken)? {
        Some((Reply::Done, _)) => Ok(()),
        Some((Reply::Failed { errno, detail }, _)) => Err(ProtocolError::Refused { op: OP, errno, detail }),
        Some((other, _)) => Err(ProtocolError::Malformed { op: OP, detail: format!("{other:?}") }),
        None => Err(broken(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The holder's side: waits on `listener` until `deadline` for a daemon (see `protocol::accept`) that gives back the mount `connection`.
/// `None`: nobody did, or `is_hopeless`, which is asked several times a second, says that nobody will. Whoever asks anything else meanwhile is
/// refused, and may try again later.
pub fn wait(
    listener: &OwnedFd,
    connection: ConnectionId,
    peer_uid: Option<u32>,
    deadline: Instant,
    is_hopeless: impl Fn() -> bool,
) -> io::Result<Option<GivenBack>> {
    loop {
        if !is_readable(listener, deadline.min(Instant::now() + LOOK_EVERY))? {
            if Instant::now() >= deadline || is_hopeless() {
                return Ok(None);
            }
            continue;
        }
        let (peer, pid) = protocol::accept(listener, peer_uid)?;
        match take(&peer, pid, connection) {
            Ok(taken) => return Ok(Some(GivenBack { peer, ..taken })),
            Err(detail) => {
                tracing::debug!(pid, detail, "the mount isn't given back by this one");
                // It may be gone already, which is as well.
                drop(protocol::send(&peer, &Reply::Failed { errno: None, detail }, &[]));
            }
        }
    }
}

fn take(peer: &OwnedFd, pid: u32, connection: ConnectionId) -> Result<GivenBack, String> {
    let shown = |error: io::Error| error.to_string();
    if !is_readable(peer, Instant::now() + FIRST_WORD_WITHIN).map_err(shown)? {
        return Err("nothing was asked in time".to_owned());
    }
    let Some((Request::GiveBack, descriptors)) = protocol::receive(peer, &mut Vec::new()).map_err(shown)? else {
        return Err("this holder was started again and waits for the mount to be given back".to_owned());
    };
    let Ok([device, record]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err("device and record must come with it".to_owned());
    };
    check(&device, connection)?;
    let mut bytes = Vec::new();
    std::fs::File::from(record).read_to_end(&mut bytes).map_err(shown)?;
    let record = Record::decode(&bytes).map_err(|error| error.to_string())?;
    let handshake = Handshake::recorded(&record.init_request, &record.init_reply).map_err(|error| error.to_string())?;
    let peer = peer.try_clone().map_err(shown)?;
    Ok(GivenBack { device, record, connection, features: handshake.features, peer, pid })
}

/// Whether `device` is the live end of `connection`.
fn check(device: &OwnedFd, connection: ConnectionId) -> Result<(), String> {
    let device_of_fuse = rustix::fs::stat("/dev/fuse").map(|stat| stat.st_rdev);
    let given = rustix::fs::fstat(device).map(|stat| stat.st_rdev);
    if given.is_err() || given != device_of_fuse {
        return Err("what came is no fuse device".to_owned());
    }
    if !crate::device::is_connected(device) {
        return Err("the kernel has closed this mount".to_owned());
    }
    // Kernels before 6.17 don't tell; there the socket's path, which is one mount's, has to do.
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", device.as_raw_fd())).unwrap_or_default();
    match text.lines().find_map(|line| line.strip_prefix("fuse_connection:")) {
        Some(found) if found.trim() != connection.0.to_string() => {
            Err(format!("the device is of connection {}, wanted is {}", found.trim(), connection.0))
        }
        _ => Ok(()),
    }
}

/// Waits until `socket` has something, or the deadline.
fn is_readable(socket: &OwnedFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}
