//! Making room: eviction by the tier's policy, removal, rewriting of segments that are mostly dead, expiry.
//! Room is taken before a byte is written, also for what is moved, so neither quota nor `keepFreePercent` is passed by puts at the same time.
//! Invariant: what is removed leaves the index first, so exactly one thread gives its bytes back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::index::{Entry, Place, kept};
use super::record::{SegmentEntry, record_bytes};
use super::segment::{RecordRead, Segment};
use super::sparse;
use super::tier::{Room, Tier};
use super::types::{Admission, Class, Refusal};
use super::{Store, hash_of, plan};
use crate::evict::{Candidate, EvictionKind, Reach};
use forebay_wire::block::{BlockIndex, Extent, ObjectId, ObjectRef};

/// Dead bytes in segments are borne up to this share of the capacity, before live objects have to leave for them.
const DEAD_SHARE: u64 = 8;
/// A segment is rewritten by `maintain` from this share of dead bytes on.
const DEAD_PERCENT: u64 = 50;
/// Victims of one call of `maintain`: bounds how long it takes.
const MAINTAIN_EVICTIONS_MAX: usize = 4096;

impl Store {
    /// Lets every tier go by another strategy from now on; nothing leaves for it. What objects remember of their use was written by the former one
    /// and is read by the new one for what it would mean there: some first victims are not the best. O(tiers).
    pub fn set_eviction(&self, eviction: EvictionKind) {
        let mut current = self.eviction.lock();
        if *current != eviction {
            self.tiers.iter().for_each(|tier| tier.policy.store(Arc::new(eviction.policy())));
            *current = eviction;
        }
    }

    /// Takes room for `bytes` of the tier, evicting what the policy gives up for it.
    pub(super) fn make_room(&self, tier: &Arc<Tier>, bytes: u64, hash: u64, class: Class) -> Result<Room, Refusal> {
        if bytes > tier.quota_bytes {
            return Err(Refusal::NoRoom);
        }
        if class == Class::Auto && !tier.policy.load().admits(hash, tier.has_ample(bytes)) {
            return Err(Refusal::NotHeld);
        }
        let mut is_asked = false;
        loop {
            if let Some(room) = tier.reserve(bytes) {
                return Ok(room);
            }
            // Nobody leaves because others filled the filesystem a while ago.
            if !std::mem::replace(&mut is_asked, true) {
                tier.ask_space();
                continue;
            }
            if bytes > tier.capacity_bytes() || tier.is_room_coming(bytes) {
                return Err(Refusal::NoRoom);
            }
            let is_dead_heavy = tier.dead_bytes.load(Relaxed) > tier.capacity_bytes() / DEAD_SHARE;
            if is_dead_heavy && self.rewrite_emptiest(tier, 1) {
                continue;
            }
            if !self.evict_one(tier, Some((hash, class))) && !self.rewrite_emptiest(tier, 1) {
                return Err(Refusal::NoRoom);
            }
        }
    }

    /// Room for a copy of what is here already, whose first form goes once it is written.
    fn make_room_to_move(&self, tier: &Arc<Tier>, bytes: u64) -> Option<Room> {
        loop {
            if let Some(room) = tier.reserve(bytes) {
                return Some(room);
            }
            if tier.is_room_coming(bytes) || !self.evict_one(tier, None) {
                return None;
            }
        }
    }

    /// Evicts until the tier is within its capacity again: after a restart with a smaller quota, or when others fill the filesystem.
    pub(super) fn trim(&self, tier: &Arc<Tier>, evictions_max: usize) {
        for _ in 0..evictions_max {
            if tier.used_bytes() <= tier.capacity_bytes()
                || tier.is_room_coming(0)
                || !(self.evict_one(tier, None) || self.rewrite_emptiest(tier, 1))
            {
                break;
            }
        }
    }

