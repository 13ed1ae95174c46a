//! Entries that no manifest has any more while the kernel may still hold their node ids: persisted, so that an open file outlives a restart.
//! Knows a file of records. Does not know what the kernel holds: it is told.
//! Invariant: `get` returns what was inserted, or nothing: each record is checked when it is read.
//!
//! The file is a log: records are appended, a removal too, and it is written anew when most of it is void. Record: length of the payload
//! u32, crc32c of id and payload u32, id u64, payload (JSON; empty for a removal). What is cut off or damaged ends the log: what was
//! before it counts.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::{crc32c, u32_at, u64_at};
use super::{ContentId, ManifestError};
use forebay_source::{Key, Version};

/// Entries kept: what a kernel holds of removed files is what is open or cached of them; 24 bytes of memory each.
pub const REMOVED_MAX: usize = 100_000;
const HEADER_BYTES: usize = 16;
/// Of a payload: a path and a key of 16 KiB each as JSON numbers.
const PAYLOAD_BYTES_MAX: usize = 512 << 10;
/// The log isn't written anew below this.
const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// Enough to go on reading a version that was removed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedEntry {
    pub id: ContentId,
    /// `/a/b`, where it was.
    pub path: Vec<u8>,
    /// `Source::name`, as source numbers belong to one manifest.
    pub source_name: String,
    pub key: Key,
    pub size: u64,
    pub modified_seconds: i64,
    pub version: Version,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Payload {
    path: Vec<u8>,
    source_name: String,
    key: Vec<u8>,
    size: u64,
    modified_seconds: i64,
    version: Vec<u8>,
}

/// Send + Sync. All methods may wait for the disk; `get` of an id that isn't there doesn't.
pub struct RemovedList {
    path: PathBuf,
    max: usize,
    state: Mutex<State>,
}

struct State {
    file: File,
    end: u64,
    /// Where the payloads lie: offset of the record and bytes of the payload.
    places: HashMap<u64, (u64, u32)>,
    /// Ids in the order of insertion; those no longer in `places` are skipped.
    order: VecDeque<(u64, u64)>,
    live_bytes: u64,
}

impl RemovedList {
    /// Opens or creates the list in `file`; what is damaged in it is dropped (its ids then answer ESTALE). Blocks.
    pub fn open(file: &Path) -> Result<Self, ManifestError> {
        Self::open_with(file, REMOVED_MAX)
    }

    /// `open` with room for `max` entries.
    pub fn open_with(file: &Path, max: usize) -> Result<Self, ManifestError> {
        let load = || {
            let log = File::options().read(true).write(true).create(true).truncate(false).open(file)?;
            let mut state = State { file: log, end: 0, places: HashMap::new(), order: VecDeque::new(), live_bytes: 0 };
            state.load()?;
            Ok(state)
        };
        let state = load().map_err(|cause| ManifestError::Io { op: "open removed entries of", path: file.to_owned(), cause })?;
        Ok(Self { path: file.to_owned(), max: max.max(1), state: Mutex::new(state) })
    }

    /// Remembers it; over `REMOVED_MAX` the oldest goes. An id already there is replaced.
    pub fn insert(&self, entry: &RemovedEntry) -> Result<(), ManifestError> {
        let payload = Payload {
            path: entry.path.clone(),
            source_name: entry.source_name.clone(),
            key: entry.key.0.to_vec(),
            size: entry.size,
            modified_seconds: entry.modified_seconds,
            version: entry.version.0.to_vec(),
        };
        let mut state = self.state.lock();
        let written = serde_json::to_vec(&payload).map_err(io::Error::other).and_then(|payload| {
            state.append(entry.id.0, &payload)?;
            while state.places.len() > self.max {
                let Some((id, at)) = state.order.pop_front() else { break };
                if state.places.get(&id).is_some_and(|place| place.0 == at) {
                    state.append(id, &[])?;
                }
            }
            state.compact_if_void(&self.path)
        });
        written.map_err(|cause| self.io("write removed entries of", cause))
    }

    pub fn get(&self, id: ContentId) -> Result<Option<RemovedEntry>, ManifestError> {
        let mut state = self.state.lock();
        let Some(payload) = state.read(id.0 & !1).map_err(|cause| self.io("read removed entries of", cause))? else { return Ok(None) };
        let Payload { path, source_name, key, size, modified_seconds, version } = payload;
        let (key, version) = (Key(Bytes::from(key)), Version(Bytes::from(version)));
        Ok(Some(RemovedEntry { id: ContentId(id.0 & !1), path, source_name, key, size, modified_seconds, version }))
    }

