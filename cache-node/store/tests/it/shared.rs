//! Data sets that share a store: who leaves for whom, quotas that change, and what is counted for each of them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use forebay_store::evict::EvictionKind;
use forebay_store::{Admission, Class, DatasetSlot, PutOutcome, Refusal, Store, StoreConfig, Terms};
use forebay_wire::block::{BlockIndex, ObjectRef};

use crate::store_model::{AUTO, PIN, Random, blocks, bytes_of, config, count, extent_of, files_below, is_whole, object};

const KINDS: [EvictionKind; 3] = [EvictionKind::Hold, EvictionKind::Lru, EvictionKind::S3Fifo];
/// Of each object, in a file of its own: so that what leaves gives back all that it took.
const BYTES: u64 = 90_000;
/// What it takes: whole pages.
const CHARGE: u64 = 90_112;
/// So many of them fit, with the last thousandth that nobody fights over.
const FIT: u64 = 40;

fn open(folder: &std::path::Path, eviction: EvictionKind) -> Store {
    Store::open(StoreConfig { eviction, ..config(folder, FIT * CHARGE + FIT * CHARGE / 1000) }).unwrap()
}

fn of(dataset: u64, n: u64) -> ObjectRef {
    object(dataset << 32 | n, BYTES)
}

fn terms(quota_objects: Option<u64>, priority: i16) -> Terms {
    Terms { quota_bytes: quota_objects.map(|objects| objects * CHARGE + objects * CHARGE / 1000), priority }
}

fn put_as(store: &Store, dataset: u64, object: &ObjectRef, admission: Admission) -> PutOutcome {
    let mut outcome = PutOutcome::Stored;
    let bytes = bytes_of(object);
    for block in 0..blocks(object) {
        let extent = extent_of(object, block);
        let data = &bytes[extent.start() as usize..extent.end() as usize];
        outcome = store.put(DatasetSlot(dataset), object, BlockIndex(block), data, admission).unwrap();
    }
    outcome
}

/// Puts the objects `range` of a data set; how many were let in.
fn put_some(store: &Store, dataset: u64, range: std::ops::Range<u64>, admission: Admission) -> u64 {
    range.filter(|n| put_as(store, dataset, &of(dataset, *n), admission) == PutOutcome::Stored).count() as u64
}

/// How many of the data set's first objects are here.
fn here(store: &Store, dataset: u64) -> u64 {
    (0..200).filter(|n| store.contains(&of(dataset, *n), BlockIndex(0))).count() as u64
}

fn check_counts(store: &Store, datasets: &[u64]) {
    for dataset in datasets {
        assert_eq!(store.dataset_usage(DatasetSlot(*dataset)).used_bytes, here(store, *dataset) * CHARGE, "data set {dataset}");
    }
}

/// Two data sets, one of which comes second: how many of each are left, by policy.
struct Row {
    what: &'static str,
    first: (Terms, u64, Admission),
    second: (Terms, u64, Admission),
    left: fn(EvictionKind, u64, u64) -> bool,
}

