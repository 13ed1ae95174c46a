//! The mapped file, each page checked at its first use.
//! Knows pages and checksums. Does not know what they hold.
//! Invariant: `get` returns bytes only of pages whose checksum was right when they were first touched. That first look is a `pread`: a page
//! that the disk doesn't give, or a file that was cut, is an error there, where a mapping would end the process (decisions/0012).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::ManifestError;
use super::format::{Header, PAGE_BYTES, SectionKind, crc32c};

pub(super) struct Pages {
    map: Mmap,
    file: File,
    path: PathBuf,
    /// One bit a page: 1 once it was found right. Relaxed: a race only checks a page twice.
    checked: Box<[AtomicU64]>,
    /// Where the page table lies in `map`; its own checksum was right at open.
    table_offset: usize,
}

impl Pages {
    pub(super) fn open(path: &Path) -> Result<(Self, Header), ManifestError> {
        let io = |cause| ManifestError::Io { op: "open", path: path.to_owned(), cause };
        let format = |detail: &str| ManifestError::Format { path: path.to_owned(), detail: detail.to_owned() };
        let file = File::open(path).map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        if file_bytes < PAGE_BYTES {
            return Err(format("it is shorter than a header"));
        }
        // SAFETY: the file is written under another name, renamed when complete, and never changed or cut after that, only unlinked.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let mut first = [0; PAGE_BYTES as usize];
        file.read_exact_at(&mut first, 0).map_err(io)?;
        let header = Header::decode(&first, file_bytes).map_err(format)?;
        let table = header.section(SectionKind::PageTable);
        let mut rows = vec![0; (file_bytes - table.offset) as usize];
        file.read_exact_at(&mut rows, table.offset).map_err(io)?;
        if crc32c(&rows) != header.page_table_crc {
            return Err(format("the page table's checksum is wrong"));
        }
        let page_count = (table.offset / PAGE_BYTES) as usize;
        let checked: Box<[AtomicU64]> = std::iter::repeat_with(AtomicU64::default).take(page_count.div_ceil(64)).collect();
        Ok((Self { map, file, path: path.to_owned(), checked, table_offset: table.offset as usize }, header))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `bytes` bytes from `offset`, both below the page table, by the header's checks or as read from checked pages; else `Damaged`.
    #[inline]
    pub(super) fn get(&self, offset: u64, bytes: u64) -> Result<&[u8], ManifestError> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.table_offset as u64 && offset >= PAGE_BYTES);
        let Some(end) = end else { return Err(self.damaged(offset)) };
        let (first, after) = (offset / PAGE_BYTES, end.div_ceil(PAGE_BYTES));
        for page in first as usize..after as usize {
            if self.checked[page / 64].load(Ordering::Relaxed) & 1 << (page % 64) == 0 {
                self.check(page)?;
            }
        }
        Ok(&self.map[offset as usize..end as usize])
    }

    pub(super) fn check_all(&self) -> Result<(), ManifestError> {
        let pages = self.table_offset / PAGE_BYTES as usize;
        (1..pages).try_for_each(|page| self.check(page))
    }

    #[cold]
    fn check(&self, page: usize) -> Result<(), ManifestError> {
        let start = page * PAGE_BYTES as usize;
        let (mut bytes, mut row) = ([0; PAGE_BYTES as usize], [0; 4]);
        let read = self.file.read_exact_at(&mut bytes, start as u64);
        match read.and_then(|()| self.file.read_exact_at(&mut row, (self.table_offset + 4 * page) as u64)) {
            Ok(()) => {}
            // Somebody cut the file.
            Err(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => return Err(self.damaged(start as u64)),
            Err(cause) => return Err(ManifestError::Io { op: "read", path: self.path.clone(), cause }),
        }
        if u32::from_le_bytes(row) != crc32c(&bytes) {
            return Err(self.damaged(start as u64));
        }
        self.checked[page / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        Ok(())
    }

    #[cold]
    pub(super) fn damaged(&self, offset: u64) -> ManifestError {
        ManifestError::Damaged { path: self.path.clone(), page: offset / PAGE_BYTES }
    }
}
