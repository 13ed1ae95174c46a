//! The mapped file, each page checked at its first use.
//! Knows pages and checksums. Does not know what they hold.
//! Invariant: `get` returns bytes only of pages whose checksum was right when they were first touched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::ManifestError;
use super::format::{Header, PAGE_BYTES, SectionKind, crc32c, u32_at};

pub(super) struct Pages {
    map: Mmap,
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
        let header = Header::decode(&map[..PAGE_BYTES as usize], file_bytes).map_err(format)?;
        let table = header.section(SectionKind::PageTable);
        if crc32c(&map[table.offset as usize..]) != header.page_table_crc {
            return Err(format("the page table's checksum is wrong"));
        }
        let page_count = (table.offset / PAGE_BYTES) as usize;
        let checked: Box<[AtomicU64]> = std::iter::repeat_with(AtomicU64::default).take(page_count.div_ceil(64)).collect();
        Ok((Self { map, path: path.to_owned(), checked, table_offset: table.offset as usize }, header))
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
        let actual = crc32c(&self.map[start..start + PAGE_BYTES as usize]);
        if u32_at(&self.map, self.table_offset + 4 * page) != Some(actual) {
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
