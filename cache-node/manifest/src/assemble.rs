//! Paths in byte order in, the sections of a manifest out: a stack of open folders, each emitted as one stretch of sorted entries when it closes.
//! Knows paths and the format. Does not know sources but their mount paths, nor where the rows come from.
//! Invariant: memory is bounded by depth, not by the number of files or folders.
//!
//! In byte order all of a folder's paths are contiguous, but its own files lie between its subfolders' (`a`, `a-b`, `a/c`), so they are kept
//! aside (in memory up to a limit, then in a file) until it closes. Its files come in name order; its subfolders close in the order of
//! `name/`, which isn't that of the names (`a-b/` before `a/`), so those are sorted.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::format::{
    Cursor, DIRECTORY_BYTES, DirectoryRecord, FileBody, GROUP_ENTRIES, GroupRow, KIND_DIRECTORY, NO_ENTRY, PAGE_BYTES, head_of, push_varint,
};
use super::id::{PathHash, Salt, salted_directory_id, salted_file_id};
use super::index::IndexBuilder;
use super::key::{self, Problem};
use super::spill::{SectionWriter, SortedRows, Sorter, Spill, SpillRows, unnamed_file};
use super::{LARGE_FILE_BYTES, MountedSource, Problems};

/// Of one open folder, down to `SHALLOW_LEVELS`; below, where hundreds can be open, less.
const FOLDER_BYTES_MAX: usize = 1 << 20;
const DEEP_FOLDER_BYTES_MAX: usize = 64 << 10;
const SHALLOW_LEVELS: usize = 16;
const ENTRIES_WRITE_BYTES: usize = 1 << 20;
const GROUPS_WRITE_BYTES: usize = 64 << 10;

/// A folder whose paths are still coming.
struct Frame {
    /// Length of its path in `Assembler::path`, with the trailing `/`; 0 for the root.
    path_bytes: usize,
    hash: PathHash,
    /// What all its names begin with; `None` before the first.
    shared: Option<Vec<u8>>,
    files: Spill,
    /// Name to number.
    folders: Sorter,
}

impl Frame {
    fn note_name(&mut self, name: &[u8]) {
        match &mut self.shared {
            Some(shared) => shared.truncate(shared_bytes(shared, name)),
            None => self.shared = Some(name.to_vec()),
        }
    }
}

/// Bytes that both begin with.
fn shared_bytes(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

pub(super) struct Assembler<'a> {
    sources: &'a [MountedSource],
    /// Hash of each source's name, for digests: numbers differ between manifests.
    source_hashes: Vec<u64>,
    directory: PathBuf,
    salt: Salt,
    /// Of the innermost open folder: `a/b/`.
    path: Vec<u8>,
    frames: Vec<Frame>,
    depth: usize,
    /// Of the folder that is being closed: files whose name a folder has, by their new name.
    renamed: Sorter,
    output: Output<'a>,
    pub(super) problems: Problems,
}

/// What has been emitted.
struct Output<'a> {
    entries: SectionWriter<'a>,
    groups: SectionWriter<'a>,
    directories: DirectoryTable,
    index: IndexBuilder,
    count: u32,
    files: u64,
    bytes: u64,
    large_bytes: u64,
    record: Vec<u8>,
    /// Of the entry before, within its group.
    name: Vec<u8>,
    modified_seconds: i64,
}

/// What the builder writes behind the entries.
pub(super) struct Assembled {
    pub(super) entries_bytes: u64,
    pub(super) groups_bytes: u64,
    pub(super) directories: DirectoryTable,
    pub(super) index: IndexBuilder,
    pub(super) count: u32,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) large_bytes: u64,
    pub(super) digest: u64,
    pub(super) problems: Problems,
}

impl<'a> Assembler<'a> {
    /// Entries go to `file` from its second page on, group offsets to `groups`.
    pub(super) fn new(directory: &Path, sources: &'a [MountedSource], id_mask: u64, file: &'a File, groups: &'a File) -> io::Result<Self> {
        let output = Output {
            entries: SectionWriter::new(file, PAGE_BYTES, ENTRIES_WRITE_BYTES),
            groups: SectionWriter::new(groups, 0, GROUPS_WRITE_BYTES),
            directories: DirectoryTable::new(directory)?,
            index: IndexBuilder::new(directory)?,
            count: 0,
            files: 0,
            bytes: 0,
            large_bytes: 0,
            record: Vec::new(),
            name: Vec::new(),
            modified_seconds: 0,
        };
        let mut assembler = Self {
            sources,
            source_hashes: sources.iter().map(|source| xxh3_64_with_seed(source.name.as_bytes(), 0)).collect(),
            directory: directory.to_owned(),
            salt: Salt { number: 0, mask: id_mask },
            path: Vec::new(),
            frames: Vec::new(),
            depth: 0,
            renamed: Sorter::new(directory, FOLDER_BYTES_MAX),
            output,
            problems: Problems::default(),
        };
        assembler.open_folder(PathHash::ROOT);
        Ok(assembler)
    }

