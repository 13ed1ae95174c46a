//! Objects in files of their own: data at natural offsets, sparse while they fill, a sidecar with the checksums of each block.
//! `files/xx/yy/N` holds the bytes; `files/xx/yy/N.sums` one record per block (its crc, index, owner, crc32c of each unit), written after
//! the block: a block without a good record isn't there. Objects of one block and at most 512 KiB have their checksums in the table instead.
//! Invariant: a file that was ever complete is never written, punched or truncated again: the kernel may be serving it by passthrough.

mod account;
mod presence;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::CompleteFile;
use super::check::{self, UNIT_BYTES};
use super::datasets::Dataset;
use super::table::{self, FileRecord, State};
use super::tier::{PAGE, Tier};
use account::Account;
use forebay_wire::block::{BlockIndex, BlockSize, Extent, ObjectId};
use presence::Presence;

/// Before the sums of a block's record: crc, block index, the object's low 8 bytes.
const SUMS_HEAD: usize = 16;
const UNITS_MAX: usize = (16 << 20) / UNIT_BYTES as usize;
const SUMS_BYTES_MAX: usize = SUMS_HEAD + 4 * UNITS_MAX;

/// One object that has a file, as long as somebody uses it.
pub(crate) struct Object {
    pub(crate) tier: Arc<Tier>,
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) number: u32,
    pub(crate) record: FileRecord,
    account: Mutex<Account>,
    data: OnceLock<File>,
    sums: OnceLock<File>,
    /// Absent for what was complete when it was loaded.
    presence: Option<Presence>,
    is_complete: AtomicBool,
    /// Evicted: the number and the bytes are given back when the last user is gone.
    is_gone: AtomicBool,
    charged_bytes: AtomicU64,
    pub(crate) passed: Mutex<Weak<CompleteFile>>,
}

pub(crate) enum ObjectRead {
    Hit,
    Miss,
    /// This block isn't what was written.
    Wrong(BlockIndex),
}

fn folder(number: u32) -> String {
    format!("files/{:02x}/{:02x}", number >> 16 & 0xff, number >> 8 & 0xff)
}

fn data_path(number: u32) -> String {
    // The top byte is in the name alone: 16M files before folders are shared, 64K per folder at most.
    format!("{}/{number}", folder(number))
}

fn sums_path(number: u32) -> String {
    format!("{}/{number}.sums", folder(number))
}

impl Object {
    fn new(tier: &Arc<Tier>, number: u32, record: FileRecord, presence: Option<Presence>) -> Self {
        let is_complete = record.state == State::Complete;
        let object = Self {
            tier: tier.clone(),
            dataset: tier.datasets.of(record.dataset),
            number,
            account: Mutex::new(Account::new(record.admission)),
            data: OnceLock::new(),
            sums: OnceLock::new(),
            presence,
            is_complete: AtomicBool::new(is_complete),
            is_gone: AtomicBool::new(false),
            charged_bytes: AtomicU64::new(0),
            passed: Mutex::new(Weak::new()),
            record,
        };
        let here = (0..object.record.blocks()).filter(|&block| object.has(BlockIndex(block)));
        let charged = object.sidecar_charge() + here.map(|block| object.block_charge(BlockIndex(block))).sum::<u64>();
        object.charged_bytes.store(charged, Relaxed);
        object
    }

    /// The files of a new object, whose number was just taken.
    pub(crate) fn create(tier: &Arc<Tier>, number: u32, record: FileRecord) -> io::Result<Self> {
        assert!(record.state == State::Filling);
        let blocks = record.blocks();
        let object = Self::new(tier, number, record, Some(Presence::empty(blocks)));
        match object.create_files() {
            Ok(()) => Ok(object),
            Err(error) => {
                // The caller gives the charge back; the number is freed by the drop.
                object.charged_bytes.store(0, Relaxed);
                object.is_gone.store(true, SeqCst);
                let _ = object.unlink_files();
                Err(error)
            }
        }
    }

