//! The daemon's side of the hand-over: gets the fuse device and the record from whoever holds the mount, and tells it what changes.
//! Knows the holder's protocol. Does not know what is served.
//! Invariant: a backing id is in the holder's queue before any OPEN was answered with it, so the next daemon will know it.
//!
//! Of a holder that ends with its mount one connection is enough. A `lasting` hand-over outlives its holder: it keeps the device and the record, gives
//! both to the next process that listens at the same socket, and connects again whenever a connection broke.

mod kept;

use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_mounter::backing::BackingId;
use forebay_mounter::init::{Features, Handshake};
use forebay_mounter::notify::Notification;
use forebay_mounter::protocol::{self, HolderStatus, ProtocolError, Reply, Request};
use forebay_mounter::record::Record;
use kept::Kept;
use parking_lot::{Mutex, RwLock};

/// A connection to the holder; cheap to share. All calls block for as long as the holder takes.
#[derive(Clone, Debug)]
pub struct Handover {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Guards which connection is in use; `None`: it broke, and the next question makes another.
    socket: RwLock<Option<Arc<OwnedFd>>>,
    /// Guards the pairing of a question with its answer; the holder answers in memory, or after one ioctl.
    buffer: Mutex<Vec<u8>>,
    /// Of a lasting one.
    kept: Option<Arc<Kept>>,
}

/// What an adopter gets.
#[derive(Debug)]
pub struct Adopted {
    pub device: OwnedFd,
    pub record: Record,
    pub handshake: Handshake,
}

impl Adopted {
    pub fn features(&self) -> Features {
        self.handshake.features
    }
}

impl Handover {
    /// Connects to the socket given by `serve --holder`.
    pub fn connect(socket: &Path) -> Result<Self, ProtocolError> {
        Self::open(socket, None)
    }

    /// The same to a holder that may be started again while this daemon serves: see `give_back`.
    pub fn lasting(socket: &Path) -> Result<Self, ProtocolError> {
        Self::open(socket, Some(Arc::default()))
    }

    fn open(path: &Path, kept: Option<Arc<Kept>>) -> Result<Self, ProtocolError> {
        let handover =
            Self { shared: Arc::new(Shared { path: path.to_owned(), socket: RwLock::default(), buffer: Mutex::default(), kept }) };
        handover.socket()?;
        Ok(handover)
    }

    /// A second connection to the same holder, for calls that may take long.
    pub fn another(&self) -> Result<Self, ProtocolError> {
        Self::open(&self.shared.path, self.shared.kept.clone())
    }

    /// Whether another holder may come after this one.
    pub fn is_lasting(&self) -> bool {
        self.shared.kept.is_some()
    }

    /// The mount is gone: `give_back` returns.
    pub fn retire(&self) {
        if let Some(kept) = &self.shared.kept {
            kept.retire();
        }
    }
    pub fn is_retired(&self) -> bool {
        self.shared.kept.as_ref().is_some_and(|kept| kept.is_retired())
    }

    /// Gives the mount to whoever listens at the holder's socket now, tells it what the one before it missed, and that this daemon serves.
    pub fn give_back(&self) -> Result<(), ProtocolError> {
        const OP: &str = "give the mount back to";
        let Some((device, record)) = self.shared.kept.as_ref().and_then(|kept| kept.mount()) else {
            return Err(ProtocolError::Malformed { op: OP, detail: "nothing was adopted".to_owned() });
        };
        self.reconnect();
        forebay_mounter::give_back(&*self.socket()?, device, &record)?;
        self.close(&self.shared.kept.as_ref().map(|kept| kept.take_unclosed()).unwrap_or_default())?;
        self.ready()
    }

    /// The connection in use, or another.
    fn socket(&self) -> Result<Arc<OwnedFd>, ProtocolError> {
        if let Some(socket) = &*self.shared.socket.read() {
            return Ok(socket.clone());
        }
        let mut socket = self.shared.socket.write();
        if let Some(socket) = &*socket {
            return Ok(socket.clone());
        }
        let made = Arc::new(protocol::connect(&self.shared.path).map_err(|cause| self.broken("connect to", cause))?);
        *socket = Some(made.clone());
        Ok(made)
    }

    fn reconnect(&self) {
        *self.shared.socket.write() = None;
    }

    /// Asks for the mount. The holder gives it only while no other daemon that it gave it to lives.
    pub fn adopt(&self) -> Result<Adopted, ProtocolError> {
        const OP: &str = "adopt the mount from";
        let malformed = |detail: &str| ProtocolError::Malformed { op: OP, detail: detail.to_owned() };
        let (Reply::Adopted, mut descriptors) = self.ask(OP, &Request::Adopt, &[])? else {
            return Err(malformed("not a hand-over"));
        };
        let (Some(record), Some(device)) = (descriptors.pop(), descriptors.pop()) else {
            return Err(malformed("without device and record"));
        };
        let mut bytes = Vec::new();
        std::fs::File::from(record).read_to_end(&mut bytes).map_err(|error| malformed(&error.to_string()))?;
        let record = Record::decode(&bytes)?;
        let handshake = Handshake::recorded(&record.init_request, &record.init_reply).map_err(|error| malformed(&error.to_string()))?;
        if let Some(kept) = &self.shared.kept {
            kept.keep(&device, &record).map_err(|error| malformed(&format!("copy the device: {error}")))?;
        }
        Ok(Adopted { device, record, handshake })
    }

