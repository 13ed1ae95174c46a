//! A held mount: the device and the record, and the answers that adopting daemons get.
//! Knows one mount. Does not know how daemons are started: what they ask beyond the record is handed on as an `Event`.
//! Invariant: an entry leaves the record before its backing id is closed, so a successor never uses a number that the kernel gave to another file.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backing::{self, BackingId};
use crate::device::{self, ConnectionId, MountOptions};
use crate::init::{self, Features};
use crate::protocol::{self, HolderStatus, Reply, Request};
use crate::record::Record;
use crate::resume::GivenBack;
use crate::{MountError, abort};

/// KiB that the kernel reads ahead on the mount: four requests of the largest size.
pub const READ_AHEAD_KIBIBYTES: u32 = 4096;
/// Connections served at once: a daemon has four, a status or unmount one.
const CONNECTIONS_MAX: usize = 64;

/// How to make a mount that is held.
#[derive(Clone, Debug)]
pub struct HoldOptions {
    /// Absolute, without symbolic links.
    pub mount_point: PathBuf,
    /// Shown in status.
    pub name: String,
    /// Shown in status: the run folder.
    pub folder: PathBuf,
    pub allow_other: bool,
    /// Negotiate passthrough, where the kernel has it.
    pub passthrough: bool,
    /// User that may adopt, besides root and this process' own.
    pub peer_uid: Option<u32>,
}

/// What concerns who runs the daemons.
#[derive(Debug)]
pub enum Event {
    Adopted {
        pid: u32,
    },
    Ready {
        pid: u32,
    },
    /// It still answers requests.
    Alive {
        pid: u32,
    },
    /// The adopter has no connection any more: it is dead, became another program (exec keeps its pid), or serves no longer.
    Gone {
        pid: u32,
    },
    Unmount {
        answer: Answer,
    },
}

/// Where an answer goes that takes longer; dropped, it breaks the asker's connection.
#[derive(Debug)]
pub struct Answer(OwnedFd);

impl Answer {
    /// `Done`, `Busy` or `Failed`. Sent when this returns, so the process may end.
    pub fn send(self, reply: &Reply) {
        if let Err(error) = protocol::send(&self.0, reply, &[]) {
            tracing::warn!(%error, "nobody waits for the answer any more");
        }
    }
}

/// One mount and its record. Share it by `Arc`.
#[derive(Debug)]
pub struct Hold {
    device: OwnedFd,
    options: HoldOptions,
    connection: ConnectionId,
    features: Features,
    /// Guards the record and who serves; held for memory only, and for the two backing ioctls, which don't wait.
    state: Mutex<State>,
    /// The daemon that gave the mount back, until `serve` goes on with it.
    giver: Mutex<Option<(OwnedFd, u32)>>,
}

#[derive(Debug)]
struct State {
    record: Record,
    adopter: Option<Adopter>,
    aborted: Option<String>,
    /// Connections by the pid at their other end.
    peers: HashMap<u32, usize>,
}

impl State {
    fn new(record: Record, adopter: Option<Adopter>) -> Self {
        Self { record, adopter, aborted: None, peers: HashMap::new() }
    }
}

#[derive(Debug)]
struct Adopter {
    pid: u32,
    /// Readable when the process is dead; the pid alone may be somebody else's by then.
    process: OwnedFd,
    ready: bool,
}

impl Adopter {
    fn open(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let process = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())?;
        Ok(Self { pid, process, ready: false })
    }

    fn is_alive(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.process, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }
}

impl Hold {
    /// Mounts and answers INIT. Requests wait in the kernel until a daemon adopts.
    pub fn mount(options: HoldOptions) -> Result<Arc<Self>, MountError> {
        let mount_options = MountOptions { source: format!("forebay:{}", options.name), allow_other: options.allow_other };
        let device = device::mount(&options.mount_point, &mount_options)?;
        let found = Self::shake_hands(device, options.clone());
        if found.is_err() {
            // Nobody would ever answer on it; the first error is the one to tell.
            let _ = device::unmount(&options.mount_point);
        }
        found
    }

    fn shake_hands(device: OwnedFd, options: HoldOptions) -> Result<Arc<Self>, MountError> {
        let handshake = init::shake_hands(&device, options.passthrough)?;
        let connection = device::connection(&options.mount_point).map_err(|cause| MountError::Io {
            op: "find the mount on",
            path: options.mount_point.display().to_string(),
            cause,
        })?;
        if let Err(error) = device::set_read_ahead(connection, READ_AHEAD_KIBIBYTES) {
            tracing::warn!(%error, "read-ahead stays at the kernel's 128 KiB: sequential reads are slower");
        }
        let features = handshake.features;
        let record = Record::new(handshake.request, handshake.reply);
        let state = Mutex::new(State::new(record, None));
        Ok(Arc::new(Self { device, options, connection, features, state, giver: Mutex::new(None) }))
    }