    fn create_files(&self) -> io::Result<()> {
        let (disk, root) = (&self.tier.disk, &self.tier.root);
        // The intent first: a file without a record would never be found again.
        self.tier.table.write(self.number, &self.record)?;
        let create = |path: &str| match disk.create(root, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = folder(self.number);
                disk.make_folder(root, &folder[..folder.len() - 3])?;
                disk.make_folder(root, &folder)?;
                disk.create(root, path)
            }
            created => created,
        };
        let data = create(&data_path(self.number))?;
        if self.record.blocks() > 1 {
            disk.set_len(&data, self.record.size)?;
        }
        assert!(self.data.set(data).is_ok(), "a new object has no file yet");
        if !self.record.has_inline_sums() {
            assert!(self.sums.set(create(&sums_path(self.number))?).is_ok(), "a new object has no sidecar yet");
        }
        Ok(())
    }

    /// From the table at a restart or when its handle was closed; reads the sidecar of one that is filling. `None`: no such object.
    pub(crate) fn load(tier: &Arc<Tier>, number: u32) -> io::Result<Option<Self>> {
        let Some(record) = tier.table.read(number)? else { return Ok(None) };
        let presence = match record.state {
            State::Complete => None,
            State::Leaving => return Ok(None),
            // A single block without a complete record was cut off: nothing is there.
            State::Filling if record.has_inline_sums() => Some(Presence::empty(record.blocks())),
            State::Filling => {
                let presence = Presence::empty(record.blocks());
                let sums = match tier.disk.open(&tier.root, &sums_path(number), true) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    sums => Some(sums?),
                };
                if let Some(sums) = sums {
                    let mut buffer = [0; SUMS_BYTES_MAX];
                    for block in 0..record.blocks() {
                        if read_sums(tier, &sums, &record, BlockIndex(block), &mut buffer)?.is_some() {
                            let _ = presence.set(block);
                        } else if buffer[..sums_record_bytes(&record)].iter().any(|&byte| byte != 0) {
                            // Not never written, but damaged or cut off.
                            tier.damaged.fetch_add(1, Relaxed);
                        }
                        buffer.fill(0);
                    }
                }
                Some(presence)
            }
        };
        Ok(Some(Self::new(tier, number, record, presence)))
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.record.object
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete.load(SeqCst)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(SeqCst)
    }

    pub(crate) fn has(&self, block: BlockIndex) -> bool {
        self.is_complete() || self.presence.as_ref().is_some_and(|presence| presence.has(block.0))
    }

    /// For one whose last block was written but whose record wasn't before a crash.
    pub(crate) fn finish_if_whole(&self) -> io::Result<bool> {
        let is_whole = self.presence.as_ref().is_none_or(|presence| presence.is_whole());
        if is_whole && !self.is_complete() {
            self.record_complete(self.record.clone())?;
            self.is_complete.store(true, SeqCst);
        }
        Ok(is_whole)
    }

    pub(crate) fn has_any(&self) -> bool {
        (0..self.record.blocks()).any(|block| self.has(BlockIndex(block)))
    }

    /// Quota taken by a block, in whole pages.
    pub(crate) fn block_charge(&self, block: BlockIndex) -> u64 {
        self.record.block_size.extent(block, self.record.size).map_or(0, |extent| extent.len().next_multiple_of(PAGE))
    }

    fn sidecar_charge(&self) -> u64 {
        sidecar_bytes(&self.record)
    }

    fn data(&self) -> io::Result<&File> {
        self.file(&self.data, data_path)
    }

    fn sums(&self) -> io::Result<&File> {
        self.file(&self.sums, sums_path)
    }

    fn file<'a>(&self, cell: &'a OnceLock<File>, path: fn(u32) -> String) -> io::Result<&'a File> {
        if let Some(file) = cell.get() {
            return Ok(file);
        }
        let file = self.tier.disk.open(&self.tier.root, &path(self.number), !self.is_complete())?;
        Ok(cell.get_or_init(|| file))
    }

    /// Writes one block: data, then its checksums. `Ok(false)`: it was there already, or another call wrote it meanwhile.
    /// The caller has charged `block_charge`. After the last one the object is complete.
    pub(crate) fn write_block(&self, block: BlockIndex, data: &[u8]) -> io::Result<bool> {
        let Some(presence) = &self.presence else { return Ok(false) };
        if self.has(block) {
            return Ok(false);
        }
        let tier = &self.tier;
        let offset = u64::from(block.0) * self.record.block_size.bytes();
        tier.disk.write_at(self.data()?, data, offset)?;
        let mut record = self.record.clone();
        if record.has_inline_sums() {
            for (sum, unit) in record.sums.iter_mut().zip(data.chunks(UNIT_BYTES as usize)) {
                *sum = check::sum(unit);
            }
        } else {
            let mut bytes = [0; SUMS_BYTES_MAX];
            let bytes = &mut bytes[..sums_record_bytes(&self.record)];
            check::put(bytes, 4, block.0.to_le_bytes());
            check::put(bytes, 8, (self.record.object.0 as u64).to_le_bytes());
            for (i, unit) in data.chunks(UNIT_BYTES as usize).enumerate() {
                check::put(bytes, SUMS_HEAD + 4 * i, check::sum(unit).to_le_bytes());
            }
            check::seal(bytes);
            tier.disk.write_at(self.sums()?, bytes, u64::from(block.0) * bytes.len() as u64)?;
        }
        let has_inline_sums = record.has_inline_sums();
        if has_inline_sums {
            self.record_complete(record.clone())?;
        }
        let Some(missing) = presence.set(block.0) else { return Ok(false) };
        if missing == 0 {
            if !has_inline_sums {
                self.record_complete(record)?;
            }
            self.is_complete.store(true, SeqCst);
        }
        Ok(true)
    }

    /// Reads and checks `extent`; whole units go straight to `into`.
    pub(crate) fn read(&self, extent: Extent, into: &mut [u8], drop_pages: bool) -> io::Result<ObjectRead> {
        let block_size = self.record.block_size;
        let blocks = block_size.index(extent.start()).0..=block_size.index(extent.end() - 1).0;
        if !blocks.clone().all(|block| self.has(BlockIndex(block))) {
            return Ok(ObjectRead::Miss);
        }
        let file = self.data()?;
        let mut buffer = [0; SUMS_BYTES_MAX];
        for block in blocks {
            let block = BlockIndex(block);
            let Some(whole) = block_size.extent(block, self.record.size) else { return Ok(ObjectRead::Miss) };
            let Some(sums) = self.sums_of(block, &mut buffer)? else { return Ok(ObjectRead::Wrong(block)) };
            let (start, end) = (extent.start().max(whole.start()), extent.end().min(whole.end()));
            let into = &mut into[(start - extent.start()) as usize..(end - extent.start()) as usize];
            if !self.read_units(file, whole, sums, start, end, into)? {
                return Ok(ObjectRead::Wrong(block));
            }
        }
        if drop_pages {
            self.tier.disk.drop_pages(file, extent.start(), extent.len());
        }
        Ok(ObjectRead::Hit)
    }

    /// Reads `[start, end)`, which lies in the block `whole`; `false` when a checksum is wrong.
    fn read_units(&self, file: &File, whole: Extent, sums: &[u8], start: u64, end: u64, into: &mut [u8]) -> io::Result<bool> {
        let disk = &self.tier.disk;
        let sum_of = |offset: u64| check::get_u32(sums, 4 * ((offset - whole.start()) / UNIT_BYTES) as usize);
        let unit_end = |offset: u64| (offset / UNIT_BYTES * UNIT_BYTES + UNIT_BYTES).min(whole.end());
        // The whole units in the middle, in one call.
        let middle_start = start.next_multiple_of(UNIT_BYTES);
        let middle_end = if end == whole.end() { end } else { end / UNIT_BYTES * UNIT_BYTES };
        if middle_start < middle_end {
            let middle = &mut into[(middle_start - start) as usize..(middle_end - start) as usize];
            if disk.read_at(file, middle, middle_start)? != middle.len() {
                return Ok(false);
            }
            let units = middle.chunks(UNIT_BYTES as usize).enumerate();
            if !units.into_iter().all(|(i, unit)| check::sum(unit) == sum_of(middle_start + i as u64 * UNIT_BYTES)) {
                return Ok(false);
            }
        }
        // Parts of units at the edges, by way of a buffer.
        let mut at = start;
        while at < end {
            if at >= middle_start && at < middle_end {
                at = middle_end;
                continue;
            }
            let (from, to) = (at / UNIT_BYTES * UNIT_BYTES, unit_end(at));
            let stop = to.min(end);
            let is_right = super::with_scratch((to - from) as usize, |unit| {
                if disk.read_at(file, unit, from)? != unit.len() || check::sum(unit) != sum_of(from) {
                    return io::Result::Ok(false);
                }
                into[(at - start) as usize..(stop - start) as usize].copy_from_slice(&unit[(at - from) as usize..(stop - from) as usize]);
                Ok(true)
            })?;
            if !is_right {
                return Ok(false);
            }
            at = stop;
        }
        Ok(true)
    }

    /// The checksums of a block's units, four bytes each; `None` when they are damaged.
    fn sums_of<'a>(&self, block: BlockIndex, buffer: &'a mut [u8; SUMS_BYTES_MAX]) -> io::Result<Option<&'a [u8]>> {
        if self.record.has_inline_sums() {
            let record = if self.record.state == State::Complete {
                Some(self.record.sums)
            } else {
                // It became complete in this process: its sums are in the table.
                self.tier.table.read(self.number)?.filter(|record| record.object == self.id()).map(|record| record.sums)
            };
            let Some(sums) = record else { return Ok(None) };
            for (bytes, sum) in buffer.chunks_mut(4).zip(sums) {
                bytes.copy_from_slice(&sum.to_le_bytes());
            }
            return Ok(Some(&buffer[..4 * sums.len()]));
        }
        read_sums(&self.tier, self.sums()?, &self.record, block, buffer)
    }

    /// Forgets one block of an object that was never complete. The bytes, which the caller gives back to the tier.
    pub(crate) fn drop_block(&self, block: BlockIndex) -> io::Result<u64> {
        let Some(presence) = &self.presence else { return Ok(0) };
        if self.record.has_inline_sums() || !presence.clear(block.0) {
            return Ok(0);
        }
        let charge = self.block_charge(block);
        let bytes = sums_record_bytes(&self.record);
        self.discharge(charge);
        self.tier.disk.write_at(self.sums()?, &[0; SUMS_BYTES_MAX][..bytes], u64::from(block.0) * bytes as u64)?;
        let offset = u64::from(block.0) * self.record.block_size.bytes();
        self.tier.disk.punch(self.data()?, offset, charge)?;
        Ok(charge)
    }

    /// Gives back what a failed `write_block` may have written. Only for who has the block's turn: it isn't here, so the object is not complete
    /// and nothing has passed its file through.
    pub(crate) fn undo_block(&self, block: BlockIndex) -> io::Result<()> {
        if self.has(block) {
            // All of it was written, and the record of the whole wasn't: it counts when that is.
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let offset = u64::from(block.0) * self.record.block_size.bytes();
        self.tier.disk.punch(self.data()?, offset, self.block_charge(block))
    }

    /// Evicts: the record says so first, then the files go; number and bytes follow with the last user.
    pub(crate) fn evict(&self) -> io::Result<()> {
        if self.is_gone.swap(true, SeqCst) {
            return Ok(());
        }
        self.close_account();
        let marked = self.tier.table.write(self.number, &FileRecord { state: State::Leaving, ..self.record.clone() });
        // Without the mark a restart finds a record whose file is gone: a miss.
        self.unlink_files().and(marked)
    }

    fn unlink_files(&self) -> io::Result<()> {
        unlink_files(&self.tier, self.number)
    }

    /// An own descriptor, read only.
    pub(crate) fn reopen(&self) -> io::Result<File> {
        self.tier.disk.open(&self.tier.root, &data_path(self.number), false)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if !*self.is_gone.get_mut() {
            return;
        }
        let charged = *self.charged_bytes.get_mut();
        self.tier.give_back(charged);
        let _ = self.tier.lingering_bytes.fetch_update(Relaxed, Relaxed, |bytes| Some(bytes.saturating_sub(charged)));
        if let Err(error) = self.tier.table.release(self.number) {
            self.tier.write_failed("release a file number", &error);
        }
    }
}

