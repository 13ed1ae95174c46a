//! Taking blocks in: where they go, and what is written in which order.
//! Invariant: an object is in the index only after its bytes and their record are written.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::datasets::Dataset;
use super::index::{Entry, Place, kept};
use super::record::record_bytes;
use super::room::{Killed, Newcomer};
use super::sparse::{self, Object};
use super::table::{FileRecord, State};
use super::tier::{Room, Tier};
use super::types::{Admission, Class, DatasetSlot, Health, PutOutcome, Refusal, StoreError};
use super::{Store, hash_of, plan};
use forebay_wire::block::{BlockIndex, ObjectRef};

/// A block that goes in, with all that is said about it.
struct Incoming<'a> {
    dataset: &'a Arc<Dataset>,
    object: &'a ObjectRef,
    block: BlockIndex,
    data: &'a [u8],
    admission: Admission,
}

impl Store {
    /// Keeps one block, whose length is that of `block` in `object`. Blocks on the disk. Never an error of the disk: then `Refused(Degraded)`.
    pub fn put(
        &self,
        dataset: DatasetSlot,
        object: &ObjectRef,
        block: BlockIndex,
        data: &[u8],
        admission: Admission,
    ) -> Result<PutOutcome, StoreError> {
        let extent = self.config.block_size.extent(block, object.size);
        if extent.map(|extent| extent.len()) != Some(data.len() as u64) {
            let detail = format!("{} bytes for block {} of an object of {} bytes", data.len(), block.0, object.size);
            return Err(StoreError::Misuse { op: "put", object: object.id, detail });
        }
        let dataset = self.datasets.of(dataset);
        let incoming = Incoming { dataset: &dataset, object, block, data, admission };
        let outcome = self.put_one(&incoming);
        if outcome.is_err() {
            self.counters.refused_puts.fetch_add(1, Relaxed);
        } else if self.has_impostors.load(Relaxed) {
            self.impostors.write().remove(&object.id);
        }
        Ok(match outcome {
            Ok(()) => PutOutcome::Stored,
            Err(refusal) => PutOutcome::Refused(refusal),
        })
    }

    fn put_one(&self, incoming: &Incoming<'_>) -> Result<(), Refusal> {
        let object = incoming.object;
        let is_one_block = object.size <= self.config.block_size.bytes();
        if is_one_block {
            let _turn = self.putting.try_take(object.id.0).ok_or(Refusal::Busy)?;
            if self.is_here_then_readmit(incoming) {
                return Ok(());
            }
            let tier = self.place(object)?;
            return if object.size < self.config.passthrough_min_bytes {
                self.put_record(tier, incoming)
            } else {
                self.put_whole_file(tier, incoming)
            };
        }
        let (file, room) = self.filling(incoming)?;
        self.put_block(&file, room, incoming)
    }

    /// Whether the object is here already, by its identity on disk; its admission is brought up to date.
    fn is_here_then_readmit(&self, incoming: &Incoming<'_>) -> bool {
        let object = incoming.object;
        let found = self.index.find(hash_of(object.id));
        let is_here = found.iter().any(|entry| match Place::from(entry.location) {
            Place::Segment { tier, number, granule } => {
                self.tiers[usize::from(tier)].segments.is_record_of(number, granule, object.id).unwrap_or(false)
            }
            Place::File { .. } => {
                self.object_at(&entry).is_ok_and(|file| file.is_some_and(|file| file.id() == object.id && !file.is_gone()))
            }
        });
        // Not noting it costs a class, not bytes; the tier knows of the failure.
        is_here && self.readmit(object, incoming.admission).is_ok()
    }

