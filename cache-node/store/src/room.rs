//! Making room: for a put, by removal, by rewriting of segments that are mostly dead, by expiry. Who leaves is chosen in `victims`.
//! Room is taken before a byte is written, also for what is moved, so neither quota nor `keepFreePercent` is passed by puts at the same time.
//! Invariant: what is removed leaves the index first, so exactly one thread gives its bytes back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::datasets::Dataset;
use super::index::{Entry, Place};
use super::record::{SegmentEntry, record_bytes};
use super::segment::{Death, RecordRead, Segment};
use super::sparse;
use super::tier::{Room, Tier};
use super::types::{Admission, Class, Refusal};
use super::{Store, hash_of};
use crate::evict::EvictionKind;
use forebay_wire::block::{BlockIndex, Extent, ObjectId, ObjectRef};

/// Dead bytes in segments are borne up to this share of the capacity, before live objects have to leave for them.
const DEAD_SHARE: u64 = 8;
/// A segment is rewritten by `maintain` from this share of dead bytes on.
const DEAD_PERCENT: u64 = 50;
/// Victims of one call of `maintain`: bounds how long it takes.
const MAINTAIN_EVICTIONS_MAX: usize = 4096;
/// A put looks so often whether the victims of others are gone: some milliseconds.
const LEAVING_WAITS_MAX: u32 = 10_000;
/// How long one call of `maintain` evicts for quotas that were lowered.
const TRIM_MAX: Duration = Duration::from_millis(700);

/// A put that wants room.
pub(super) struct Newcomer<'a> {
    pub(super) dataset: &'a Arc<Dataset>,
    pub(super) hash: u64,
    pub(super) class: Class,
}

impl Store {
    /// Lets every tier go by another strategy from now on; nothing leaves for it. What objects remember of their use was written by the former one
    /// and is read by the new one for what it would mean there: some first victims are not the best. O(tiers).
    pub fn set_eviction(&self, eviction: EvictionKind) {
        let mut current = self.eviction.lock();
        if *current != eviction {
            for tier in &self.tiers {
                tier.policy.store(Arc::new(eviction.policy()));
                tier.forget_standings();
            }
            self.datasets.all().iter().for_each(|dataset| dataset.standing.forget());
            *current = eviction;
        }
    }

    /// Takes room for `bytes` of the tier and of the data set's quota, evicting what the policy gives up for it: for the quota objects of the data set
    /// itself, for the tier those of the lowest priority.
    pub(super) fn make_room(&self, tier: &Arc<Tier>, bytes: u64, newcomer: &Newcomer<'_>) -> Result<Room, Refusal> {
        if bytes > tier.quota_bytes {
            return Err(Refusal::NoRoom);
        }
        let dataset = newcomer.dataset;
        self.admit(tier, bytes, newcomer)?;
        while !dataset.take(tier.number, bytes) {
            // A quota that was lowered is `maintain`'s to bring about.
            if dataset.is_over() || !self.evict_own(tier, dataset, Some(newcomer)) {
                return Err(Refusal::OverQuota);
            }
        }
        let room = self.make_room_in(tier, bytes, newcomer);
        match room {
            Ok(room) => Ok(room.within(dataset)),
            Err(refusal) => {
                dataset.give_back(tier.number, bytes);
                Err(refusal)
            }
        }
    }

    fn make_room_in(&self, tier: &Arc<Tier>, bytes: u64, newcomer: &Newcomer<'_>) -> Result<Room, Refusal> {
        let (mut is_asked, mut waited) = (false, 0);
        loop {
            if let Some(room) = tier.reserve(bytes) {
                return Ok(room);
            }
            // Nobody leaves because others filled the filesystem a while ago.
            if !std::mem::replace(&mut is_asked, true) {
                tier.ask_space();
                continue;
            }
            if bytes > tier.capacity_bytes() {
                return Err(Refusal::NoRoom);
            }
            if tier.is_room_coming(bytes) {
                // A victim of another put that is just being unlinked gives its room in a moment; what somebody has open may keep it for long.
                if tier.leaving.load(Relaxed) == 0 || waited == LEAVING_WAITS_MAX {
                    return Err(Refusal::NoRoom);
                }
                waited += 1;
                std::thread::yield_now();
                continue;
            }
            let is_dead_heavy = tier.dead_bytes.load(Relaxed) > tier.capacity_bytes() / DEAD_SHARE;
            if is_dead_heavy && self.rewrite_emptiest(tier, 1) {
                continue;
            }
            let priority = newcomer.dataset.priority();
            if self.evict_one(tier, priority, Some(newcomer)) {
                continue;
            }
            // Dead bytes are for those who hold the rest.
            if self.is_outranked(tier, priority) || !self.rewrite_emptiest(tier, 1) {
                return Err(Refusal::NoRoom);
            }
        }
    }

