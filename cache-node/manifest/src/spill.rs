//! Rows of bytes kept in little memory: beyond a limit they go to an unnamed temporary file.
//! Knows bytes and files. Does not know what a row means.
//! Invariant: rows come back as they were given: `Spill` in the order of `push`, `Sorter` by key, equal keys in the order of `push`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{Cursor, push_bytes};

/// Bytes read at once from a temporary file.
const READ_BYTES: usize = 64 << 10;
/// The same for each of many runs that are merged.
const RUN_READ_BYTES: usize = 16 << 10;
/// Of one row, over what any builder writes: two keys and a version.
const ROW_BYTES_MAX: usize = 128 << 10;

/// A new file in `directory` without a name: gone when it is closed, also by kill -9.
pub(super) fn unnamed_file(directory: &Path) -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path: PathBuf = directory.join(format!("{}-{}.partial", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Collects writes to one stretch of a file.
pub(super) struct SectionWriter<'a> {
    file: &'a File,
    offset: u64,
    buffer: Vec<u8>,
    capacity: usize,
}

impl<'a> SectionWriter<'a> {
    pub(super) fn new(file: &'a File, offset: u64, capacity: usize) -> Self {
        Self { file, offset, buffer: Vec::with_capacity(capacity), capacity }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > self.capacity {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads a stretch of a file, row by row.
struct RowReader {
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    start: usize,
    read_bytes: usize,
}

impl RowReader {
    fn new(at: u64, end: u64, read_bytes: usize) -> Self {
        Self { at, end, buffer: Vec::new(), start: 0, read_bytes }
    }

    /// The next row's stretch of `self.buffer`, parsed by `parse`, which gives `None` when it needs more bytes.
    fn next<T>(&mut self, file: &File, mut parse: impl FnMut(&mut Cursor<'_>) -> Option<T>) -> io::Result<Option<T>> {
        loop {
            let mut cursor = Cursor { bytes: &self.buffer[self.start..] };
            if let Some(row) = parse(&mut cursor) {
                self.start = self.buffer.len() - cursor.bytes.len();
                return Ok(Some(row));
            }
            let rest = self.buffer.len() - self.start;
            if self.at == self.end {
                return if rest == 0 { Ok(None) } else { Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a row is cut off")) };
            }
            if rest > ROW_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a row is too long"));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            let count = (self.end - self.at).min(self.read_bytes as u64) as usize;
            self.buffer.resize(rest + count, 0);
            file.read_exact_at(&mut self.buffer[rest..], self.at)?;
            self.at += count as u64;
        }
    }
}

/// Rows of (name, body) in the order of `push`.
pub(super) struct Spill {
    directory: PathBuf,
    buffer: Vec<u8>,
    memory_bytes_max: usize,
    file: Option<File>,
    written: u64,
}

impl Spill {
    pub(super) fn new(directory: &Path, memory_bytes_max: usize) -> Self {
        Self { directory: directory.to_owned(), buffer: Vec::new(), memory_bytes_max, file: None, written: 0 }
    }

    pub(super) fn push(&mut self, name: &[u8], body: &[u8]) -> io::Result<()> {
        if self.buffer.len() + name.len() + body.len() + 8 > self.memory_bytes_max {
            self.write_out()?;
        }
        push_bytes(&mut self.buffer, name);
        push_bytes(&mut self.buffer, body);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.written == 0 && self.buffer.is_empty()
    }

    fn write_out(&mut self) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(unnamed_file(&self.directory)?),
        };
        file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// All rows; call `clear` after.
    pub(super) fn rows(&mut self) -> io::Result<SpillRows<'_>> {
        if self.written > 0 {
            self.write_out()?;
        }
        let reader = RowReader::new(0, self.written, READ_BYTES);
        Ok(SpillRows {
            reader,
            file: self.file.as_ref(),
            memory: &self.buffer,
            is_in_memory: self.written == 0,
            at: 0,
            name: (0, 0),
            body: (0, 0),
        })
    }

    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(READ_BYTES);
        self.written = 0;
    }
}

/// Goes through the rows of a `Spill`.
pub(super) struct SpillRows<'a> {
    reader: RowReader,
    file: Option<&'a File>,
    memory: &'a [u8],
    is_in_memory: bool,
    at: usize,
    name: (usize, usize),
    body: (usize, usize),
}

impl SpillRows<'_> {
    /// To the next row; `false` after the last.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        let parse = |cursor: &mut Cursor<'_>| {
            let whole = cursor.bytes.len();
            let name = cursor.bytes()?.len();
            let name_end = whole - cursor.bytes.len();
            let body = cursor.bytes()?.len();
            let body_end = whole - cursor.bytes.len();
            Some(((name_end - name, name_end), (body_end - body, body_end)))
        };
        let shift;
        let row = match (self.is_in_memory, self.file) {
            (false, Some(file)) => {
                let row = self.reader.next(file, parse)?;
                // `next` leaves `start` behind the row, and the row begins where it was before.
                shift = row.map_or(0, |(_, body)| self.reader.start - body.1);
                row
            }
            (true, _) | (false, None) => {
                let row = parse(&mut Cursor { bytes: &self.memory[self.at..] });
                shift = self.at;
                self.at += row.map_or(0, |(_, body)| body.1);
                row
            }
        };
        let Some((name, body)) = row else { return Ok(false) };
        self.name = (name.0 + shift, name.1 + shift);
        self.body = (body.0 + shift, body.1 + shift);
        Ok(true)
    }

    fn bytes(&self) -> &[u8] {
        if self.is_in_memory { self.memory } else { &self.reader.buffer }
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.bytes()[self.name.0..self.name.1]
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.bytes()[self.body.0..self.body.1]
    }
}

