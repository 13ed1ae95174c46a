//! What POSIX calls mean on a data set: look a name up, tell attributes, list a folder, read bytes.
//! Knows names, node ids, freshness, errors. Does not know FUSE's protocol, kernel buffers or how bytes are fetched.
//! Invariant: an open file's bytes are of one version; a name shows a version that the source had within the declared window.

mod adopt;
mod ahead;
mod attr;
mod by_key;
mod error;
mod evicted;
mod locate;
mod lookup;
mod loose;
mod node_id;
mod on_demand;
mod overlay;
mod read;
mod readdir;
mod repair;
mod xattr;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use forebay_wire::dataset_spec::Permissions;
use forebay_wire::node_config::ServingMode;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::fill::Origin;
use crate::reader::Reader;
use crate::rules::RuleTable;
pub use adopt::{Adoption, bytes_below, exists, for_each_below, lost_by};
use ahead::FilesAhead;
pub use error::Error;
use evicted::Evicted;
use forebay_manifest::{ContentId, Manifest, RemovedList};
use forebay_store::DatasetSlot;
pub use locate::FileOfEntryError;
use locate::Resolved;
pub use loose::seconds as seconds_of;
pub use node_id::{IoMode, NodeId};
use on_demand::OnDemand;
use overlay::Overlay;

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

/// A complete local file that the kernel may read by itself. Never changes.
pub trait LocalFile: AsFd + Send + Sync {
    /// What keeps its bytes counted for as long as the kernel may read them. Holds no descriptor: there may be many.
    fn keep(&self) -> Box<dyn KeptFile>;
}

/// See `LocalFile::keep`.
pub trait KeptFile: Send + Sync {
    /// The store has let go of it: it should be given up when nobody has it open.
    fn is_evicted(&self) -> bool;
}