    /// Room for a copy of what is here already, whose first form goes once it is written.
    fn make_room_to_move(&self, tier: &Arc<Tier>, bytes: u64, priority: i16) -> Option<Room> {
        loop {
            if let Some(room) = tier.reserve(bytes) {
                return Some(room);
            }
            if tier.is_room_coming(bytes) || !self.evict_one(tier, priority, None) {
                return None;
            }
        }
    }

    /// Evicts until the tier is within its capacity again: after a restart with a smaller quota, or when others fill the filesystem.
    pub(super) fn trim(&self, tier: &Arc<Tier>, evictions_max: usize) {
        for _ in 0..evictions_max {
            if tier.used_bytes() <= tier.capacity_bytes()
                || tier.is_room_coming(0)
                || !(self.evict_one(tier, i16::MAX, None) || self.rewrite_emptiest(tier, 1))
            {
                break;
            }
        }
    }

    pub(super) fn quotas(&self) -> Vec<u64> {
        self.tiers.iter().map(|tier| tier.quota_bytes).collect()
    }

    /// Removes what an index entry stands for; `false` when another thread did.
    pub(super) fn remove(&self, entry: &Entry) -> bool {
        let place = Place::from(entry.location);
        let is_first = match place {
            Place::Segment { .. } => self.index.remove(entry.hash, entry.location),
            // It may have become complete since.
            Place::File { tier, number, .. } => {
                [false, true].into_iter().any(|is_complete| self.index.remove(entry.hash, Place::File { tier, number, is_complete }.into()))
            }
        };
        if !is_first {
            return false;
        }
        let tier = &self.tiers[usize::from(place.tier())];
        let Some(dataset) = self.datasets.by_number(entry.dataset) else { return true };
        let removed = match place {
            Place::Segment { number, granule, .. } => self.remove_record(tier, number, granule, &Killed::Gone(&dataset)),
            Place::File { number, .. } => self.remove_file(tier, number, &dataset),
        };
        if let Err(error) = removed {
            self.counters.write_errors.fetch_add(1, Relaxed);
            tier.write_failed("remove", &error);
        }
        true
    }

    pub(super) fn remove_record(&self, tier: &Arc<Tier>, number: u32, granule: u32, killed: &Killed<'_>) -> std::io::Result<()> {
        let Some(entry) = tier.segments.entry_at(number, granule)? else { return Ok(()) };
        self.kill(tier, number, &entry, killed)?;
        if let Some(segment) = tier.segments.get(number).filter(|segment| segment.live_objects.load(Relaxed) == 0 && segment.is_idle()) {
            self.drop_segment(tier, &segment)?;
        }
        Ok(())
    }

    /// The record's entry as it was last; `None` when somebody else killed it.
    fn kill(&self, tier: &Tier, number: u32, known: &SegmentEntry, killed: &Killed<'_>) -> std::io::Result<Option<SegmentEntry>> {
        tier.segments.kill(number, known, |Death { entry, freed_bytes }| {
            let bytes = record_bytes(u64::from(entry.len));
            let (Killed::Gone(dataset) | Killed::Moved(dataset)) = *killed;
            if entry.admission.class == Class::Pin {
                tier.unpin(dataset, bytes);
            }
            if matches!(killed, Killed::Gone(_)) {
                dataset.give_back(tier.number, bytes);
            }
            tier.dead_bytes.fetch_add(bytes - freed_bytes, Relaxed);
            tier.give_back(*freed_bytes);
        })
    }

    /// The segment holds nothing the index knows.
    fn drop_segment(&self, tier: &Tier, segment: &Segment) -> std::io::Result<()> {
        if !tier.segments.take_out(segment) {
            return Ok(());
        }
        let (taken, live) = (segment.taken_bytes.load(Relaxed), segment.live_bytes.load(Relaxed));
        tier.give_back(taken);
        tier.dead_bytes.fetch_sub(taken - live, Relaxed);
        // Of records whose entries are damaged.
        self.datasets.of(segment.dataset).give_back(tier.number, live);
        tier.segments.unlink(segment)
    }

