//! Which backing id a node is read through, from its first open to its FORGET.
//! Knows node ids, backing ids and opens. Does not know what a file holds or why it is complete.
//! Invariant: while a node may be open its backing id stays the same: a second one would fail the open with EIO.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_mounter::backing::{self, BackingId};
use forebay_mounter::notify::Notification;
use forebay_mounter::protocol::ProtocolError;
use parking_lot::Mutex;

use crate::fs::{KeptFile, LocalFile};
use crate::handover::Handover;

/// About how many nodes may have a backing id: for each the kernel keeps a file open, some 2 KiB with its inode.
const NODES_MAX: usize = 262_144;
/// Opens of different nodes seldom meet in one of so many.
const SHARDS: usize = 64;
/// A FORGET that comes this soon after an adoption may be older than an open that the daemon before answered.
const FORGET_TRUSTED_AFTER: Duration = Duration::from_secs(10);
/// How many nodes a message to the kernel names at most.
const PRUNE_MAX: usize = 1024;

/// The table of one session.
pub(super) struct Passthrough {
    shards: [Mutex<HashMap<u64, Entry>>; SHARDS],
    registrar: Registrar,
    handover: Handover,
    /// Handles of this session carry it: a release of an older handle is not one of our opens.
    epoch: u64,
    adopted: Instant,
    /// Counts opens; an entry's last one tells how recently it was used.
    clock: AtomicU64,
    /// The kernel refuses to register files: everything is read through the daemon.
    off: AtomicBool,
    prune: bool,
}

struct Entry {
    backing: BackingId,
    /// Keeps the bytes counted in the store. `None`: inherited, the daemon before had it.
    kept: Option<Box<dyn KeptFile>>,
    /// Of this session.
    opens: u32,
    /// A daemon before this one answered opens with it, nobody knows how many are left.
    inherited: bool,
    last_use: u64,
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.opens == 0 && !self.inherited
    }

    fn is_evicted(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.is_evicted())
    }
}

/// Who makes the ioctl.
enum Registrar {
    /// This process may; the holder is told the id.
    Directly(OwnedFd),
    /// The holder does, at the price of two context switches.
    Holder,
    /// The mount has no passthrough.
    Nobody,
}

/// What passthrough holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassthroughUse {
    pub nodes: usize,
    pub open: usize,
    pub inherited: usize,
}

impl std::fmt::Debug for Passthrough {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passthrough").field("epoch", &self.epoch).field("use", &self.usage()).finish()
    }
}

/// How a session begins.
pub(super) struct Beginning {
    pub(super) handover: Handover,
    /// The device, if the mount negotiated passthrough and it is wanted.
    pub(super) device: Option<OwnedFd>,
    pub(super) inherited: HashMap<u64, u32>,
    pub(super) epoch: u64,
    pub(super) prune: bool,
}

