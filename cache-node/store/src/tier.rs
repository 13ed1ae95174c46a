//! One folder with its lock, quota, health and policy.
//! Knows how full it is and whether it takes writes. Does not know where an object is in it.
//! Invariant: `used_bytes` never falls below what the objects of the tier, dead records and evicted open files take, and never grows above the
//! capacity: room is taken before anything is written. Not counted are the tables and the segments' indexes, some 160 bytes per object.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::check;
use super::datasets::{Dataset, Datasets};
use super::disk::Disk;
use super::segment::Segments;
use super::table::Table;
use super::types::{Capacity, Health, StoreError, TierConfig, TierKind, TierUsage, TooSmall};
use crate::evict::{Evict, EvictionKind, Standing};

/// Of the folder's layout; a higher one is refused.
const FORMAT: u32 = 1;
/// Files up to this many bytes written are let pass before the filesystem is asked again how full it is.
const SPACE_CHECK_BYTES: u64 = 16 << 20;
/// What filesystems allocate by.
pub(crate) const PAGE: u64 = 4096;

pub(crate) struct Tier {
    pub(crate) number: u8,
    pub(crate) kind: TierKind,
    pub(crate) path: PathBuf,
    pub(crate) root: File,
    pub(crate) lock: File,
    pub(crate) disk: Disk,
    pub(crate) table: Table,
    pub(crate) segments: Segments,
    /// Replaced while in use when the node is told another strategy: whoever decides loads it once and decides by that one.
    pub(crate) policy: ArcSwap<Box<dyn Evict>>,
    /// Of the objects of each priority.
    standings: RwLock<BTreeMap<i16, Arc<Standing>>>,
    pub(crate) datasets: Arc<Datasets>,
    /// The quota, fixed at `open`: also the tier's weight in placement.
    pub(crate) quota_bytes: u64,
    is_in_percent: bool,
    keep_free_percent: u8,
    pub(crate) used_bytes: AtomicU64,
    /// The part of `used_bytes` that is promised and perhaps not yet written.
    reserved_bytes: AtomicU64,
    pub(crate) lingering_bytes: AtomicU64,
    /// Files that are being evicted now: unlinked, and their bytes given back unless somebody has them open.
    pub(crate) leaving: AtomicU32,
    pub(crate) pinned_bytes: AtomicU64,
    /// The part of `used_bytes` that dead records of segments still take.
    pub(crate) dead_bytes: AtomicU64,
    /// Records of blocks that were found damaged while an object was loaded.
    pub(crate) damaged: AtomicU64,
    /// What `used_bytes` may reach, as the filesystem was when last asked.
    capacity_bytes: AtomicU64,
    unasked_bytes: AtomicU64,
    /// No file expires before this, seconds since the epoch; `u32::MAX` = none does.
    pub(crate) first_expiry_seconds: AtomicU32,
    health: AtomicU8,
    opened_at: Instant,
    probe_interval: Duration,
    probe_at_ms: AtomicU64,
}

