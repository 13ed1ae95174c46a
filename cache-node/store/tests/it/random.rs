//! The store against a reference model: random operations, evictions, restarts and flipped bits.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use forebay_store::evict::EvictionKind;
use forebay_store::{Admission, Class, DatasetSlot, PutOutcome, Store, StoreConfig, Terms, TierConfig};
use forebay_wire::block::{BlockIndex, ObjectRef};

use crate::store_model::{AUTO, PIN, Random, blocks, bytes_of, config, count, dataset_of, extent_of, files_below, is_hit, object, put};

/// What the model knows of an object: its admission and which blocks were put. Evictions and wrong bits may take blocks away, nothing may add any.
struct Known {
    size: u64,
    admission: Admission,
    blocks: BTreeSet<u32>,
    /// Blocks that were seen here, stored or read, while the object was pinned and since the last flipped bit: these have to stay. An object that was not
    /// pinned may have lost some of its blocks before it becomes pinned, and a put may find one there that only a read finds damaged.
    sure: BTreeSet<u32>,
}

impl Known {
    fn admit(&mut self, admission: Admission) {
        if admission != PIN || self.admission != PIN {
            self.sure.clear();
        }
        self.admission = admission;
    }

    fn seen(&mut self, block: u32) {
        if self.admission == PIN {
            self.sure.insert(block);
        }
    }
}

/// Quotas and priorities, as they were told last.
#[derive(Default)]
struct Told([Terms; 3]);

impl Told {
    fn of(&self, slot: DatasetSlot) -> Terms {
        self.0[slot.0 as usize]
    }

    /// Tells a data set something else, and has it brought about.
    fn change(&mut self, store: &Store, random: &mut Random) {
        let slot = random.below(3);
        let quota_bytes = (random.below(3) > 0).then(|| 200_000 + random.below(4 << 20));
        self.0[slot as usize] = Terms { quota_bytes, priority: random.below(4) as i16 - 2 };
        store.set_terms(DatasetSlot(slot), self.0[slot as usize]);
        store.maintain(1);
    }

    /// Puts a block; nothing that outranks it may be gone afterwards.
    fn put(&self, store: &Store, model: &BTreeMap<u64, Known>, (object, block): (&ObjectRef, u32), admission: Admission) -> PutOutcome {
        let priority = self.of(dataset_of(object)).priority;
        let outranking = model.iter().filter(|(_, known)| self.0[known.size as usize % 3].priority > priority);
        let blocks =
            outranking.flat_map(|(n, known)| known.blocks.iter().map(|block| (crate::store_model::object(*n, known.size), *block)));
        let before: Vec<_> = blocks.filter(|(object, block)| store.contains(object, BlockIndex(*block))).collect();
        let corrupt = store.usage().corrupt;
        let outcome = put(store, object, block, admission);
        let gone = before.iter().filter(|(object, block)| !store.contains(object, BlockIndex(*block))).count();
        assert!(gone == 0 || store.usage().corrupt > corrupt, "{gone} blocks left for one of a lower priority");
        outcome
    }

    fn check(&self, store: &Store) {
        for slot in (0..3).map(DatasetSlot) {
            let usage = store.dataset_usage(slot);
            assert_eq!(usage.terms, self.of(slot));
            assert!(usage.used_bytes <= usage.terms.quota_bytes.unwrap_or(u64::MAX), "{slot:?}: {usage:?}");
        }
    }
}