impl Passthrough {
    pub(super) fn new(beginning: Beginning) -> Self {
        let Beginning { handover, device, inherited, epoch, prune } = beginning;
        let table = Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            registrar: device.map_or(Registrar::Nobody, Registrar::choose),
            handover,
            epoch,
            adopted: Instant::now(),
            clock: AtomicU64::new(0),
            off: AtomicBool::new(false),
            prune,
        };
        for (node, backing) in inherited {
            let entry = Entry { backing: BackingId(backing), kept: None, opens: 0, inherited: true, last_use: 0 };
            table.shard(node).lock().insert(node, entry);
        }
        table
    }

    /// Whether a complete file can be passed through at all.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self.registrar, Registrar::Nobody) && !self.off.load(Ordering::Relaxed)
    }

    /// Counts an open of a node that has a backing id already, and gives that: also after the store evicted the file, whose bytes are the same ones.
    pub(super) fn open_again(&self, node: u64) -> Option<BackingId> {
        let mut shard = self.shard(node).lock();
        let entry = shard.get_mut(&node)?;
        entry.opens += 1;
        entry.last_use = self.tick();
        Some(entry.backing)
    }

    /// Registers `file` for `node` and counts an open; the id that it has already, if another thread was faster.
    ///
    /// The shard stays locked until the holder knows the id: a second open must not be answered with an id that the next daemon would miss.
    pub(super) fn open(&self, node: u64, file: &dyn LocalFile) -> io::Result<BackingId> {
        let last_use = self.tick();
        let mut shard = self.shard(node).lock();
        let closed = self.make_room(&mut shard);
        let opened = match shard.entry(node) {
            MapEntry::Occupied(mut entry) => {
                let entry = entry.get_mut();
                entry.opens += 1;
                entry.last_use = last_use;
                Ok(entry.backing)
            }
            MapEntry::Vacant(vacant) => self.register(node, file).inspect(|backing| {
                vacant.insert(Entry { backing: *backing, kept: Some(file.keep()), opens: 1, inherited: false, last_use });
            }),
        };
        drop(shard);
        // What a kept file's end frees is freed outside the lock.
        drop(closed);
        opened
    }

    fn register(&self, node: u64, file: &dyn LocalFile) -> io::Result<BackingId> {
        let registered = match &self.registrar {
            Registrar::Directly(device) => backing::open(device, file.as_fd()).and_then(|backing| {
                self.handover.registered(node, backing).map_err(io::Error::other)?;
                Ok(backing)
            }),
            Registrar::Holder => self.handover.register(node, file.as_fd()).map_err(|error| match error {
                ProtocolError::Refused { errno: Some(errno), .. } => io::Error::from_raw_os_error(errno),
                other => io::Error::other(other),
            }),
            Registrar::Nobody => Err(io::ErrorKind::Unsupported.into()),
        };
        if let Err(error) = &registered
            // A holder that is away says nothing of the kernel: this open goes through the daemon, the next one is tried again.
            && (error.raw_os_error().is_some() || !self.handover.is_lasting())
            && !self.off.swap(true, Ordering::Relaxed)
        {
            // ELOOP: the store lies on a stacked filesystem such as overlayfs.
            tracing::warn!(%error, "the kernel can't read the store's files by itself: passthrough is off, large reads are slower");
        }
        registered
    }

    /// Counts a release of a handle that was given out in session `epoch`.
    pub(super) fn release(&self, node: u64, epoch: u64) {
        if epoch == self.epoch
            && let Some(entry) = self.shard(node).lock().get_mut(&node)
        {
            entry.opens = entry.opens.saturating_sub(1);
        }
    }

    /// The kernel dropped the inode: nobody has it open.
    pub(super) fn forget(&self, node: u64) {
        let mut shard = self.shard(node).lock();
        let Some(entry) = shard.get(&node) else { return };
        // An open that came after the inode was dropped overtook the FORGET: the next FORGET will do.
        if entry.opens > 0 || entry.inherited && self.adopted.elapsed() < FORGET_TRUSTED_AFTER {
            return;
        }
        let removed = shard.remove(&node);
        self.close(&[node]);
        drop(shard);
        drop(removed);
    }

    /// Closes the oldest eighth of a shard's idle entries when it is over its share. Gives them back to be dropped outside the lock.
    fn make_room(&self, shard: &mut HashMap<u64, Entry>) -> Vec<Entry> {
        let share = NODES_MAX / SHARDS;
        if shard.len() < share {
            return Vec::new();
        }
        let mut idle: Vec<(u64, u64)> =
            shard.iter().filter(|(_, entry)| entry.is_idle()).map(|(node, entry)| (entry.last_use, *node)).collect();
        idle.sort_unstable();
        let nodes: Vec<u64> = idle.into_iter().take(share / 8).map(|(_, node)| node).collect();
        let removed = nodes.iter().filter_map(|node| shard.remove(node)).collect();
        self.close(&nodes);
        removed
    }

    /// Lets go of files that the store has evicted since, where nobody has them open; to be called regularly.
    /// Inherited ones can't be closed: the kernel is asked to drop their inodes, which sends a FORGET if they are unused.
    pub(super) fn sweep(&self) -> Vec<Notification> {
        let mut prune = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let gone: Vec<u64> = shard.iter().filter(|(_, entry)| entry.is_idle() && entry.is_evicted()).map(|(node, _)| *node).collect();
            let removed: Vec<Entry> = gone.iter().filter_map(|node| shard.remove(node)).collect();
            self.close(&gone);
            if self.prune && self.adopted.elapsed() > FORGET_TRUSTED_AFTER {
                prune.extend(shard.iter().filter(|(_, entry)| entry.inherited && entry.opens == 0).map(|(node, _)| *node).take(PRUNE_MAX));
            }
            drop(shard);
            drop(removed);
        }
        prune.chunks(PRUNE_MAX).map(|nodes| Notification::Prune { nodes: nodes.to_vec() }).collect()
    }

    pub(super) fn usage(&self) -> PassthroughUse {
        let mut sum = PassthroughUse::default();
        for shard in &self.shards {
            let shard = shard.lock();
            sum.nodes += shard.len();
            sum.open += shard.values().filter(|entry| entry.opens > 0).count();
            sum.inherited += shard.values().filter(|entry| entry.inherited).count();
        }
        sum
    }

    /// Under the shard's lock, so that the holder hears of a later registration of the same node later.
    fn close(&self, nodes: &[u64]) {
        if !nodes.is_empty()
            && let Err(error) = self.handover.close(nodes)
        {
            tracing::warn!(%error, "backing ids stay registered");
        }
    }

    fn shard(&self, node: u64) -> &Mutex<HashMap<u64, Entry>> {
        // Node ids are hashes whose low bits are flags; older ones are taken from the top.
        &self.shards[(node >> 58) as usize % SHARDS]
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

impl Registrar {
    /// Tries the ioctl with a descriptor that it must refuse for another reason than privilege.
    fn choose(device: OwnedFd) -> Self {
        match backing::open(&device, &device) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Self::Holder,
            Ok(backing) => {
                // Can't be: a device has no content to read by. Undone all the same.
                let _ = backing::close(&device, backing);
                Self::Directly(device)
            }
            Err(_) => Self::Directly(device),
        }
    }
}
