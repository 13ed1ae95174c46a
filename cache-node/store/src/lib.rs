//! Blocks on the node's disks: put one in, get it back, or learn that it is gone.
//! Knows quota, tiers, checksums. Does not know where bytes come from, which file they belong to, or who else has them.
//! Invariant: a block that `read` returns has passed its checksum in this very call (passthrough has its own rule in SEMANTICS).
//! After a kill every complete record is there. After a power loss a record is there or it is a miss: nothing is synced but by `flush`, and
//! records of up to 128 bytes lie inside one sector, which a disk writes whole or not at all.

mod check;
mod complete;
mod datasets;
pub mod disk;
pub mod evict;
mod handles;
mod index;
mod objects;
mod plan;
mod put;
mod read;
mod record;
mod recover;
mod room;
mod segment;
mod sparse;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod tier;
mod types;
mod victims;

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;
use xxhash_rust::xxh3::xxh3_64;

pub use complete::{CompleteFile, Kept};
pub use plan::{Forecast, Plan};
pub use record::fuzz_decode;
pub use types::*;

use complete::Checked;
use datasets::Datasets;
use disk::Disk;
use evict::EvictionKind;
use forebay_wire::block::{BlockIndex, ObjectId, ObjectRef};
use index::{Entry, Index, Place};
use objects::{Objects, Turns};
use room::Sweep;
use sparse::Object;
use tier::Tier;

/// What a location in the index can name.
pub const TIERS_MAX: usize = 15;
/// A location that moved under a reader is looked up again this often: each time another thread has made progress.
const LOOKUPS_MAX: usize = 4;
/// Objects known not to be here although the index holds one that looks alike: a handful in a million million.
const IMPOSTORS_MAX: usize = 4096;

#[derive(Default)]
struct Counters {
    evictions: AtomicU64,
    expired: AtomicU64,
    corrupt: AtomicU64,
    refused_puts: AtomicU64,
    read_errors: AtomicU64,
    write_errors: AtomicU64,
}

/// The cache of one node, over all of its tiers and data sets.
pub struct Store {
    tiers: Vec<Arc<Tier>>,
    index: Index,
    datasets: Arc<Datasets>,
    objects: Objects,
    /// One put at a time for what is written whole, and one creation at a time for the rest; by object id.
    putting: Turns,
    rewriting: Mutex<()>,
    impostors: RwLock<HashSet<ObjectId>>,
    has_impostors: AtomicBool,
    config: StoreConfig,
    /// What the tiers' policies are of: guards that one caller replaces them.
    eviction: Mutex<EvictionKind>,
    /// Tells this boot of the machine from others: what was checked in another boot is checked again.
    boot: u64,
    counters: Counters,
}

/// The object's place in all orders by hash: the same on every node.
fn hash_of(object: ObjectId) -> u64 {
    object.0 as u64
}

/// Lends a buffer of this thread, for reads of whole units of which a part is wanted.
fn with_scratch<T>(len: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        use_it(&mut scratch[..len])
    })
}

impl Store {
    /// Takes the folders' locks, reads their tables (never their data), and is ready. Blocks on the disk: about 0.3 us per object.
    pub fn open(config: StoreConfig) -> Result<Store, StoreError> {
        Self::open_with(config, Disk::default())
    }

    /// As `open`, on a disk that may fail as a test wants it.
    pub fn open_with(config: StoreConfig, disk: Disk) -> Result<Store, StoreError> {
        check_config(&config)?;
        let datasets = Arc::new(Datasets::new());
        let tiers = config
            .tiers
            .iter()
            .zip(0u8..)
            .map(|(tier, number)| Tier::open(number, tier, config.eviction, &disk, config.probe_interval, &datasets).map(Arc::new));
        let tiers = tiers.collect::<Result<Vec<_>, _>>()?;
        let (index, counters) = (Index::new(), Counters::default());
        for tier in &tiers {
            recover::load(tier, &index, &counters).map_err(|cause| StoreError::Io {
                op: "read the tables of store",
                path: tier.path.clone(),
                cause,
            })?;
        }
        let store = Store {
            tiers,
            index,
            datasets,
            objects: Objects::new(config.open_files_max),
            putting: Turns::new(),
            rewriting: Mutex::new(()),
            impostors: RwLock::default(),
            has_impostors: AtomicBool::new(false),
            eviction: Mutex::new(config.eviction),
            config,
            boot: boot(),
            counters,
        };
        store.recall_terms();
        store.tiers.iter().for_each(|tier| store.trim(tier, usize::MAX));
        Ok(store)
    }

