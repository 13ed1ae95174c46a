#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::*;
use crate::evict::EvictionKind;
use forebay_wire::block::{BlockSize, Extent};

const AUTO: Admission = Admission { class: Class::Auto, expires_at_seconds: None };
const PIN: Admission = Admission { class: Class::Pin, expires_at_seconds: None };
const DATASET: DatasetSlot = DatasetSlot(1);

fn object(n: u64, size: u64) -> ObjectRef {
    ObjectRef { id: ObjectId::new("test", &n.to_le_bytes(), b"1"), size }
}

/// Bytes that tell their object and their place.
fn bytes_of(object: &ObjectRef) -> Vec<u8> {
    let mut state = object.id.0 as u64 | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..object.size).map(step).collect()
}

fn small_blocks(path: &std::path::Path, bytes: u64) -> StoreConfig {
    StoreConfig { block_size: BlockSize::new(128 << 10).unwrap(), ..StoreConfig::one_folder(path, Capacity::Bytes(bytes)) }
}

fn put_all(store: &Store, object: &ObjectRef, admission: Admission) -> PutOutcome {
    let data = bytes_of(object);
    let blocks = store.config.block_size;
    let mut outcome = PutOutcome::Stored;
    for block in (0..blocks.count(object.size)).map(BlockIndex) {
        let extent = blocks.extent(block, object.size).unwrap();
        outcome = store.put(DATASET, object, block, &data[extent.start() as usize..extent.end() as usize], admission).unwrap();
    }
    outcome
}

fn is_hit(store: &Store, object: &ObjectRef) -> bool {
    let mut into = vec![0; object.size as usize];
    match store.read(object, Extent::new(0, object.size).unwrap(), &mut into).unwrap() {
        ReadOutcome::Hit => {
            assert!(into == bytes_of(object), "wrong bytes served for {}", object.id);
            true
        }
        ReadOutcome::Miss => false,
    }
}

const SIZES: [u64; 9] = [1, 63, 4096, 16 << 10, (64 << 10) - 1, 64 << 10, 110_000, 128 << 10, 1_000_001];

#[test]
fn what_is_put_is_read_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let store = Store::open(small_blocks(folder.path(), 64 << 20)).unwrap();
        for (n, size) in SIZES.into_iter().enumerate() {
            let object = object(n as u64, size);
            if round == 0 {
                assert!(!is_hit(&store, &object));
                assert_eq!(put_all(&store, &object, AUTO), PutOutcome::Stored);
            }
            assert!(is_hit(&store, &object), "size {size} round {round}");
            assert_eq!(store.is_complete(&object), size >= 64 << 10);
            let whole = bytes_of(&object);
            for (start, end) in [(0, 1), (size / 2, size / 2 + 1), (size / 3, size), (0, size), (65_535.min(size - 1), size)] {
                let extent = Extent::new(start, end).unwrap();
                let mut into = vec![0; extent.len() as usize];
                assert_eq!(store.read(&object, extent, &mut into).unwrap(), ReadOutcome::Hit);
                assert_eq!(into, whole[start as usize..end as usize]);
            }
        }
        assert_eq!(store.usage().corrupt, 0);
    }
}

#[test]
fn passthrough_keeps_bytes_and_quota_until_the_last_close() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(small_blocks(folder.path(), 64 << 20)).unwrap();
    let object = object(1, 1_000_001);
    put_all(&store, &object, PIN);
    let used = store.usage().tiers[0].used_bytes;
    assert_eq!(store.usage().tiers[0].pinned_bytes, used);
    let open = store.open_complete(&object).unwrap().unwrap();
    store.free(&object);
    assert!(open.is_evicted() && !is_hit(&store, &object) && !store.is_complete(&object));
    assert_eq!(store.usage().tiers[0].used_bytes, used);
    assert_eq!(store.usage().tiers[0].pinned_bytes, 0);
    let mut into = vec![0; open.size() as usize];
    std::fs::File::from(open.as_fd().try_clone_to_owned().unwrap()).read_exact_at(&mut into, 0).unwrap();
    assert_eq!(into, bytes_of(&object));
    drop(open);
    assert_eq!(store.usage().tiers[0].used_bytes, 0);
}

#[test]
fn a_folder_in_use_says_by_whom() {
    let folder = tempfile::tempdir().unwrap();
    let _store = Store::open(small_blocks(folder.path(), 1 << 20)).unwrap();
    let error = Store::open(small_blocks(folder.path(), 1 << 20)).err().unwrap().to_string();
    assert!(error.contains(&format!("in use by pid {}", std::process::id())), "{error}");
}