impl Tier {
    pub(crate) fn open(
        number: u8,
        config: &TierConfig,
        eviction: EvictionKind,
        disk: &Disk,
        probe_interval: Duration,
        datasets: &Arc<Datasets>,
    ) -> Result<Self, StoreError> {
        let path = config.path.clone();
        let root = open_folder(&path)?;
        let lock = lock(&path, &root)?;
        check_format(&path, &root)?;
        let io = |op| {
            let path = path.clone();
            move |cause| StoreError::Io { op, path, cause }
        };
        for folder in ["files", "segments"] {
            disk.make_folder(&root, folder).map_err(io("make folders in store"))?;
        }
        let table = Table::open(disk, &root).map_err(io("open the tables of store"))?;
        let space = disk.space(&root).map_err(io("ask for free space of store"))?;
        let quota_bytes = match config.capacity {
            Capacity::Bytes(bytes) => bytes,
            Capacity::Percent(percent) => (u128::from(space.total_bytes) * u128::from(percent) / 100) as u64,
        };
        Ok(Self {
            number,
            kind: config.kind,
            path,
            segments: Segments::new(disk, &root, quota_bytes).map_err(|cause| StoreError::Io {
                op: "open the segments of store",
                path: config.path.clone(),
                cause,
            })?,
            root,
            lock,
            disk: disk.clone(),
            table,
            policy: ArcSwap::from_pointee(eviction.policy()),
            standings: RwLock::default(),
            datasets: datasets.clone(),
            quota_bytes,
            is_in_percent: matches!(config.capacity, Capacity::Percent(_)),
            keep_free_percent: config.keep_free_percent,
            used_bytes: AtomicU64::new(0),
            reserved_bytes: AtomicU64::new(0),
            lingering_bytes: AtomicU64::new(0),
            leaving: AtomicU32::new(0),
            pinned_bytes: AtomicU64::new(0),
            dead_bytes: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            capacity_bytes: AtomicU64::new(quota_bytes),
            unasked_bytes: AtomicU64::new(0),
            first_expiry_seconds: AtomicU32::new(u32::MAX),
            health: AtomicU8::new(0),
            opened_at: Instant::now(),
            probe_interval,
            probe_at_ms: AtomicU64::new(0),
        })
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes.load(Relaxed)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    /// Whether what was evicted and is still open would be enough. It frees its bytes when it is closed: to evict more for it meanwhile would
    /// only empty the cache.
    pub(crate) fn is_room_coming(&self, bytes: u64) -> bool {
        let lingering = self.lingering_bytes.load(Relaxed);
        lingering > 0 && self.used_bytes().saturating_sub(lingering) + bytes <= self.capacity_bytes()
    }

    /// Of the objects of one priority among themselves.
    pub(crate) fn standing(&self, priority: i16) -> Arc<Standing> {
        if let Some(standing) = self.standings.read().get(&priority) {
            return standing.clone();
        }
        self.standings.write().entry(priority).or_insert_with(|| Arc::new(Standing::new())).clone()
    }

    /// Other objects compete from now on, or by another policy.
    pub(crate) fn forget_standings(&self) {
        self.standings.read().values().for_each(|standing| standing.forget());
    }

    pub(crate) fn pin(&self, dataset: &Dataset, bytes: u64) {
        self.pinned_bytes.fetch_add(bytes, Relaxed);
        dataset.pin(self.number, bytes);
    }

    pub(crate) fn unpin(&self, dataset: &Dataset, bytes: u64) {
        self.pinned_bytes.fetch_sub(bytes, Relaxed);
        dataset.unpin(self.number, bytes);
    }

    /// Takes room for bytes that are about to be written; `None` when somebody has to leave first. Costs a look at the filesystem, which is
    /// little beside the write.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        // Reserved before it is used, and given back in the other order: what `ask_space` takes for written is then never too much.
        self.reserved_bytes.fetch_add(bytes, SeqCst);
        let fits = |used: u64| used.checked_add(bytes).filter(|after| *after <= self.capacity_bytes());
        if self.used_bytes.fetch_update(SeqCst, SeqCst, fits).is_err() {
            self.reserved_bytes.fetch_sub(bytes, SeqCst);
            return None;
        }
        let room = Room { tier: self.clone(), dataset: None, bytes };
        if !self.leaves_enough_free() {
            drop(room);
            self.ask_space();
            return None;
        }
        Some(room)
    }

    /// Whether all that is reserved can be written. Each reservation is either in the sum, or written and so missing from the free space: of two
    /// that are made at once at least one sees the other.
    fn leaves_enough_free(&self) -> bool {
        let reserved = self.reserved_bytes.load(SeqCst);
        self.disk
            .space(&self.root)
            .is_ok_and(|space| space.available_bytes >= self.keep_free_bytes(space.total_bytes).saturating_add(reserved))
    }

    fn keep_free_bytes(&self, total_bytes: u64) -> u64 {
        (u128::from(total_bytes) * u128::from(self.keep_free_percent) / 100) as u64
    }

    fn written_bytes(&self) -> u64 {
        self.used_bytes.load(SeqCst).saturating_sub(self.reserved_bytes.load(SeqCst))
    }

    /// Whether `bytes` more leave room that nobody has to fight for.
    pub(crate) fn has_ample(&self, bytes: u64) -> bool {
        self.used_bytes().saturating_add(bytes) <= self.ample_bytes()
    }

    /// Between this and the capacity a policy may keep newcomers out: room that `Hold` doesn't fight over.
    pub(crate) fn ample_bytes(&self) -> u64 {
        ample(self.capacity_bytes())
    }