    /// Goes on with a mount whose holder died, from what its daemon gave back. That daemon is the adopter, and `serve` hears it first.
    pub fn resume(options: HoldOptions, given: GivenBack) -> Arc<Self> {
        let GivenBack { device, record, connection, features, peer, pid } = given;
        let adopter = Adopter::open(pid).inspect_err(|error| tracing::warn!(%error, pid, "the daemon that gave its mount back is gone"));
        let adopter = adopter.ok().map(|adopter| Adopter { ready: true, ..adopter });
        let state = Mutex::new(State::new(record, adopter));
        if let Err(error) = protocol::send(&peer, &Reply::Done, &[]) {
            tracing::warn!(%error, pid, "the daemon that gave its mount back doesn't wait for the answer");
        }
        Arc::new(Self { device, options, connection, features, state, giver: Mutex::new(Some((peer, pid))) })
    }

    pub fn features(&self) -> Features {
        self.features
    }

    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    pub fn status(&self) -> HolderStatus {
        let state = self.lock();
        let adopter = state.adopter.as_ref().filter(|adopter| adopter.is_alive());
        HolderStatus {
            mount_point: self.options.mount_point.clone(),
            folder: self.options.folder.clone(),
            name: self.options.name.clone(),
            holder_pid: std::process::id(),
            node_pid: adopter.map(|adopter| adopter.pid),
            ready: adopter.is_some_and(|adopter| adopter.ready),
            epoch: state.record.epoch,
            connection: self.connection,
            features: self.features,
            no_open: state.record.no_open,
            backing_ids: state.record.backing.len(),
            aborted: state.aborted.clone(),
        }
    }

    /// Whether the kernel still sends requests: not after an abort or an unmount.
    pub fn is_connected(&self) -> bool {
        device::is_connected(&self.device)
    }

    /// Lets every waiting and later request fail.
    pub fn abort(&self, why: &str) -> io::Result<()> {
        self.lock().aborted.get_or_insert_with(|| why.to_owned());
        abort::abort(self.connection, &self.options.mount_point)
    }

    /// Unmounts; `Busy` leaves it mounted.
    pub fn unmount(&self) -> Result<(), MountError> {
        device::unmount(&self.options.mount_point)
    }

    /// Answers connections, each on a thread of its own, until `listener` fails. `events` must be received by a thread that doesn't wait for a daemon's request.
    pub fn serve(self: &Arc<Self>, listener: &OwnedFd, events: &SyncSender<Event>) -> io::Error {
        let connections = Arc::new(());
        loop {
            let giver = self.giver.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (connection, pid) = match giver.map_or_else(|| protocol::accept(listener, self.options.peer_uid), Ok) {
                Ok(accepted) => accepted,
                Err(error) => return error,
            };
            if Arc::strong_count(&connections) > CONNECTIONS_MAX {
                tracing::warn!(pid, "too many connections to the holder: this one is dropped");
                continue;
            }
            let (hold, events, counted) = (Arc::clone(self), events.clone(), Arc::clone(&connections));
            *self.lock().peers.entry(pid).or_default() += 1;
            let spawned = std::thread::Builder::new().name(format!("peer-{pid}")).spawn(move || {
                if let Err(error) = hold.converse(&connection, pid, &events) {
                    tracing::warn!(pid, %error, "connection to the holder broken");
                }
                drop(connection);
                hold.disconnected(pid, &events);
                drop(counted);
            });
            if let Err(error) = spawned {
                return error;
            }
        }
    }

    fn disconnected(&self, pid: u32, events: &SyncSender<Event>) {
        let mut state = self.lock();
        let left = state.peers.get(&pid).map_or(0, |count| count - 1);
        if left > 0 {
            state.peers.insert(pid, left);
            return;
        }
        state.peers.remove(&pid);
        let was_adopter = state.adopter.as_ref().is_some_and(|adopter| adopter.pid == pid);
        drop(state);
        if was_adopter {
            let _ = events.send(Event::Gone { pid });
        }
    }

    fn converse(&self, connection: &OwnedFd, pid: u32, events: &SyncSender<Event>) -> io::Result<()> {
        let mut buffer = Vec::new();
        while let Some((request, descriptors)) = protocol::receive::<Request>(connection, &mut buffer)? {
            let reply = match request {
                Request::Adopt => {
                    self.give(connection, pid, events)?;
                    continue;
                }
                Request::Unmount => {
                    // The receiver outlives the mount; without one the asker sees its connection break.
                    let _ = events.send(Event::Unmount { answer: Answer(connection.try_clone()?) });
                    continue;
                }
                other => self.answer(other, descriptors, pid, events),
            };
            if let Some(reply) = reply {
                protocol::send(connection, &reply, &[])?;
            }
        }
        Ok(())
    }