    /// Drops what isn't what was written. When the entry has changed meanwhile nothing is wrong: look again.
    fn found_wrong(&self, entry: &Entry) -> Step {
        if !self.is_current(entry) {
            return Step::Stale;
        }
        if self.remove(entry) {
            self.counters.corrupt.fetch_add(1, Relaxed);
            tracing::warn!(hash = %format_args!("{:016x}", entry.hash), "a cached object is damaged: dropped, to be fetched again");
        }
        Step::Partly
    }

    fn found_wrong_block(&self, entry: &Entry, object: &Object, block: BlockIndex) -> Step {
        if object.is_gone() {
            return Step::Stale;
        }
        if object.is_complete() {
            // Never mended in place: the kernel may be serving this file.
            return self.found_wrong(&Entry { location: self.complete_location(entry), ..*entry });
        }
        // No put of this block meanwhile: what it wrote is counted first.
        let _turn = self.putting.take(object.id().0 ^ (u128::from(block.0) + 1));
        match object.drop_block(block) {
            Ok(0) => {}
            Ok(bytes) => {
                object.tier.give_back(bytes);
                self.counters.corrupt.fetch_add(1, Relaxed);
                tracing::warn!(object = %object.id(), block = block.0, "a cached block is damaged: dropped, to be fetched again");
            }
            Err(error) => object.tier.write_failed("drop a damaged block", &error),
        }
        Step::Partly
    }

    /// The entry as it is once its object is complete.
    fn complete_location(&self, entry: &Entry) -> index::Location {
        match Place::from(entry.location) {
            Place::File { tier, number, .. } => Place::File { tier, number, is_complete: true }.into(),
            Place::Segment { .. } => entry.location,
        }
    }

    fn is_current(&self, entry: &Entry) -> bool {
        self.index.find(entry.hash).iter().any(|it| it.location == entry.location)
    }

    fn read_failed(&self, entry: &Entry, error: &io::Error) {
        self.counters.read_errors.fetch_add(1, Relaxed);
        tracing::warn!(%error, "read from a tier failed: the source answers instead");
        // What the disk can't read any more is dropped, so that it can be stored elsewhere; what only this process can't open, isn't.
        if error.raw_os_error() == Some(Errno::IO.raw_os_error()) {
            self.remove(entry);
        }
    }

    fn touch(&self, entry: &Entry) {
        let tier = &self.tiers[usize::from(Place::from(entry.location).tier())];
        if let Some(recency) = tier.policy.load().touched(entry.recency) {
            self.index.set_recency(entry.hash, entry.location, recency);
        }
    }

    fn object_at(&self, entry: &Entry) -> io::Result<Option<Arc<Object>>> {
        match Place::from(entry.location) {
            Place::File { tier, number, .. } => self.objects.get(&self.tiers[usize::from(tier)], number),
            Place::Segment { .. } => Ok(None),
        }
    }

    fn note_impostor(&self, object: ObjectId) {
        let mut impostors = self.impostors.write();
        if impostors.len() < IMPOSTORS_MAX {
            impostors.insert(object);
            self.has_impostors.store(true, Relaxed);
        }
    }

    fn is_impostor(&self, object: ObjectId) -> bool {
        self.has_impostors.load(Relaxed) && self.impostors.read().contains(&object)
    }

    /// Whether the block is here. Of an object that is filling this may read its sidecar; else memory only.
    pub fn contains(&self, object: &ObjectRef, block: BlockIndex) -> bool {
        !self.is_impostor(object.id)
            && self.index.find(hash_of(object.id)).iter().any(|entry| match Place::from(entry.location) {
                Place::Segment { .. } | Place::File { is_complete: true, .. } => true,
                Place::File { .. } => self
                    .object_at(&entry)
                    .is_ok_and(|file| file.is_some_and(|file| file.id() == object.id && !file.is_gone() && file.has(block))),
            })
    }