    /// Notes that `bytes` were written, and now and then asks the filesystem how much more it may be.
    pub(crate) fn wrote(&self, bytes: u64) {
        if self.unasked_bytes.fetch_add(bytes, Relaxed) + bytes >= SPACE_CHECK_BYTES.min(self.quota_bytes / 64) {
            self.ask_space();
        }
    }

    /// Capacity = the quota, or what leaves `keep_free_percent` of the filesystem free, whichever is less.
    pub(crate) fn ask_space(&self) {
        self.unasked_bytes.store(0, Relaxed);
        let before = self.written_bytes();
        let Ok(space) = self.disk.space(&self.root) else { return };
        // The lower of two looks: what is freed meanwhile must not count as free and as used.
        let written = before.min(self.written_bytes());
        let keep_free = self.keep_free_bytes(space.total_bytes);
        let by_space = if space.available_bytes >= keep_free {
            written.saturating_add(space.available_bytes - keep_free)
        } else {
            written.saturating_sub(keep_free - space.available_bytes)
        };
        self.capacity_bytes.store(self.quota_bytes.min(by_space), Relaxed);
    }

    /// Never below nothing, as of a data set.
    pub(crate) fn give_back(&self, bytes: u64) {
        let _ = self.used_bytes.fetch_update(Relaxed, Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    pub(crate) fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            0 => Health::Good,
            1 => Health::Full,
            2 => Health::ReadOnly,
            _ => Health::Failing,
        }
    }

    fn now_ms(&self) -> u64 {
        self.opened_at.elapsed().as_millis() as u64
    }

    /// Whether to try a write: always in good health, else one caller per probe interval.
    pub(crate) fn takes_writes(&self) -> bool {
        if self.health() == Health::Good {
            return true;
        }
        let (due, now) = (self.probe_at_ms.load(Relaxed), self.now_ms());
        let next = now + self.probe_interval.as_millis() as u64;
        now >= due && self.probe_at_ms.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }

    pub(crate) fn write_failed(&self, op: &'static str, cause: &io::Error) {
        let health = match cause.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Health::Full,
            Some(Errno::ROFS) => Health::ReadOnly,
            // Ours, not the disk's.
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => return,
            _ => Health::Failing,
        };
        let code = match health {
            Health::Good => 0,
            Health::Full => 1,
            Health::ReadOnly => 2,
            Health::Failing => 3,
        };
        self.probe_at_ms.store(self.now_ms() + self.probe_interval.as_millis() as u64, Relaxed);
        if self.health.swap(code, Relaxed) != code {
            tracing::warn!(tier = %self.path.display(), op, ?health, error = %cause, "tier takes no blocks until it heals; reads go on");
        }
        self.ask_space();
    }

    pub(crate) fn write_succeeded(&self) {
        if self.health.load(Relaxed) != 0 && self.health.swap(0, Relaxed) != 0 {
            tracing::info!(tier = %self.path.display(), "tier takes blocks again");
        }
    }

    /// Writes one page to see whether a degraded tier has healed.
    pub(crate) fn probe(&self) {
        if self.health() == Health::Good || !self.takes_writes() {
            return;
        }
        let attempt = self.disk.create(&self.root, "probe").and_then(|file| {
            self.disk.write_at(&file, &[1; PAGE as usize], 0)?;
            rustix::fs::fdatasync(&file)?;
            self.disk.unlink(&self.root, "probe")
        });
        match attempt {
            Ok(()) => {
                self.ask_space();
                self.write_succeeded();
            }
            Err(cause) => self.write_failed("probe", &cause),
        }
    }

    /// Asks the filesystem: it may have grown.
    fn too_small(&self) -> Option<TooSmall> {
        let total_bytes = self.disk.space(&self.root).ok().filter(|_| !self.is_in_percent)?.total_bytes;
        let holds_bytes = total_bytes - self.keep_free_bytes(total_bytes);
        let (asked_bytes, keep_free_percent) = (self.quota_bytes, self.keep_free_percent);
        (asked_bytes > holds_bytes).then_some(TooSmall { asked_bytes, total_bytes, keep_free_percent, holds_bytes })
    }

    pub(crate) fn usage(&self) -> TierUsage {
        TierUsage {
            kind: self.kind,
            path: self.path.clone(),
            health: self.health(),
            used_bytes: self.used_bytes(),
            lingering_bytes: self.lingering_bytes.load(Relaxed),
            pinned_bytes: self.pinned_bytes.load(Relaxed),
            capacity_bytes: self.capacity_bytes(),
            too_small: self.too_small(),
        }
    }
}