#[test]
fn who_leaves_for_whom() {
    let plain = |priority| terms(None, priority);
    let rows = [
        Row {
            what: "what is of higher priority has all that it asks for",
            first: (plain(0), 40, AUTO),
            second: (plain(1), 30, AUTO),
            left: |_, first, second| (first, second) == (10, 30),
        },
        Row {
            what: "and no more than there is",
            first: (plain(-5), 40, AUTO),
            second: (plain(0), 100, AUTO),
            left: |_, first, second| (first, second) == (0, 40),
        },
        Row {
            what: "nothing leaves for what is of lower priority",
            first: (plain(0), 40, AUTO),
            second: (plain(-1), 40, AUTO),
            left: |_, first, second| (first, second) == (40, 0),
        },
        Row {
            what: "what is of lower priority has what is left",
            first: (plain(7), 25, AUTO),
            second: (plain(-7), 100, AUTO),
            left: |_, first, second| (first, second) == (25, 15),
        },
        Row {
            what: "equals share: by hash, or by use",
            first: (plain(3), 40, AUTO),
            second: (plain(3), 40, AUTO),
            left: |kind, first, second| first + second == 40 && second >= if kind == EvictionKind::Hold { 10 } else { 15 },
        },
        Row {
            what: "a quota binds where there is room",
            first: (terms(Some(10), 0), 40, AUTO),
            second: (plain(0), 20, AUTO),
            left: |_, first, second| (first, second) == (10, 20),
        },
        Row {
            what: "a quota is filled by its own objects alone",
            first: (plain(0), 30, AUTO),
            second: (terms(Some(10), 0), 100, AUTO),
            left: |_, first, second| (first, second) == (30, 10),
        },
        Row {
            what: "and by priority as far as it goes",
            first: (plain(0), 40, AUTO),
            second: (terms(Some(10), 9), 100, AUTO),
            left: |_, first, second| (first, second) == (30, 10),
        },
        Row {
            what: "a pin leaves for nobody",
            first: (plain(-9), 40, PIN),
            second: (plain(9), 40, AUTO),
            left: |_, first, second| (first, second) == (40, 0),
        },
        Row {
            what: "a pin takes the place of its equals",
            first: (plain(0), 40, AUTO),
            second: (plain(0), 30, PIN),
            left: |_, first, second| (first, second) == (10, 30),
        },
        Row {
            what: "and of nothing that is of higher priority",
            first: (plain(1), 40, AUTO),
            second: (plain(0), 30, PIN),
            left: |_, first, second| (first, second) == (40, 0),
        },
        Row {
            what: "a pin has no more than its quota",
            first: (plain(0), 40, AUTO),
            second: (terms(Some(10), 0), 30, PIN),
            left: |_, first, second| (first, second) == (30, 10),
        },
        Row {
            what: "a quota of less than an object",
            first: (terms(Some(0), 0), 40, AUTO),
            second: (terms(Some(0), 5), 40, PIN),
            left: |_, first, second| (first, second) == (0, 0),
        },
    ];
    for kind in KINDS {
        for Row { what, first, second, left } in &rows {
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path(), kind);
            for (dataset, (terms, objects, admission)) in [(1, first), (2, second)] {
                store.set_terms(DatasetSlot(dataset), *terms);
                // Twice, as in a second epoch.
                put_some(&store, dataset, 0..*objects, *admission);
                put_some(&store, dataset, 0..*objects, *admission);
            }
            let counts = (here(&store, 1), here(&store, 2));
            assert!(left(kind, counts.0, counts.1), "{kind:?}, {what}: {counts:?} are left");
            check_counts(&store, &[1, 2]);
        }
    }
}

#[test]
fn a_refusal_says_why_and_is_foretold() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), kind);
        let would = |dataset: u64, n: u64, class| store.would_hold(DatasetSlot(dataset), &of(dataset, n), CHARGE, class);
        put_some(&store, 1, 0..40, AUTO);
        store.set_terms(DatasetSlot(2), terms(None, -1));
        assert!(!would(2, 0, Class::Auto) && !would(2, 0, Class::Pin));
        let refused = put_as(&store, 2, &of(2, 0), AUTO);
        assert_eq!(refused, PutOutcome::Refused(Refusal::NoRoom), "{kind:?}");
        store.set_terms(DatasetSlot(3), terms(Some(4), 1));
        assert!(would(3, 0, Class::Auto) && would(3, 0, Class::Pin));
        assert_eq!(put_some(&store, 3, 0..4, PIN), 4);
        assert!(!would(3, 4, Class::Auto) && !would(3, 4, Class::Pin));
        assert!(!store.has_room_beside(DatasetSlot(3), &of(3, 4), CHARGE));
        for admission in [AUTO, PIN] {
            assert_eq!(put_as(&store, 3, &of(3, 4), admission), PutOutcome::Refused(Refusal::OverQuota), "{kind:?}");
        }
        assert_eq!((here(&store, 1), here(&store, 3)), (36, 4), "{kind:?}");
    }
}

