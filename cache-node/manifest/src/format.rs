//! The bytes of a manifest file, version 1. All integers are little-endian.
//! Knows layouts. Does not touch files. A newer reader must open this version for good: `tests/golden/manifest-1.bin` is one.
//!
//! ```text
//! page 0      header: magic, version, own crc32c, counts, sections (offset and length each, in bytes), crc32c of the page table
//! Entries     records in groups of 16: each record shares a prefix with the name before it, the first of a group with none
//! Groups      u64 per group: 40 bits where it begins in Entries, above them the head of its first name; one more for the end
//! Directories 32 bytes each, children before parents, the root last; their entries lie in the same order
//! Buckets     u32 per bucket: its first position in Fingerprints and Numbers; one more for the end; a bucket is a range of ids
//! Fingerprints u8 per entry: bits 2 to 9 of its id
//! Numbers     u32 per entry: its number
//! Salts       (u32 entry, u32 salt), ascending: entries whose plain id another one has too
//! Meta        JSON: sources, problems
//! PageTable   crc32c per page of 4096 bytes of all before it; of the header's page 0
//! ```
//! Head of a name: its first three bytes, as a big-endian number, after what all names of its folder share.
//! Sections begin at multiples of 4096 and are padded with zeros, so that each byte of the file is under one checksum.
//! Record: tag, shared length, suffix length, suffix; then of a folder its number, of a file size, time (unless the tag says: as before),
//! version, and as the tag says source and key. Numbers are LEB128, signed ones zigzag, times relative to the record before in its group.

use super::version::VersionRef;

pub(super) const MAGIC: [u8; 8] = *b"FBMANIF\n";
pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const PAGE_BYTES: u64 = 4096;
pub(super) const GROUP_ENTRIES: u32 = 16;
/// Entries a bucket of the id index has on average.
pub(super) const BUCKET_ENTRIES: u64 = 16;
pub(super) const DIRECTORY_BYTES: u64 = 32;
pub(super) const SALT_BYTES: u64 = 8;
/// No entry has this number: it stands for "none".
pub(super) const NO_ENTRY: u32 = u32::MAX;
/// S3's version ids have up to 1024 bytes.
pub(super) const VERSION_BYTES_MAX: usize = 1024;

const CRC_AT: usize = 12;
const SECTIONS_AT: usize = 96;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionKind {
    Entries,
    Groups,
    Directories,
    Buckets,
    Fingerprints,
    Numbers,
    Salts,
    Meta,
    PageTable,
}
pub(super) const SECTIONS: usize = 9;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) file_bytes: u64,
    pub(super) term: u64,
    pub(super) sequence: u64,
    pub(super) created_seconds: i64,
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) digest: u64,
    pub(super) id_mask: u64,
    pub(super) sections: [Section; SECTIONS],
    pub(super) page_table_crc: u32,
}

impl Header {
    pub(super) fn section(&self, kind: SectionKind) -> Section {
        self.sections[kind as usize]
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Self {
            file_bytes,
            term,
            sequence,
            created_seconds,
            files,
            directories,
            entries,
            bytes,
            digest,
            id_mask,
            sections,
            page_table_crc,
        } = self;
        let mut page = Vec::with_capacity(PAGE_BYTES as usize);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        page.extend_from_slice(&0u32.to_le_bytes());
        for number in [file_bytes, term, sequence, &created_seconds.cast_unsigned(), files, directories, entries, bytes, digest, id_mask] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(page.len(), SECTIONS_AT, "the header's numbers end where its sections begin");
        for section in sections {
            page.extend_from_slice(&section.offset.to_le_bytes());
            page.extend_from_slice(&section.bytes.to_le_bytes());
        }
        page.extend_from_slice(&page_table_crc.to_le_bytes());
        page.resize(PAGE_BYTES as usize, 0);
        let crc = crc32c(&page);
        page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// `Err` says what is wrong with the page or with the sections' places and lengths; then nothing of the file may be used.
    pub(super) fn decode(page: &[u8], file_bytes: u64) -> Result<Self, &'static str> {
        let mut copy: [u8; PAGE_BYTES as usize] = page.try_into().map_err(|_| "it is shorter than a header")?;
        if copy[..8] != MAGIC {
            return Err("it is not a manifest");
        }
        let stored = u32_at(&copy, CRC_AT).ok_or("short header")?;
        copy[CRC_AT..CRC_AT + 4].fill(0);
        if crc32c(&copy) != stored {
            return Err("the header's checksum is wrong");
        }
        if u32_at(&copy, 8) != Some(FORMAT_VERSION) {
            return Err("its format is newer than this program");
        }
        let number = |position: usize| u64_at(&copy, 16 + 8 * position).unwrap_or(0);
        let mut header = Self {
            file_bytes: number(0),
            term: number(1),
            sequence: number(2),
            created_seconds: number(3).cast_signed(),
            files: number(4),
            directories: number(5),
            entries: number(6),
            bytes: number(7),
            digest: number(8),
            id_mask: number(9),
            sections: [Section::default(); SECTIONS],
            page_table_crc: u32_at(&copy, SECTIONS_AT + 16 * SECTIONS).unwrap_or(0),
        };
        for (position, section) in header.sections.iter_mut().enumerate() {
            *section = Section { offset: number(10 + 2 * position), bytes: number(11 + 2 * position) };
        }
        header.check(file_bytes)?;
        Ok(header)
    }

