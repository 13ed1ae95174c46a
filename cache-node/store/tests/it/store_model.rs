//! The store against a model that knows every byte: cut at each write, bits flipped, disks full, restarts, readers that race evictions.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use forebay_store::disk::{Disk, DiskCall, DiskFaults, DiskVerdict, Space};
use forebay_store::evict::EvictionKind;
use forebay_store::{
    Admission, Capacity, Class, DatasetSlot, Health, PutOutcome, ReadOutcome, Refusal, Store, StoreConfig, TierConfig, TierKind,
};
use forebay_wire::block::{BlockIndex, BlockSize, Extent, ObjectId, ObjectRef};

use crate::room::Tmpfs;

pub(crate) const AUTO: Admission = Admission { class: Class::Auto, expires_at_seconds: None };
pub(crate) const PIN: Admission = Admission { class: Class::Pin, expires_at_seconds: None };
pub(crate) const BLOCK_BYTES: u64 = 128 << 10;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

pub(crate) fn count(short: u64, torture: u64) -> u64 {
    if std::env::var_os("FOREBAY_TORTURE").is_some() { torture } else { short }
}

/// xorshift64*, so that a seed replays.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn from_environment(test: &str) -> Self {
        let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
        eprintln!("{test}: FOREBAY_SEED={seed}");
        Self(seed | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    pub(crate) fn size(&mut self) -> u64 {
        const SIZES: [u64; 10] = [1, 700, 4000, 4096, 17_000, 60_000, 65_536, 110_000, 131_072, 400_000];
        let base = SIZES[self.below(SIZES.len() as u64) as usize];
        base + self.below(base / 10 + 1)
    }
}

pub(crate) fn object(n: u64, size: u64) -> ObjectRef {
    ObjectRef { id: ObjectId::new("model", &n.to_le_bytes(), b"1"), size }
}

