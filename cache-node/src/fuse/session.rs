//! One request at a time: ask the filesystem without waiting, else go on as a task, then reply.
//! The fuser `Filesystem` of a session. Each operation is: begin, try, spawn on `Wait`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use forebay_mounter::backing::BackingId;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, INodeNo, IoctlFlags, LockOwner, OpenAccMode, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::alive::{self, Loops};
use super::follow::{finish, follow_holder, spawn, sweep};
use super::in_force::InForce;
use super::mode::Mode;
use super::passthrough::{Beginning, Passthrough};
use super::reply::{GENERATION, Latencies, Operation, Timed, file_attributes, file_type};
use super::serve::Serve;
use super::{FuseError, Options, Running, adopt, notify};
use crate::fs::{Attempt, DirectoryRow, Error, IoMode, NodeId, Opened, Serving};
use crate::handover::{Adopted, Handover};

/// The library's view of a session.
struct Session<S> {
    shared: Arc<Shared<S>>,
}

/// What a request needs, also as a task.
struct Shared<S> {
    serve: Arc<S>,
    runtime: Handle,
    handover: Handover,
    mode: Mode,
    passthrough: Arc<Passthrough>,
    latencies: Arc<Latencies>,
    loops: Arc<Loops>,
    /// Given out as the handle of every open.
    epoch: u64,
}

pub(super) fn start<S: Serve>(
    handover: &Handover,
    adopted: Adopted,
    serve: Arc<S>,
    runtime: Handle,
    options: &Options,
    latencies: Arc<Latencies>,
) -> Result<Running, FuseError> {
    let failed = |op: &'static str| move |cause| FuseError::Session { op, cause };
    let features = adopted.features();
    let device = (features.passthrough && options.passthrough)
        .then(|| adopted.device.try_clone())
        .transpose()
        .map_err(failed("copy the device of"))?;
    let epoch = adopted.record.epoch;
    let passthrough = Arc::new(Passthrough::new(Beginning {
        handover: handover.clone(),
        device,
        inherited: adopted.record.backing.clone(),
        epoch,
        prune: features.prune,
    }));
    let loops = Arc::new(Loops::default());
    let shared = Arc::new(Shared {
        serve: Arc::clone(&serve),
        runtime: runtime.clone(),
        handover: handover.clone(),
        mode: Mode::new(adopted.record.no_open),
        passthrough: Arc::clone(&passthrough),
        latencies,
        loops: Arc::clone(&loops),
        epoch,
    });
    let session = adopt::session(Session { shared }, &adopted, options.threads.get()).map_err(failed("adopt"))?;
    drop(adopted);

    let notifier = handover.another()?;
    if let Some(invalidations) = serve.invalidations() {
        let notifier = notifier.clone();
        spawn("notify", move || {
            if let Err(error) = notify::pump(invalidations, &notifier) {
                tracing::warn!(%error, "the kernel can't be told what changed");
            }
        })?;
    }
    runtime.spawn(sweep(Arc::clone(&passthrough), notifier));

    let (end, ended) = oneshot::channel();
    let end = Arc::new(Mutex::new(Some(end)));
    follow_holder(handover, Arc::clone(&end))?;
    let held = handover.clone();
    spawn("fuse", move || {
        let ended = session.run().map_err(failed("run"));
        held.retire();
        finish(&end, ended);
    })?;
    handover.ready()?;
    let reporter = handover.another()?;
    spawn("alive", move || alive::report(&loops, &runtime, &reporter))?;
    let in_force = InForce::new(features, options.passthrough, Arc::clone(&passthrough));
    Ok(Running { ended, passthrough, in_force })
}

thread_local! {
    /// Where this thread reads into before it replies. Grows to the largest request, 1 MiB.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn with_buffer<T>(bytes: usize, then: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < bytes {
            buffer.resize(bytes, 0);
        }
        then(&mut buffer[..bytes])
    })
}