    /// Evicts what the policy chooses; for `newcomer`, if given. `false`: nobody is left to choose.
    pub(super) fn evict_one(&self, tier: &Arc<Tier>, newcomer: Option<(u64, Class)>) -> bool {
        let own = newcomer.map(|(hash, _)| kept(hash));
        let may_leave = |entry: &Entry| !entry.is_pinned && Place::from(entry.location).tier() == tier.number && Some(entry.hash) != own;
        let policy = tier.policy.load_full();
        let mut entries = Vec::new();
        match policy.reach() {
            Reach::Highest { from } => {
                let highest = self.highest(from, may_leave);
                if let (Some(entry), Some((hash, Class::Auto))) = (&highest, newcomer)
                    && entry.hash < kept(hash)
                {
                    return false;
                }
                entries.extend(highest);
            }
            Reach::Sample { count } => self.index.sample(rand::random(), count, may_leave, &mut entries),
        }
        let mut candidates: Vec<Candidate> = entries.iter().map(|entry| Candidate { hash: entry.hash, recency: entry.recency }).collect();
        let Some(chosen) = policy.choose(&mut candidates) else { return false };
        for (entry, candidate) in entries.iter().zip(&candidates) {
            if entry.recency != candidate.recency {
                self.index.set_recency(entry.hash, entry.location, candidate.recency);
            }
        }
        if self.remove(&entries[chosen]) {
            policy.left(candidates[chosen]);
            self.counters.evictions.fetch_add(1, Relaxed);
        }
        true
    }

    fn highest(&self, from: u64, accepts: impl Fn(&Entry) -> bool) -> Option<Entry> {
        self.index.highest(from, &accepts).or_else(|| self.index.highest(u64::MAX, &accepts))
    }

    /// Whether a put of `bytes` more of the object would be kept as things stand: asked before they are fetched, so that nothing is fetched only
    /// to be refused. Memory only. A later put may still be refused.
    pub fn would_hold(&self, object: &ObjectRef, bytes: u64, class: Class) -> bool {
        let hash = hash_of(object.id);
        let here = self.index.find(hash).iter().next().map(|entry| Place::from(entry.location).tier());
        let number = here.map_or_else(|| plan::home_of(&self.quotas(), object.id), usize::from);
        let tier = &self.tiers[number];
        if tier.has_ample(bytes) {
            return true;
        }
        let own = kept(hash);
        let may_leave = |entry: &Entry| !entry.is_pinned && Place::from(entry.location).tier() == tier.number && entry.hash != own;
        let policy = tier.policy.load();
        match (policy.reach(), class) {
            (Reach::Sample { .. }, Class::Auto) => true,
            (Reach::Highest { from }, Class::Auto) => {
                policy.would_admit(hash, false) && self.highest(from, may_leave).is_some_and(|highest| highest.hash > own)
            }
            (Reach::Sample { .. } | Reach::Highest { .. }, Class::Pin) => self.highest(u64::MAX, may_leave).is_some(),
        }
    }

    /// Whether a put of `bytes` more of the object would be kept without anybody leaving. Memory only.
    pub fn has_room_beside(&self, object: &ObjectRef, bytes: u64) -> bool {
        let here = self.index.find(hash_of(object.id)).iter().next().map(|entry| Place::from(entry.location).tier());
        let number = here.map_or_else(|| plan::home_of(&self.quotas(), object.id), usize::from);
        self.tiers[number].has_ample(bytes)
    }

    pub(super) fn quotas(&self) -> Vec<u64> {
        self.tiers.iter().map(|tier| tier.quota_bytes).collect()
    }

    /// Removes what an index entry stands for; `false` when another thread did.
    pub(super) fn remove(&self, entry: &Entry) -> bool {
        if !self.index.remove(entry.hash, entry.location) {
            return false;
        }
        let place = Place::from(entry.location);
        let tier = &self.tiers[usize::from(place.tier())];
        let removed = match place {
            Place::Segment { number, granule, .. } => self.remove_record(tier, number, granule),
            Place::File { number, .. } => self.remove_file(tier, number),
        };
        if let Err(error) = removed {
            self.counters.write_errors.fetch_add(1, Relaxed);
            tier.write_failed("remove", &error);
        }
        true
    }

