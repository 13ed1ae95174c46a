//! Small objects, packed one behind the other in append-only files of one data set each.
//! `N.data` holds records (a header of 64 bytes, then the object's bytes, those of 16 KiB and more aligned to 4 KiB); `N.index` holds one
//! entry of 32 bytes per record, written after the record: what has no entry isn't there. So a restart reads indexes, never data.
//! Format 1, little endian. An object dies by its entry being zeroed; only then are its pages punched.
//! Knows records. Does not know which of them is wanted. Invariant: bytes of a record that has an entry are never written again.

mod change;
mod load;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};

use super::check;
use super::disk::Disk;
use super::handles::Handles;
use super::index::{Place, SEGMENT_NUMBERS};
use super::record::{
    ALIGNED_MIN_BYTES, ENTRY_BYTES, GRANULE_BYTES, HEADER_BYTES, IndexFile, RecordHeader, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    SegmentEntry, decode_index, encode_index_head, entry_offset, record_bytes,
};
use super::tier::PAGE;
use super::types::{Admission, DatasetSlot};
pub(crate) use change::Death;
use forebay_wire::block::{Extent, ObjectId, ObjectRef};

/// Where the next record goes.
struct Tail {
    granule: u64,
    slot: u32,
    /// Records reserved and not yet finished, and records that are being killed: nobody drops the segment, whose bytes they count, meanwhile.
    writers: u32,
    is_sealed: bool,
    /// Its bytes were given back as a whole.
    is_dropped: bool,
}

pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) dataset: DatasetSlot,
    /// Of this process, never used twice: what its handle is kept under.
    key: u64,
    /// Of the file: tells its records from those of an earlier segment of the same number.
    nonce: u64,
    tail: Mutex<Tail>,
    /// Guards the entries of records that are there. Granules of the dead ones whose entries the disk didn't let go of.
    unerased: Mutex<HashSet<u32>>,
    pub(crate) live_objects: AtomicU32,
    pub(crate) live_bytes: AtomicU64,
    /// Its part of the tier's used bytes: live ones and dead ones not yet given back.
    pub(crate) taken_bytes: AtomicU64,
    pub(crate) first_expiry_seconds: AtomicU32,
}

impl Segment {
    /// The next record's granule and slot; `None` when it doesn't fit any more.
    fn reserve(&self, len: u64, segment_bytes: u64) -> Option<(u32, u32)> {
        let mut tail = self.tail.lock();
        if tail.is_sealed {
            return None;
        }
        let start = if len >= ALIGNED_MIN_BYTES {
            // The header ends where a page begins.
            (tail.granule * GRANULE_BYTES + GRANULE_BYTES).next_multiple_of(PAGE) / GRANULE_BYTES - 1
        } else {
            tail.granule
        };
        let end = start + 1 + len.div_ceil(GRANULE_BYTES);
        if end * GRANULE_BYTES > segment_bytes {
            return None;
        }
        tail.granule = end;
        tail.writers += 1;
        tail.slot += 1;
        Some((start as u32, tail.slot - 1))
    }

    fn finish(&self) {
        self.tail.lock().writers -= 1;
    }

    /// Begins a change of what is there already; `false`: the segment was dropped. Ends with `finish`.
    fn begin_change(&self) -> bool {
        let mut tail = self.tail.lock();
        tail.writers += u32::from(!tail.is_dropped);
        !tail.is_dropped
    }

    /// `true` once: for the caller who gives its bytes back and removes its files. Only when nobody writes or kills a record in it.
    fn begin_drop(&self) -> bool {
        let mut tail = self.tail.lock();
        let begins = tail.is_sealed && tail.writers == 0 && !tail.is_dropped;
        tail.is_dropped |= begins;
        begins
    }

    pub(crate) fn is_idle(&self) -> bool {
        let tail = self.tail.lock();
        tail.is_sealed && tail.writers == 0
    }

    pub(crate) fn note_expiry(&self, admission: Admission) {
        if let Some(expires) = admission.expires_at_seconds {
            self.first_expiry_seconds.fetch_min(expires, Relaxed);
        }
    }
}

struct Files {
    data: File,
    index: File,
}

/// What a location in a segment turned out to hold.
pub(crate) enum RecordRead {
    Hit,
    /// A good record of another object that looks alike in the index.
    Other,
    /// Not what was written there.
    Wrong,
    /// The segment is gone.
    Gone,
}