    /// Every later access relies on these: places inside the file, lengths that fit the counts.
    fn check(&self, file_bytes: u64) -> Result<(), &'static str> {
        if self.file_bytes != file_bytes {
            return Err("its length is not what the header says");
        }
        let mut end = PAGE_BYTES;
        for section in &self.sections {
            if section.offset != end {
                return Err("a section is not where it should be");
            }
            let after =
                section.offset.checked_add(section.bytes).filter(|after| *after <= file_bytes).ok_or("a section is outside the file")?;
            end = after.next_multiple_of(PAGE_BYTES);
        }
        let bytes = |kind| self.section(kind).bytes;
        let table = self.section(SectionKind::PageTable);
        if table.offset + table.bytes != file_bytes || table.bytes != table.offset / PAGE_BYTES * 4 {
            return Err("the page table has a wrong length");
        }
        if self.entries >= u64::from(NO_ENTRY) || self.directories == 0 || self.directories > self.entries + 1 {
            return Err("its counts contradict each other");
        }
        let lengths = [
            (SectionKind::Groups, (self.entries.div_ceil(u64::from(GROUP_ENTRIES)) + 1) * 8),
            (SectionKind::Directories, self.directories * DIRECTORY_BYTES),
            (SectionKind::Buckets, (buckets(self.entries) + 1) * 4),
            (SectionKind::Fingerprints, self.entries),
            (SectionKind::Numbers, self.entries * 4),
        ];
        if lengths.iter().any(|(kind, expected)| bytes(*kind) != *expected) || !bytes(SectionKind::Salts).is_multiple_of(SALT_BYTES) {
            return Err("a section's length contradicts the counts");
        }
        Ok(())
    }
}

/// Buckets of the id index for so many entries; at least one.
pub(super) fn buckets(entries: u64) -> u64 {
    entries.div_ceil(BUCKET_ENTRIES).max(1)
}

/// The bucket of an id: buckets divide the range of ids evenly, so ids sorted are sorted by bucket.
pub(super) fn bucket_of(id: u64, buckets: u64) -> u64 {
    ((u128::from(id) * u128::from(buckets)) >> 64) as u64
}

pub(super) fn fingerprint_of(id: u64) -> u8 {
    (id >> 2) as u8
}

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// One row of Groups. A search compares heads, which lie side by side, before it touches a name, which costs a miss of every cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupRow {
    pub(super) offset: u64,
    pub(super) head: u32,
}

impl GroupRow {
    pub(super) const BYTES: u64 = 8;
    const OFFSET_BITS: u32 = 40;
    /// Of Entries, in bytes: 4 billion entries of 256.
    pub(super) const OFFSET_MAX: u64 = (1 << Self::OFFSET_BITS) - 1;

    pub(super) fn encode(self) -> [u8; 8] {
        (self.offset | u64::from(self.head) << Self::OFFSET_BITS).to_le_bytes()
    }