/// Rows of (key, body) to be had in key order: sorted runs in one file, merged at the end.
pub(super) struct Sorter {
    directory: PathBuf,
    buffer: Vec<u8>,
    /// Where each row begins in `buffer`.
    rows: Vec<u32>,
    memory_bytes_max: usize,
    file: Option<File>,
    /// Ends of the runs in `file`.
    runs: Vec<u64>,
}

impl Sorter {
    pub(super) fn new(directory: &Path, memory_bytes_max: usize) -> Self {
        assert!(memory_bytes_max <= 1 << 30, "row positions are u32");
        Self { directory: directory.to_owned(), buffer: Vec::new(), rows: Vec::new(), memory_bytes_max, file: None, runs: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.runs.is_empty()
    }

    pub(super) fn push(&mut self, key: &[u8], body: &[u8]) -> io::Result<()> {
        if self.buffer.len() + 4 * self.rows.len() + key.len() + body.len() > self.memory_bytes_max {
            self.write_run()?;
        }
        self.rows.push(self.buffer.len() as u32);
        push_bytes(&mut self.buffer, key);
        push_bytes(&mut self.buffer, body);
        Ok(())
    }

    fn sort(&mut self) {
        let buffer = &self.buffer;
        // Stable, so that equal keys stay in order.
        self.rows.sort_by(|left, right| row_at(buffer, *left).0.cmp(row_at(buffer, *right).0));
    }

    fn write_run(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.sort();
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(unnamed_file(&self.directory)?),
        };
        let mut writer = SectionWriter::new(file, self.runs.last().copied().unwrap_or(0), READ_BYTES);
        for row in &self.rows {
            let rest = &self.buffer[*row as usize..];
            let mut cursor = Cursor { bytes: rest };
            let _ = (cursor.bytes(), cursor.bytes());
            writer.write(&rest[..rest.len() - cursor.bytes.len()])?;
        }
        writer.flush()?;
        self.runs.push(writer.position());
        self.rows.clear();
        self.buffer.clear();
        Ok(())
    }

    /// All rows in order; call `clear` after.
    pub(super) fn sorted(&mut self) -> io::Result<SortedRows<'_>> {
        if self.runs.is_empty() {
            self.sort();
        } else {
            self.write_run()?;
        }
        let mut readers = Vec::with_capacity(self.runs.len());
        let mut start = 0;
        for end in &self.runs {
            readers.push(RowReader::new(start, *end, RUN_READ_BYTES));
            start = *end;
        }
        let mut sorted = SortedRows { sorter: self, readers, heap: BinaryHeap::new(), next: 0, current: (Vec::new(), Vec::new()) };
        for run in 0..sorted.readers.len() {
            sorted.refill(run)?;
        }
        Ok(sorted)
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.buffer.clear();
        self.buffer.shrink_to(READ_BYTES);
        self.rows.shrink_to(READ_BYTES / 4);
        self.runs.clear();
    }
}

/// Key and body of a row that `push` wrote at `at`.
fn row_at(buffer: &[u8], at: u32) -> (&[u8], &[u8]) {
    let mut cursor = Cursor { bytes: &buffer[at as usize..] };
    let key = cursor.bytes().unwrap_or_default();
    (key, cursor.bytes().unwrap_or_default())
}

/// Key, number of its run, body.
type Head = (Vec<u8>, usize, Vec<u8>);

/// Goes through the rows of a `Sorter` in key order.
pub(super) struct SortedRows<'a> {
    sorter: &'a Sorter,
    readers: Vec<RowReader>,
    /// The next row of each run; by key, then run, which keeps equal keys in order.
    heap: BinaryHeap<Reverse<Head>>,
    /// Of rows all in memory.
    next: usize,
    current: (Vec<u8>, Vec<u8>),
}

impl SortedRows<'_> {
    fn refill(&mut self, run: usize) -> io::Result<()> {
        let Some(file) = &self.sorter.file else { return Ok(()) };
        let row = self.readers[run].next(file, |cursor| Some((cursor.bytes()?.to_vec(), cursor.bytes()?.to_vec())))?;
        if let Some((key, body)) = row {
            self.heap.push(Reverse((key, run, body)));
        }
        Ok(())
    }

    /// To the next row; `false` after the last.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        if self.readers.is_empty() {
            let Some(row) = self.sorter.rows.get(self.next) else { return Ok(false) };
            let (key, body) = row_at(&self.sorter.buffer, *row);
            self.current.0.clear();
            self.current.0.extend_from_slice(key);
            self.current.1.clear();
            self.current.1.extend_from_slice(body);
            self.next += 1;
            return Ok(true);
        }
        let Some(Reverse((key, run, body))) = self.heap.pop() else { return Ok(false) };
        self.current = (key, body);
        self.refill(run)?;
        Ok(true)
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.current.0
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.current.1
    }
}
