//! The daemon's side of the hand-over: gets the fuse device and the record from whoever holds the mount, and tells it what changes.
//! Knows the holder's protocol. Does not know what is served.
//! Invariant: a backing id is in the holder's queue before any OPEN was answered with it, so the next daemon will know it.

use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_mounter::backing::BackingId;
use forebay_mounter::init::{Features, Handshake};
use forebay_mounter::notify::Notification;
use forebay_mounter::protocol::{self, HolderStatus, ProtocolError, Reply, Request};
use forebay_mounter::record::Record;
use parking_lot::Mutex;

/// A connection to the holder; cheap to share. All calls block for as long as the holder takes.
#[derive(Clone, Debug)]
pub struct Handover {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    socket: OwnedFd,
    /// Guards the pairing of a question with its answer; the holder answers in memory, or after one ioctl.
    buffer: Mutex<Vec<u8>>,
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
        let path = socket.to_owned();
        let socket = protocol::connect(socket).map_err(|cause| ProtocolError::Socket {
            op: "connect to",
            path: path.display().to_string(),
            cause,
        })?;
        Ok(Self { shared: Arc::new(Shared { path, socket, buffer: Mutex::new(Vec::new()) }) })
    }

    /// A second connection to the same holder, for calls that may take long.
    pub fn another(&self) -> Result<Self, ProtocolError> {
        Self::connect(&self.shared.path)
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
            Reply::Registered { backing } => Ok(BackingId(backing)),
            other => Err(ProtocolError::Malformed { op: OP, detail: format!("{other:?}") }),
        }
    }

    /// Records an id that this process registered itself. Returns when the holder is sure to read it, whatever happens to this process.
    pub fn registered(&self, node: u64, backing: BackingId) -> Result<(), ProtocolError> {
        self.tell("record a backing id with", &Request::Registered { node, backing: backing.0 }, &[])
    }

    /// Lets the holder close the backing ids of `nodes`.
    pub fn close(&self, nodes: &[u64]) -> Result<(), ProtocolError> {
        // 20 digits and a comma a node: 4,096 of them stay below `MESSAGE_BYTES_MAX`.
        nodes.chunks(4096).try_for_each(|nodes| self.tell("close backing ids with", &Request::Close { nodes: nodes.to_vec() }, &[]))
    }

    /// Lets the holder write to the kernel, and returns when it did. May take as long as a lookup: use a connection of its own for it.
    pub fn notify(&self, notifications: Vec<Notification>, sequence: Option<u64>) -> Result<(), ProtocolError> {
        self.done("notify the kernel through", &Request::Notify { notifications, sequence })
    }

    /// Records that OPEN is answered with ENOSYS from now on.
    pub fn no_open(&self) -> Result<(), ProtocolError> {
        self.done("record the mode with", &Request::NoOpen)
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
        let mut buffer = self.shared.buffer.lock();
        while let Ok(Some(_)) = protocol::receive::<Reply>(&self.shared.socket, &mut buffer) {}
    }

    fn done(&self, op: &'static str, request: &Request) -> Result<(), ProtocolError> {
        match self.ask(op, request, &[])?.0 {
            Reply::Done => Ok(()),
            other => Err(ProtocolError::Malformed { op, detail: format!("{other:?}") }),
        }
    }

    fn tell(&self, op: &'static str, request: &Request, files: &[BorrowedFd<'_>]) -> Result<(), ProtocolError> {
        protocol::send(&self.shared.socket, request, files).map_err(|cause| self.broken(op, cause))
    }

    /// One question and its answer. `pub(crate)` for `holder`, which unmounts through it.
    pub(crate) fn ask(
        &self,
        op: &'static str,
        request: &Request,
        files: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ProtocolError> {
        let mut buffer = self.shared.buffer.lock();
        self.tell(op, request, files)?;
        match protocol::receive(&self.shared.socket, &mut buffer).map_err(|cause| self.broken(op, cause))? {
            Some((Reply::Failed { errno, detail }, _)) => Err(ProtocolError::Refused { op, errno, detail }),
            Some(answer) => Ok(answer),
            None => Err(self.broken(op, std::io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn broken(&self, op: &'static str, cause: std::io::Error) -> ProtocolError {
        ProtocolError::Socket { op, path: self.shared.path.display().to_string(), cause }
    }
}
