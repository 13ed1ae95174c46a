//! Changes of records that are there: another admission, or their end.
//! Invariant: whoever changes a record reads its entry first, under the segment's lock. So a record dies once, as what it last was, and nothing that is
//! dead comes back.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::super::types::Admission;
use super::{ENTRY_BYTES, GRANULE_BYTES, PAGE, Segment, SegmentEntry, Segments, entry_offset, record_bytes};

/// The end of a record.
pub(crate) struct Death {
    /// As it was last.
    pub(crate) entry: SegmentEntry,
    /// What the filesystem has back; the rest is dead until the segment goes.
    pub(crate) freed_bytes: u64,
}

impl Segments {
    /// Forgets one record: its entry first, so that it stays dead, then its pages. `account` is told before the segment can be dropped, and not at all
    /// when the record had died before. The entry as it was last.
    pub(crate) fn kill(&self, number: u32, known: &SegmentEntry, account: impl FnOnce(&Death)) -> io::Result<Option<SegmentEntry>> {
        let Some(segment) = self.get(number).filter(|segment| segment.begin_change()) else { return Ok(None) };
        let killed = self.kill_in(&segment, known, account);
        segment.finish();
        killed
    }

    fn kill_in(&self, segment: &Segment, known: &SegmentEntry, account: impl FnOnce(&Death)) -> io::Result<Option<SegmentEntry>> {
        let (entry, erased) = {
            let mut unerased = segment.unerased.lock();
            let Some(entry) = self.current(segment, known, &unerased)? else { return Ok(None) };
            let erased = self.erase(segment, &entry);
            if erased.is_err() {
                unerased.insert(entry.granule);
            }
            (entry, erased)
        };
        segment.live_objects.fetch_sub(1, Relaxed);
        segment.live_bytes.fetch_sub(record_bytes(u64::from(entry.len)), Relaxed);
        let punched = erased.and_then(|()| self.punch(segment, &entry));
        let freed_bytes = *punched.as_ref().unwrap_or(&0);
        segment.taken_bytes.fetch_sub(freed_bytes, Relaxed);
        account(&Death { entry, freed_bytes });
        punched.map(|_| Some(entry))
    }

    /// Keeps a record on other terms from now on. `note` is told those that were in force, before anybody can change them again; not at all when the
    /// record is dead.
    pub(crate) fn readmit(&self, number: u32, known: &SegmentEntry, admission: Admission, note: impl FnOnce(Admission)) -> io::Result<()> {
        let Some(segment) = self.get(number).filter(|segment| segment.begin_change()) else { return Ok(()) };
        let changed = self.readmit_in(&segment, known, admission, note);
        segment.finish();
        changed
    }

    fn readmit_in(&self, segment: &Segment, known: &SegmentEntry, admission: Admission, note: impl FnOnce(Admission)) -> io::Result<()> {
        let unerased = segment.unerased.lock();
        let Some(entry) = self.current(segment, known, &unerased)? else { return Ok(()) };
        if entry.admission != admission {
            segment.note_expiry(admission);
            let bytes = SegmentEntry { admission, ..entry }.encode();
            self.disk.write_at(&self.files(segment)?.index, &bytes, entry_offset(entry.slot))?;
        }
        note(entry.admission);
        Ok(())
    }

    /// The record's entry as it is now; `None` when it is dead.
    fn current(&self, segment: &Segment, known: &SegmentEntry, unerased: &HashSet<u32>) -> io::Result<Option<SegmentEntry>> {
        if unerased.contains(&known.granule) {
            return Ok(None);
        }
        let mut bytes = [0; ENTRY_BYTES];
        self.disk.read_at(&self.files(segment)?.index, &mut bytes, entry_offset(known.slot))?;
        if bytes == [0; ENTRY_BYTES] {
            return Ok(None);
        }
        // Damaged since: what was read before has to do.
        Ok(Some(SegmentEntry::decode(&bytes, known.slot).unwrap_or(*known)))
    }

    /// From now on, and after a restart, there is no such record.
    pub(super) fn erase(&self, segment: &Segment, entry: &SegmentEntry) -> io::Result<()> {
        self.disk.write_at(&self.files(segment)?.index, &[0; ENTRY_BYTES], entry_offset(entry.slot))
    }

    /// Gives the record's pages back to the filesystem; how many bytes these were.
    pub(super) fn punch(&self, segment: &Segment, entry: &SegmentEntry) -> io::Result<u64> {
        let start = u64::from(entry.granule) * GRANULE_BYTES;
        let end = start + GRANULE_BYTES + u64::from(entry.len);
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if first >= last {
            return Ok(0);
        }
        self.disk.punch(&self.files(segment)?.data, first, last - first)?;
        Ok(last - first)
    }
}