/// At the start, for records of what was leaving or cut off.
pub(crate) fn unlink_files(tier: &Tier, number: u32) -> io::Result<()> {
    tier.disk.unlink(&tier.root, &data_path(number))?;
    tier.disk.unlink(&tier.root, &sums_path(number))
}

/// What the file of a number takes, when nothing else can tell.
pub(crate) fn allocated_bytes(tier: &Tier, number: u32) -> u64 {
    let metadata = tier.disk.open(&tier.root, &data_path(number), false).and_then(|file| file.metadata());
    metadata.map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
}

/// What an object's sidecar takes of the quota.
pub(crate) fn sidecar_bytes(record: &FileRecord) -> u64 {
    sidecar_bytes_of(record.size, record.block_size)
}

fn sidecar_bytes_of(size: u64, block_size: BlockSize) -> u64 {
    if table::has_inline_sums(size, block_size) {
        return 0;
    }
    (u64::from(block_size.count(size)) * sums_record_bytes_of(size, block_size) as u64).next_multiple_of(PAGE)
}

/// What an object's files take of the quota when all of it is here.
pub(crate) fn full_charge(size: u64, block_size: BlockSize) -> u64 {
    // All blocks but the last are whole pages.
    let data = if block_size.bytes().is_multiple_of(PAGE) { size.next_multiple_of(PAGE) } else { size };
    data + sidecar_bytes_of(size, block_size)
}

fn sums_record_bytes(record: &FileRecord) -> usize {
    sums_record_bytes_of(record.size, record.block_size)
}

fn sums_record_bytes_of(size: u64, block_size: BlockSize) -> usize {
    SUMS_HEAD + 4 * check::units(block_size.bytes().min(size))
}

fn read_sums<'a>(
    tier: &Tier,
    sums: &File,
    record: &FileRecord,
    block: BlockIndex,
    buffer: &'a mut [u8; SUMS_BYTES_MAX],
) -> io::Result<Option<&'a [u8]>> {
    let bytes = &mut buffer[..sums_record_bytes(record)];
    let n = tier.disk.read_at(sums, bytes, u64::from(block.0) * bytes.len() as u64)?;
    let is_right = n == bytes.len()
        && check::is_sealed(bytes)
        && check::get_u32(bytes, 4) == block.0
        && check::get_u64(bytes, 8) == record.object.0 as u64;
    Ok(if is_right { Some(&buffer[SUMS_HEAD..n]) } else { None })
}