/// Bytes that tell their object and their place.
pub(crate) fn bytes_of(object: &ObjectRef) -> Vec<u8> {
    let mut random = Random(object.id.0 as u64 | 1);
    let mut bytes: Vec<u8> = (0..object.size.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(object.size as usize);
    bytes
}

pub(crate) fn config(path: &Path, bytes: u64) -> StoreConfig {
    StoreConfig { block_size: BlockSize::new(BLOCK_BYTES).unwrap(), ..StoreConfig::one_folder(path, Capacity::Bytes(bytes)) }
}

pub(crate) fn blocks(object: &ObjectRef) -> u32 {
    BlockSize::new(BLOCK_BYTES).unwrap().count(object.size)
}

pub(crate) fn extent_of(object: &ObjectRef, block: u32) -> Extent {
    BlockSize::new(BLOCK_BYTES).unwrap().extent(BlockIndex(block), object.size).unwrap()
}

pub(crate) fn dataset_of(object: &ObjectRef) -> DatasetSlot {
    DatasetSlot(object.size % 3)
}

pub(crate) fn put(store: &Store, object: &ObjectRef, block: u32, admission: Admission) -> PutOutcome {
    let extent = extent_of(object, block);
    let data = &bytes_of(object)[extent.start() as usize..extent.end() as usize];
    store.put(dataset_of(object), object, BlockIndex(block), data, admission).unwrap()
}

pub(crate) fn put_all(store: &Store, object: &ObjectRef, admission: Admission) -> bool {
    (0..blocks(object)).all(|block| put(store, object, block, admission) == PutOutcome::Stored)
}

/// Whether the extent is here; wrong bytes end the test.
pub(crate) fn is_hit(store: &Store, object: &ObjectRef, extent: Extent) -> bool {
    let mut into = vec![0; extent.len() as usize];
    match store.read(object, extent, &mut into).unwrap() {
        ReadOutcome::Hit => {
            assert!(into == bytes_of(object)[extent.start() as usize..extent.end() as usize], "wrong bytes served of {object:?}");
            true
        }
        ReadOutcome::Miss => false,
    }
}

pub(crate) fn is_whole(store: &Store, object: &ObjectRef) -> bool {
    is_hit(store, object, Extent::new(0, object.size).unwrap())
}

/// What passthrough would serve.
fn is_passed(store: &Store, object: &ObjectRef) -> bool {
    let Some(file) = store.open_complete(object).unwrap() else { return false };
    let mut into = vec![0; object.size as usize];
    std::fs::File::from(file.as_fd().try_clone_to_owned().unwrap()).read_exact_at(&mut into, 0).unwrap();
    assert!(into == bytes_of(object), "wrong bytes passed through of {object:?}");
    true
}

/// Of the table and of segments' indexes: powers of two at multiples of their length.
const RECORD_BYTES_MAX: usize = 128;

/// A process that dies at the n-th change of the disk: that one is torn, the rest never happens.
#[derive(Default)]
struct Killed {
    at: u64,
    torn_bytes: usize,
    changes: AtomicU64,
}

impl DiskFaults for Killed {
    fn verdict(&self, call: DiskCall) -> DiskVerdict {
        let is_change = !matches!(call, DiskCall::Open | DiskCall::Read);
        let n = if is_change { self.changes.fetch_add(1, SeqCst) } else { self.changes.load(SeqCst) };
        match call {
            DiskCall::Open | DiskCall::Read => DiskVerdict::Go,
            // Records of up to a sector never cross one: disks write a sector whole or not at all.
            DiskCall::Write { bytes } if n == self.at => {
                let torn = self.torn_bytes % (bytes + 1);
                DiskVerdict::Cut { bytes: if bytes <= RECORD_BYTES_MAX { torn / bytes.max(1) * bytes } else { torn }, errno: EIO }
            }
            _ if n >= self.at => DiskVerdict::Fail(EIO),
            _ => DiskVerdict::Go,
        }
    }
}

/// Runs one and the same script and says which blocks must be there afterwards; stops at the kill.
fn run_script(path: &Path, killed: Arc<Killed>, quota: u64) -> (Vec<ObjectRef>, BTreeSet<(u64, u32)>) {
    let mut random = Random(99);
    let is_killed = || killed.changes.load(SeqCst) > killed.at;
    let mut here = BTreeSet::new();
    let objects: Vec<_> = (0..50).map(|n| object(n, random.size())).collect();
    let Ok(store) = Store::open_with(config(path, quota), Disk::with_faults(killed.clone())) else { return (objects, here) };
    for step in 0..90 {
        let n = random.below(50);
        let object = objects[n as usize];
        match random.below(8) {
            0 if step > 20 => {
                store.free(&object);
                here.retain(|&(m, _)| m != n);
            }
            1 if step > 20 => {
                store.readmit(&object, Admission { class: Class::Auto, expires_at_seconds: Some(4_000_000_000) }).ok();
                if is_killed() {
                    here.retain(|&(m, _)| m != n);
                }
            }
            2 => store.maintain(1),
            3 => {
                store.open_complete(&object).unwrap();
            }
            _ => {
                for block in 0..blocks(&object) {
                    let before = here.contains(&(n, block));
                    if put(&store, &object, block, AUTO) == PutOutcome::Stored && !is_killed() {
                        here.insert((n, block));
                    } else if is_killed() && before {
                        // Its admission was being rewritten.
                        here.remove(&(n, block));
                    }
                }
            }
        }
        if is_killed() {
            break;
        }
    }
    (objects, here)
}

#[test]
fn killed_at_any_write_every_complete_block_is_served_and_no_torn_one() {
    let mut random = Random::from_environment("kill");
    for quota in [64 << 20, 2 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let all = Arc::new(Killed { at: u64::MAX, ..Killed::default() });
        run_script(folder.path(), all.clone(), quota);
        let changes = all.changes.load(SeqCst);
        for _ in 0..count(60, 500) {
            let folder = tempfile::tempdir().unwrap();
            let killed = Arc::new(Killed { at: random.below(changes), torn_bytes: random.next() as usize >> 8, ..Killed::default() });
            let (objects, here) = run_script(folder.path(), killed.clone(), quota);
            let store = Store::open(config(folder.path(), quota)).unwrap();
            for (n, object) in (0..).zip(&objects) {
                for block in 0..blocks(object) {
                    let is_here = is_hit(&store, object, extent_of(object, block));
                    let is_expected = quota > 60 << 20 && here.contains(&(n, block));
                    assert!(is_here || !is_expected, "killed at {} of {changes}: {object:?} block {block} is lost", killed.at);
                }
                is_passed(&store, object);
            }
            // It goes on as if nothing had been.
            for object in &objects {
                put_all(&store, object, AUTO);
            }
            assert!(quota < 60 << 20 || objects.iter().all(|object| is_whole(&store, object)));
            assert!(store.usage().tiers[0].used_bytes <= quota);
        }
    }
}

pub(crate) fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    files
}