#[test]
fn a_child_that_has_not_yet_begun_its_program_keeps_no_closed_store_locked() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(small_blocks(folder.path(), 1 << 20)).unwrap();
    // What fork copies: another descriptor of the same lock.
    let inherited = store.tiers[0].lock.try_clone().unwrap();
    drop(store);
    Store::open(small_blocks(folder.path(), 1 << 20)).unwrap();
    drop(inherited);
}

fn quota_is_kept_by(eviction: EvictionKind) {
    let folder = tempfile::tempdir().unwrap();
    let quota = 8 << 20;
    let store = Store::open(StoreConfig { eviction, ..small_blocks(folder.path(), quota) }).unwrap();
    let pinned = object(1_000_000, 200_000);
    put_all(&store, &pinned, PIN);
    for n in 0..600 {
        put_all(&store, &object(n, [900, 5000, 30_000, 70_000, 110_000, 300_000][n as usize % 6]), AUTO);
        assert!(store.usage().tiers[0].used_bytes <= quota);
    }
    assert!(is_hit(&store, &pinned));
    let usage = store.usage();
    assert!(usage.evictions > 0 && usage.tiers[0].used_bytes > quota * 8 / 10, "{usage:?}");
    drop(store);
    let again = Store::open(StoreConfig { eviction, ..small_blocks(folder.path(), quota) }).unwrap();
    let (before, after) = (usage.tiers[0].used_bytes, again.usage().tiers[0].used_bytes);
    assert!(before.abs_diff(after) < quota / 16, "{before} became {after}");
    assert_eq!(again.usage().objects, usage.objects);
}

#[test]
fn quota_is_kept_by_hold() {
    quota_is_kept_by(EvictionKind::Hold);
}

#[test]
fn quota_is_kept_by_lru() {
    quota_is_kept_by(EvictionKind::Lru);
}

#[test]
fn quota_is_kept_by_s3_fifo() {
    quota_is_kept_by(EvictionKind::S3Fifo);
}

#[test]
fn another_strategy_takes_effect_in_an_open_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(small_blocks(folder.path(), 8 << 20)).unwrap();
    let enters = |range: std::ops::Range<u64>| {
        let entered =
            range.filter(|&n| put_all(&store, &object(n, 110_000), AUTO) == PutOutcome::Stored && is_hit(&store, &object(n, 110_000)));
        entered.count()
    };
    enters(0..400);
    // Held: of as many again only those stay that hash below the rest.
    let held = enters(400..500);
    assert!(held < 50, "{held}");
    store.set_eviction(EvictionKind::Lru);
    assert_eq!(enters(500..600), 100, "who comes is let in");
    assert!(store.usage().tiers[0].used_bytes <= 8 << 20);
    store.set_eviction(EvictionKind::Hold);
    enters(600..1000);
    let held = enters(1000..1100);
    assert!(held < 50, "{held}");
}

#[test]
fn expiry_classes_and_data_sets_are_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let expiring = Admission { class: Class::Auto, expires_at_seconds: Some(100) };
    let store = Store::open(small_blocks(folder.path(), 64 << 20)).unwrap();
    for size in SIZES {
        put_all(&store, &object(size * 3, size), AUTO);
        put_all(&store, &object(size * 3 + 1, size), expiring);
        put_all(&store, &object(size * 3 + 2, size), PIN);
    }
    for size in SIZES {
        store.readmit(&object(size * 3, size), expiring).unwrap();
    }
    drop(store);
    let store = Store::open(small_blocks(folder.path(), 64 << 20)).unwrap();
    let pinned = store.usage().tiers[0].pinned_bytes;
    assert!(pinned > SIZES.iter().sum());
    store.expire(99);
    assert!(SIZES.iter().all(|&size| is_hit(&store, &object(size * 3, size))));
    store.expire(100);
    assert!(SIZES.iter().all(|&size| !is_hit(&store, &object(size * 3, size)) && !is_hit(&store, &object(size * 3 + 1, size))));
    assert!(SIZES.iter().all(|&size| is_hit(&store, &object(size * 3 + 2, size))));
    assert_eq!(store.usage().tiers[0].pinned_bytes, pinned);
    store.free_dataset(DATASET);
    assert_eq!(store.usage().objects, 0);
    assert_eq!(store.usage().tiers[0].pinned_bytes, 0);
}