#[test]
fn a_quota_that_is_lowered_frees_at_once_and_one_that_is_raised_lets_in() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), kind);
        put_some(&store, 1, 0..10, PIN);
        put_some(&store, 1, 10..30, AUTO);
        put_some(&store, 2, 0..10, AUTO);
        store.set_terms(DatasetSlot(1), terms(Some(15), 0));
        assert_eq!(put_as(&store, 1, &of(1, 99), AUTO), PutOutcome::Refused(Refusal::OverQuota), "before it is brought about");
        store.maintain(1);
        assert_eq!((here(&store, 1), here(&store, 2)), (15, 10), "{kind:?}");
        let pinned = |range: std::ops::Range<u64>| range.filter(|n| store.contains(&of(1, *n), BlockIndex(0))).count();
        assert_eq!(pinned(0..10), 10, "{kind:?}: what is pinned leaves last");
        store.set_terms(DatasetSlot(1), terms(Some(5), 0));
        store.maintain(1);
        assert_eq!((pinned(0..10), here(&store, 1)), (5, 5), "{kind:?}: and leaves too");
        assert_eq!(store.dataset_usage(DatasetSlot(1)).pinned_bytes, 5 * CHARGE);
        // The lowest hashes stay, as a preload would choose them.
        let mut hashes: Vec<(u64, bool)> = (0..10).map(|n| (of(1, n).id.0 as u64, store.contains(&of(1, n), BlockIndex(0)))).collect();
        hashes.sort_unstable();
        assert!(hashes.iter().enumerate().all(|(at, (_, is_here))| *is_here == (at < 5)), "{kind:?}: {hashes:?}");
        store.set_terms(DatasetSlot(1), Terms::default());
        assert_eq!(put_some(&store, 1, 100..125, AUTO), 25, "{kind:?}");
        check_counts(&store, &[2]);
    }
}

#[test]
fn terms_and_counts_are_the_same_after_a_restart_and_what_is_open_is_the_tiers() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), EvictionKind::Lru);
    let given = [terms(Some(12), 4), terms(None, -4), Terms::default()];
    for (dataset, terms) in (1..).zip(given) {
        store.set_terms(DatasetSlot(dataset), terms);
        put_some(&store, dataset, 0..12, if dataset == 2 { PIN } else { AUTO });
        // And packed ones, and one in part.
        for n in 0..20 {
            put_as(&store, dataset, &object(dataset << 20 | n, 500 + n * 300), AUTO);
        }
    }
    let usage = |store: &Store| [1, 2, 3].map(|dataset| store.dataset_usage(DatasetSlot(dataset)));
    let before = usage(&store);
    assert!(before.iter().all(|usage| usage.used_bytes > 0) && before[1].pinned_bytes == 12 * CHARGE, "{before:?}");
    drop(store);
    let store = open(folder.path(), EvictionKind::Lru);
    assert_eq!(usage(&store), before);
    assert_eq!(usage(&store).map(|usage| usage.terms), given);

    let held = store.open_complete(&of(2, 3)).unwrap().unwrap();
    let tier = || store.usage().tiers[0].clone();
    let (used, of_all) = (usage(&store)[1].used_bytes, tier().used_bytes);
    store.free(&of(2, 3));
    assert_eq!((usage(&store)[1].used_bytes, tier().used_bytes, tier().lingering_bytes), (used - CHARGE, of_all, CHARGE));
    drop(held);
    assert_eq!((usage(&store)[1].used_bytes, tier().used_bytes), (used - CHARGE, of_all - CHARGE));
    (1..=3).for_each(|dataset| store.free_dataset(DatasetSlot(dataset)));
    assert!(usage(&store).iter().all(|usage| (usage.used_bytes, usage.pinned_bytes) == (0, 0)), "{:?}", usage(&store));
    drop(store);

    // Damaged, they are as if nobody had said anything, and nothing else is lost.
    let path = files_below(folder.path()).into_iter().find(|path| path.ends_with("terms")).unwrap();
    std::fs::write(&path, "forebay-terms 1\n").unwrap();
    let store = open(folder.path(), EvictionKind::Lru);
    assert_eq!(usage(&store).map(|usage| usage.terms), [Terms::default(); 3]);
}

