//! The log of a listing: what came, in the order it came.
//! Knows records. Does not know sources or manifests.
//! Invariant: a record that is cut off or damaged ends the log; what was before it counts.
//!
//! Record: payload's length u32, its crc32c u32, payload: kind u8, then of the first record the format, when it was begun, the
//! source's name, what tells the listing from others, term and sequence of the manifest that it is to become; of a split from, into, at; of a page range, after, rows; of a done range its number. One process at a time (flock).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::ManifestError;
use crate::assemble::{broken_row, decode_body, encode_body_into};
use crate::builder::seconds_of;
use crate::format::{Cursor, FileBody, crc32c, push_bytes, push_signed, push_varint, u32_at};
use crate::version::VersionRef;
use forebay_source::Object;
use forebay_source::listing::{Checkpoint, ListEvent, RangeId};

const FORMAT: u64 = 2;
const HEADER_BYTES: usize = 8;
/// A page has up to 1000 rows of up to 18 KiB.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const BEGUN: u8 = 0;
const SPLIT: u8 = 1;
const PAGE: u8 = 2;
const DONE: u8 = 3;

/// Of which listing a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// Seconds since 1970, by this machine's clock.
    pub(super) at: i64,
    /// Of the source.
    pub(super) name: String,
    /// Tells it from others; never 0.
    pub(super) listing: u64,
    /// Term and sequence of the manifest that it is to become.
    pub(super) number: (u64, u64),
}

impl Begun {
    fn push(&self, record: &mut Vec<u8>) {
        push_varint(record, FORMAT);
        push_signed(record, self.at);
        push_bytes(record, self.name.as_bytes());
        for number in [self.listing, self.number.0, self.number.1] {
            push_varint(record, number);
        }
    }

    /// `None` of a format that isn't known.
    fn take(cursor: &mut Cursor<'_>) -> Option<Self> {
        (cursor.varint()? == FORMAT).then_some(())?;
        let (at, name) = (cursor.signed()?, String::from_utf8(cursor.bytes()?.to_vec()).ok()?);
        Some(Self { at, name, listing: cursor.varint()?, number: (cursor.varint()?, cursor.varint()?) })
    }
}

/// Which log is gone on with.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// What one that is begun anew says of itself.
    pub(super) anew: Begun,
    /// Of a log, in seconds.
    pub(super) age_max: i64,
    /// Of the newest manifest that is known: what listed earlier is of no use.
    pub(super) newest: (u64, u64),
}

impl Wanted {
    fn takes(&self, begun: &Begun) -> bool {
        let age = self.anew.at.checked_sub(begun.at);
        begun.name == self.anew.name && begun.number > self.newest && age.is_some_and(|age| (0..=self.age_max).contains(&age))
    }
}

pub(super) struct ListingLog {
    path: PathBuf,
    file: File,
    begun: Begun,
    end: u64,
    checkpoint: Checkpoint,
    /// Where each range's pages lie, in key order: 16 bytes per page of 1000 rows.
    places: HashMap<RangeId, Vec<(u64, u32)>>,
    rows: u64,
    pages: u64,
    record: Vec<u8>,
}

impl ListingLog {
    /// Reads the log at `path`, if it is wanted; else begins anew.
    pub(super) fn open(path: &Path, wanted: &Wanted) -> Result<Self, ManifestError> {
        let open = || {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            // A listing that was given up may still be writing its last pages.
            file.lock()?;
            let mut log = Self {
                path: path.to_owned(),
                file,
                begun: wanted.anew.clone(),
                end: 0,
                checkpoint: Checkpoint::default(),
                places: HashMap::new(),
                rows: 0,
                pages: 0,
                record: Vec::new(),
            };
            if !log.load(wanted)? {
                log.begin(wanted.anew.clone())?;
            }
            Ok(log)
        };
        open().map_err(|cause| ManifestError::Io { op: "open listing of", path: path.to_owned(), cause })
    }

    pub(super) fn begun(&self) -> &Begun {
        &self.begun
    }
    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    fn begin(&mut self, begun: Begun) -> io::Result<()> {
        (self.end, self.rows, self.pages) = (0, 0, 0);
        self.checkpoint = Checkpoint::default();
        self.places.clear();
        self.file.set_len(0)?;
        self.start_record(BEGUN);
        begun.push(&mut self.record);
        self.begun = begun;
        self.end_record().map(drop)
    }