#[test]
fn flipped_bits_are_found_dropped_counted_and_never_served() {
    let mut random = Random::from_environment("flip");
    let folder = tempfile::tempdir().unwrap();
    let objects: Vec<_> = [10, 900, 5000, 20_000, 70_000, 120_000, 300_000].into_iter().zip(0..).map(|(size, n)| object(n, size)).collect();
    let partial = object(100, 500_000);
    {
        let store = Store::open(config(folder.path(), 32 << 20)).unwrap();
        assert!(objects.iter().all(|object| put_all(&store, object, AUTO)));
        assert!(put(&store, &partial, 1, AUTO) == PutOutcome::Stored && put(&store, &partial, 3, AUTO) == PutOutcome::Stored);
        objects.iter().for_each(|object| drop(store.open_complete(object).unwrap()));
    }
    let pristine: Vec<(PathBuf, Vec<u8>)> = files_below(folder.path())
        .into_iter()
        .filter(|path| !path.ends_with("lock"))
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    let bytes: usize = pristine.iter().map(|(_, bytes)| bytes.len()).sum();
    let (mut found, mut harmless) = (0, 0);
    for _ in 0..count(300, 10_000) {
        // Half of the flips go to what isn't data, which is small.
        let (path, good) = match random.below(2) {
            0 => &pristine[random.below(pristine.len() as u64) as usize],
            _ => {
                let mut at = random.below(bytes as u64) as usize;
                pristine
                    .iter()
                    .find(|(_, bytes)| {
                        if at < bytes.len() {
                            true
                        } else {
                            at -= bytes.len();
                            false
                        }
                    })
                    .unwrap()
            }
        };
        if good.is_empty() {
            continue;
        }
        let mut bad = good.clone();
        let (at, bit) = (random.below(bad.len() as u64) as usize, random.below(8));
        bad[at] ^= 1 << bit;
        std::fs::write(path, &bad).unwrap();
        let store = Store::open(config(folder.path(), 32 << 20)).unwrap();
        let mut lost = 0;
        for object in &objects {
            let is_big = object.size >= 64 << 10;
            let is_passed = is_passed(&store, object);
            let is_whole = is_whole(&store, object);
            // A flip in the checksums alone: the file was checked in this boot and is unchanged, so its right bytes pass; a read drops it.
            assert!(is_big || !is_passed, "{object:?}: only large ones have a file to pass");
            assert!(is_passed || !(is_whole && is_big), "{object:?}: whole, and not passed");
            lost += u64::from(!is_whole);
        }
        lost += [1, 3].into_iter().filter(|&block| !is_hit(&store, &partial, extent_of(&partial, block))).count() as u64;
        assert!(![0, 2].into_iter().any(|block| is_hit(&store, &partial, extent_of(&partial, block))), "a block that was never put");
        assert!(lost == 0 || store.usage().corrupt > 0, "{} byte {at} bit {bit}: {lost} lost, none counted", path.display());
        if lost > 0 {
            found += 1
        } else {
            harmless += 1
        }
        // Fetched again and right again, then as before.
        for object in &objects {
            assert!(put_all(&store, object, AUTO) && is_whole(&store, object));
        }
        drop(store);
        std::fs::remove_dir_all(folder.path()).unwrap();
        for (path, bytes) in &pristine {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    eprintln!("{found} flips found, {harmless} in bytes that mean nothing or are only looked at for speed");
    assert!(found > 0);
}

/// A disk whose writes fail with `errno` while it isn't zero, whose reads fail while `reads` isn't.
#[derive(Default)]
struct Sick {
    writes: AtomicI32,
    reads: AtomicI32,
    calls: AtomicUsize,
}

impl DiskFaults for Sick {
    fn verdict(&self, call: DiskCall) -> DiskVerdict {
        self.calls.fetch_add(1, SeqCst);
        let errno = match call {
            DiskCall::Open | DiskCall::Read => self.reads.load(SeqCst),
            _ => self.writes.load(SeqCst),
        };
        if errno == 0 { DiskVerdict::Go } else { DiskVerdict::Fail(errno) }
    }
}

#[test]
fn a_full_failing_or_read_only_tier_refuses_serves_on_says_so_and_heals() {
    for (errno, health) in [(ENOSPC, Health::Full), (EIO, Health::Failing), (EROFS, Health::ReadOnly)] {
        let folder = tempfile::tempdir().unwrap();
        let sick = Arc::new(Sick::default());
        let config = StoreConfig { probe_interval: Duration::from_millis(20), ..config(folder.path(), 32 << 20) };
        let store = Store::open_with(config, Disk::with_faults(sick.clone())).unwrap();
        let (small, file, large, late) = (object(1, 5000), object(2, 100_000), object(3, 400_000), object(4, 100_000));
        assert!(put_all(&store, &small, AUTO) && put_all(&store, &file, AUTO));
        assert_eq!(put(&store, &large, 0, AUTO), PutOutcome::Stored);
        let used = store.usage().tiers[0].used_bytes;
        sick.writes.store(errno, SeqCst);
        assert_eq!(put(&store, &late, 0, AUTO), PutOutcome::Refused(Refusal::Degraded));
        assert_eq!(put(&store, &large, 1, AUTO), PutOutcome::Refused(Refusal::Degraded));
        assert_eq!(put(&store, &object(5, 40), 0, AUTO), PutOutcome::Refused(Refusal::Degraded));
        let usage = store.usage();
        assert_eq!((usage.tiers[0].health, usage.tiers[0].used_bytes), (health, used));
        assert!(usage.refused_puts == 3 && usage.write_errors >= 1);
        assert!(is_whole(&store, &small) && is_whole(&store, &file) && is_passed(&store, &file));
        assert!(is_hit(&store, &large, extent_of(&large, 0)));
        sick.writes.store(0, SeqCst);
        wait_until(|| {
            store.maintain(1);
            store.usage().tiers[0].health == Health::Good
        });
        assert!(put_all(&store, &late, AUTO) && put_all(&store, &large, AUTO) && is_whole(&store, &late) && is_whole(&store, &large));
    }
}

#[test]
fn what_a_disk_fails_to_read_is_a_miss_and_goes_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let sick = Arc::new(Sick::default());
    let config = StoreConfig { probe_interval: Duration::from_millis(20), ..config(folder.path(), 32 << 20) };
    let store = Store::open_with(config, Disk::with_faults(sick.clone())).unwrap();
    let objects = [object(1, 5000), object(2, 100_000), object(3, 400_000)];
    assert!(objects.iter().all(|object| put_all(&store, object, AUTO)));
    sick.reads.store(EIO, SeqCst);
    assert!(!objects.iter().any(|object| is_whole(&store, object)));
    assert!(store.usage().read_errors >= 3);
    sick.reads.store(0, SeqCst);
    wait_until(|| {
        store.maintain(1);
        store.usage().tiers[0].health == Health::Good
    });
    assert!(objects.iter().all(|object| put_all(&store, object, AUTO) && is_whole(&store, object)));
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "waited in vain");
        std::thread::yield_now();
    }
}