#[test]
fn random_operations_agree_with_the_model() {
    let mut random = Random::from_environment("model");
    let folder = tempfile::tempdir().unwrap();
    let second = tempfile::tempdir().unwrap();
    let quota = 3 << 20;
    for eviction in [EvictionKind::Hold, EvictionKind::Lru, EvictionKind::S3Fifo] {
        let open = || {
            let mut config = StoreConfig { eviction, open_files_max: 16, ..config(folder.path(), quota) };
            config.tiers.push(TierConfig { path: second.path().to_owned(), ..config.tiers[0].clone() });
            Store::open(config).unwrap_or_else(|error| {
                panic!("{eviction:?}, files {:?}: {error}: {:?}", files_below(folder.path()), std::error::Error::source(&error))
            })
        };
        let mut store = open();
        store.free_dataset(DatasetSlot(0));
        store.free_dataset(DatasetSlot(1));
        store.free_dataset(DatasetSlot(2));
        let mut model: BTreeMap<u64, Known> = BTreeMap::new();
        let mut told = Told::default();
        (0..3).for_each(|slot| store.set_terms(DatasetSlot(slot), Terms::default()));
        let mut held = Vec::new();
        let mut now = 1000;
        for _ in 0..count(5_000, 100_000) / 3 {
            let n = random.below(150);
            let size = model.get(&n).map_or_else(|| random.size(), |known| known.size);
            let object = object(n, size);
            let admission = match random.below(10) {
                // Few enough pinned ones that they always fit.
                0 if n < 10 => PIN,
                1 => Admission { class: Class::Auto, expires_at_seconds: Some(now + random.below(200) as u32) },
                _ => AUTO,
            };
            match random.below(100) {
                0..50 => {
                    let block = random.below(u64::from(blocks(&object))) as u32;
                    let outcome = told.put(&store, &model, (&object, block), admission);
                    let known = model.entry(n).or_insert(Known { size, admission, blocks: BTreeSet::new(), sure: BTreeSet::new() });
                    if outcome == PutOutcome::Stored {
                        known.blocks.insert(block);
                        known.admit(admission);
                        known.seen(block);
                    } else if !known.blocks.is_empty() {
                        // Which admission holds now isn't said.
                        known.admit(AUTO);
                        store.readmit(&object, AUTO).unwrap();
                    }
                }
                50..80 => {
                    let block = random.below(u64::from(blocks(&object))) as u32;
                    let is_here = is_hit(&store, &object, extent_of(&object, block));
                    let known = model.get(&n);
                    assert!(!is_here || known.is_some_and(|known| known.blocks.contains(&block)), "{n}/{block} was never put");
                    assert!(is_here || !known.is_some_and(|known| known.sure.contains(&block)), "the pinned block {n}/{block} is gone");
                    if let Some(known) = model.get_mut(&n).filter(|_| is_here) {
                        known.seen(block);
                    }
                }
                80..86 => {
                    if let Some(file) = store.open_complete(&object).unwrap() {
                        held.push((file, object));
                    }
                    held.truncate(5);
                }
                86..90 => {
                    store.free(&object);
                    model.remove(&n);
                    assert!((0..blocks(&object)).all(|block| !is_hit(&store, &object, extent_of(&object, block))));
                }
                90..92 => {
                    store.readmit(&object, admission).unwrap();
                    if let Some(known) = model.get_mut(&n) {
                        known.admit(admission);
                    }
                }
                92 => {
                    told.change(&store, &mut random);
                    // What is pinned leaves for its own quota.
                    model.values_mut().for_each(|known| known.sure.clear());
                }
                93..96 => {
                    now += random.below(20) as u32;
                    store.maintain(now);
                    model.retain(|_, known| known.admission.expires_at_seconds.is_none_or(|expires| expires > now));
                }
                96 => {
                    let slot = DatasetSlot(random.below(3));
                    store.free_dataset(slot);
                    model.retain(|_, known| known.size % 3 != slot.0);
                }
                97 => {
                    held.clear();
                    let counted = [0, 1, 2].map(|slot| store.dataset_usage(DatasetSlot(slot)));
                    let corrupt = store.usage().corrupt;
                    drop(store);
                    store = open();
                    // Damage that nobody has found yet is found by the start.
                    if corrupt == 0 && store.usage().corrupt == 0 {
                        assert_eq!([0, 1, 2].map(|slot| store.dataset_usage(DatasetSlot(slot))), counted);
                    }
                }
                98 => {
                    // Wrong bits at rest: pinned ones may be lost now, too.
                    held.clear();
                    drop(store);
                    let files = files_below(folder.path());
                    let path = &files[random.below(files.len() as u64) as usize];
                    let mut bytes = std::fs::read(path).unwrap();
                    if !path.ends_with("lock") && !bytes.is_empty() {
                        let at = random.below(bytes.len() as u64) as usize;
                        bytes[at] ^= 1 << random.below(8);
                        std::fs::write(path, bytes).unwrap();
                        model.values_mut().for_each(|known| known.admit(Admission { class: Class::Auto, ..known.admission }));
                    }
                    store = open();
                    // Perhaps it was the file that has them.
                    (0..3).for_each(|slot| store.set_terms(DatasetSlot(slot), told.of(DatasetSlot(slot))));
                    store.maintain(now);
                    model.retain(|_, known| known.admission.expires_at_seconds.is_none_or(|expires| expires > now));
                }
                _ => {
                    for (file, object) in &held {
                        let mut into = vec![0; object.size as usize];
                        std::fs::File::from(file.as_fd().try_clone_to_owned().unwrap()).read_exact_at(&mut into, 0).unwrap();
                        assert!(into == bytes_of(object), "passed-through bytes changed");
                    }
                }
            }
            for tier in &store.usage().tiers {
                assert!(tier.used_bytes <= quota + tier.lingering_bytes, "{tier:?}");
            }
            told.check(&store);
        }
        eprintln!("{eviction:?}: {:?}", store.usage());
    }
}