    fn remove_record(&self, tier: &Arc<Tier>, number: u32, granule: u32) -> std::io::Result<()> {
        let Some(entry) = tier.segments.entry_at(number, granule)? else { return Ok(()) };
        self.kill(tier, number, &entry)?;
        if let Some(segment) = tier.segments.get(number).filter(|segment| segment.live_objects.load(Relaxed) == 0 && segment.is_idle()) {
            self.drop_segment(tier, &segment)?;
        }
        Ok(())
    }

    fn kill(&self, tier: &Tier, number: u32, entry: &SegmentEntry) -> std::io::Result<()> {
        let bytes = record_bytes(u64::from(entry.len));
        tier.dead_bytes.fetch_add(bytes, Relaxed);
        if entry.admission.class == Class::Pin {
            tier.pinned_bytes.fetch_sub(bytes, Relaxed);
        }
        match tier.segments.kill(number, entry)? {
            Some(freed) => {
                tier.dead_bytes.fetch_sub(freed, Relaxed);
                tier.give_back(freed);
            }
            None => drop(tier.dead_bytes.fetch_sub(bytes, Relaxed)),
        }
        Ok(())
    }

    /// The segment holds nothing the index knows.
    fn drop_segment(&self, tier: &Tier, segment: &Segment) -> std::io::Result<()> {
        if !tier.segments.take_out(segment) {
            return Ok(());
        }
        let taken = segment.taken_bytes.load(Relaxed);
        tier.give_back(taken);
        tier.dead_bytes.fetch_sub(taken - segment.live_bytes.load(Relaxed), Relaxed);
        tier.segments.unlink(segment)
    }

    fn remove_file(&self, tier: &Arc<Tier>, number: u32) -> std::io::Result<()> {
        if let Some(object) = self.objects.get(tier, number)? {
            let evicted = object.evict();
            self.objects.forget(&object);
            return evicted;
        }
        // Its record is damaged: the file itself tells what it took.
        let bytes = sparse::allocated_bytes(tier, number);
        let unlinked = sparse::unlink_files(tier, number);
        let _ = tier.used_bytes.fetch_update(Relaxed, Relaxed, |used| Some(used.saturating_sub(bytes)));
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
                    if self.index.remove(hash, old) {
                        self.counters.corrupt.fetch_add(1, Relaxed);
                        self.kill(tier, segment.number, entry)?;
                    }
                    continue;
                }
            }
            let bytes = record_bytes(extent.len());
            let Some(mut room) = self.make_room_to_move(tier, bytes) else { return Ok(false) };
            let mut to = None;
            let moved = tier.segments.append(segment.dataset, entry.object, &data, entry.admission, |record| {
                to = Some(record);
                let new = Place::Segment { tier: tier.number, number: record.number, granule: record.granule }.into();
                self.index.relocate(hash, old, new)
            });
            match (moved, to) {
                (Ok(true), _) => {
                    room.spend();
                    if entry.admission.class == Class::Pin {
                        tier.pinned_bytes.fetch_add(bytes, Relaxed);
                    }
                    self.kill(tier, segment.number, entry)?;
                }
                // Freed meanwhile: the copy must not come back.
                (Ok(false), Some(record)) => {
                    room.spend();
                    if entry.admission.class == Class::Pin {
                        tier.pinned_bytes.fetch_add(bytes, Relaxed);
                    }
                    self.remove_record(tier, record.number, record.granule)?;
                }
                (Ok(false), None) => unreachable!("a record is published once written"),
                (Err(failed), _) => {
                    room.spend_part(failed.dead_bytes);
                    tier.dead_bytes.fetch_add(failed.dead_bytes, Relaxed);
                    return Err(failed.cause);
                }
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
    }
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