/// All but the last of a capacity or quota, which whole objects never fill to the byte.
pub(crate) fn ample(bytes: u64) -> u64 {
    bytes - bytes / 1024
}

/// Room of a tier, and of a data set's quota, for bytes that are about to be written: given back when dropped, unless it was spent.
pub(crate) struct Room {
    tier: Arc<Tier>,
    /// Whose quota it is part of; `None` for what is moved, which counts there already.
    dataset: Option<Arc<Dataset>>,
    bytes: u64,
}

impl Room {
    /// The data set's bytes, taken before, go with it from now on.
    pub(crate) fn within(mut self, dataset: &Arc<Dataset>) -> Self {
        self.dataset = Some(dataset.clone());
        self
    }

    /// This much of it is on the disk: whoever removes that gives it back.
    pub(crate) fn spend_part(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.tier.reserved_bytes.fetch_sub(bytes, SeqCst);
    }

    pub(crate) fn spend(mut self) {
        self.spend_part(self.bytes);
    }

    /// This much of it is on the disk and of no use to anybody: the tier's alone.
    pub(crate) fn waste(&mut self, bytes: u64) {
        self.spend_part(bytes);
        if let Some(dataset) = &self.dataset {
            dataset.give_back(self.tier.number, bytes);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.tier.give_back(self.bytes);
        self.tier.reserved_bytes.fetch_sub(self.bytes, SeqCst);
        if let Some(dataset) = &self.dataset {
            dataset.give_back(self.tier.number, self.bytes);
        }
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        // Closing it isn't enough: between fork and exec a child of this process has the same lock, and would keep the next opener out.
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

fn open_folder(path: &Path) -> Result<File, StoreError> {
    let not_writable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::NotWritable { path: path.to_owned(), cause },
        _ => StoreError::Io { op: "open store", path: path.to_owned(), cause },
    };
    std::fs::create_dir_all(path).map_err(not_writable)?;
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| not_writable(errno.into()))?.into())
}

/// The lock dies with the process; the pid in it is for people.
fn lock(path: &Path, root: &File) -> Result<File, StoreError> {
    let failed = |errno: Errno| match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StoreError::NotWritable { path: path.to_owned(), cause: errno.into() },
        errno => StoreError::Io { op: "lock store", path: path.to_owned(), cause: errno.into() },
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::openat(root, "lock", flags, Mode::RUSR | Mode::WUSR).map_err(failed)?.into();
    if let Err(errno) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        return Err(match errno {
            Errno::WOULDBLOCK => StoreError::InUse { path: path.to_owned(), pid: pid.trim().to_owned() },
            errno => failed(errno),
        });
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes())).map_err(|cause| StoreError::Io {
        op: "lock store",
        path: path.to_owned(),
        cause,
    })?;
    Ok(file)
}

fn check_format(path: &Path, root: &File) -> Result<(), StoreError> {
    let failed = |cause: io::Error| StoreError::Io { op: "read the format of store", path: path.to_owned(), cause };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(root, "format", flags, Mode::RUSR | Mode::WUSR);
    let mut file: File = opened.map_err(|errno| failed(errno.into()))?.into();
    // As bytes: a flipped bit may make it no text at all.
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    // With a checksum: a flipped bit must not look like a format from the future.
    let line = |format: u32| {
        let text = format!("forebay-store {format}");
        format!("{text} {:08x}\n", check::sum(text.as_bytes()))
    };
    let found = text.split(' ').nth(1).and_then(|format| format.parse::<u32>().ok()).filter(|&format| text == line(format));
    match found {
        Some(found) if found > FORMAT => Err(StoreError::Format { path: path.to_owned(), found, known: FORMAT }),
        Some(_) => Ok(()),
        // New, cut off while it was made, or damaged.
        None => file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(line(FORMAT).as_bytes())).map_err(failed),
    }
}