    fn remove_file(&self, tier: &Arc<Tier>, number: u32, dataset: &Dataset) -> std::io::Result<()> {
        if let Some(object) = self.objects.get(tier, number)? {
            tier.leaving.fetch_add(1, Relaxed);
            let evicted = object.evict();
            self.objects.forget(&object);
            drop(object);
            tier.leaving.fetch_sub(1, Relaxed);
            return evicted;
        }
        // Its record is damaged: the file itself tells what it took.
        let bytes = sparse::allocated_bytes(tier, number);
        let unlinked = sparse::unlink_files(tier, number);
        tier.give_back(bytes);
        dataset.give_back(tier.number, bytes);
        tier.table.release(number).and(unlinked)
    }

    /// Moves what lives in the worst idle segment to the active one and drops it; `false` when none is worth it.
    pub(super) fn rewrite_emptiest(&self, tier: &Arc<Tier>, dead_percent_min: u64) -> bool {
        // One at a time: the bytes are there twice meanwhile.
        let Some(_turn) = self.rewriting.try_lock() else {
            std::thread::yield_now();
            return false;
        };
        let Some(segment) = tier.segments.emptiest(dead_percent_min) else { return false };
        match self.rewrite(tier, &segment) {
            Ok(is_dropped) => is_dropped,
            Err(error) => {
                self.counters.write_errors.fetch_add(1, Relaxed);
                tier.write_failed("rewrite a segment", &error);
                false
            }
        }
    }

    /// `false` when there is no room to move what lives: then the rest of it stays.
    fn rewrite(&self, tier: &Arc<Tier>, segment: &Arc<Segment>) -> std::io::Result<bool> {
        let entries = tier.segments.read_index(segment)?.map(|index| index.entries).unwrap_or_default();
        let dataset = self.datasets.of(segment.dataset);
        let mut data = Vec::new();
        for entry in &entries {
            let hash = hash_of(entry.object);
            let old = Place::Segment { tier: tier.number, number: segment.number, granule: entry.granule }.into();
            let Some(extent) = Extent::new(0, u64::from(entry.len)) else { continue };
            let object = ObjectRef { id: entry.object, size: extent.len() };
            data.resize(entry.len as usize, 0);
            match tier.segments.read(segment.number, entry.granule, &object, extent, &mut data, false)? {
                RecordRead::Hit => {}
                RecordRead::Other | RecordRead::Wrong | RecordRead::Gone => {
                    self.counters.corrupt.fetch_add(u64::from(self.index.remove(hash, old)), Relaxed);
                    self.kill(tier, segment.number, entry, &Killed::Gone(&dataset))?;
                    continue;
                }
            }
            let bytes = record_bytes(extent.len());
            let Some(mut room) = self.make_room_to_move(tier, bytes, dataset.priority()) else { return Ok(false) };
            let mut to = None;
            let moved = tier.segments.append(segment.dataset, entry.object, &data, entry.admission, |record| {
                to = Some(record);
                self.index.relocate(hash, old, record.place(tier.number).into())
            });
            let (is_moved, record) = match (moved, to) {
                (Ok(is_moved), Some(record)) => (is_moved, record),
                (Ok(_), None) => unreachable!("a record is published once written"),
                (Err(failed), _) => {
                    room.waste(failed.dead_bytes);
                    tier.dead_bytes.fetch_add(failed.dead_bytes, Relaxed);
                    return Err(failed.cause);
                }
            };
            room.spend();
            if entry.admission.class == Class::Pin {
                tier.pin(&dataset, bytes);
            }
            if is_moved {
                let last = self.kill(tier, segment.number, entry, &Killed::Moved(&dataset))?;
                if let Some(last) = last.filter(|last| last.admission != entry.admission) {
                    // What it was told meanwhile goes for the copy, too.
                    self.readmit_record(hash, record.place(tier.number), entry.object, last.admission)?;
                }
            } else {
                // Freed meanwhile: the copy must not come back. Nor may what is freed be forgotten with its segment before it is counted.
                self.kill(tier, segment.number, entry, &Killed::Gone(&dataset))?;
                self.remove_record(tier, record.number, record.granule, &Killed::Moved(&dataset))?;
            }
        }
        self.drop_segment(tier, segment).map(|()| true)
    }