/// A filesystem that claims to have this much free.
struct Shrinking {
    free_bytes: AtomicU64,
}

impl DiskFaults for Shrinking {
    fn verdict(&self, _call: DiskCall) -> DiskVerdict {
        DiskVerdict::Go
    }
    fn space(&self, _real: Space) -> Space {
        Space { total_bytes: 100 << 20, available_bytes: self.free_bytes.load(SeqCst) }
    }
}

#[test]
fn keep_free_percent_makes_room_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Shrinking { free_bytes: AtomicU64::new(90 << 20) });
    let mut config = config(folder.path(), 50 << 20);
    config.tiers[0].keep_free_percent = 20;
    let store = Store::open_with(config, Disk::with_faults(disk.clone())).unwrap();
    (0..100).for_each(|n| assert!(put_all(&store, &object(n, 100_000), AUTO)));
    let used = store.usage().tiers[0].used_bytes;
    // 4 MiB below what is to be kept free: as much has to go.
    disk.free_bytes.store(16 << 20, SeqCst);
    store.maintain(1);
    let now = store.usage().tiers[0].used_bytes;
    assert!(now <= used - (4 << 20) && now > used - (5 << 20), "{used} became {now}");
}

#[test]
fn a_real_full_filesystem_is_survived() {
    let Some(tmpfs) = Tmpfs::mount(8) else { return };
    let tier =
        TierConfig { kind: TierKind::Memory, path: tmpfs.path().to_owned(), capacity: Capacity::Bytes(64 << 20), keep_free_percent: 0 };
    let store = Store::open(StoreConfig { tiers: vec![tier], ..config(tmpfs.path(), 0) }).unwrap();
    let filler = tmpfs.path().join("filler");
    // Somebody else fills it while nobody looks.
    assert!((0..20).all(|n| put_all(&store, &object(n, 100_000), AUTO)));
    let _ = std::fs::write(&filler, vec![1; 8 << 20]);
    assert!((20..60).any(|n| !put_all(&store, &object(n, 100_000), AUTO)));
    // What fitted is served, what was evicted to make room is not: never anything wrong.
    assert!((0..60).any(|n| is_whole(&store, &object(n, 100_000))));
    std::fs::remove_file(&filler).unwrap();
    wait_until(|| {
        store.maintain(1);
        store.usage().tiers[0].health == Health::Good && put_all(&store, &object(200, 100_000), PIN)
    });
    assert!(is_whole(&store, &object(200, 100_000)));
}

