//! `files.table`: which object is in which file, one record of 128 bytes per file number, each with its own crc.
//! `files.checked`: one record of 32 bytes per file number: that its bytes were checked, in which boot, at which ctime.
//! Knows formats and numbers. Does not know the files themselves.
//! Format 1, little endian; a record that doesn't pass its crc is a free number.
//! Invariant: a number is given out again only after its last user has dropped it.

use std::fs::File;
use std::io;

use parking_lot::Mutex;

use super::check;
use super::disk::Disk;
use super::types::{Admission, Class, DatasetSlot};
use forebay_wire::block::{BlockSize, ObjectId};

pub(crate) const RECORD_BYTES: usize = 128;
const CHECKED_BYTES: usize = 32;
const MAGIC: u8 = 0xf1;
/// Checksums kept in the record itself: objects up to 512 KiB need no second file.
pub(crate) const INLINE_SUMS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its file is being filled; a one-block object in this state was cut off.
    Filling,
    Complete,
    /// Evicted: its file is to be unlinked.
    Leaving,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRecord {
    pub state: State,
    pub object: ObjectId,
    pub size: u64,
    pub dataset: DatasetSlot,
    pub admission: Admission,
    pub block_size: BlockSize,
    /// Of each unit, when `has_inline_sums`.
    pub sums: [u32; INLINE_SUMS],
}

pub(crate) fn has_inline_sums(size: u64, block_size: BlockSize) -> bool {
    size <= block_size.bytes() && check::units(size) <= INLINE_SUMS
}

impl FileRecord {
    /// One block and few units: no sidecar.
    pub(crate) fn has_inline_sums(&self) -> bool {
        has_inline_sums(self.size, self.block_size)
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.block_size.count(self.size)
    }

    pub(crate) fn encode(&self, number: u32) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[4] = MAGIC;
        bytes[5] = match self.state {
            State::Filling => 1,
            State::Complete => 2,
            State::Leaving => 3,
        };
        bytes[6] = match self.admission.class {
            Class::Auto => 0,
            Class::Pin => 1,
        };
        bytes[7] = self.block_size.bytes().trailing_zeros() as u8;
        check::put(&mut bytes, 8, number.to_le_bytes());
        check::put(&mut bytes, 12, self.admission.expires_at_seconds.unwrap_or(0).to_le_bytes());
        check::put(&mut bytes, 16, self.object.0.to_le_bytes());
        check::put(&mut bytes, 32, self.size.to_le_bytes());
        check::put(&mut bytes, 40, self.dataset.0.to_le_bytes());
        for (i, sum) in self.sums.iter().enumerate() {
            check::put(&mut bytes, 48 + 4 * i, sum.to_le_bytes());
        }
        check::seal(&mut bytes);
        bytes
    }

    /// `None` for anything but a record that `encode` made for this number.
    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES], number: u32) -> Option<Self> {
        if bytes[4] != MAGIC || !check::is_sealed(bytes) || check::get_u32(bytes, 8) != number {
            return None;
        }
        let state = match bytes[5] {
            1 => State::Filling,
            2 => State::Complete,
            3 => State::Leaving,
            _ => return None,
        };
        let class = match bytes[6] {
            0 => Class::Auto,
            1 => Class::Pin,
            _ => return None,
        };
        let expires = check::get_u32(bytes, 12);
        Some(Self {
            state,
            object: ObjectId(check::get_u128(bytes, 16)),
            size: check::get_u64(bytes, 32),
            dataset: DatasetSlot(check::get_u64(bytes, 40)),
            admission: Admission { class, expires_at_seconds: (expires != 0).then_some(expires) },
            block_size: BlockSize::new(1u64.checked_shl(u32::from(bytes[7]))?)?,
            sums: std::array::from_fn(|i| check::get_u32(bytes, 48 + 4 * i)),
        })
    }
}

/// What identifies bytes that were checked: a file changed or replaced since has another ctime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckedAt {
    pub boot: u64,
    pub changed_ns: u64,
    pub size: u64,
}

impl CheckedAt {
    fn encode(&self) -> [u8; CHECKED_BYTES] {
        let mut bytes = [0; CHECKED_BYTES];
        check::put(&mut bytes, 8, self.boot.to_le_bytes());
        check::put(&mut bytes, 16, self.changed_ns.to_le_bytes());
        check::put(&mut bytes, 24, self.size.to_le_bytes());
        check::seal(&mut bytes);
        bytes
    }
    fn decode(bytes: &[u8; CHECKED_BYTES]) -> Option<Self> {
        check::is_sealed(bytes).then(|| Self {
            boot: check::get_u64(bytes, 8),
            changed_ns: check::get_u64(bytes, 16),
            size: check::get_u64(bytes, 24),
        })
    }
}

