//! The bytes of a segment's two files: records with their headers, and the entries of the index.
//! Knows layouts, total on any bytes. Does not touch files. Format 1, little endian.

use super::check;
use super::tier::PAGE;
use super::types::{Admission, Class, DatasetSlot};
use forebay_wire::block::ObjectId;

/// Records begin at multiples of this; also the size of their headers.
pub(crate) const GRANULE_BYTES: u64 = 64;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const ENTRY_BYTES: usize = 32;
pub(super) const ALIGNED_MIN_BYTES: u64 = 16 << 10;
const RECORD_MAGIC: u32 = 0x4652_4543;
const INDEX_MAGIC: u32 = 0x4649_4458;
/// 2^22 granules are what a location can name.
pub(super) const SEGMENT_BYTES_MAX: u64 = 256 << 20;
pub(super) const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const PIN: u32 = 1 << 31;
/// Objects above never go to a segment: the smallest segment holds at least one.
pub(crate) const RECORD_BYTES_MAX: u64 = 512 << 10;

/// What a record takes of the quota: its pages where it is aligned, else its granules.
pub(crate) fn record_bytes(len: u64) -> u64 {
    let unit = if len >= ALIGNED_MIN_BYTES { PAGE } else { GRANULE_BYTES };
    (len + HEADER_BYTES as u64).next_multiple_of(unit)
}

pub(super) struct RecordHeader {
    pub(super) nonce: u64,
    pub(super) object: ObjectId,
    pub(super) len: u32,
    pub(super) data_sum: u32,
    pub(super) slot: u32,
    pub(super) granule: u32,
}

impl RecordHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        check::put(&mut bytes, 4, RECORD_MAGIC.to_le_bytes());
        check::put(&mut bytes, 8, self.nonce.to_le_bytes());
        check::put(&mut bytes, 16, self.object.0.to_le_bytes());
        check::put(&mut bytes, 32, self.len.to_le_bytes());
        check::put(&mut bytes, 36, self.data_sum.to_le_bytes());
        check::put(&mut bytes, 40, self.slot.to_le_bytes());
        check::put(&mut bytes, 44, self.granule.to_le_bytes());
        check::seal(&mut bytes);
        bytes
    }
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        (check::get_u32(bytes, 4) == RECORD_MAGIC && check::is_sealed(bytes)).then(|| Self {
            nonce: check::get_u64(bytes, 8),
            object: ObjectId(check::get_u128(bytes, 16)),
            len: check::get_u32(bytes, 32),
            data_sum: check::get_u32(bytes, 36),
            slot: check::get_u32(bytes, 40),
            granule: check::get_u32(bytes, 44),
        })
    }
}

/// A record as its segment's index tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub slot: u32,
    pub object: ObjectId,
    pub granule: u32,
    pub len: u32,
    pub admission: Admission,
}

impl SegmentEntry {
    pub(super) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let pin = match self.admission.class {
            Class::Pin => PIN,
            Class::Auto => 0,
        };
        check::put(&mut bytes, 4, (self.granule | pin).to_le_bytes());
        check::put(&mut bytes, 8, self.object.0.to_le_bytes());
        check::put(&mut bytes, 24, self.len.to_le_bytes());
        check::put(&mut bytes, 28, self.admission.expires_at_seconds.unwrap_or(0).to_le_bytes());
        check::seal(&mut bytes);
        bytes
    }
    pub(super) fn decode(bytes: &[u8; ENTRY_BYTES], slot: u32) -> Option<Self> {
        if !check::is_sealed(bytes) {
            return None;
        }
        let granule = check::get_u32(bytes, 4);
        let expires = check::get_u32(bytes, 28);
        Some(Self {
            slot,
            object: ObjectId(check::get_u128(bytes, 8)),
            granule: granule & !PIN,
            len: check::get_u32(bytes, 24),
            admission: Admission {
                class: if granule & PIN != 0 { Class::Pin } else { Class::Auto },
                expires_at_seconds: (expires != 0).then_some(expires),
            },
        })
    }
    /// Granule behind the record.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.granule) + 1 + u64::from(self.len).div_ceil(GRANULE_BYTES)
    }
}

/// The head of an index file: `ENTRY_BYTES` * 2.
pub(super) fn encode_index_head(number: u32, nonce: u64, dataset: DatasetSlot) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    check::put(&mut bytes, 4, INDEX_MAGIC.to_le_bytes());
    check::put(&mut bytes, 8, nonce.to_le_bytes());
    check::put(&mut bytes, 16, dataset.0.to_le_bytes());
    check::put(&mut bytes, 24, number.to_le_bytes());
    check::seal(&mut bytes);
    bytes
}

/// What an index file tells: nonce, data set, the records, how many slots it has, how many of them are damaged. `None` when its head is wrong.
pub(crate) struct IndexFile {
    pub(super) nonce: u64,
    pub(super) dataset: DatasetSlot,
    pub(crate) entries: Vec<SegmentEntry>,
    pub(super) slots: u32,
    pub(crate) damaged: u64,
}

/// Decodes a whole index file; total on any bytes (a fuzz target).
pub(crate) fn decode_index(bytes: &[u8], number: u32) -> Option<IndexFile> {
    let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    if check::get_u32(head, 4) != INDEX_MAGIC || !check::is_sealed(head) || check::get_u32(head, 24) != number {
        return None;
    }
    let mut file = IndexFile {
        nonce: check::get_u64(head, 8),
        dataset: DatasetSlot(check::get_u64(head, 16)),
        entries: Vec::with_capacity(rest.len() / ENTRY_BYTES),
        slots: rest.len().div_ceil(ENTRY_BYTES) as u32,
        damaged: 0,
    };
    for (slot, bytes) in rest.chunks(ENTRY_BYTES).enumerate() {
        // Shorter: the last entry was cut off while it was written.
        let Some(bytes) = bytes.as_array::<ENTRY_BYTES>() else { continue };
        match SegmentEntry::decode(bytes, slot as u32) {
            Some(entry) if entry.end() * GRANULE_BYTES <= SEGMENT_BYTES_MAX => file.entries.push(entry),
            Some(_) => file.damaged += 1,
            None => file.damaged += u64::from(*bytes != [0; ENTRY_BYTES]),
        }
    }
    Some(file)
}

/// For the fuzz target: decodes an index file and a record header from any bytes.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Some(file) = decode_index(bytes, 7) {
        assert!(file.entries.len() <= bytes.len() / ENTRY_BYTES);
    }
    if let Some(head) = bytes.first_chunk::<HEADER_BYTES>() {
        let _ = RecordHeader::decode(head);
    }
    if let Some(record) = bytes.first_chunk::<{ super::table::RECORD_BYTES }>() {
        let _ = super::table::FileRecord::decode(record, 7);
    }
}

/// Where the entry of a slot lies in the index file.
pub(super) fn entry_offset(slot: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(slot) * ENTRY_BYTES as u64
}