    /// A path without leading `/`, not below the one before in byte order; an empty `body` says that it is a folder and ends in `/`.
    pub(super) fn add(&mut self, path: &[u8], body: &[u8]) -> io::Result<()> {
        let folder_bytes = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (folder, name) = path.split_at(folder_bytes);
        if folder != self.path {
            self.enter(folder)?;
        }
        if !body.is_empty() {
            let frame = &mut self.frames[self.depth - 1];
            frame.note_name(name);
            frame.files.push(name, body)?;
        }
        Ok(())
    }

    /// Closes what `folder` isn't in, opens what is missing.
    fn enter(&mut self, folder: &[u8]) -> io::Result<()> {
        while !folder.starts_with(&self.path[..self.frames[self.depth - 1].path_bytes]) {
            self.close_folder()?;
        }
        self.path.truncate(self.frames[self.depth - 1].path_bytes);
        for name in folder[self.path.len()..].split_inclusive(|byte| *byte == b'/') {
            self.path.extend_from_slice(name);
            let hash = self.frames[self.depth - 1].hash.child(&name[..name.len() - 1]);
            self.open_folder(hash);
        }
        Ok(())
    }

    /// Frames are kept for reuse, with their files.
    fn open_folder(&mut self, hash: PathHash) {
        if self.depth == self.frames.len() {
            let limit = if self.depth < SHALLOW_LEVELS { FOLDER_BYTES_MAX } else { DEEP_FOLDER_BYTES_MAX };
            let (files, folders) = (Spill::new(&self.directory, limit), Sorter::new(&self.directory, limit));
            self.frames.push(Frame { path_bytes: 0, hash, shared: None, files, folders });
        }
        let frame = &mut self.frames[self.depth];
        assert!(frame.files.is_empty() && frame.folders.is_empty(), "a closed folder leaves nothing");
        (frame.path_bytes, frame.hash, frame.shared) = (self.path.len(), hash, None);
        self.depth += 1;
    }