    /// Hands the device and the record to the daemon `pid`.
    fn give(&self, connection: &OwnedFd, pid: u32, events: &SyncSender<Event>) -> io::Result<()> {
        let encoded = match self.adopt(pid) {
            Ok(encoded) => encoded,
            Err(error) => {
                return protocol::send(connection, &failed(error), &[]);
            }
        };
        let record = protocol::memory_file(&encoded)?;
        protocol::send(connection, &Reply::Adopted, &[self.device.as_fd(), record.as_fd()])?;
        // The receiver outlives the mount; without one nobody is interested.
        let _ = events.send(Event::Adopted { pid });
        Ok(())
    }

    fn adopt(&self, pid: u32) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        if let Some(adopter) = state.adopter.as_ref().filter(|adopter| adopter.pid != pid && adopter.is_alive()) {
            return Err(io::Error::other(format!("the daemon with pid {} still serves this mount", adopter.pid)));
        }
        if let Some(why) = &state.aborted {
            return Err(io::Error::other(format!("the connection was aborted: {why}")));
        }
        state.adopter = Some(Adopter::open(pid)?);
        state.record.epoch += 1;
        state.record.encode().map_err(io::Error::other)
    }

    /// A descriptor of the process that adopted, readable when it is dead; `None` before the first adoption.
    pub fn adopter(&self) -> io::Result<Option<(u32, OwnedFd)>> {
        self.lock().adopter.as_ref().map(|adopter| Ok((adopter.pid, adopter.process.try_clone()?))).transpose()
    }

    /// The answer to what is answered at once; `None` where there is none.
    fn answer(&self, request: Request, descriptors: Vec<OwnedFd>, pid: u32, events: &SyncSender<Event>) -> Option<Reply> {
        match request {
            Request::Adopt | Request::Unmount => None,
            Request::Ready => {
                if let Some(adopter) = self.lock().adopter.as_mut().filter(|adopter| adopter.pid == pid) {
                    adopter.ready = true;
                }
                let _ = events.send(Event::Ready { pid });
                None
            }
            Request::Alive => {
                let _ = events.send(Event::Alive { pid });
                None
            }
            Request::Register { node } => {
                Some(self.register(node, &descriptors).map_or_else(failed, |backing| Reply::Registered { backing }))
            }
            Request::Registered { node, backing } => {
                self.lock().record.backing.insert(node, backing);
                None
            }
            Request::Close { nodes } => {
                self.close(&nodes);
                None
            }
            Request::Notify { notifications, sequence } => {
                for notification in notifications {
                    if let Err(error) = notification.write(&self.device) {
                        tracing::warn!(%error, ?notification, "the kernel refused a notification");
                    }
                }
                if let Some(sequence) = sequence {
                    let notified = &mut self.lock().record.notified;
                    *notified = sequence.max(*notified);
                }
                Some(Reply::Done)
            }
            Request::NoOpen => {
                self.lock().record.no_open = true;
                Some(Reply::Done)
            }
            Request::ReadAhead { kibibytes } => {
                Some(device::set_read_ahead(self.connection, kibibytes).map_or_else(failed, |()| Reply::Done))
            }
            Request::Status => Some(Reply::Status(self.status())),
            Request::GiveBack => Some(self.given_back(pid)),
        }
    }

    /// Nothing was lost here; the adopter, whose connection alone broke, may go on.
    fn given_back(&self, pid: u32) -> Reply {
        match self.lock().adopter.as_ref().filter(|adopter| adopter.is_alive()) {
            Some(adopter) if adopter.pid == pid => Reply::Done,
            Some(adopter) => Reply::Failed { errno: None, detail: format!("the daemon with pid {} serves this mount", adopter.pid) },
            None => Reply::Failed { errno: None, detail: "this mount is held, and no daemon of it was lost: adopt it".to_owned() },
        }
    }

    fn register(&self, node: u64, descriptors: &[OwnedFd]) -> io::Result<u32> {
        let mut state = self.lock();
        if let Some(backing) = state.record.backing.get(&node) {
            return Ok(*backing);
        }
        let file = descriptors.first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file came with the request"))?;
        let BackingId(backing) = backing::open(&self.device, file)?;
        state.record.backing.insert(node, backing);
        Ok(backing)
    }

    fn close(&self, nodes: &[u64]) {
        let mut state = self.lock();
        for node in nodes {
            if let Some(backing) = state.record.backing.remove(node)
                && let Err(error) = backing::close(&self.device, BackingId(backing))
            {
                tracing::warn!(%error, backing, "the kernel refused to close a backing id");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete or not begun when a thread panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: io::Error) -> Reply {
    Reply::Failed { errno: error.raw_os_error(), detail: error.to_string() }
}
