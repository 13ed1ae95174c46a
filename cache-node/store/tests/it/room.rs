//! Room under concurrency: the quota and what is kept free are never passed, whatever happens at the same time, and a failed write is counted.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use forebay_store::disk::{Disk, DiskCall, DiskFaults, DiskVerdict};
use forebay_store::evict::EvictionKind;
use forebay_store::{Capacity, PutOutcome, Refusal, Store, StoreConfig, TierConfig, TierKind};

use crate::store_model::{AUTO, BLOCK_BYTES, Random, config, is_whole, object, put, put_all};

const WRITERS: u64 = 8;

/// A filesystem of its own, unmounted at the end.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where this user may not mount, which is said past the harness; where the environment says that the test must run it fails.
    pub(crate) fn mount(mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        let must = ["CI", "FOREBAY_MUST_MOUNT"].into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        assert!(must.is_none(), "{must:?} is set, so this test must run; it needs to mount a tmpfs: {mounted:?}");
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: may not mount a tmpfs");
        None
    }
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.path()).status();
    }
}

/// Lets the others go on before each large write: they reserve while this one is promised and not yet written.
struct Yielding;

impl DiskFaults for Yielding {
    fn verdict(&self, call: DiskCall) -> DiskVerdict {
        if matches!(call, DiskCall::Write { bytes } if bytes > 4096) {
            (0..50).for_each(|_| std::thread::yield_now());
        }
        DiskVerdict::Go
    }
}

/// Eight threads put objects of all sizes, while `sample` is called without pause.
fn put_at_the_same_time(store: &Store, rounds: u64, sample: impl Fn()) {
    const SIZES: [u64; 6] = [900, 5000, 30_000, 70_000, 110_000, 300_000];
    let running = AtomicU64::new(WRITERS);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let running = &running;
            scope.spawn(move || {
                let mut random = Random(writer * 77 + 1);
                for _ in 0..rounds {
                    let n = random.below(900);
                    let object = object(n, SIZES[n as usize % SIZES.len()]);
                    match random.below(12) {
                        0 => store.free(&object),
                        1 => store.maintain(1),
                        _ => {
                            let _ = put_all(store, &object, AUTO);
                        }
                    }
                }
                running.fetch_sub(1, SeqCst);
            });
        }
        while running.load(SeqCst) > 0 {
            sample();
        }
    });
}

#[test]
fn the_quota_is_never_passed_by_puts_at_the_same_time() {
    for eviction in [EvictionKind::Hold, EvictionKind::Lru, EvictionKind::S3Fifo] {
        let folder = tempfile::tempdir().unwrap();
        let quota = 4 << 20;
        let config = StoreConfig { eviction, ..config(folder.path(), quota) };
        let store = Store::open_with(config, Disk::with_faults(Arc::new(Yielding))).unwrap();
        put_at_the_same_time(&store, 250, || {
            let used = store.usage().tiers[0].used_bytes;
            assert!(used <= quota, "{eviction:?}: {used} of {quota}");
        });
        let usage = store.usage();
        assert!(usage.evictions > 0 && usage.corrupt == 0 && usage.write_errors == 0, "{usage:?}");
        assert!(usage.tiers[0].used_bytes > quota / 2, "it is full: {usage:?}");
    }
}

#[test]
fn what_is_to_be_kept_free_stays_free_under_puts_at_the_same_time() {
    let Some(tmpfs) = Tmpfs::mount(32) else { return };
    let tier =
        TierConfig { kind: TierKind::Disk, path: tmpfs.path().to_owned(), capacity: Capacity::Bytes(1 << 30), keep_free_percent: 75 };
    let config = StoreConfig { tiers: vec![tier], eviction: EvictionKind::Lru, ..config(tmpfs.path(), 0) };
    let store = Store::open_with(config, Disk::with_faults(Arc::new(Yielding))).unwrap();
    let keep_free = 24 << 20;
    // Tables and indexes are not asked for: together less than one block.
    put_at_the_same_time(&store, 250, || {
        let free = tmpfs.free_bytes();
        assert!(free >= keep_free - BLOCK_BYTES, "{free} bytes are free, {keep_free} were to be kept");
    });
    let usage = store.usage();
    assert!(usage.evictions > 0 && usage.write_errors == 0, "{usage:?}");
    assert!(tmpfs.free_bytes() < keep_free + (2 << 20), "it is full: {} bytes are free", tmpfs.free_bytes());
}

/// Large writes end in the middle while it is switched on; holes may fail, too.
#[derive(Default)]
struct Torn {
    is_on: AtomicBool,
    punches_fail: bool,
}

impl DiskFaults for Torn {
    fn verdict(&self, call: DiskCall) -> DiskVerdict {
        const ENOSPC: i32 = 28;
        match call {
            DiskCall::Write { bytes } if bytes > 4096 && self.is_on.load(SeqCst) => {
                DiskVerdict::Cut { bytes: bytes / 3 * 2, errno: ENOSPC }
            }
            DiskCall::Punch if self.punches_fail && self.is_on.load(SeqCst) => DiskVerdict::Fail(ENOSPC),
            _ => DiskVerdict::Go,
        }
    }
}

fn allocated_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => allocated_below(&entry.path()),
            false if entry.path().extension().is_some_and(|end| end == "index") => 0,
            false => entry.metadata().unwrap().blocks() * 512,
        })
        .sum()
}

#[test]
fn what_a_failed_write_leaves_on_the_disk_is_counted() {
    for punches_fail in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let torn = Arc::new(Torn { punches_fail, ..Torn::default() });
        let config = StoreConfig { probe_interval: Duration::ZERO, ..config(folder.path(), 64 << 20) };
        let store = Store::open_with(config, Disk::with_faults(torn.clone())).unwrap();
        let large = object(1000, 1_000_000);
        assert_eq!(put(&store, &large, 0, AUTO), PutOutcome::Stored);
        let before = store.usage().tiers[0].used_bytes;
        torn.is_on.store(true, SeqCst);
        for n in 0..100 {
            let sizes = [30_000, 110_000];
            assert_eq!(put(&store, &object(n, sizes[n as usize % 2]), 0, AUTO), PutOutcome::Refused(Refusal::Degraded));
            assert_eq!(put(&store, &large, 1 + n as u32 % 7, AUTO), PutOutcome::Refused(Refusal::Degraded));
        }
        let used = store.usage().tiers[0].used_bytes;
        let on_disk = allocated_below(&folder.path().join("segments")) + allocated_below(&folder.path().join("files"));
        assert!(on_disk <= used, "punches fail: {punches_fail}; {on_disk} bytes on the disk, {used} counted");
        assert!(punches_fail || used - before < 50 * 2 * 4096, "given back but for the edges: {used} after {before}");
        torn.is_on.store(false, SeqCst);
        assert!((0..100).all(|n| put_all(&store, &object(n, 20_000), AUTO) && is_whole(&store, &object(n, 20_000))));
        assert!(put_all(&store, &large, AUTO) && is_whole(&store, &large));
        (0..100).for_each(|n| store.free(&object(n, 20_000)));
        store.free(&large);
        assert_eq!(allocated_below(&folder.path().join("files")), 0);
        // What the filesystem needs to map the holes of three segments isn't ours.
        let (rest, on_disk) = (store.usage().tiers[0].used_bytes, allocated_below(&folder.path().join("segments")));
        assert!(on_disk <= rest + 3 * 8192, "punches fail: {punches_fail}; {on_disk} bytes on the disk, {rest} counted");
    }
}