    fn close_folder(&mut self) -> io::Result<()> {
        self.depth -= 1;
        let (outer, inner) = self.frames.split_at_mut(self.depth);
        let frame = &mut inner[0];
        let mut emission = Emission {
            sources: self.sources,
            source_hashes: &self.source_hashes,
            salt: self.salt,
            path: &self.path[..frame.path_bytes],
            hash: frame.hash,
            digest: frame.hash.0,
            shared: frame.shared.take().unwrap_or_default(),
            output: &mut self.output,
            problems: &mut self.problems,
        };
        let first = emission.output.count;
        if !frame.files.is_empty() && !frame.folders.is_empty() {
            emission.rename(frame.files.rows()?, frame.folders.sorted()?, &mut self.renamed)?;
        }
        emission.merge(frame.files.rows()?, frame.folders.sorted()?, self.renamed.sorted()?)?;
        let (digest, count, shared) = (emission.digest, emission.output.count - first, emission.shared.len() as u32);
        self.renamed.clear();
        frame.files.clear();
        frame.folders.clear();
        let record = DirectoryRecord { shared, entry: NO_ENTRY, first, count, path_hash: frame.hash.0, digest };
        let number = self.output.directories.push(&record)?;
        if let Some(parent) = outer.last_mut() {
            let name = &self.path[parent.path_bytes..frame.path_bytes - 1];
            parent.note_name(name);
            parent.folders.push(name, &number.to_le_bytes())?;
        } else {
            self.output.directories.set_entry(number, NO_ENTRY);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Assembled> {
        while self.depth > 0 {
            self.close_folder()?;
        }
        let Output { mut entries, mut groups, directories, index, count, files, bytes, large_bytes, .. } = self.output;
        let entries_bytes = entries.position() - PAGE_BYTES;
        groups.write(&GroupRow { offset: entries_bytes, head: 0 }.encode())?;
        entries.flush()?;
        groups.flush()?;
        let digest = directories.get(directories.count - 1).digest;
        Ok(Assembled {
            entries_bytes,
            groups_bytes: groups.position(),
            directories,
            index,
            count,
            files,
            bytes,
            large_bytes,
            digest,
            problems: self.problems,
        })
    }
}

/// One folder while its entries are written.
struct Emission<'a, 'b> {
    sources: &'a [MountedSource],
    source_hashes: &'a [u64],
    salt: Salt,
    /// `a/b/`
    path: &'a [u8],
    hash: PathHash,
    digest: u64,
    /// What all its names begin with.
    shared: Vec<u8>,
    output: &'a mut Output<'b>,
    problems: &'a mut Problems,
}

impl Emission<'_, '_> {
    /// Files, folders and renamed files, each in name order, in one order. Of equal names a file gives way to the folder (it is among the
    /// renamed), and a renamed one to both (it is lost).
    fn merge(&mut self, mut files: SpillRows<'_>, mut folders: SortedRows<'_>, mut renamed: SortedRows<'_>) -> io::Result<()> {
        let (mut is_file, mut is_folder, mut is_renamed) = (files.advance()?, folders.advance()?, renamed.advance()?);
        let mut last_renamed: Vec<u8> = Vec::new();
        loop {
            if is_file && is_folder && files.name() == folders.name() {
                is_file = files.advance()?;
                continue;
            }
            let is_file_next = is_file && (!is_folder || files.name() < folders.name());
            let next = match (is_file_next, is_folder) {
                (true, _) => Some(files.name()),
                (false, true) => Some(folders.name()),
                (false, false) => None,
            };
            if is_renamed && next.is_none_or(|next| renamed.name() <= next) {
                if next == Some(renamed.name()) || last_renamed == renamed.name() {
                    self.problems.note(Problem::SamePath, key_of(renamed.body()).unwrap_or_default());
                } else {
                    self.file(renamed.name(), renamed.body())?;
                    last_renamed.clear();
                    last_renamed.extend_from_slice(renamed.name());
                }
                is_renamed = renamed.advance()?;
            } else if is_file_next {
                self.file(files.name(), files.body())?;
                is_file = files.advance()?;
            } else if is_folder {
                let number = folders.body().try_into().map(u32::from_le_bytes).map_err(|_| broken_row())?;
                self.folder(folders.name(), number)?;
                is_folder = folders.advance()?;
            } else {
                return Ok(());
            }
        }
    }

    /// Puts the files whose name a folder has, under their new name and with their key, into `renamed`.
    fn rename(&mut self, mut files: SpillRows<'_>, mut folders: SortedRows<'_>, renamed: &mut Sorter) -> io::Result<()> {
        let (mut is_file, mut is_folder) = (files.advance()?, folders.advance()?);
        while is_file && is_folder {
            match files.name().cmp(folders.name()) {
                Ordering::Less => is_file = files.advance()?,
                Ordering::Greater => is_folder = folders.advance()?,
                Ordering::Equal => {
                    let mut file = decode_body(files.body()).ok_or_else(broken_row)?;
                    let spelled;
                    if file.key.is_none() {
                        let mount = &self.sources[usize::from(file.source)].mount_path;
                        spelled = [&self.path[mount.len() - usize::from(mount == "/")..], files.name()].concat();
                        file.key = Some(&spelled);
                    }
                    self.problems.note(Problem::FileAndFolder, file.key.unwrap_or_default());
                    let name = key::beside_folder(files.name());
                    self.shared.truncate(shared_bytes(&self.shared, &name));
                    renamed.push(&name, &encode_body(&file))?;
                    is_file = files.advance()?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &[u8], body: &[u8]) -> io::Result<()> {
        let file = decode_body(body).ok_or_else(broken_row)?;
        let id = salted_file_id(self.hash, name, file.version, self.salt).0;
        let origin = self.source_hashes[usize::from(file.source)] ^ file.key.map_or(0, |key| xxh3_64_with_seed(key, 1));
        self.digest([id, file.size, file.modified_seconds.cast_unsigned(), origin]);
        self.output.begin_group(head_of(name, self.shared.len()))?;
        let before = self.output.modified_seconds;
        self.output.begin_record(file.tag(file.modified_seconds == before), name);
        file.encode(before, &mut self.output.record);
        self.output.modified_seconds = file.modified_seconds;
        self.output.files += 1;
        self.output.bytes = self.output.bytes.saturating_add(file.size);
        if file.size > LARGE_FILE_BYTES {
            self.output.large_bytes = self.output.large_bytes.saturating_add(file.size);
        }
        self.output.end_record(name, id)
    }

    fn folder(&mut self, name: &[u8], number: u32) -> io::Result<()> {
        let record = self.output.directories.get(number);
        let id = salted_directory_id(PathHash(record.path_hash), self.salt).0;
        self.digest([id, record.digest, 0, 1]);
        self.output.directories.set_entry(number, self.output.count);
        self.output.begin_group(head_of(name, self.shared.len()))?;
        self.output.begin_record(KIND_DIRECTORY, name);
        push_varint(&mut self.output.record, u64::from(number));
        self.output.end_record(name, id)
    }

    fn digest(&mut self, parts: [u64; 4]) {
        let mut bytes = [0; 32];
        for (position, part) in parts.iter().enumerate() {
            bytes[8 * position..8 * position + 8].copy_from_slice(&part.to_le_bytes());
        }
        self.digest = xxh3_64_with_seed(&bytes, self.digest);
    }
}

impl Output<'_> {
    fn begin_group(&mut self, head: u32) -> io::Result<()> {
        if self.count.is_multiple_of(GROUP_ENTRIES) {
            let offset = self.entries.position() - PAGE_BYTES;
            if offset > GroupRow::OFFSET_MAX {
                return Err(io::Error::other("more than 1 TiB of entries"));
            }
            self.groups.write(&GroupRow { offset, head }.encode())?;
            self.name.clear();
            self.modified_seconds = 0;
        }
        Ok(())
    }

    fn begin_record(&mut self, tag: u8, name: &[u8]) {
        let shared = shared_bytes(&self.name, name);
        self.record.clear();
        self.record.extend_from_slice(&[tag, shared as u8, (name.len() - shared) as u8]);
        self.record.extend_from_slice(&name[shared..]);
        self.name.truncate(shared);
        self.name.extend_from_slice(&name[shared..]);
    }

    fn end_record(&mut self, name: &[u8], id: u64) -> io::Result<()> {
        assert!((1..=key::NAME_BYTES_MAX).contains(&name.len()), "mapped names fit in a record");
        self.entries.write(&self.record)?;
        self.index.push(id, self.count)?;
        self.count = self
            .count
            .checked_add(1)
            .filter(|count| *count < NO_ENTRY)
            .ok_or_else(|| io::Error::other("more than 4,294,967,294 entries"))?;
        Ok(())
    }
}

/// A file's row on the way to its folder: tag and fields, the time relative to 0.
pub(super) fn encode_body(file: &FileBody<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    encode_body_into(file, &mut body);
    body
}

pub(super) fn encode_body_into(file: &FileBody<'_>, body: &mut Vec<u8>) {
    body.push(file.tag(file.modified_seconds == 0));
    file.encode(0, body);
}

pub(super) fn decode_body(body: &[u8]) -> Option<FileBody<'_>> {
    let (tag, rest) = body.split_first()?;
    FileBody::decode(*tag, 0, &mut Cursor { bytes: rest })
}

pub(super) fn key_of(body: &[u8]) -> Option<&[u8]> {
    decode_body(body)?.key
}

pub(super) fn broken_row() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a temporary row is not what was written")
}

/// The folders' records in a mapped temporary file, as a folder's entry is known only after the folder.
pub(super) struct DirectoryTable {
    file: File,
    map: MmapMut,
    pub(super) count: u32,
}

impl DirectoryTable {
    const FIRST_BYTES: u64 = 1 << 16;

    fn new(directory: &Path) -> io::Result<Self> {
        let file = unnamed_file(directory)?;
        let map = Self::map(&file, Self::FIRST_BYTES)?;
        Ok(Self { file, map, count: 0 })
    }

    fn map(file: &File, bytes: u64) -> io::Result<MmapMut> {
        // Allocated, not only sparse: a full disk is an error here, not a signal at a store.
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        // SAFETY: the file has no name and no other user, and is never cut.
        unsafe { MmapMut::map_mut(file) }
    }

    fn push(&mut self, record: &DirectoryRecord) -> io::Result<u32> {
        let at = self.bytes().len();
        if at + DIRECTORY_BYTES as usize > self.map.len() {
            self.map = Self::map(&self.file, 2 * self.map.len() as u64)?;
        }
        self.map[at..at + DIRECTORY_BYTES as usize].copy_from_slice(&record.encode());
        self.count += 1;
        Ok(self.count - 1)
    }

    pub(super) fn get(&self, number: u32) -> DirectoryRecord {
        let at = number as usize * DIRECTORY_BYTES as usize;
        DirectoryRecord::decode(&self.map[at..]).expect("a record that was pushed is as long as a record")
    }

    fn set_entry(&mut self, number: u32, entry: u32) {
        let at = number as usize * DIRECTORY_BYTES as usize;
        let record = DirectoryRecord { entry, ..self.get(number) };
        self.map[at..at + DIRECTORY_BYTES as usize].copy_from_slice(&record.encode());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[..self.count as usize * DIRECTORY_BYTES as usize]
    }

    /// Appends the table to a section.
    pub(super) fn write(&self, file: &File, offset: u64) -> io::Result<()> {
        file.write_all_at(self.bytes(), offset)
    }
}