    /// Whether all of the object is here in a file of its own, so that `open_complete` will most likely answer. Memory only.
    pub fn is_complete(&self, object: &ObjectRef) -> bool {
        let is_complete = |entry: Entry| matches!(Place::from(entry.location), Place::File { is_complete: true, .. });
        self.index.find(hash_of(object.id)).iter().any(is_complete) && !self.is_impostor(object.id)
    }

    /// `None` when the object isn't complete, or is too small to have a file of its own. Reads and checks the whole object unless that was
    /// done before in this boot. Blocks on the disk.
    pub fn open_complete(&self, object: &ObjectRef) -> Result<Option<Arc<CompleteFile>>, StoreError> {
        let found = self.index.find(hash_of(object.id));
        let mut is_impostor = !found.is_empty();
        for entry in found.iter() {
            let Place::File { is_complete: true, .. } = Place::from(entry.location) else {
                is_impostor = false;
                continue;
            };
            match self.open_complete_at(object, &entry) {
                Ok(Some(file)) => {
                    self.touch(&entry);
                    return Ok(Some(file));
                }
                Ok(None) => {}
                Err(error) => self.read_failed(&entry, &error),
            }
            is_impostor &= self.is_current(&entry);
        }
        if is_impostor {
            self.note_impostor(object.id);
        }
        Ok(None)
    }