/// How an `open` is to be answered.
#[derive(Clone)]
pub enum Opened {
    /// `ENOSYS`: the kernel stops asking, for the whole connection.
    NoOpen,
    /// Read through the daemon; the kernel keeps its pages over opens (content never changes under an id).
    Cached,
    /// The kernel reads this file by itself.
    Passthrough(Arc<dyn LocalFile>),
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

/// What a data set's filesystem is built from.
pub struct Parts {
    /// `namespace/name`.
    pub name: String,
    /// Where each source's files appear (`/` or `/a/b`), and the source.
    pub sources: Vec<(Vec<u8>, Arc<Origin>)>,
    pub reader: Reader,
    pub rules: RuleTable,
    /// Never told that the kernel forgot an id: it may hold the same content under its other mode, or look it up again. The list has its own limit.
    pub removed: RemovedList,
    pub permissions: Permissions,
    /// How often the source is listed again; `None`: never, names are for ever.
    pub sync_interval: Option<Duration>,
    pub serving: ServingMode,
    /// Whether the kernel may read complete files by itself, from this size up.
    pub passthrough_min_bytes: Option<u64>,
    /// What this process may use of the machine's memory: decides whether a data set fits.
    pub memory_bytes: u64,
    pub runtime: tokio::runtime::Handle,
    /// Seconds since the Unix epoch.
    pub clock: fn() -> u32,
}

/// One data set as a filesystem. `Send + Sync`; used behind an `Arc`.
///
/// Names and ids are looked for in this order: repairs (`overlay`), the manifest, the tree listed on demand, removed files that the kernel may
/// still hold.
pub struct Filesystem {
    /// Itself, for tasks that outlive a call.
    this: std::sync::Weak<Filesystem>,
    parts: Parts,
    /// The manifest that serves; none before the first listing is complete.
    current: ArcSwapOption<Current>,
    /// The one before: folders that are being read go on from it.
    previous: ArcSwapOption<Current>,
    rules: ArcSwap<RuleTable>,
    on_demand: OnDemand,
    overlay: Overlay,
    evicted: Evicted,
    /// Number of the last listing that began.
    listings: AtomicU64,
    resolved: Resolved,
    ahead: FilesAhead,
    /// Once true for ever: the kernel was told not to ask.
    no_open: AtomicBool,
    /// The mount's kernel can't, or the configuration says no.
    passthrough_off: AtomicBool,
    /// Sequence of the manifest that was found damaged; 0 for none: the first has 1.
    damaged_sequence: AtomicU64,
    invalidations: mpsc::Sender<Invalidation>,
    /// Until somebody takes it; before that there is no kernel to tell.
    receiver: Mutex<Option<mpsc::Receiver<Invalidation>>>,
    kernel_attached: AtomicBool,
    /// Repairs that run now, so that one is enough for many readers.
    repairs: Mutex<std::collections::HashMap<ContentId, Arc<tokio::sync::Mutex<()>>>>,
    /// The last files whose fill failed for good, with the cause: a sample for status.
    failures: Mutex<VecDeque<(String, String)>>,
    /// Told when the manifest turns out damaged or many names were repaired: `refresh` lists at once.
    refresh_wanted: tokio::sync::Notify,
}

/// A manifest that serves, with its sources found again by name.
struct Current {
    manifest: Arc<Manifest>,
    /// By `SourceIndex`; `None` for a source that the data set no longer has.
    origins: Vec<Option<Arc<Origin>>>,
}

/// Invalidations on their way to whoever writes them. A full queue makes the sender (a sync, off the read path) wait.
const INVALIDATIONS_MAX: usize = 4096;
/// Files of failed fills that status shows.
const FAILURES_MAX: usize = 16;

impl Filesystem {
    pub fn new(parts: Parts) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(INVALIDATIONS_MAX);
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            current: ArcSwapOption::empty(),
            previous: ArcSwapOption::empty(),
            rules: ArcSwap::from_pointee(parts.rules.clone()),
            on_demand: OnDemand::new(parts.sources.clone()),
            overlay: Overlay::default(),
            evicted: Evicted::default(),
            listings: AtomicU64::new(0),
            resolved: Resolved::default(),
            ahead: FilesAhead::default(),
            no_open: AtomicBool::new(parts.serving == ServingMode::NoOpen),
            passthrough_off: AtomicBool::new(false),
            damaged_sequence: AtomicU64::new(0),
            invalidations: sender,
            receiver: Mutex::new(Some(receiver)),
            kernel_attached: AtomicBool::new(false),
            repairs: Mutex::default(),
            failures: Mutex::default(),
            refresh_wanted: tokio::sync::Notify::new(),
            parts,
        })
    }

    fn shared(&self) -> Arc<Self> {
        self.this.upgrade().expect("a filesystem is only ever made behind an Arc, which the caller holds")
    }

    /// `namespace/name`.
    pub fn name(&self) -> &str {
        &self.parts.name
    }
    /// For the store's accounting.
    pub fn slot(&self) -> DatasetSlot {
        DatasetSlot::of(self.name())
    }
    pub fn reader(&self) -> &Reader {
        &self.parts.reader
    }
    pub fn sources(&self) -> &[(Vec<u8>, Arc<Origin>)] {
        &self.parts.sources
    }
    pub fn rules(&self) -> Arc<RuleTable> {
        self.rules.load_full()
    }
    /// The manifest that serves.
    pub fn manifest(&self) -> Option<Arc<Manifest>> {
        self.current.load().as_ref().map(|current| current.manifest.clone())
    }

    pub fn statistics(&self) -> Statistics {
        match &*self.current.load() {
            Some(current) => {
                let summary = current.manifest.summary();
                Statistics { bytes: summary.bytes, files: summary.files, directories: summary.directories, complete: true }
            }
            None => {
                let (files, directories, bytes) = self.on_demand.files_known();
                Statistics { bytes, files, directories, complete: false }
            }
        }
    }

    /// What must be written to the kernel. One consumer: `None` when it was taken before.
    pub fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        let receiver = self.receiver.lock().take();
        if receiver.is_some() {
            self.kernel_attached.store(true, Ordering::Release);
        }
        receiver
    }

    pub fn serving(&self) -> Serving {
        if self.no_open.load(Ordering::Acquire) { Serving::NoOpen } else { Serving::Open }
    }

    /// The mount can't pass through: no id says so from now on.
    pub fn disable_passthrough(&self) {
        self.passthrough_off.store(true, Ordering::Release);
    }

    /// The last files that couldn't be filled, at most `FAILURES_MAX`, with the cause.
    pub fn failures(&self) -> Vec<(String, String)> {
        self.failures.lock().iter().cloned().collect()
    }

    fn note_failure(&self, path: String, cause: String) {
        let mut failures = self.failures.lock();
        failures.retain(|(other, _)| *other != path);
        if failures.len() == FAILURES_MAX {
            failures.pop_front();
        }
        failures.push_back((path, cause));
    }

    /// Returns when a listing is wanted before its time.
    pub async fn refresh_wanted(&self) {
        self.refresh_wanted.notified().await;
    }
}