/// Numbers in use, one bit each.
#[derive(Default)]
struct Numbers {
    taken: Vec<u64>,
    /// No free number below this word.
    hint: usize,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        let at = (self.hint..self.taken.len()).find(|&word| self.taken[word] != u64::MAX).unwrap_or(self.taken.len());
        if at == self.taken.len() {
            self.taken.push(0);
        }
        self.hint = at;
        let bit = self.taken[at].trailing_ones();
        self.taken[at] |= 1 << bit;
        at as u32 * 64 + bit
    }
    fn mark(&mut self, number: u32) {
        let at = number as usize / 64;
        if at >= self.taken.len() {
            self.taken.resize(at + 1, 0);
        }
        self.taken[at] |= 1 << (number % 64);
    }
    fn release(&mut self, number: u32) {
        let at = number as usize / 64;
        assert!(self.taken[at] & 1 << (number % 64) != 0, "a file number is released once");
        self.taken[at] &= !(1 << (number % 64));
        self.hint = self.hint.min(at);
    }
}

pub(crate) struct Table {
    disk: Disk,
    records: File,
    checked: File,
    /// Guards which numbers are in use; never held across I/O.
    numbers: Mutex<Numbers>,
}

impl Table {
    pub(crate) fn open(disk: &Disk, root: &File) -> io::Result<Self> {
        let records = disk.open_or_create(root, "files.table")?;
        let checked = disk.open_or_create(root, "files.checked")?;
        Ok(Self { disk: disk.clone(), records, checked, numbers: Mutex::default() })
    }

    pub(crate) fn take_number(&self) -> u32 {
        self.numbers.lock().take()
    }

    pub(crate) fn mark_number(&self, number: u32) {
        self.numbers.lock().mark(number);
    }

    pub(crate) fn write(&self, number: u32, record: &FileRecord) -> io::Result<()> {
        self.disk.write_at(&self.records, &record.encode(number), u64::from(number) * RECORD_BYTES as u64)
    }

    /// `None`: free, or not what was written.
    pub(crate) fn read(&self, number: u32) -> io::Result<Option<FileRecord>> {
        let mut bytes = [0; RECORD_BYTES];
        let n = self.disk.read_at(&self.records, &mut bytes, u64::from(number) * RECORD_BYTES as u64)?;
        Ok(if n == RECORD_BYTES { FileRecord::decode(&bytes, number) } else { None })
    }

    /// Frees the number, on disk first. When that fails the record stays as it is: the next start sees that its file is gone.
    pub(crate) fn release(&self, number: u32) -> io::Result<()> {
        let freed = self.disk.write_at(&self.records, &[0; RECORD_BYTES], u64::from(number) * RECORD_BYTES as u64);
        self.numbers.lock().release(number);
        freed
    }

    /// Calls `visit` with each record that isn't free, in order; `Err` in place of one that is damaged.
    pub(crate) fn scan(&self, mut visit: impl FnMut(u32, Result<FileRecord, ()>)) -> io::Result<()> {
        const RECORDS_AT_ONCE: usize = 8192;
        let mut buffer = vec![0; RECORDS_AT_ONCE * RECORD_BYTES];
        let mut number = 0u32;
        loop {
            let n = self.disk.read_at(&self.records, &mut buffer, u64::from(number) * RECORD_BYTES as u64)?;
            for bytes in buffer[..n].chunks(RECORD_BYTES) {
                match bytes.as_array::<RECORD_BYTES>() {
                    Some([0, 0, 0, 0, 0, 0, 0, 0, ..]) => {}
                    Some(bytes) => visit(number, FileRecord::decode(bytes, number).ok_or(())),
                    // The last record was cut off while it was written.
                    None => {}
                }
                number += 1;
            }
            if n < buffer.len() {
                return Ok(());
            }
        }
    }

    pub(crate) fn read_checked(&self, number: u32) -> Option<CheckedAt> {
        let mut bytes = [0; CHECKED_BYTES];
        let n = self.disk.read_at(&self.checked, &mut bytes, u64::from(number) * CHECKED_BYTES as u64).ok()?;
        if n == CHECKED_BYTES { CheckedAt::decode(&bytes) } else { None }
    }

    pub(crate) fn write_checked(&self, number: u32, checked: CheckedAt) -> io::Result<()> {
        self.disk.write_at(&self.checked, &checked.encode(), u64::from(number) * CHECKED_BYTES as u64)
    }
}