    /// Removes every object for which `is_wanted` says no; O(objects on disk).
    pub(super) fn sweep(&self, tier: &Arc<Tier>, what: &Sweep) -> u64 {
        let mut removed = 0;
        let mut files = Vec::new();
        let scanned = tier.table.scan(|number, record| {
            let Ok(record) = record else { return };
            if what.takes_file(record.dataset.0, record.admission) {
                files.push((record.object, number));
            } else if let Some(expires) = record.admission.expires_at_seconds {
                tier.first_expiry_seconds.fetch_min(expires, Relaxed);
            }
        });
        for (object, number) in files {
            removed += u64::from(
                [true, false].into_iter().any(|is_complete| self.remove_at(object, Place::File { tier: tier.number, number, is_complete })),
            );
        }
        let mut failed = scanned.err();
        for segment in tier.segments.all() {
            if !what.takes_segment(&segment) {
                continue;
            }
            segment.first_expiry_seconds.store(u32::MAX, Relaxed);
            match tier.segments.read_index(&segment) {
                Ok(index) => {
                    for entry in index.map(|index| index.entries).unwrap_or_default() {
                        if what.takes_file(segment.dataset.0, entry.admission) {
                            let place = Place::Segment { tier: tier.number, number: segment.number, granule: entry.granule };
                            removed += u64::from(self.remove_at(entry.object, place));
                        } else {
                            segment.note_expiry(entry.admission);
                        }
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            self.counters.read_errors.fetch_add(1, Relaxed);
            tracing::warn!(tier = %tier.path.display(), %error, "the tables can't be read to the end: some objects stay until the next time");
        }
        removed
    }

    fn remove_at(&self, object: ObjectId, place: Place) -> bool {
        let location = place.into();
        let entry = self.index.find(hash_of(object)).iter().find(|entry| entry.location == location);
        entry.is_some_and(|entry| self.remove(&entry))
    }

    /// Forgets one block; the bytes of it that were here. 0 where it isn't here, or is part of a file that is complete: that one goes whole, by `free`,
    /// as the kernel may be reading it. Blocks on the disk.
    pub fn drop_block(&self, object: &ObjectRef, block: BlockIndex) -> u64 {
        let Some(extent) = self.config.block_size.extent(block, object.size) else { return 0 };
        if extent.len() == object.size {
            let was_here = self.contains(object, block);
            self.free(object);
            return if was_here { object.size } else { 0 };
        }
        // No put of this block meanwhile.
        let _turn = self.putting.take(object.id.0 ^ (u128::from(block.0) + 1));
        for entry in self.index.find(hash_of(object.id)).iter() {
            let Ok(Some(file)) = self.object_at(&entry) else { continue };
            if file.id() != object.id || file.is_complete() || file.is_gone() {
                continue;
            }
            match file.drop_block(block) {
                Ok(0) => {}
                Ok(bytes) => {
                    file.tier.give_back(bytes);
                    if !file.has_any() {
                        // A start would not keep it either.
                        self.remove(&entry);
                    }
                    return extent.len();
                }
                Err(error) => file.tier.write_failed("drop a block", &error),
            }
        }
        0
    }

    /// Frees what expired at or before `now_seconds` (since the Unix epoch); cheap when nothing did.
    pub fn expire(&self, now_seconds: u32) {
        for tier in &self.tiers {
            let of_segments = tier.segments.all().iter().map(|segment| segment.first_expiry_seconds.load(Relaxed)).min();
            if tier.first_expiry_seconds.load(Relaxed).min(of_segments.unwrap_or(u32::MAX)) > now_seconds {
                continue;
            }
            tier.first_expiry_seconds.store(u32::MAX, Relaxed);
            let expired = self.sweep(tier, &Sweep::Expired { now_seconds });
            self.counters.expired.fetch_add(expired, Relaxed);
        }
    }

    /// To be called about once a second: expiry, `keepFreePercent`, rewriting of half-dead segments, a look at degraded tiers.
    pub fn maintain(&self, now_seconds: u32) {
        self.expire(now_seconds);
        for tier in &self.tiers {
            tier.probe();
            tier.ask_space();
            self.trim(tier, MAINTAIN_EVICTIONS_MAX);
            self.rewrite_emptiest(tier, DEAD_PERCENT);
        }
        self.trim_to_quotas(TRIM_MAX);
    }
}

/// What becomes of a record that dies, for the data set that it is of.
pub(super) enum Killed<'a> {
    /// The object is no longer here.
    Gone(&'a Dataset),
    /// It is elsewhere, or this was a copy of it.
    Moved(&'a Dataset),
}

/// What a sweep removes.
pub(super) enum Sweep {
    Expired { now_seconds: u32 },
    Dataset(u64),
}

impl Sweep {
    fn takes_file(&self, dataset: u64, admission: Admission) -> bool {
        match self {
            Self::Expired { now_seconds } => admission.expires_at_seconds.is_some_and(|expires| expires <= *now_seconds),
            Self::Dataset(slot) => dataset == *slot,
        }
    }
    fn takes_segment(&self, segment: &Segment) -> bool {
        match self {
            Self::Expired { now_seconds } => segment.first_expiry_seconds.load(Relaxed) <= *now_seconds,
            Self::Dataset(slot) => segment.dataset.0 == *slot,
        }
    }
}