    /// The tier for a new object: by weighted rendezvous over the quotas, so that it goes where it was before and larger folders get more;
    /// the next one where that one takes no writes.
    fn place(&self, object: &ObjectRef) -> Result<&Arc<Tier>, Refusal> {
        if let [tier] = &self.tiers[..] {
            return if tier.takes_writes() { Ok(tier) } else { Err(Refusal::Degraded) };
        }
        let ranked = plan::ranked(&self.quotas(), object.id);
        ranked.into_iter().map(|number| &self.tiers[number]).find(|tier| tier.takes_writes()).ok_or(Refusal::Degraded)
    }

    fn entry(&self, tier: &Tier, incoming: &Incoming<'_>, place: Place) -> Entry {
        let hash = hash_of(incoming.object.id);
        let is_pinned = incoming.admission.class == Class::Pin;
        let recency = tier.policy.load().entered(hash);
        Entry { hash: kept(hash), location: place.into(), dataset: incoming.dataset.number, recency, is_pinned }
    }

    fn room_for(&self, tier: &Arc<Tier>, incoming: &Incoming<'_>, bytes: u64) -> Result<Room, Refusal> {
        let Incoming { dataset, object, admission, .. } = *incoming;
        self.make_room(tier, bytes, &Newcomer { dataset, hash: hash_of(object.id), class: admission.class })
    }

    fn write_failed(&self, tier: &Tier, op: &'static str, error: &std::io::Error) -> Refusal {
        self.counters.write_errors.fetch_add(1, Relaxed);
        tier.write_failed(op, error);
        Refusal::Degraded
    }

    fn wrote(&self, tier: &Tier, bytes: u64) {
        tier.wrote(bytes);
        if tier.health() != Health::Good {
            tier.write_succeeded();
        }
    }

    fn put_record(&self, tier: &Arc<Tier>, incoming: &Incoming<'_>) -> Result<(), Refusal> {
        let Incoming { dataset, object, data, admission, .. } = *incoming;
        let bytes = record_bytes(object.size);
        let mut room = self.room_for(tier, incoming, bytes)?;
        let mut written = None;
        let appended = tier.segments.append(dataset.slot, object.id, data, admission, |record| {
            written = Some(record);
            self.index.insert(self.entry(tier, incoming, record.place(tier.number)))
        });
        match appended {
            Ok(is_known) => {
                room.spend();
                if admission.class == Class::Pin {
                    tier.pin(dataset, bytes);
                }
                self.wrote(tier, bytes);
                if let (false, Some(record)) = (is_known, written) {
                    // Too many look alike: nobody would ever find it.
                    let removed = self.remove_record(tier, record.number, record.granule, &Killed::Gone(dataset));
                    return Err(removed.map_or_else(|error| self.write_failed(tier, "put a record", &error), |()| Refusal::NoRoom));
                }
                Ok(())
            }
            Err(failed) => {
                room.waste(failed.dead_bytes);
                tier.dead_bytes.fetch_add(failed.dead_bytes, Relaxed);
                Err(self.write_failed(tier, "put a record", &failed.cause))
            }
        }
    }

    fn record(&self, incoming: &Incoming<'_>) -> FileRecord {
        FileRecord {
            state: State::Filling,
            object: incoming.object.id,
            size: incoming.object.size,
            dataset: incoming.dataset.slot,
            admission: incoming.admission,
            block_size: self.config.block_size,
            sums: Default::default(),
        }
    }

    /// One block, one file: in the index once it is complete.
    fn put_whole_file(&self, tier: &Arc<Tier>, incoming: &Incoming<'_>) -> Result<(), Refusal> {
        let Incoming { block, data, .. } = *incoming;
        let (file, room) = self.create(tier, incoming)?;
        let charge = file.block_charge(block);
        match file.write_block(block, data) {
            Ok(_) => {
                room.spend();
                file.charge(charge);
                let place = Place::File { tier: tier.number, number: file.number, is_complete: true };
                self.wrote(tier, charge);
                if !self.index.insert(self.entry(tier, incoming, place)) {
                    self.discard(&file);
                }
                // Whoever reads it next may want it read-only, with its sums: loaded anew from the table.
                self.objects.forget(&file);
                Ok(())
            }
            Err(error) => {
                self.discard(&file);
                Err(self.write_failed(tier, "put an object", &error))
            }
        }
    }

