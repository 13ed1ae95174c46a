//! The start: reads each tier's table and segment indexes, never data, fills the index, and removes what a crash left half done.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::datasets::Dataset;
use super::index::{Entry, Index, Place, kept};
use super::record::record_bytes;
use super::sparse::{self, Object};
use super::table::State;
use super::tier::Tier;
use super::types::{Admission, Class};
use super::{Counters, hash_of};
use forebay_wire::block::ObjectId;

pub(super) fn load(tier: &Arc<Tier>, index: &Index, counters: &Counters) -> io::Result<()> {
    load_files(tier, index, counters)?;
    load_segments(tier, index, counters)?;
    tier.ask_space();
    Ok(())
}

/// What is found of an object.
struct Found {
    object: ObjectId,
    place: Place,
    admission: Admission,
    bytes: u64,
}

fn enter(tier: &Tier, index: &Index, dataset: &Dataset, found: Found) -> bool {
    let Found { object, place, admission, bytes } = found;
    let hash = hash_of(object);
    let is_pinned = admission.class == Class::Pin;
    let recency = tier.policy.load().entered(hash);
    let entry = Entry { hash: kept(hash), location: place.into(), dataset: dataset.number, recency, is_pinned };
    if !index.insert(entry) {
        return false;
    }
    tier.used_bytes.fetch_add(bytes, Relaxed);
    dataset.found(tier.number, bytes);
    if is_pinned {
        tier.pin(dataset, bytes);
    }
    true
}

fn load_files(tier: &Arc<Tier>, index: &Index, counters: &Counters) -> io::Result<()> {
    let (mut filling, mut leaving) = (Vec::new(), Vec::new());
    tier.table.scan(|number, record| {
        tier.table.mark_number(number);
        let Ok(record) = record else {
            counters.corrupt.fetch_add(1, Relaxed);
            leaving.push(number);
            return;
        };
        if let Some(expires) = record.admission.expires_at_seconds {
            tier.first_expiry_seconds.fetch_min(expires, Relaxed);
        }
        match record.state {
            State::Complete => {
                let bytes = sparse::full_charge(record.size, record.block_size);
                let place = Place::File { tier: tier.number, number, is_complete: true };
                let found = Found { object: record.object, place, admission: record.admission, bytes };
                if !enter(tier, index, &tier.datasets.of(record.dataset), found) {
                    leaving.push(number);
                }
            }
            State::Filling => filling.push(number),
            State::Leaving => leaving.push(number),
        }
    })?;
    for number in filling {
        let Some(object) = Object::load(tier, number)?.filter(Object::has_any) else {
            leaving.push(number);
            continue;
        };
        // Its last block was written, only the table doesn't know yet.
        let is_complete = object.finish_if_whole()?;
        let place = Place::File { tier: tier.number, number, is_complete };
        let admission = object.admission();
        enter(tier, index, &object.dataset, Found { object: object.id(), place, admission, bytes: object.charged_bytes() });
    }
    for number in leaving {
        sparse::unlink_files(tier, number)?;
        tier.table.release(number)?;
    }
    Ok(())
}

fn load_segments(tier: &Arc<Tier>, index: &Index, counters: &Counters) -> io::Result<()> {
    let mut damaged = 0;
    for (segment, file) in tier.segments.load(&mut damaged)? {
        damaged += file.damaged;
        let taken = segment.taken_bytes.load(Relaxed);
        let dataset = tier.datasets.of(segment.dataset);
        let mut live = 0;
        let mut lost = Vec::new();
        for entry in &file.entries {
            let bytes = record_bytes(u64::from(entry.len));
            let place = Place::Segment { tier: tier.number, number: segment.number, granule: entry.granule };
            if enter(tier, index, &dataset, Found { object: entry.object, place, admission: entry.admission, bytes }) {
                live += bytes;
            } else {
                lost.push(entry);
            }
        }
        // Dead records that were never punched still take their part.
        tier.used_bytes.fetch_add(taken - live, Relaxed);
        tier.dead_bytes.fetch_add(taken - live, Relaxed);
        for entry in lost {
            tier.segments.kill(segment.number, entry, |death| {
                tier.dead_bytes.fetch_sub(death.freed_bytes, Relaxed);
                tier.give_back(death.freed_bytes);
            })?;
        }
    }
    counters.corrupt.fetch_add(damaged, Relaxed);
    Ok(())
}