    /// The kernel forgot the id. One that isn't there costs nothing.
    pub fn remove(&self, id: ContentId) -> Result<(), ManifestError> {
        let mut state = self.state.lock();
        if !state.places.contains_key(&(id.0 & !1)) {
            return Ok(());
        }
        let written = state.append(id.0 & !1, &[]).and_then(|()| state.compact_if_void(&self.path));
        written.map_err(|cause| self.io("write removed entries of", cause))
    }

    pub fn len(&self) -> usize {
        self.state.lock().places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn io(&self, op: &'static str, cause: io::Error) -> ManifestError {
        ManifestError::Io { op, path: self.path.clone(), cause }
    }
}

impl State {
    /// Reads the log to its end or to the first record that is not whole, which is cut off.
    fn load(&mut self) -> io::Result<()> {
        let file_bytes = self.file.metadata()?.len();
        let mut record = Vec::new();
        while let Some((id, payload_bytes)) = self.record_at(self.end, file_bytes, &mut record)? {
            let at = self.end;
            self.end += (HEADER_BYTES + payload_bytes) as u64;
            self.note(id, at, payload_bytes);
        }
        self.file.set_len(self.end)
    }

    /// Id and payload's length of a whole record; its bytes are left in `record`.
    fn record_at(&self, at: u64, file_bytes: u64, record: &mut Vec<u8>) -> io::Result<Option<(u64, usize)>> {
        if at + HEADER_BYTES as u64 > file_bytes {
            return Ok(None);
        }
        record.resize(HEADER_BYTES, 0);
        self.file.read_exact_at(record, at)?;
        let (Some(bytes), Some(crc), Some(id)) = (u32_at(record, 0), u32_at(record, 4), u64_at(record, 8)) else { return Ok(None) };
        let bytes = bytes as usize;
        if bytes > PAYLOAD_BYTES_MAX || at + (HEADER_BYTES + bytes) as u64 > file_bytes {
            return Ok(None);
        }
        record.resize(HEADER_BYTES + bytes, 0);
        self.file.read_exact_at(record, at)?;
        Ok((crc32c(&record[8..]) == crc).then_some((id, bytes)))
    }

    fn note(&mut self, id: u64, at: u64, payload_bytes: usize) {
        let before = match payload_bytes {
            0 => self.places.remove(&id),
            _ => {
                self.order.push_back((id, at));
                self.live_bytes += (HEADER_BYTES + payload_bytes) as u64;
                self.places.insert(id, (at, payload_bytes as u32))
            }
        };
        self.live_bytes -= before.map_or(0, |(_, bytes)| HEADER_BYTES as u64 + u64::from(bytes));
    }

    /// Not synced: after a power loss the kernel holds nothing any more.
    fn append(&mut self, id: u64, payload: &[u8]) -> io::Result<()> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::Error::other("an entry is too long"));
        }
        let mut record = Vec::with_capacity(HEADER_BYTES + payload.len());
        record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        record.extend_from_slice(&[0; 4]);
        record.extend_from_slice(&id.to_le_bytes());
        record.extend_from_slice(payload);
        let crc = crc32c(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&record, self.end)?;
        let at = self.end;
        self.end += record.len() as u64;
        self.note(id, at, payload.len());
        Ok(())
    }

    fn read(&mut self, id: u64) -> io::Result<Option<Payload>> {
        let Some((at, _)) = self.places.get(&id).copied() else { return Ok(None) };
        let mut record = Vec::new();
        let payload = match self.record_at(at, self.end, &mut record)? {
            Some((stored, _)) if stored == id => serde_json::from_slice(&record[HEADER_BYTES..]).ok(),
            Some(_) | None => None,
        };
        if payload.is_none() {
            self.note(id, at, 0);
        }
        Ok(payload)
    }

    /// Writes the live records to a new file when they are under half of the log.
    fn compact_if_void(&mut self, path: &Path) -> io::Result<()> {
        if self.end < COMPACT_BYTES_MIN || self.live_bytes * 2 > self.end {
            return Ok(());
        }
        let partial = path.with_extension("partial");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&partial)?;
        let mut fresh = Self { file, end: 0, places: HashMap::new(), order: VecDeque::new(), live_bytes: 0 };
        let mut record = Vec::new();
        for (id, at) in &self.order {
            let is_live = self.places.get(id).is_some_and(|place| place.0 == *at);
            if is_live && self.record_at(*at, self.end, &mut record)?.is_some() {
                fresh.append(*id, &record[HEADER_BYTES..])?;
            }
        }
        std::fs::rename(&partial, path)?;
        *self = fresh;
        Ok(())
    }
}