#[test]
fn quotas_hold_while_many_put_at_the_same_time() {
    const SIZES: [u64; 6] = [900, 5000, 30_000, 70_000, 110_000, 300_000];
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { eviction: kind, ..config(folder.path(), 6 << 20) }).unwrap();
        let quotas = [Some(1 << 20), Some(2 << 20), None];
        for (dataset, quota_bytes) in (0..).zip(quotas) {
            store.set_terms(DatasetSlot(dataset), Terms { quota_bytes, priority: dataset as i16 - 1 });
        }
        let is_running = AtomicBool::new(true);
        let check = || {
            // Without a quota what is counted is what is asked for, before there is room.
            for (dataset, quota) in (0..).zip(quotas).filter_map(|(dataset, quota)| Some((dataset, quota?))) {
                let used = store.dataset_usage(DatasetSlot(dataset)).used_bytes;
                assert!(used <= quota, "{kind:?}: data set {dataset} has {used} of {quota}");
            }
        };
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..6_u64)
                .map(|writer| {
                    let store = &store;
                    scope.spawn(move || {
                        let mut random = Random(writer * 77 + 1);
                        for _ in 0..count(200, 5000) {
                            let n = random.below(600);
                            let object = object(n, SIZES[n as usize % SIZES.len()]);
                            let admission = if random.below(20) == 0 { PIN } else { AUTO };
                            match random.below(14) {
                                0 => store.free(&object),
                                1 => store.maintain(1),
                                2 => store.readmit(&object, admission).unwrap(),
                                3 => drop(store.open_complete(&object).unwrap()),
                                4 => {
                                    store.drop_block(&object, BlockIndex(0));
                                }
                                _ => {
                                    put_as(store, n % 3, &object, admission);
                                }
                            }
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while is_running.load(SeqCst) {
                    check();
                }
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            is_running.store(false, SeqCst);
        });
        let counted = [0, 1, 2].map(|dataset| store.dataset_usage(DatasetSlot(dataset)));
        assert_eq!(store.usage().corrupt, 0);
        drop(store);
        // With more room: dead records that weren't punched to the byte must not make a start evict.
        let store = Store::open(StoreConfig { eviction: kind, ..config(folder.path(), 12 << 20) }).unwrap();
        assert_eq!([0, 1, 2].map(|dataset| store.dataset_usage(DatasetSlot(dataset))), counted, "{kind:?}: as a start counts it");
        for n in 0..600 {
            let object = object(n, SIZES[n as usize % SIZES.len()]);
            is_whole(&store, &object);
            store.free(&object);
        }
        assert!([0, 1, 2].iter().all(|dataset| store.dataset_usage(DatasetSlot(*dataset)).used_bytes == 0), "{kind:?}");
    }
}

#[test]
fn a_plan_knows_the_quota_and_who_outranks_whom() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), kind);
        put_some(&store, 1, 0..20, AUTO);
        let plan = |dataset: u64, class: Class| {
            let objects: Vec<_> = (0..60).map(|n| of(dataset, n)).collect();
            assert!(!store.has_room_for(DatasetSlot(dataset), 60 * CHARGE));
            let mut forecast = store.forecast(DatasetSlot(dataset));
            objects.iter().for_each(|object| forecast.add(object, class));
            let mut plan = forecast.settle();
            let kept = objects.iter().filter(|object| plan.take(object, class).is_some()).count() as u64;
            (kept, plan.over_quota_bytes() / BYTES)
        };
        for class in [Class::Auto, Class::Pin] {
            store.set_terms(DatasetSlot(2), terms(None, -1));
            assert_eq!(plan(2, class), (20, 0), "{kind:?}: beside what outranks it");
            store.set_terms(DatasetSlot(2), terms(None, 1));
            assert_eq!(plan(2, class), (40, 0), "{kind:?}: in place of what it outranks");
            store.set_terms(DatasetSlot(2), terms(Some(10), 1));
            assert_eq!(plan(2, class), (10, 30), "{kind:?}: thirty more fit and may not");
            store.set_terms(DatasetSlot(2), terms(Some(50), 1));
            assert_eq!(plan(2, class), (40, 0), "{kind:?}: the quota keeps nothing out that fits");
        }
        // What is here of it already is part of the choice.
        store.set_terms(DatasetSlot(2), terms(Some(10), 1));
        assert_eq!(put_some(&store, 2, 0..10, PIN), 10);
        assert_eq!(plan(2, Class::Pin), (10, 30), "{kind:?}");
    }
}

#[test]
fn what_comes_at_the_same_time_finds_room_as_long_as_anybody_may_leave() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), kind);
        put_some(&store, 1, 0..30, AUTO);
        put_some(&store, 2, 0..10, PIN);
        let next = AtomicU64::new(10);
        let refused = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some(n) = Some(next.fetch_add(1, SeqCst)).filter(|n| *n < 40) {
                        if !store.would_hold(DatasetSlot(2), &of(2, n), BYTES, Class::Pin) {
                            refused.lock().unwrap().push((n, None));
                        }
                        let outcome = put_as(&store, 2, &of(2, n), PIN);
                        if outcome != PutOutcome::Stored {
                            refused.lock().unwrap().push((n, Some(outcome)));
                        }
                    }
                });
            }
        });
        assert!(refused.lock().unwrap().is_empty(), "{kind:?}: {:?}, {:?}", refused.lock().unwrap(), store.usage());
        assert_eq!((here(&store, 1), here(&store, 2)), (0, 40));
    }
}