    fn start_record(&mut self, kind: u8) {
        self.record.clear();
        self.record.extend_from_slice(&[0; HEADER_BYTES]);
        self.record.push(kind);
    }

    /// Where it was written, and the payload's length.
    fn end_record(&mut self) -> io::Result<(u64, u32)> {
        let payload = &self.record[HEADER_BYTES..];
        let (bytes, crc) = (payload.len() as u32, crc32c(payload));
        self.record[..4].copy_from_slice(&bytes.to_le_bytes());
        self.record[4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&self.record, self.end)?;
        let at = self.end;
        self.end += self.record.len() as u64;
        Ok((at, bytes))
    }

    /// Writes the event, then counts it as done.
    pub(super) fn append(&mut self, event: &ListEvent) -> Result<(), ManifestError> {
        self.write(event).map_err(|cause| ManifestError::Io { op: "write listing of", path: self.path.clone(), cause })
    }

    fn write(&mut self, event: &ListEvent) -> io::Result<()> {
        match event {
            ListEvent::Split { from, at, into } => {
                self.start_record(SPLIT);
                push_varint(&mut self.record, u64::from(from.0));
                push_varint(&mut self.record, u64::from(into.0));
                push_bytes(&mut self.record, at);
                self.end_record()?;
            }
            ListEvent::Page { range, objects, after } => {
                self.start_record(PAGE);
                push_varint(&mut self.record, u64::from(range.0));
                push_bytes(&mut self.record, after);
                push_varint(&mut self.record, objects.len() as u64);
                let mut body = Vec::with_capacity(64);
                for Object { key, size, modified, version } in objects {
                    let modified_seconds = seconds_of(*modified);
                    let file = FileBody { size: *size, modified_seconds, version: VersionRef::parse(&version.0), source: 0, key: None };
                    body.clear();
                    encode_body_into(&file, &mut body);
                    push_bytes(&mut self.record, &key.0);
                    push_bytes(&mut self.record, &body);
                }
                let place = self.end_record()?;
                self.note_page(*range, place, objects.len() as u64);
            }
            ListEvent::Done { range } => {
                self.start_record(DONE);
                push_varint(&mut self.record, u64::from(range.0));
                self.end_record()?;
            }
        }
        self.checkpoint.apply(event);
        Ok(())
    }

    fn note_page(&mut self, range: RangeId, place: (u64, u32), rows: u64) {
        self.places.entry(range).or_default().push(place);
        self.rows += rows;
        self.pages += 1;
    }

    /// The state that the log gives; `false` if it isn't to be gone on with.
    fn load(&mut self, wanted: &Wanted) -> io::Result<bool> {
        let file_bytes = self.file.metadata()?.len();
        let mut payload = Vec::new();
        while read_record(&self.file, self.end, file_bytes, &mut payload)? {
            let place = (self.end, payload.len() as u32);
            if self.take(&payload, place, wanted).is_none() {
                return Ok(false);
            }
            self.end += (HEADER_BYTES + payload.len()) as u64;
        }
        self.file.set_len(self.end)?;
        Ok(self.end > 0)
    }

    /// `None` for a record that has no meaning here.
    fn take(&mut self, payload: &[u8], place: (u64, u32), wanted: &Wanted) -> Option<()> {
        let mut cursor = Cursor { bytes: payload };
        let kind = cursor.take(1)?[0];
        if (kind == BEGUN) != (place.0 == 0) {
            return None;
        }
        let number = |cursor: &mut Cursor<'_>| Some(RangeId(u32::try_from(cursor.varint()?).ok()?));
        match kind {
            BEGUN => {
                self.begun = Begun::take(&mut cursor).filter(|begun| wanted.takes(begun))?;
                Some(())
            }
            SPLIT => {
                let (from, into) = (number(&mut cursor)?, number(&mut cursor)?);
                self.checkpoint.apply(&ListEvent::Split { from, at: Bytes::copy_from_slice(cursor.bytes()?), into });
                Some(())
            }
            PAGE => {
                let range = number(&mut cursor)?;
                let after = Bytes::copy_from_slice(cursor.bytes()?);
                let rows = cursor.varint()?;
                // The rows stay in the file: the state needs only how far the range is.
                self.checkpoint.apply(&ListEvent::Page { range, objects: Vec::new(), after });
                self.note_page(range, place, rows);
                Some(())
            }
            DONE => {
                self.checkpoint.apply(&ListEvent::Done { range: number(&mut cursor)? });
                Some(())
            }
            _ => None,
        }
    }