    pub(super) fn decode(row: u64) -> Self {
        Self { offset: row & Self::OFFSET_MAX, head: (row >> Self::OFFSET_BITS) as u32 }
    }
}

/// Names that share their first `shared` bytes are in the order of their heads, or have equal ones: no name holds a 0.
pub(super) fn head_of(name: &[u8], shared: usize) -> u32 {
    let rest = name.get(shared..).unwrap_or_default();
    let byte = |at: usize| u32::from(rest.get(at).copied().unwrap_or(0));
    byte(0) << 16 | byte(1) << 8 | byte(2)
}

/// A folder's fixed-size record. Its parent is the folder that holds its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryRecord {
    /// Bytes that all its names begin with.
    pub(super) shared: u32,
    /// Its entry in the parent, `NO_ENTRY` for the root.
    pub(super) entry: u32,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) path_hash: u64,
    pub(super) digest: u64,
}

impl DirectoryRecord {
    pub(super) fn encode(&self) -> [u8; DIRECTORY_BYTES as usize] {
        let mut bytes = [0; DIRECTORY_BYTES as usize];
        for (position, number) in [self.shared, self.entry, self.first, self.count].iter().enumerate() {
            bytes[4 * position..4 * position + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[16..24].copy_from_slice(&self.path_hash.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.digest.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            shared: u32_at(bytes, 0)?,
            entry: u32_at(bytes, 4)?,
            first: u32_at(bytes, 8)?,
            count: u32_at(bytes, 12)?,
            path_hash: u64_at(bytes, 16)?,
            digest: u64_at(bytes, 24)?,
        })
    }
}

pub(super) const KIND_MASK: u8 = 3;
pub(super) const KIND_DIRECTORY: u8 = 0;
const KIND_MD5: u8 = 1;
const KIND_MD5_PARTS: u8 = 2;
const KIND_OPAQUE: u8 = 3;
pub(super) const TAG_SAME_TIME: u8 = 4;
/// A source other than 0 follows.
const TAG_SOURCE: u8 = 8;
/// The key follows: the path doesn't spell it.
const TAG_KEY: u8 = 16;
const TAG_UNKNOWN: u8 = !(KIND_MASK | TAG_SAME_TIME | TAG_SOURCE | TAG_KEY);

/// What is stored of a file beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileBody<'a> {
    pub(super) size: u64,
    pub(super) modified_seconds: i64,
    pub(super) version: VersionRef<'a>,
    pub(super) source: u16,
    /// Only where the path doesn't spell it.
    pub(super) key: Option<&'a [u8]>,
}

impl<'a> FileBody<'a> {
    /// Tag first; `time` is what the modification time is relative to, `None`: leave it out and say so in the tag.
    pub(super) fn tag(&self, is_same_time: bool) -> u8 {
        let kind = match self.version {
            VersionRef::Md5(_) => KIND_MD5,
            VersionRef::Md5Parts(..) => KIND_MD5_PARTS,
            VersionRef::Opaque(_) => KIND_OPAQUE,
        };
        let mut tag = kind;
        if is_same_time {
            tag |= TAG_SAME_TIME;
        }
        if self.source != 0 {
            tag |= TAG_SOURCE;
        }
        if self.key.is_some() {
            tag |= TAG_KEY;
        }
        tag
    }

    /// All but the tag; times are relative to `before`.
    pub(super) fn encode(&self, before: i64, into: &mut Vec<u8>) {
        push_varint(into, self.size);
        if self.modified_seconds != before {
            push_signed(into, self.modified_seconds.wrapping_sub(before));
        }
        match self.version {
            VersionRef::Md5(digest) => into.extend_from_slice(&digest),
            VersionRef::Md5Parts(digest, parts) => {
                into.extend_from_slice(&digest);
                push_varint(into, u64::from(parts));
            }
            VersionRef::Opaque(text) => push_bytes(into, text),
        }
        if self.source != 0 {
            push_varint(into, u64::from(self.source));
        }
        if let Some(key) = self.key {
            push_bytes(into, key);
        }
    }