#[test]
fn victims_that_are_open_do_not_cost_the_others_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { eviction: EvictionKind::Lru, ..config(folder.path(), 4 << 20) }).unwrap();
    let objects: Vec<_> = (0..40).map(|n| object(n, 100_000)).collect();
    assert!(objects.iter().all(|object| put_all(&store, object, AUTO)));
    let held: Vec<_> = objects.iter().map(|object| store.open_complete(object).unwrap().unwrap()).collect();
    let late = object(100, 100_000);
    for _ in 0..10 {
        assert_eq!(put(&store, &late, 0, AUTO), PutOutcome::Refused(Refusal::NoRoom));
        store.maintain(1);
    }
    let here = objects.iter().filter(|object| is_whole(&store, object)).count();
    assert!(here >= 38, "{here} of 40 are left, one had to go");
    let usage = store.usage().tiers[0].clone();
    assert!(usage.used_bytes <= 4 << 20, "{usage:?}");
    drop(held);
    assert!(put_all(&store, &late, AUTO) && is_whole(&store, &late));
}

#[test]
fn readers_that_race_evictions_see_right_bytes_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig { open_files_max: 8, eviction: EvictionKind::Lru, ..config(folder.path(), 4 << 20) }).unwrap();
    let objects: Vec<_> = (0..120).map(|n| object(n, [3000, 20_000, 100_000, 300_000][n as usize % 4])).collect();
    let rounds = count(40, 1000);
    std::thread::scope(|scope| {
        for thread in 0..64u64 {
            let (store, objects) = (&store, &objects);
            scope.spawn(move || {
                let mut random = Random(thread * 77 + 1);
                for _ in 0..rounds {
                    let object = objects[random.below(120) as usize];
                    match random.below(10) {
                        0 => store.free(&object),
                        1 => store.maintain(1),
                        2 => drop(is_passed(store, &object)),
                        _ if is_whole(store, &object) => {}
                        _ => drop(put_all(store, &object, AUTO)),
                    }
                }
            });
        }
    });
    let usage = store.usage();
    assert_eq!(usage.corrupt, 0, "{usage:?}");
    assert_eq!(usage.tiers[0].lingering_bytes, 0);
    objects.iter().for_each(|object| store.free(object));
    store.maintain(1);
    // Only records of the segments still open may take room: one of each of the two data sets that have small objects.
    assert!(store.usage().tiers[0].used_bytes <= 2 << 20, "{:?}", store.usage());
}