/// A record that couldn't be written.
pub(crate) struct AppendFailed {
    pub(crate) cause: io::Error,
    /// Of what was charged for it this much may lie on the disk: dead bytes of its segment from now on.
    pub(crate) dead_bytes: u64,
}

/// Where a record was just written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub number: u32,
    pub granule: u32,
}

impl Record {
    pub(crate) fn place(self, tier: u8) -> Place {
        Place::Segment { tier, number: self.number, granule: self.granule }
    }
}

/// The segments of one tier.
pub(crate) struct Segments {
    disk: Disk,
    root: File,
    segment_bytes: u64,
    by_number: RwLock<HashMap<u32, Arc<Segment>>>,
    /// Which segment of each data set takes new records.
    active: Mutex<HashMap<DatasetSlot, Arc<Segment>>>,
    next_number: AtomicU32,
    next_key: AtomicU64,
    handles: Handles<Files>,
}

/// Two files each; segments are few, as they are large.
const OPEN_SEGMENTS_MAX: usize = 256;

fn path(number: u32, what: &str) -> String {
    format!("segments/{number:07}.{what}")
}

impl Segments {
    pub(crate) fn new(disk: &Disk, root: &File, quota_bytes: u64) -> io::Result<Self> {
        Ok(Self {
            disk: disk.clone(),
            root: root.try_clone()?,
            segment_bytes: (quota_bytes / 64).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) / PAGE * PAGE,
            by_number: RwLock::default(),
            active: Mutex::default(),
            next_number: AtomicU32::new(0),
            next_key: AtomicU64::new(0),
            handles: Handles::new(OPEN_SEGMENTS_MAX),
        })
    }

    fn files(&self, segment: &Segment) -> io::Result<Arc<Files>> {
        if let Some(files) = self.handles.get(segment.key) {
            return Ok(files);
        }
        let open = |what| self.disk.open(&self.root, &path(segment.number, what), true);
        let files = Arc::new(Files { data: open("data")?, index: open("index")? });
        self.handles.insert(segment.key, files.clone());
        Ok(files)
    }

    /// `None`: the segment was dropped since the caller got it.
    fn find_files(&self, segment: &Segment) -> io::Result<Option<Arc<Files>>> {
        match self.files(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            files => files.map(Some),
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.by_number.read().get(&number).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.by_number.read().values().cloned().collect()
    }

    fn make(&self, number: u32, nonce: u64, dataset: DatasetSlot, tail: Tail) -> Segment {
        Segment {
            number,
            dataset,
            key: self.next_key.fetch_add(1, Relaxed),
            nonce,
            tail: Mutex::new(tail),
            unerased: Mutex::default(),
            live_objects: AtomicU32::new(0),
            live_bytes: AtomicU64::new(0),
            taken_bytes: AtomicU64::new(0),
            first_expiry_seconds: AtomicU32::new(u32::MAX),
        }
    }

    fn create(&self, dataset: DatasetSlot) -> io::Result<Arc<Segment>> {
        let number = loop {
            let number = self.next_number.fetch_add(1, Relaxed) % SEGMENT_NUMBERS;
            if !self.by_number.read().contains_key(&number) {
                break number;
            }
        };
        let nonce = rand::random();
        let index = self.disk.create(&self.root, &path(number, "index"))?;
        let head = encode_index_head(number, nonce, dataset);
        let created = self.disk.write_at(&index, &head, 0).and_then(|()| self.disk.create(&self.root, &path(number, "data")));
        let data = match created {
            Ok(data) => data,
            Err(error) => {
                // Where that fails, too, the next start removes it.
                let _ = self.disk.unlink(&self.root, &path(number, "index"));
                return Err(error);
            }
        };
        let segment =
            Arc::new(self.make(number, nonce, dataset, Tail { granule: 0, slot: 0, writers: 0, is_sealed: false, is_dropped: false }));
        self.handles.insert(segment.key, Arc::new(Files { data, index }));
        self.by_number.write().insert(number, segment.clone());
        Ok(segment)
    }

    /// Reserves a record in the data set's active segment, with a new segment where that one is full.
    fn reserve(&self, dataset: DatasetSlot, len: u64) -> io::Result<(Arc<Segment>, u32, u32)> {
        loop {
            let active = self.active.lock().get(&dataset).cloned();
            if let Some(segment) = active {
                if let Some((granule, slot)) = segment.reserve(len, self.segment_bytes) {
                    return Ok((segment, granule, slot));
                }
                self.seal(&segment);
            }
            let segment = self.create(dataset)?;
            let mut active = self.active.lock();
            if let std::collections::hash_map::Entry::Vacant(vacant) = active.entry(dataset) {
                vacant.insert(segment);
            } else {
                // Another thread was faster: ours goes.
                drop(active);
                segment.tail.lock().is_sealed = true;
                if self.take_out(&segment) {
                    self.unlink(&segment)?;
                }
            }
        }
    }

    /// No more records for this segment.
    pub(crate) fn seal(&self, segment: &Arc<Segment>) {
        segment.tail.lock().is_sealed = true;
        let mut active = self.active.lock();
        if active.get(&segment.dataset).is_some_and(|it| Arc::ptr_eq(it, segment)) {
            active.remove(&segment.dataset);
        }
    }

    /// Writes an object: record first, then its entry; `publish` makes it known before the segment may be rewritten or dropped.
    /// The caller has charged `record_bytes`.
    pub(crate) fn append(
        &self,
        dataset: DatasetSlot,
        object: ObjectId,
        data: &[u8],
        admission: Admission,
        publish: impl FnOnce(Record) -> bool,
    ) -> Result<bool, AppendFailed> {
        let (segment, granule, slot) = self.reserve(dataset, data.len() as u64).map_err(|cause| AppendFailed { cause, dead_bytes: 0 })?;
        let entry = SegmentEntry { slot, object, granule, len: data.len() as u32, admission };
        let bytes = record_bytes(data.len() as u64);
        let written = self.write(&segment, entry, data);
        let published = match written {
            Ok(()) => {
                segment.live_objects.fetch_add(1, Relaxed);
                segment.live_bytes.fetch_add(bytes, Relaxed);
                segment.taken_bytes.fetch_add(bytes, Relaxed);
                segment.note_expiry(admission);
                Ok(publish(Record { number: segment.number, granule }))
            }
            Err(cause) => {
                // Its granules are spent: what can't be given back to the filesystem stays counted until the segment goes.
                let dead_bytes = bytes - self.erase(&segment, &entry).and_then(|()| self.punch(&segment, &entry)).unwrap_or(0);
                segment.taken_bytes.fetch_add(dead_bytes, Relaxed);
                Err(AppendFailed { cause, dead_bytes })
            }
        };
        segment.finish();
        published
    }

    fn write(&self, segment: &Segment, entry: SegmentEntry, data: &[u8]) -> io::Result<()> {
        let files = self.files(segment)?;
        let SegmentEntry { slot, object, granule, len, .. } = entry;
        let header = RecordHeader { nonce: segment.nonce, object, len, data_sum: check::sum(data), slot, granule };
        self.disk.write_pair_at(&files.data, &header.encode(), data, u64::from(granule) * GRANULE_BYTES)?;
        self.disk.write_at(&files.index, &entry.encode(), entry_offset(slot))
    }

    /// Reads and checks `extent` of `object` from the record at `granule`: one system call when the extent is the whole object.
    pub(crate) fn read(
        &self,
        number: u32,
        granule: u32,
        object: &ObjectRef,
        extent: Extent,
        into: &mut [u8],
        drop_pages: bool,
    ) -> io::Result<RecordRead> {
        let Some(segment) = self.get(number) else { return Ok(RecordRead::Gone) };
        let Some(files) = self.find_files(&segment)? else { return Ok(RecordRead::Gone) };
        let offset = u64::from(granule) * GRANULE_BYTES;
        let mut head = [0; HEADER_BYTES];
        let outcome = if extent.len() == object.size {
            let n = self.disk.read_pair_at(&files.data, &mut head, into, offset)?;
            segment.judge(&head, granule, object, &into[..n.saturating_sub(HEADER_BYTES)])
        } else {
            super::with_scratch(object.size as usize, |whole| {
                let n = self.disk.read_pair_at(&files.data, &mut head, whole, offset)?;
                let outcome = segment.judge(&head, granule, object, &whole[..n.saturating_sub(HEADER_BYTES)]);
                into.copy_from_slice(&whole[extent.start() as usize..extent.end() as usize]);
                io::Result::Ok(outcome)
            })?
        };
        if drop_pages {
            self.disk.drop_pages(&files.data, offset, object.size + GRANULE_BYTES);
        }
        Ok(outcome)
    }

    /// Whether the record at `granule` is of `object`, by its header alone.
    pub(crate) fn is_record_of(&self, number: u32, granule: u32, object: ObjectId) -> io::Result<bool> {
        Ok(self.header(number, granule)?.is_some_and(|header| header.object == object))
    }

    fn header(&self, number: u32, granule: u32) -> io::Result<Option<RecordHeader>> {
        let Some(segment) = self.get(number) else { return Ok(None) };
        let Some(files) = self.find_files(&segment)? else { return Ok(None) };
        let mut head = [0; HEADER_BYTES];
        let n = self.disk.read_at(&files.data, &mut head, u64::from(granule) * GRANULE_BYTES)?;
        let header = if n == HEADER_BYTES { RecordHeader::decode(&head) } else { None };
        Ok(header.filter(|header| header.nonce == segment.nonce && header.granule == granule))
    }

    /// What is needed to remove the record at `granule`: from its header, or from the index when the header is damaged.
    pub(crate) fn entry_at(&self, number: u32, granule: u32) -> io::Result<Option<SegmentEntry>> {
        let Some(segment) = self.get(number) else { return Ok(None) };
        if let Ok(Some(header)) = self.header(number, granule) {
            let Some(files) = self.find_files(&segment)? else { return Ok(None) };
            let mut bytes = [0; ENTRY_BYTES];
            let n = self.disk.read_at(&files.index, &mut bytes, entry_offset(header.slot))?;
            if n == ENTRY_BYTES
                && let Some(entry) = SegmentEntry::decode(&bytes, header.slot).filter(|entry| entry.granule == granule)
            {
                return Ok(Some(entry));
            }
        }
        let index = self.read_index(&segment)?;
        Ok(index.and_then(|index| index.entries.into_iter().find(|entry| entry.granule == granule)))
    }

    pub(crate) fn read_index(&self, segment: &Segment) -> io::Result<Option<IndexFile>> {
        let Some(files) = self.find_files(segment)? else { return Ok(None) };
        let mut bytes = vec![0; files.index.metadata()?.len() as usize];
        let n = self.disk.read_at(&files.index, &mut bytes, 0)?;
        Ok(decode_index(&bytes[..n], segment.number).filter(|index| index.nonce == segment.nonce))
    }

    /// Whether the caller is the one to drop it. `false` also while somebody else works in it: who ends last tries again.
    pub(crate) fn take_out(&self, segment: &Segment) -> bool {
        let begins = segment.begin_drop();
        if begins {
            self.by_number.write().remove(&segment.number);
        }
        begins
    }

    /// Removes the files of a segment that was taken out.
    pub(crate) fn unlink(&self, segment: &Segment) -> io::Result<()> {
        self.handles.remove(segment.key);
        // The index first: data without an index is nothing.
        self.disk.unlink(&self.root, &path(segment.number, "index"))?;
        self.disk.unlink(&self.root, &path(segment.number, "data"))
    }

    /// The idle segment with the most dead bytes, if they are at least half of it.
    pub(crate) fn emptiest(&self, dead_percent_min: u64) -> Option<Arc<Segment>> {
        let dead = |segment: &Segment| segment.taken_bytes.load(Relaxed).saturating_sub(segment.live_bytes.load(Relaxed));
        let candidates = self.by_number.read();
        let worst = candidates.values().filter(|segment| segment.is_idle()).max_by_key(|segment| dead(segment))?;
        (dead(worst) * 100 >= worst.taken_bytes.load(Relaxed) * dead_percent_min && dead(worst) > 0).then(|| worst.clone())
    }
}

impl Segment {
    fn judge(&self, head: &[u8; HEADER_BYTES], granule: u32, object: &ObjectRef, data: &[u8]) -> RecordRead {
        match RecordHeader::decode(head) {
            Some(header) if header.nonce != self.nonce || header.granule != granule => RecordRead::Wrong,
            Some(header) if header.object != object.id => RecordRead::Other,
            Some(header)
                if u64::from(header.len) == object.size && data.len() as u64 == object.size && check::sum(data) == header.data_sum =>
            {
                RecordRead::Hit
            }
            _ => RecordRead::Wrong,
        }
    }
}
