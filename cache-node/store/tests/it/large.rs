//! Few objects that are large beside the cache: what `Hold` keeps of them, and what a plan says of it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use forebay_store::{Class, PutOutcome, Store};
use forebay_wire::block::ObjectRef;

use crate::store_model::{AUTO, BLOCK_BYTES, Random, blocks, config, dataset_of, extent_of, is_hit, object, put, put_all};

const OBJECT_BYTES: u64 = 4 << 20;

fn large(seed: u64, count: u64) -> Vec<ObjectRef> {
    (0..count).map(|n| object(seed * 1000 + n, OBJECT_BYTES)).collect()
}

/// Reads all of them in a random order, each block in turn; the share of hits.
fn epoch(store: &Store, objects: &[ObjectRef], random: &mut Random) -> f64 {
    let mut order: Vec<_> = objects.iter().collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
    let (mut hits, mut reads) = (0u32, 0u32);
    for object in order {
        for block in 0..blocks(object) {
            reads += 1;
            if is_hit(store, object, extent_of(object, block)) {
                hits += 1;
            } else {
                let _ = put(store, object, block, AUTO);
            }
        }
    }
    f64::from(hits) / f64::from(reads)
}

fn open(folder: &Path, objects: &[ObjectRef], percent: u64) -> Store {
    let bytes: u64 = objects.iter().map(|object| object.size).sum();
    Store::open(config(folder, bytes * percent / 100)).unwrap()
}

#[test]
fn few_large_objects_fill_the_cache_and_are_hit_as_often_as_it_is_large() {
    for seed in 1..6 {
        for percent in [25, 50, 60, 75] {
            let (folder, objects) = (tempfile::tempdir().unwrap(), large(seed, 4));
            let store = open(folder.path(), &objects, percent);
            let mut random = Random(seed);
            let ratios: Vec<f64> = (0..5).map(|_| epoch(&store, &objects, &mut random)).collect();
            let steady = ratios[2..].iter().sum::<f64>() / 3.0;
            println!("seed {seed}, cache/data 0.{percent}: {steady:.3} of {ratios:.3?}");
            assert!(steady >= 0.9 * percent as f64 / 100.0, "seed {seed}, cache/data 0.{percent}: {ratios:.3?}");
        }
    }
}

/// Puts what the plan and the store want of `objects`; blocks that were put, and blocks that were refused.
fn preload(store: &Store, objects: &[ObjectRef]) -> (u32, u32) {
    let mut forecast = store.forecast(dataset_of(&objects[0]));
    objects.iter().for_each(|object| forecast.add(object, Class::Auto));
    let mut plan = forecast.settle();
    let (mut put_blocks, mut refused) = (0, 0);
    for object in objects {
        for block in 0..plan.take(object, Class::Auto).unwrap_or(0) {
            if is_hit(store, object, extent_of(object, block)) {
                continue;
            }
            assert!(store.would_hold(dataset_of(object), object, extent_of(object, block).len(), Class::Auto));
            put_blocks += 1;
            refused += u32::from(put(store, object, block, AUTO) != PutOutcome::Stored);
        }
    }
    (put_blocks, refused)
}

#[test]
fn a_plan_fills_the_cache_once_and_wants_nothing_more() {
    for seed in 1..6 {
        for percent in [10, 25, 50, 75] {
            let (folder, mut objects) = (tempfile::tempdir().unwrap(), large(seed, 4));
            objects.extend((0..40).map(|n| object(seed * 1000 + 100 + n, [10_000, 100_000, 300_000][n as usize % 3])));
            let store = open(folder.path(), &objects, percent);
            let quota = store.usage().tiers[0].capacity_bytes;
            let (first, refused) = preload(&store, &objects);
            let used = store.usage().tiers[0].used_bytes;
            assert!(first > 0 && refused == 0 && store.usage().evictions == 0, "seed {seed} 0.{percent}: {first} {refused}");
            // What is left over is less than the next object's first block and its sidecar, or a small object.
            assert!(used + 2 * BLOCK_BYTES + 310_000 > quota, "seed {seed} 0.{percent}: {used} of {quota}");
            assert_eq!(preload(&store, &objects), (0, 0), "seed {seed} 0.{percent}");
        }
    }
}

#[test]
fn a_plan_beside_another_data_set_shares_by_hash_and_settles() {
    let folder = tempfile::tempdir().unwrap();
    let (others, objects): (Vec<_>, Vec<_>) =
        ((0..200).map(|n| object(n, 100_000)).collect(), (1000..1400).map(|n| object(n, 100_000)).collect());
    let store = open(folder.path(), &others, 100);
    for object in &others {
        assert!(put_all(&store, object, AUTO));
    }
    let (first, refused) = preload(&store, &objects);
    // A third of the hashes fits: that of all 600 objects whose room is that of 200.
    assert!((110..160).contains(&first) && refused <= first / 20, "{first} put, {refused} of them refused");
    let here = others.iter().filter(|object| store.contains(object, forebay_wire::block::BlockIndex(0))).count();
    assert!((50..90).contains(&here), "{here} of the others are left");
    let (again, _) = preload(&store, &objects);
    assert!(again <= 5, "{again} put again");
}
