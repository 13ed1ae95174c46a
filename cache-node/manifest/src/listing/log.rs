//! The log of a listing: what came, in the order it came.
//! Knows records. Does not know sources or manifests.
//! Invariant: a record that is cut off or damaged ends the log; what was before it counts.
//!
//! Record: payload's length u32, its crc32c u32, payload: kind u8, then of the first record the format, when it was begun and the
//! source's name; of a split from, into, at; of a page range, after, rows; of a done range its number. One process at a time (flock).

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

const FORMAT: u64 = 1;
const HEADER_BYTES: usize = 8;
/// A page has up to 1000 rows of up to 18 KiB.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
const BEGUN: u8 = 0;
const SPLIT: u8 = 1;
const PAGE: u8 = 2;
const DONE: u8 = 3;

pub(super) struct ListingLog {
    path: PathBuf,
    file: File,
    end: u64,
    checkpoint: Checkpoint,
    /// Where each range's pages lie, in key order: 16 bytes per page of 1000 rows.
    places: HashMap<RangeId, Vec<(u64, u32)>>,
    rows: u64,
    pages: u64,
    record: Vec<u8>,
}

impl ListingLog {
    /// Reads the log at `path`, if it is of the source `name` and was begun at most `seconds_max` before `now`; else begins anew.
    pub(super) fn open(path: &Path, name: &str, now: i64, seconds_max: i64) -> Result<Self, ManifestError> {
        let open = || {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            // A listing that was given up may still be writing its last pages.
            file.lock()?;
            let mut log = Self {
                path: path.to_owned(),
                file,
                end: 0,
                checkpoint: Checkpoint::default(),
                places: HashMap::new(),
                rows: 0,
                pages: 0,
                record: Vec::new(),
            };
            if !log.load(name, now, seconds_max)? {
                log.begin(name, now)?;
            }
            Ok(log)
        };
        open().map_err(|cause| ManifestError::Io { op: "open listing of", path: path.to_owned(), cause })
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

    fn begin(&mut self, name: &str, now: i64) -> io::Result<()> {
        (self.end, self.rows, self.pages) = (0, 0, 0);
        self.checkpoint = Checkpoint::default();
        self.places.clear();
        self.file.set_len(0)?;
        self.start_record(BEGUN);
        push_varint(&mut self.record, FORMAT);
        push_signed(&mut self.record, now);
        push_bytes(&mut self.record, name.as_bytes());
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
    fn load(&mut self, name: &str, now: i64, seconds_max: i64) -> io::Result<bool> {
        let file_bytes = self.file.metadata()?.len();
        let mut payload = Vec::new();
        while read_record(&self.file, self.end, file_bytes, &mut payload)? {
            let place = (self.end, payload.len() as u32);
            if self.take(&payload, place, (name, now, seconds_max)).is_none() {
                return Ok(false);
            }
            self.end += (HEADER_BYTES + payload.len()) as u64;
        }
        self.file.set_len(self.end)?;
        Ok(self.end > 0)
    }

    /// `None` for a record that has no meaning here.
    fn take(&mut self, payload: &[u8], place: (u64, u32), (name, now, seconds_max): (&str, i64, i64)) -> Option<()> {
        let mut cursor = Cursor { bytes: payload };
        let kind = cursor.take(1)?[0];
        if (kind == BEGUN) != (place.0 == 0) {
            return None;
        }
        let number = |cursor: &mut Cursor<'_>| Some(RangeId(u32::try_from(cursor.varint()?).ok()?));
        match kind {
            BEGUN => {
                let (format, begun) = (cursor.varint()?, cursor.signed()?);
                let age = now.checked_sub(begun)?;
                (format == FORMAT && (0..=seconds_max).contains(&age) && cursor.bytes()? == name.as_bytes()).then_some(())
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