impl<S: Serve> Shared<S> {
    /// Answers an OPEN with what the filesystem says. `false` from the kernel's view never: every path replies.
    fn opened(&self, node: NodeId, opened: Result<Opened, Error>, timed: Timed, reply: ReplyOpen) {
        self.latencies.finish(timed, opened, |opened| match opened {
            Ok(Opened::NoOpen) => self.reply_no_open(reply),
            Ok(Opened::Passthrough(file)) if node.mode() == IoMode::Passthrough && self.passthrough.is_on() => {
                match self.passthrough.open(node.0, &*file) {
                    Ok(backing) => self.reply_backed(reply, backing),
                    // Reading through the daemon gives the same bytes.
                    Err(_) => self.reply_cached(reply),
                }
            }
            Ok(Opened::Passthrough(_) | Opened::Cached) => self.reply_cached(reply),
            Err(errno) => reply.error(errno),
        });
    }

    fn reply_cached(&self, reply: ReplyOpen) {
        reply.opened(FileHandle(self.epoch), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn reply_backed(&self, reply: ReplyOpen, backing: BackingId) {
        // SAFETY: the id is open, and the wrapper is dissolved below, so that it is closed by nobody but the table.
        let wrapped = unsafe { reply.wrap_backing(backing.0) };
        reply.opened_passthrough(FileHandle(self.epoch), FopenFlags::FOPEN_NOFLUSH, &wrapped);
        let _ = wrapped.into_raw();
    }

    fn reply_no_open(&self, reply: ReplyOpen) {
        match self.mode.enter_no_open(&self.handover) {
            Ok(()) => reply.error(Errno::ENOSYS),
            Err(error) => {
                tracing::warn!(%error, "opens go on being answered");
                self.reply_cached(reply);
            }
        }
    }

    fn is_no_open(&self) -> bool {
        self.mode.is_no_open() || self.serve.serving() == Serving::NoOpen
    }
}

impl<S: Serve> Session<S> {
    /// Runs `task` on the runtime; it replies by itself.
    fn go_on<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(Arc<Shared<S>>) -> F) {
        self.shared.runtime.spawn(task(Arc::clone(&self.shared)));
    }

    /// Fills a listing by `add`, which says whether the row was taken.
    fn list(shared: &Shared<S>, node: NodeId, cookie: u64, add: &mut dyn FnMut(DirectoryRow<'_>) -> bool) -> Attempt<()> {
        shared.serve.try_read_directory(node, cookie, &mut |row| if add(row) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    /// `try` to list, prepare if it must wait, and list again. A listing that waits twice in a row lost a race with its own eviction.
    fn read_directory<R: Listing>(&self, node: NodeId, cookie: u64, mut reply: R) {
        let _turn = self.shared.loops.begin();
        let timed = Timed::begin(Operation::ReadDirectory);
        match Self::list(&self.shared, node, cookie, &mut |row| reply.take(&row)) {
            Attempt::Ready(result) => self.shared.latencies.finish(timed, result, |result| reply.send(result)),
            Attempt::Wait => self.go_on(move |shared| async move {
                let mut result = shared.serve.prepare_directory(node).await;
                if result.is_ok() {
                    result = match Self::list(&shared, node, cookie, &mut |row| reply.take(&row)) {
                        Attempt::Ready(result) => result,
                        Attempt::Wait => Err(Error::Io),
                    };
                }
                shared.latencies.finish(timed, result, |result| reply.send(result));
            }),
        }
    }
}

/// Both forms of a listing's reply.
trait Listing: Send + 'static {
    /// Whether the row still fitted.
    fn take(&mut self, row: &DirectoryRow<'_>) -> bool;
    fn send(self, result: Result<(), Errno>);
}

impl Listing for ReplyDirectory {
    fn take(&mut self, row: &DirectoryRow<'_>) -> bool {
        let kind = file_type(row.node.attributes.kind);
        !self.add(INodeNo(row.node.id.0), row.cookie, kind, OsStr::from_bytes(row.name))
    }
    fn send(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }
}

impl Listing for ReplyDirectoryPlus {
    fn take(&mut self, row: &DirectoryRow<'_>) -> bool {
        // The library has one lifetime for name and attributes.
        let ttl = row.node.entry_ttl.min(row.node.attributes.ttl);
        let attributes = file_attributes(&row.node.attributes);
        !self.add(INodeNo(row.node.id.0), row.cookie, OsStr::from_bytes(row.name), &ttl, &attributes, GENERATION)
    }
    fn send(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }
}

/// Answers an operation that changes something.
macro_rules! refuse {
    ($($name:ident($($argument:ty),*; $reply:ty));* $(;)?) => { $(
        fn $name(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::EROFS);
        }
    )* };
}

impl<S: Serve> fuser::Filesystem for Session<S> {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.shared.loops.begin();
        let timed = Timed::begin(Operation::Lookup);
        let parent = NodeId(parent.0);
        let Shared { serve, latencies, .. } = &*self.shared;
        match serve.try_lookup(parent, name.as_bytes()) {
            Attempt::Ready(result) => latencies.entry(timed, reply, result, serve.negative_ttl()),
            Attempt::Wait => {
                let name = name.as_bytes().to_vec();
                self.go_on(move |shared| async move {
                    let result = shared.serve.lookup(parent, &name).await;
                    shared.latencies.entry(timed, reply, result, shared.serve.negative_ttl());
                });
            }
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, _lookups: u64) {
        let _turn = self.shared.loops.begin();
        if NodeId(node.0).mode() == IoMode::Passthrough {
            self.shared.passthrough.forget(node.0);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.shared.loops.begin();
        let timed = Timed::begin(Operation::Attributes);
        let node = NodeId(node.0);
        match self.shared.serve.try_attributes(node) {
            Attempt::Ready(result) => self.shared.latencies.attributes(timed, reply, result),
            Attempt::Wait => self.go_on(move |shared| async move {
                let result = shared.serve.attributes(node).await;
                shared.latencies.attributes(timed, reply, result);
            }),
        }
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.shared.loops.begin();
        let timed = Timed::begin(Operation::Open);
        let node = NodeId(node.0);
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if self.shared.is_no_open() {
            return self.shared.opened(node, Ok(Opened::NoOpen), timed, reply);
        }
        if node.mode() == IoMode::Passthrough
            && let Some(backing) = self.shared.passthrough.open_again(node.0)
        {
            return self.shared.latencies.finish(timed, Ok(()), |_| self.shared.reply_backed(reply, backing));
        }
        match self.shared.serve.try_open(node) {
            Attempt::Ready(result) => self.shared.opened(node, result, timed, reply),
            Attempt::Wait => self.go_on(move |shared| async move {
                let result = shared.serve.open(node).await;
                shared.opened(node, result, timed, reply);
            }),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.shared.loops.begin();
        let timed = Timed::begin(Operation::Read);
        let (node, bytes) = (NodeId(node.0), size as usize);
        with_buffer(bytes, |into| match self.shared.serve.try_read(node, offset, into) {
            Attempt::Ready(result) => self.shared.latencies.data(timed, reply, result.map(|read| &into[..read])),
            Attempt::Wait => self.go_on(move |shared| async move {
                let result = shared.serve.read(node, offset, bytes).await;
                shared.latencies.data(timed, reply, result.as_ref().map(|bytes| &bytes[..]).map_err(Clone::clone));
            }),
        });
    }

    fn release(&self, _: &Request, node: INodeNo, handle: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        let _turn = self.shared.loops.begin();
        let timed = Timed::begin(Operation::Release);
        if NodeId(node.0).mode() == IoMode::Passthrough {
            self.shared.passthrough.release(node.0, handle.0);
        }
        self.shared.latencies.finish(timed, Ok(()), |_| reply.ok());
    }

    /// ENOSYS: the kernel takes it for done, and sends no more of them.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let _turn = self.shared.loops.begin();
        let timed = Timed::begin(Operation::OpenDirectory);
        self.shared.latencies.finish(timed, Ok(()), |_| {
            if self.shared.is_no_open() {
                self.shared.reply_no_open(reply);
            } else {
                reply.opened(FileHandle(self.shared.epoch), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
            }
        });
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectory) {
        self.read_directory(NodeId(node.0), cookie, reply);
    }

    fn readdirplus(&self, _: &Request, node: INodeNo, _: FileHandle, cookie: u64, reply: ReplyDirectoryPlus) {
        self.read_directory(NodeId(node.0), cookie, reply);
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    /// All blocks are used, none is free: the data set's size as `df` shows it.
    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCK_BYTES: u32 = 4096;
        const NAME_BYTES_MAX: u32 = 255;
        let timed = Timed::begin(Operation::Statistics);
        let found = self.shared.serve.statistics();
        self.shared.latencies.finish(timed, Ok(()), |_| {
            let nodes = found.files + found.directories;
            reply.statfs(found.bytes.div_ceil(u64::from(BLOCK_BYTES)), 0, 0, nodes, 0, BLOCK_BYTES, NAME_BYTES_MAX, BLOCK_BYTES);
        });
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let timed = Timed::begin(Operation::ExtendedAttribute);
        let result = self.shared.serve.extended_attribute(NodeId(node.0), name.as_bytes());
        self.shared.latencies.finish(timed, result, |result| reply_attribute(reply, size, result));
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let timed = Timed::begin(Operation::ExtendedAttribute);
        let result = self.shared.serve.extended_attribute_names(NodeId(node.0));
        let result = result.map(|names| names.iter().flat_map(|name| name.bytes().chain([0])).collect());
        self.shared.latencies.finish(timed, result, |result| reply_attribute(reply, size, result));
    }

    // Nothing is ever dirty.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    // The kernel checks by itself (`default_permissions`), seeks holes by the size, and keeps locks: none of these comes, or comes twice.
    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }
    fn getlk(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, _: u64, _: u64, _: i32, _: u32, reply: ReplyLock) {
        reply.error(Errno::ENOSYS);
    }
    fn setlk(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, _: u64, _: u64, _: i32, _: u32, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
    fn poll(&self, _: &Request, _: INodeNo, _: FileHandle, _: PollNotifier, _: PollEvents, _: PollFlags, reply: ReplyPoll) {
        reply.error(Errno::ENOSYS);
    }
    fn ioctl(&self, _: &Request, _: INodeNo, _: FileHandle, _: IoctlFlags, _: u32, _: &[u8], _: u32, reply: ReplyIoctl) {
        reply.error(Errno::ENOTTY);
    }
    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    // The mount is read-only, so the kernel refuses these by itself; a remount would not change what the source allows.
    refuse! {
        setattr(INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>, Option<TimeOrNow>, Option<SystemTime>,
            Option<FileHandle>, Option<SystemTime>, Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>; ReplyAttr);
        mknod(INodeNo, &OsStr, u32, u32, u32; ReplyEntry);
        mkdir(INodeNo, &OsStr, u32, u32; ReplyEntry);
        unlink(INodeNo, &OsStr; ReplyEmpty);
        rmdir(INodeNo, &OsStr; ReplyEmpty);
        symlink(INodeNo, &OsStr, &Path; ReplyEntry);
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags; ReplyEmpty);
        link(INodeNo, INodeNo, &OsStr; ReplyEntry);
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>; ReplyWrite);
        setxattr(INodeNo, &OsStr, &[u8], i32, u32; ReplyEmpty);
        removexattr(INodeNo, &OsStr; ReplyEmpty);
        create(INodeNo, &OsStr, u32, u32, i32; ReplyCreate);
        fallocate(INodeNo, FileHandle, u64, u64, i32; ReplyEmpty);
        copy_file_range(INodeNo, FileHandle, u64, INodeNo, FileHandle, u64, u64, CopyFileRangeFlags; ReplyWrite);
    }
}

/// A size of 0 asks how long the value is.
fn reply_attribute(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}