    /// `None` for bytes that `encode` never writes.
    #[inline]
    pub(super) fn decode(tag: u8, before: i64, cursor: &mut Cursor<'a>) -> Option<Self> {
        let size = cursor.varint()?;
        let modified_seconds = if tag & TAG_SAME_TIME != 0 { before } else { before.wrapping_add(cursor.signed()?) };
        let version = match tag & KIND_MASK {
            KIND_MD5 => VersionRef::Md5(cursor.take(16)?.try_into().ok()?),
            KIND_MD5_PARTS => VersionRef::Md5Parts(cursor.take(16)?.try_into().ok()?, cursor.varint()?.try_into().ok()?),
            KIND_OPAQUE => VersionRef::Opaque(cursor.bytes()?),
            _ => return None,
        };
        let source = if tag & TAG_SOURCE != 0 { cursor.varint()?.try_into().ok()? } else { 0 };
        let key = if tag & TAG_KEY != 0 { Some(cursor.bytes()?) } else { None };
        Some(Self { size, modified_seconds, version, source, key })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    Directory(u32),
    File(FileBody<'a>),
}

/// One record of a group, its name still shared with the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) shared: usize,
    pub(super) suffix: &'a [u8],
    pub(super) body: Body<'a>,
}

/// Decodes the records of one group in order.
pub(super) struct GroupDecoder<'a> {
    cursor: Cursor<'a>,
    name_bytes: usize,
    modified_seconds: i64,
}

impl<'a> GroupDecoder<'a> {
    pub(super) fn new(group: &'a [u8]) -> Self {
        Self { cursor: Cursor { bytes: group }, name_bytes: 0, modified_seconds: 0 }
    }

    /// `None` at the end and for bytes that no builder writes: the caller, who counts, tells these apart.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Record<'a>> {
        let &[tag, shared, suffix] = self.cursor.take(3)? else { return None };
        let (shared, suffix_bytes) = (usize::from(shared), usize::from(suffix));
        let name_bytes = shared + suffix_bytes;
        if tag & TAG_UNKNOWN != 0 || shared > self.name_bytes || name_bytes == 0 || name_bytes > super::key::NAME_BYTES_MAX {
            return None;
        }
        let suffix = self.cursor.take(suffix_bytes)?;
        let body = if tag & KIND_MASK == KIND_DIRECTORY {
            Body::Directory(self.cursor.varint()?.try_into().ok()?)
        } else {
            let file = FileBody::decode(tag, self.modified_seconds, &mut self.cursor)?;
            self.modified_seconds = file.modified_seconds;
            Body::File(file)
        };
        self.name_bytes = name_bytes;
        Some(Record { shared, suffix, body })
    }
}

/// Reads from the front of a slice; each method gives `None` where the bytes end too early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (position, byte) in self.bytes.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[position + 1..];
                return Some(value);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A length and so many bytes.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.varint()?).ok()?;
        self.take(count)
    }
}

pub(super) fn push_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

pub(super) fn push_signed(into: &mut Vec<u8>, value: i64) {
    push_varint(into, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

pub(super) fn push_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

/// Makes the checksums of a changed file right again, as far as its header can be read: for tests of what lies behind them.
#[doc(hidden)]
pub fn reseal(bytes: &mut [u8]) {
    const TABLE_SECTION_AT: usize = SECTIONS_AT + 16 * SectionKind::PageTable as usize;
    let page_bytes = PAGE_BYTES as usize;
    if bytes.len() < page_bytes {
        return;
    }
    bytes[..8].copy_from_slice(&MAGIC);
    let table_at = u64_at(bytes, TABLE_SECTION_AT).and_then(|at| usize::try_from(at).ok()).unwrap_or(usize::MAX);
    if let Some((pages, table)) = bytes.split_at_mut_checked(table_at) {
        for (page, crc) in pages.chunks_exact(page_bytes).zip(table.chunks_exact_mut(4)).skip(1) {
            crc.copy_from_slice(&crc32c(page).to_le_bytes());
        }
        let crc = crc32c(table).to_le_bytes();
        if let Some(stored) = pages.get_mut(SECTIONS_AT + 16 * SECTIONS..).and_then(|rest| rest.get_mut(..4)) {
            stored.copy_from_slice(&crc);
        }
    }
    bytes[CRC_AT..CRC_AT + 4].fill(0);
    let crc = crc32c(&bytes[..page_bytes]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}