    /// All rows in key order: ranges by where they began, the pages of each as they came.
    pub(super) fn visit(&self, mut visit: impl FnMut(&[u8], FileBody<'_>) -> Result<(), ManifestError>) -> Result<(), ManifestError> {
        let io = |cause| ManifestError::Io { op: "read listing of", path: self.path.clone(), cause };
        let mut ranges: Vec<_> = self.checkpoint.ranges.iter().collect();
        ranges.sort_by(|left, right| left.started_after.cmp(&right.started_after).then(left.id.cmp(&right.id)));
        let mut payload = Vec::new();
        for (at, _) in ranges.iter().filter_map(|range| self.places.get(&range.id)).flatten() {
            if !read_record(&self.file, *at, self.end, &mut payload).map_err(io)? {
                return Err(io(broken_row()));
            }
            let mut cursor = Cursor { bytes: &payload };
            let head = (cursor.take(1), cursor.varint(), cursor.bytes());
            let (Some(_), Some(_), Some(_)) = head else { return Err(io(broken_row())) };
            for _ in 0..cursor.varint().unwrap_or(0) {
                let (Some(key), Some(body)) = (cursor.bytes(), cursor.bytes()) else { return Err(io(broken_row())) };
                visit(key, decode_body(body).ok_or_else(|| io(broken_row()))?)?;
            }
        }
        Ok(())
    }

    pub(super) fn remove(self) -> Result<(), ManifestError> {
        std::fs::remove_file(&self.path).map_err(|cause| ManifestError::Io { op: "remove listing of", path: self.path.clone(), cause })
    }
}

/// The first record of a log, and where it ends; `None` of a log that is none.
pub(super) fn begun_of(file: &File) -> io::Result<Option<(Begun, u64)>> {
    let mut payload = Vec::new();
    if !read_record(file, 0, file.metadata()?.len(), &mut payload)? {
        return Ok(None);
    }
    let mut cursor = Cursor { bytes: &payload };
    let is_first = cursor.take(1).is_some_and(|kind| kind[0] == BEGUN);
    let begun = if is_first { Begun::take(&mut cursor) } else { None };
    Ok(begun.map(|begun| (begun, (HEADER_BYTES + payload.len()) as u64)))
}

/// The first record of a log of `begun`.
pub(super) fn first_record(begun: &Begun) -> Vec<u8> {
    let mut payload = vec![BEGUN];
    begun.push(&mut payload);
    let mut record = (payload.len() as u32).to_le_bytes().to_vec();
    record.extend(crc32c(&payload).to_le_bytes());
    record.extend(payload);
    record
}

/// How many of `bytes`, from the first on, are whole and right records.
pub(super) fn whole_records(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let (Some(length), Some(crc)) = (u32_at(&bytes[end..], 0), u32_at(&bytes[end..], 4)) {
        let payload = bytes[end + HEADER_BYTES..].get(..length as usize).filter(|_| length as usize <= PAYLOAD_BYTES_MAX);
        match payload {
            Some(payload) if crc32c(payload) == crc && payload.first() != Some(&BEGUN) => end += HEADER_BYTES + payload.len(),
            Some(_) | None => break,
        }
    }
    end
}

/// Reads a whole and right record's payload; `false` if there is none.
fn read_record(file: &File, at: u64, file_bytes: u64, payload: &mut Vec<u8>) -> io::Result<bool> {
    let mut header = [0; HEADER_BYTES];
    if at + HEADER_BYTES as u64 > file_bytes {
        return Ok(false);
    }
    file.read_exact_at(&mut header, at)?;
    let (Some(bytes), Some(crc)) = (u32_at(&header, 0), u32_at(&header, 4)) else { return Ok(false) };
    if bytes as usize > PAYLOAD_BYTES_MAX || at + HEADER_BYTES as u64 + u64::from(bytes) > file_bytes {
        return Ok(false);
    }
    payload.resize(bytes as usize, 0);
    file.read_exact_at(payload, at + HEADER_BYTES as u64)?;
    Ok(crc32c(payload) == crc)
}
