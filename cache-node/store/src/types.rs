//! What the store takes and answers: configuration, admissions, outcomes, usage, errors. Values only.

use std::path::PathBuf;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::evict::EvictionKind;
use forebay_wire::block::{BlockSize, ObjectId};

/// A data set as the store knows it: the hash of its name, the same after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatasetSlot(pub u64);

impl DatasetSlot {
    pub fn of(dataset_name: &str) -> Self {
        Self(xxh3_64(dataset_name.as_bytes()))
    }
}

/// What a data set may take of the store, and before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Terms {
    /// The most bytes that its objects take, in all tiers together; `None`: what the tiers hold.
    pub quota_bytes: Option<u64>,
    /// Under pressure objects of lower priority leave first, and none leaves for one of a lower priority than its own.
    pub priority: i16,
}

/// What is here of one data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DatasetUsage {
    /// Of its objects, and of puts that are under way: what counts to its quota.
    pub used_bytes: u64,
    /// Of these, of objects that are pinned.
    pub pinned_bytes: u64,
    pub terms: Terms,
}

/// How an object may leave: a pinned one only by `free`, `expire`, because its bytes are wrong, or for its own data set's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Pin,
    Auto,
}

/// On which terms bytes are kept. The last admission given for an object holds for all of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    pub class: Class,
    /// Seconds since the Unix epoch; `expire` frees the object from then on.
    pub expires_at_seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// `into` holds exactly the extent's bytes, and they passed their checksums in this call.
    Hit,
    /// Not all of the extent is here; `into` holds garbage.
    Miss,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The block is here now (or was before).
    Stored,
    Refused(Refusal),
}

/// Why a block wasn't kept. The reader is served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The policy keeps other objects (`Hold`: a stable subset).
    NotHeld,
    /// The data set has its whole quota, and what is here of it stays: by the policy, or because it is pinned.
    OverQuota,
    /// No victim was left: what is here is pinned or of higher priority, or the object is larger than every tier.
    NoRoom,
    /// Every tier is full, read-only or failing; `usage` tells which and why.
    Degraded,
    /// Another call is putting the same object.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TierKind {
    /// A folder on tmpfs: passthrough, restart and accounting work as on a disk, and the kernel owns the memory.
    Memory,
    Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    Bytes(u64),
    /// Of the filesystem's size, 1 to 100.
    Percent(u8),
}

/// One folder of the store.
#[derive(Clone, Debug)]
pub struct TierConfig {
    pub kind: TierKind,
    pub path: PathBuf,
    pub capacity: Capacity,
    /// The filesystem is never filled so far that less than this is free, 0 to 99.
    pub keep_free_percent: u8,
}

#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// 1 to `TIERS_MAX` folders.
    pub tiers: Vec<TierConfig>,
    pub block_size: BlockSize,
    /// Objects from this size up are one file each, so that passthrough can serve them.
    pub passthrough_min_bytes: u64,
    /// Until `Store::set_eviction` says otherwise.
    pub eviction: EvictionKind,
    /// File descriptors kept for reads, of segments and object files together.
    pub open_files_max: usize,
    /// How long a full, read-only or failing tier is left alone before a put tries it again.
    pub probe_interval: Duration,
    /// Drop the store's page cache after a read: for replies that the mount's page cache holds too.
    pub drop_pages_after_read: bool,
}

impl StoreConfig {
    /// One disk folder, the defaults for all the rest.
    pub fn one_folder(path: impl Into<PathBuf>, capacity: Capacity) -> Self {
        let tier = TierConfig { kind: TierKind::Disk, path: path.into(), capacity, keep_free_percent: 0 };
        Self {
            tiers: vec![tier],
            block_size: BlockSize::DEFAULT,
            passthrough_min_bytes: 64 << 10,
            eviction: EvictionKind::Hold,
            open_files_max: 512,
            probe_interval: Duration::from_secs(5),
            drop_pages_after_read: false,
        }
    }
}

/// Whether a tier takes new blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// ENOSPC although quota and `keepFreePercent` left room.
    Full,
    ReadOnly,
    /// EIO and the like.
    Failing,
}

#[derive(Clone, Debug)]
pub struct TierUsage {
    pub kind: TierKind,
    pub path: PathBuf,
    pub health: Health,
    /// Bytes on the filesystem, those of evicted files that are still open included.
    pub used_bytes: u64,
    /// Of these, evicted and waiting for the last close.
    pub lingering_bytes: u64,
    pub pinned_bytes: u64,
    /// What `used_bytes` may reach now: the quota, or less where `keepFreePercent` says so.
    pub capacity_bytes: u64,
    /// `None` where the filesystem could hold the quota, were it empty. One that is given in percent always fits.
    pub too_small: Option<TooSmall>,
}

/// A tier was given more bytes than its filesystem can ever hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSmall {
    pub asked_bytes: u64,
    /// The size of the filesystem.
    pub total_bytes: u64,
    pub keep_free_percent: u8,
    /// What it can hold at most.
    pub holds_bytes: u64,
}

/// Counters since `open`, and what is here now.
#[derive(Clone, Debug)]
pub struct Usage {
    pub tiers: Vec<TierUsage>,
    pub objects: u64,
    pub index_bytes: u64,
    pub evictions: u64,
    pub expired: u64,
    pub corrupt: u64,
    pub refused_puts: u64,
    pub read_errors: u64,
    pub write_errors: u64,
}

/// Why the store can't be opened or did not do what it was told; `path` is the tier's folder or a file below it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("open store {path}: in use by pid {pid}; stop that process or give this one another folder")]
    InUse { path: PathBuf, pid: String },
    #[error("open store {path}: not writable by this user; change its owner or name another folder in `tiers`")]
    NotWritable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error(
        "open store {path}: written by a newer Forebay (format {found}, this one knows {known}); use the newer binary or an empty folder"
    )]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error("open store: {detail}")]
    Config { detail: String },
    #[error("{op} {path}")]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{op} {object}: {detail}")]
    Misuse { op: &'static str, object: ObjectId, detail: String },
}