    fn open_complete_at(&self, object: &ObjectRef, entry: &Entry) -> io::Result<Option<Arc<CompleteFile>>> {
        let Some(file) = self.object_at(entry)? else {
            self.found_wrong(entry);
            return Ok(None);
        };
        if file.id() != object.id || file.record.size != object.size || !file.is_complete() {
            return Ok(None);
        }
        let passed = file.passed.lock().upgrade();
        let opened = match passed {
            Some(passed) => Ok(Checked::Good(passed)),
            None => complete::open(&file, self.boot),
        };
        match opened {
            Ok(Checked::Good(passed)) if !file.is_gone() => Ok(Some(passed)),
            Ok(Checked::Good(_)) => Ok(None),
            Ok(Checked::Wrong) => {
                self.found_wrong(entry);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.found_wrong(entry);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Changes class and expiry of what is here of the object; nothing when it isn't.
    pub fn readmit(&self, object: &ObjectRef, admission: Admission) -> Result<(), StoreError> {
        for entry in self.index.find(hash_of(object.id)).iter() {
            let tier = &self.tiers[usize::from(Place::from(entry.location).tier())];
            if let Err(cause) = self.readmit_at(object, &entry, admission) {
                tier.write_failed("readmit", &cause);
                return Err(StoreError::Io { op: "change the class of an object in", path: tier.path.clone(), cause });
            }
        }
        Ok(())
    }

    fn readmit_at(&self, object: &ObjectRef, entry: &Entry, admission: Admission) -> io::Result<()> {
        let tier = &self.tiers[usize::from(Place::from(entry.location).tier())];
        match Place::from(entry.location) {
            place @ Place::Segment { .. } => self.readmit_record(entry.hash, place, object.id, admission),
            Place::File { number, .. } => {
                let Some(file) = self.object_at(entry)?.filter(|file| file.id() == object.id) else { return Ok(()) };
                if file.admission() == admission {
                    return Ok(());
                }
                if let Some(expires) = admission.expires_at_seconds {
                    tier.first_expiry_seconds.fetch_min(expires, Relaxed);
                }
                file.readmit(admission, || {
                    // It may have become complete since.
                    let at = |is_complete| Place::File { tier: tier.number, number, is_complete }.into();
                    let is_pinned = admission.class == Class::Pin;
                    let _ = [false, true].into_iter().any(|is_complete| self.index.set_pinned(entry.hash, at(is_complete), is_pinned));
                })
            }
        }
    }

    fn readmit_record(&self, hash: u64, place: Place, object: ObjectId, admission: Admission) -> io::Result<()> {
        let Place::Segment { number, granule, .. } = place else { return Ok(()) };
        let tier = &self.tiers[usize::from(place.tier())];
        let Some(segment) = tier.segments.get(number) else { return Ok(()) };
        let Some(record) = tier.segments.entry_at(number, granule)?.filter(|record| record.object == object) else { return Ok(()) };
        let (dataset, bytes) = (self.datasets.of(segment.dataset), record::record_bytes(u64::from(record.len)));
        tier.segments.readmit(number, &record, admission, |before| {
            match (before.class, admission.class) {
                (Class::Auto, Class::Pin) => tier.pin(&dataset, bytes),
                (Class::Pin, Class::Auto) => tier.unpin(&dataset, bytes),
                (Class::Auto, Class::Auto) | (Class::Pin, Class::Pin) => {}
            }
            self.index.set_pinned(hash, place.into(), admission.class == Class::Pin);
        })
    }

    /// Frees everything that is here of the object. One that is still open keeps its bytes until it is closed.
    pub fn free(&self, object: &ObjectRef) {
        for entry in self.index.find(hash_of(object.id)).iter() {
            if self.is_entry_of(&entry, object.id) {
                self.remove(&entry);
            }
        }
    }

    /// Whether the location holds this object; what can't be read or is damaged counts as its own, since it is of no use to others.
    fn is_entry_of(&self, entry: &Entry, object: ObjectId) -> bool {
        match Place::from(entry.location) {
            Place::Segment { tier, number, granule } => {
                let record = self.tiers[usize::from(tier)].segments.entry_at(number, granule);
                record.is_ok_and(|record| record.is_none_or(|record| record.object == object))
            }
            Place::File { .. } => self.object_at(entry).is_ok_and(|file| file.is_none_or(|file| file.id() == object)),
        }
    }

    /// Frees everything of the data set; O(objects of the store).
    pub fn free_dataset(&self, dataset: DatasetSlot) {
        for tier in &self.tiers {
            self.sweep(tier, &Sweep::Dataset(dataset.0));
        }
    }

    pub fn usage(&self) -> Usage {
        let counters = &self.counters;
        Usage {
            tiers: self.tiers.iter().map(|tier| tier.usage()).collect(),
            objects: self.index.len(),
            index_bytes: self.index.bytes(),
            evictions: counters.evictions.load(Relaxed),
            expired: counters.expired.load(Relaxed),
            corrupt: counters.corrupt.load(Relaxed) + self.tiers.iter().map(|tier| tier.damaged.load(Relaxed)).sum::<u64>(),
            refused_puts: counters.refused_puts.load(Relaxed),
            read_errors: counters.read_errors.load(Relaxed),
            write_errors: counters.write_errors.load(Relaxed),
        }
    }

    /// Asks the disks to make durable what is here: against power loss only, a killed process loses nothing.
    pub fn flush(&self) {
        for tier in &self.tiers {
            if let Err(error) = tier.disk.sync_all(&tier.root) {
                tier.write_failed("flush", &error);
            }
        }
    }
}

/// What looking at one location gave.
enum Step {
    Hit,
    /// It is the object, but not all of the extent is here.
    Partly,
    /// It is another object that looks alike.
    Other,
    /// The location changed meanwhile.
    Stale,
}

fn check_config(config: &StoreConfig) -> Result<(), StoreError> {
    let refused = |detail: String| Err(StoreError::Config { detail });
    if config.tiers.is_empty() || config.tiers.len() > TIERS_MAX {
        return refused(format!("`tiers` has {} folders; give 1 to {TIERS_MAX}", config.tiers.len()));
    }
    if config.passthrough_min_bytes > record::RECORD_BYTES_MAX {
        return refused(format!("`passthrough_min_bytes` is {}; give at most {}", config.passthrough_min_bytes, record::RECORD_BYTES_MAX));
    }
    for tier in &config.tiers {
        let path = tier.path.display();
        if matches!(tier.capacity, Capacity::Percent(percent) if !(1..=100).contains(&percent)) {
            return refused(format!("`capacity` of {path} is not in 1% to 100%"));
        }
        if tier.keep_free_percent > 99 {
            return refused(format!("`keepFreePercent` of {path} is {}; give 0 to 99", tier.keep_free_percent));
        }
    }
    Ok(())
}

/// A machine without a boot id counts every start as a new boot: more is checked, nothing less.
fn boot() -> u64 {
    std::fs::read("/proc/sys/kernel/random/boot_id").map_or_else(|_| rand::random(), |id| xxh3_64(&id))
}