    /// Creates the object's files, its sidecar charged; the room is for its first block.
    fn create(&self, tier: &Arc<Tier>, incoming: &Incoming<'_>) -> Result<(Arc<Object>, Room), Refusal> {
        let Incoming { data, admission, .. } = *incoming;
        let record = self.record(incoming);
        let sidecar = sparse::sidecar_bytes(&record);
        let bytes = sidecar + (data.len() as u64).next_multiple_of(super::tier::PAGE);
        let mut room = self.room_for(tier, incoming, bytes)?;
        if let Some(expires) = admission.expires_at_seconds {
            tier.first_expiry_seconds.fetch_min(expires, Relaxed);
        }
        match self.objects.create(tier, record) {
            Ok(file) => {
                room.spend_part(sidecar);
                file.count_made();
                Ok((file, room))
            }
            Err(error) => Err(self.write_failed(tier, "create an object's file", &error)),
        }
    }

    fn discard(&self, file: &Arc<Object>) {
        if let Err(error) = file.evict() {
            file.tier.write_failed("discard an object's file", &error);
        }
        self.objects.forget(file);
    }

    /// The file of an object of several blocks; with room for this block when it was made for it.
    fn filling(&self, incoming: &Incoming<'_>) -> Result<(Arc<Object>, Option<Room>), Refusal> {
        let object = incoming.object;
        let _turn = self.putting.take(object.id.0);
        for entry in self.index.find(hash_of(object.id)).iter() {
            if let Ok(Some(file)) = self.object_at(&entry)
                && file.id() == object.id
                && !file.is_gone()
            {
                if !file.tier.takes_writes() {
                    return Err(Refusal::Degraded);
                }
                return Ok((file, None));
            }
        }
        let tier = self.place(object)?;
        let (file, room) = self.create(tier, incoming)?;
        let place = Place::File { tier: tier.number, number: file.number, is_complete: false };
        if !self.index.insert(self.entry(tier, incoming, place)) {
            self.discard(&file);
            return Err(Refusal::Busy);
        }
        Ok((file, Some(room)))
    }

    fn put_block(&self, file: &Arc<Object>, room: Option<Room>, incoming: &Incoming<'_>) -> Result<(), Refusal> {
        let Incoming { object, block, data, admission, .. } = *incoming;
        let tier = &file.tier;
        if file.admission() != admission {
            // Not noting it costs a class, not bytes.
            let _ = self.readmit(object, admission);
        }
        let charge = file.block_charge(block);
        if file.has(block) {
            // Perhaps another put was faster with the block that this one made the file for.
            return Ok(());
        }
        let room = match room {
            Some(room) => room,
            None => self.room_for(tier, incoming, charge)?,
        };
        // One at a time for each block: a failed write is undone, which must not meet another's good one.
        let _turn = self.putting.take(object.id.0 ^ (u128::from(block.0) + 1));
        match file.write_block(block, data) {
            Ok(true) => {
                room.spend();
                file.charge(charge);
                self.wrote(tier, charge);
                if file.is_complete() {
                    let at = |is_complete| Place::File { tier: tier.number, number: file.number, is_complete }.into();
                    self.index.relocate(kept(hash_of(object.id)), at(false), at(true));
                }
                if file.is_gone() { Err(Refusal::NoRoom) } else { Ok(()) }
            }
            Ok(false) => Ok(()),
            // Evicted meanwhile, its files with it: nothing is wrong with the tier.
            Err(_) if file.is_gone() => Err(Refusal::NoRoom),
            Err(error) => {
                // What can't be undone stays counted; a start looks anew.
                if file.undo_block(block).is_err() {
                    room.spend();
                    file.charge(charge);
                }
                Err(self.write_failed(tier, "put a block", &error))
            }
        }
    }
}