    /// Says that this daemon serves now.
    pub fn ready(&self) -> Result<(), ProtocolError> {
        self.tell("report to", &Request::Ready, &[])
    }

    /// Says that this daemon still answers. To be used on a connection of its own: nothing else may hold it up.
    pub fn alive(&self) -> Result<(), ProtocolError> {
        self.tell("report to", &Request::Alive, &[])
    }

    /// Lets the holder register `file` for `node`; the id that the node has already, if it has one.
    pub fn register(&self, node: u64, file: BorrowedFd<'_>) -> Result<BackingId, ProtocolError> {
        const OP: &str = "register a file with";
        match self.ask(OP, &Request::Register { node }, &[file])?.0 {
            Reply::Registered { backing } => {
                if let Some(kept) = &self.shared.kept {
                    kept.registered(node, backing);
                }
                Ok(BackingId(backing))
            }
            other => Err(ProtocolError::Malformed { op: OP, detail: format!("{other:?}") }),
        }
    }

    /// Records an id that this process registered itself. Returns when the holder is sure to read it, whatever happens to this process.
    pub fn registered(&self, node: u64, backing: BackingId) -> Result<(), ProtocolError> {
        if let Some(kept) = &self.shared.kept {
            kept.registered(node, backing.0);
        }
        self.tell("record a backing id with", &Request::Registered { node, backing: backing.0 }, &[])
    }

    /// Lets the holder close the backing ids of `nodes`.
    pub fn close(&self, nodes: &[u64]) -> Result<(), ProtocolError> {
        // 20 digits and a comma a node: 4,096 of them stay below `MESSAGE_BYTES_MAX`.
        nodes.chunks(4096).try_for_each(|nodes| {
            let told = self.tell("close backing ids with", &Request::Close { nodes: nodes.to_vec() }, &[]);
            if let Some(kept) = &self.shared.kept {
                kept.closed(nodes, told.is_ok());
            }
            told
        })
    }

    /// Lets the holder write to the kernel, and returns when it did. May take as long as a lookup: use a connection of its own for it.
    pub fn notify(&self, notifications: Vec<Notification>, sequence: Option<u64>) -> Result<(), ProtocolError> {
        self.done("notify the kernel through", &Request::Notify { notifications, sequence })?;
        if let (Some(kept), Some(sequence)) = (&self.shared.kept, sequence) {
            kept.change(|record| record.notified = sequence.max(record.notified));
        }
        Ok(())
    }

    /// Records that OPEN is answered with ENOSYS from now on.
    pub fn no_open(&self) -> Result<(), ProtocolError> {
        self.done("record the mode with", &Request::NoOpen)?;
        if let Some(kept) = &self.shared.kept {
            kept.change(|record| record.no_open = true);
        }
        Ok(())
    }

    pub fn set_read_ahead(&self, kibibytes: u32) -> Result<(), ProtocolError> {
        self.done("set the read-ahead through", &Request::ReadAhead { kibibytes })
    }

    pub fn status(&self) -> Result<HolderStatus, ProtocolError> {
        const OP: &str = "ask the state of";
        match self.ask(OP, &Request::Status, &[])?.0 {
            Reply::Status(status) => Ok(status),
            other => Err(ProtocolError::Malformed { op: OP, detail: format!("{other:?}") }),
        }
    }

    /// Blocks until the holder is gone. To be used on a connection that nothing else is asked on.
    pub fn wait_until_gone(&self) {
        let Ok(socket) = self.socket() else { return };
        let mut buffer = self.shared.buffer.lock();
        while let Ok(Some(_)) = protocol::receive::<Reply>(&socket, &mut buffer) {}
        self.reconnect();
    }

    fn done(&self, op: &'static str, request: &Request) -> Result<(), ProtocolError> {
        match self.ask(op, request, &[])?.0 {
            Reply::Done => Ok(()),
            other => Err(ProtocolError::Malformed { op, detail: format!("{other:?}") }),
        }
    }

    fn tell(&self, op: &'static str, request: &Request, files: &[BorrowedFd<'_>]) -> Result<(), ProtocolError> {
        let socket = self.socket()?;
        protocol::send(&socket, request, files).map_err(|cause| self.lost(op, cause))
    }

    /// One question and its answer. `pub(crate)` for `holder`, which unmounts through it.
    pub(crate) fn ask(
        &self,
        op: &'static str,
        request: &Request,
        files: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ProtocolError> {
        let mut buffer = self.shared.buffer.lock();
        let socket = self.socket()?;
        protocol::send(&socket, request, files).map_err(|cause| self.lost(op, cause))?;
        match protocol::receive(&socket, &mut buffer).map_err(|cause| self.lost(op, cause))? {
            Some((Reply::Failed { errno, detail }, _)) => Err(ProtocolError::Refused { op, errno, detail }),
            Some(answer) => Ok(answer),
            None => Err(self.lost(op, std::io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// A connection that broke: the next question makes another, where one may be had.
    fn lost(&self, op: &'static str, cause: std::io::Error) -> ProtocolError {
        if self.is_lasting() {
            self.reconnect();
        }
        self.broken(op, cause)
    }

    fn broken(&self, op: &'static str, cause: std::io::Error) -> ProtocolError {
        ProtocolError::Socket { op, path: self.shared.path.display().to_string(), cause }
    }
}
