//! Objects in, a manifest file out: sources joined in one tree, memory bounded whatever their number.
//! Knows sources by number and mount path, keys by `key::to_path`. Does not know how objects were listed.
//! Invariant: the finished file appears whole under its name or not at all.
//!
//! Keys whose path is spelled as the key come in path order, so each source's are kept as one stream; the odd ones are sorted apart. All
//! streams are merged by path into the `Assembler`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::assemble::{Assembled, Assembler, broken_row, encode_body_into, key_of};
use super::format::{FileBody, Header, PAGE_BYTES, Section, SectionKind, VERSION_BYTES_MAX, buckets, crc32c};
use super::id::{ID_MASK, Salt, salted_directory_id, salted_file_id};
use super::index::IndexPlaces;
use super::key::{self, Mapped, Problem};
use super::spill::{SortedRows, Sorter, Spill, SpillRows, unnamed_file};
use super::version::VersionRef;
use super::view::Meta;
use super::{ManifestError, PathHash, Problems, SourceIndex};
use forebay_source::Object;

/// Memory for each source's stream before it goes to its file.
const STREAM_BYTES_MAX: usize = 256 << 10;
/// Memory for odd keys before they go to a file.
const ODD_BYTES_MAX: usize = 8 << 20;
const COPY_BYTES: usize = 1 << 20;

/// One source and where its keys appear.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountedSource {
    /// `Source::name`, without credentials.
    pub name: String,
    /// `/`, `/images`, ...: absolute, without `//`, `.`, `..` or a trailing `/`.
    pub mount_path: String,
}

#[derive(Clone, Debug)]
pub struct BuildOptions {
    pub term: u64,
    pub sequence: u64,
    pub created_seconds: i64,
    /// `SourceIndex` counts these; at least one, at most 65,535, each mount path once.
    pub sources: Vec<MountedSource>,
}

/// Takes each source's objects in ascending key order, then writes the manifest.
pub struct Builder {
    directory: PathBuf,
    options: BuildOptions,
    streams: Vec<Stream>,
    odd: Sorter,
    problems: Problems,
    body: Vec<u8>,
    id_mask: u64,
}

struct Stream {
    rows: Spill,
    last_key: Option<Vec<u8>>,
    /// Mount path without the leading and with a trailing `/`; empty for `/`.
    prefix: Vec<u8>,
}

impl Builder {
    /// Temporary files go to `directory` (created if absent), where the manifest will be.
    pub fn new(directory: &Path, options: BuildOptions) -> Result<Self, ManifestError> {
        let refuse = |detail: String| ManifestError::Build { path: directory.to_owned(), detail };
        std::fs::create_dir_all(directory).map_err(|cause| ManifestError::Io { op: "build", path: directory.to_owned(), cause })?;
        if options.sources.is_empty() || options.sources.len() > usize::from(u16::MAX) {
            return Err(refuse(format!("{} sources; there must be 1 to {}", options.sources.len(), u16::MAX)));
        }
        let mut streams = Vec::with_capacity(options.sources.len());
        for (position, source) in options.sources.iter().enumerate() {
            let Some(below) = source.mount_path.strip_prefix('/') else {
                return Err(refuse(format!("mount path {:?} is not absolute", source.mount_path)));
            };
            if !below.is_empty() && key::to_path(below.as_bytes(), 1) != Mapped::Plain(below.as_bytes()) {
                return Err(refuse(format!("mount path {:?} is not a plain path such as /images", source.mount_path)));
            }
            if options.sources[..position].iter().any(|other| other.mount_path == source.mount_path) {
                return Err(refuse(format!("two sources are mounted at {:?}", source.mount_path)));
            }
            let prefix = if below.is_empty() { Vec::new() } else { format!("{below}/").into_bytes() };
            streams.push(Stream { rows: Spill::new(directory, STREAM_BYTES_MAX), last_key: None, prefix });
        }
        let odd = Sorter::new(directory, ODD_BYTES_MAX);
        let (directory, problems) = (directory.to_owned(), Problems::default());
        Ok(Self { directory, options, streams, odd, problems, body: Vec::new(), id_mask: ID_MASK })
    }

    /// Only these bits of ids count, so that a test sees equal ones.
    #[cfg(test)]
    pub(super) fn with_id_mask(mut self, mask: u64) -> Self {
        self.id_mask = mask;
        self
    }

    /// Adds one object; of one source in strictly ascending key order, of several sources in any interleaving. Blocks on disk now and then.
    pub fn push(&mut self, source: SourceIndex, object: &Object) -> Result<(), ManifestError> {
        self.push_row(source, &object.key.0, object.size, seconds_of(object.modified), &object.version.0)
    }

    /// `push` without an `Object`.
    pub fn push_row(
        &mut self,
        source: SourceIndex,
        key: &[u8],
        size: u64,
        modified_seconds: i64,
        version: &[u8],
    ) -> Result<(), ManifestError> {
        let version = VersionRef::parse(version);
        self.push_file(source, key, FileBody { size, modified_seconds, version, source: source.0, key: None })
    }

    /// `push` of what a listing's log holds; the body's own source and key don't count.
    pub(super) fn push_file(&mut self, source: SourceIndex, key: &[u8], file: FileBody<'_>) -> Result<(), ManifestError> {
        let Some(stream) = self.streams.get_mut(usize::from(source.0)) else {
            let detail = format!("source {} of {}", source.0, self.streams.len());
            return Err(ManifestError::Build { path: self.directory.clone(), detail });
        };
        match &mut stream.last_key {
            Some(last) if last.as_slice() >= key => {
                let detail = format!("key {:?} came after {:?}", key.escape_ascii().to_string(), last.escape_ascii().to_string());
                return Err(ManifestError::Build { path: self.directory.clone(), detail });
            }
            Some(last) => {
                last.clear();
                last.extend_from_slice(key);
            }
            None => stream.last_key = Some(key.to_vec()),
        }
        if matches!(file.version, VersionRef::Opaque(version) if version.len() > VERSION_BYTES_MAX) {
            self.problems.note(Problem::LongVersion, key);
            return Ok(());
        }
        let mut file = FileBody { source: source.0, key: None, ..file };
        self.body.clear();
        let result = match key::to_path(key, file.size) {
            Mapped::Plain(path) => {
                encode_body_into(&file, &mut self.body);
                stream.rows.push(path, &self.body)
            }
            Mapped::Folder(path) if path.is_empty() => Ok(()),
            // The key, not the path: with its trailing `/` it is in order, and says that it is a folder.
            Mapped::Folder(std::borrow::Cow::Borrowed(_)) => stream.rows.push(key, &[]),
            Mapped::Folder(std::borrow::Cow::Owned(path)) => self.odd.push(&[&stream.prefix, path.as_slice(), b"/"].concat(), &[]),
            Mapped::Renamed(path, problem) => {
                self.problems.note(problem, key);
                file.key = Some(key);
                encode_body_into(&file, &mut self.body);
                self.odd.push(&[stream.prefix.as_slice(), &path].concat(), &self.body)
            }
            Mapped::Unreachable(problem) => {
                self.problems.note(problem, key);
                Ok(())
            }
        };
        result.map_err(|cause| ManifestError::Io { op: "build", path: self.directory.clone(), cause })
    }

    /// The name of the finished file, in the builder's folder.
    pub fn file_name(term: u64, sequence: u64) -> String {
        format!("{term:016x}-{sequence:016x}.manifest")
    }

    /// Writes `file_name` in the folder, durable and complete or not there at all. Blocks: a second per some million files.
    pub fn finish(mut self) -> Result<PathBuf, ManifestError> {
        let name = Self::file_name(self.options.term, self.options.sequence);
        let (path, partial) = (self.directory.join(&name), self.directory.join(format!("{name}.partial")));
        let written = self.write(&partial).and_then(|()| {
            // It is mapped from now on: a file that changes under a mapping is a signal to whoever reads it.
            std::fs::set_permissions(&partial, std::os::unix::fs::PermissionsExt::from_mode(0o400))?;
            std::fs::rename(&partial, &path)?;
            File::open(&self.directory)?.sync_all()
        });
        match written {
            Ok(()) => Ok(path),
            Err(cause) => {
                // Whatever could be written is of no use; the next builder of this name would replace it anyway.
                let _ = std::fs::remove_file(&partial);
                Err(ManifestError::Io { op: "build", path, cause })
            }
        }
    }

    fn write(&mut self, partial: &Path) -> io::Result<()> {
        match std::fs::remove_file(partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().read(true).write(true).create_new(true).open(partial)?;
        let groups = unnamed_file(&self.directory)?;
        let sources = self.options.sources.clone();
        let mut assembler = Assembler::new(&self.directory, &sources, self.id_mask, &file, &groups)?;
        assembler.problems = std::mem::take(&mut self.problems);
        merge(&mut self.streams, &mut self.odd, &mut assembler)?;
        let assembled = assembler.finish()?;
        let header = self.write_sections(&file, &groups, assembled)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_data()
    }

    fn write_sections(&self, file: &File, groups: &File, assembled: Assembled) -> io::Result<Header> {
        let Assembled { entries_bytes, groups_bytes, directories, index, count, files, bytes, large_bytes, digest, problems } = assembled;
        let mut places = Places { sections: [Section::default(); super::format::SECTIONS], end: PAGE_BYTES };
        let entries = u64::from(count);
        places.add(SectionKind::Entries, entries_bytes);
        let at = places.add(SectionKind::Groups, groups_bytes);
        copy(groups, file, at, groups_bytes)?;
        let at = places.add(SectionKind::Directories, directories.bytes().len() as u64);
        directories.write(file, at)?;
        let index_places = IndexPlaces {
            buckets: places.add(SectionKind::Buckets, (buckets(entries) + 1) * 4),
            fingerprints: places.add(SectionKind::Fingerprints, entries),
            numbers: places.add(SectionKind::Numbers, entries * 4),
        };
        let mut resalter = Resalter { file, groups, directories: &directories, mask: self.id_mask };
        let salts = index.finish(file, &index_places, |entry, salt| resalter.id(entry, salt))?;
        let at = places.add(SectionKind::Salts, salts.len() as u64);
        file.write_all_at(&salts, at)?;
        let meta = serde_json::to_vec(&Meta { sources: self.options.sources.clone(), problems, large_bytes }).map_err(io::Error::other)?;
        let at = places.add(SectionKind::Meta, meta.len() as u64);
        file.write_all_at(&meta, at)?;
        let table_at = places.end;
        file.set_len(table_at)?;
        let table = page_table(file, table_at)?;
        places.add(SectionKind::PageTable, table.len() as u64);
        file.write_all_at(&table, table_at)?;
        Ok(Header {
            file_bytes: table_at + table.len() as u64,
            term: self.options.term,
            sequence: self.options.sequence,
            created_seconds: self.options.created_seconds,
            files,
            directories: u64::from(directories.count),
            entries,
            bytes,
            digest,
            id_mask: self.id_mask,
            sections: places.sections,
            page_table_crc: crc32c(&table),
        })
    }
}

/// Whole seconds since the epoch, rounded down, as `stat` has them.
pub fn seconds_of(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(error) => {
            let before = error.duration();
            let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            -whole - i64::from(before.subsec_nanos() > 0 && whole < i64::MAX)
        }
    }
}

struct Places {
    sections: [Section; super::format::SECTIONS],
    end: u64,
}

impl Places {
    fn add(&mut self, kind: SectionKind, bytes: u64) -> u64 {
        let offset = self.end;
        self.sections[kind as usize] = Section { offset, bytes };
        self.end = (offset + bytes).next_multiple_of(PAGE_BYTES);
        offset
    }
}

fn copy(from: &File, to: &File, at: u64, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    while done < bytes {
        let count = (bytes - done).min(COPY_BYTES as u64) as usize;
        from.read_exact_at(&mut buffer[..count], done)?;
        to.write_all_at(&buffer[..count], at + done)?;
        done += count as u64;
    }
    Ok(())
}

/// Checksums of all pages before `end`; the header's is left 0, as it has its own.
fn page_table(file: &File, end: u64) -> io::Result<Vec<u8>> {
    let mut table = Vec::with_capacity((end / PAGE_BYTES * 4) as usize);
    let mut writer_buffer = vec![0; COPY_BYTES];
    table.extend_from_slice(&[0; 4]);
    let mut at = PAGE_BYTES;
    while at < end {
        let count = (end - at).min(COPY_BYTES as u64) as usize;
        file.read_exact_at(&mut writer_buffer[..count], at)?;
        for page in writer_buffer[..count].chunks(PAGE_BYTES as usize) {
            table.extend_from_slice(&crc32c(page).to_le_bytes());
        }
        at += count as u64;
    }
    Ok(table)
}

/// Merges the streams by path. Of equal paths one wins: a plain key before an odd one, then the source mounted deeper.
fn merge(streams: &mut [Stream], odd: &mut Sorter, assembler: &mut Assembler<'_>) -> io::Result<()> {
    let mut mounts: Vec<Vec<u8>> = streams.iter().map(|stream| stream.prefix.clone()).filter(|prefix| !prefix.is_empty()).collect();
    mounts.sort();
    let mut heads: Vec<Head<'_>> = Vec::with_capacity(streams.len() + 2);
    streams.sort_by_key(|stream| std::cmp::Reverse(stream.prefix.len()));
    for stream in streams {
        heads.push(Head::new(Rows::Stream(stream.rows.rows()?), &stream.prefix)?);
    }
    if !odd.is_empty() {
        heads.push(Head::new(Rows::Odd(odd.sorted()?), &[])?);
    }
    if !mounts.is_empty() {
        heads.push(Head::new(Rows::Mounts(mounts.into_iter()), &[])?);
    }
    heads.retain(|head| head.is_some);
    if let [only] = heads.as_mut_slice() {
        while only.is_some {
            assembler.add(&only.path, only.rows.body())?;
            only.advance()?;
        }
        return Ok(());
    }
    let mut last: Vec<u8> = Vec::new();
    let mut is_first = true;
    while let Some(first) = (0..heads.len()).min_by(|left, right| heads[*left].path.cmp(&heads[*right].path)) {
        let head = &mut heads[first];
        let is_repeated = !is_first && head.path == last;
        let body = head.rows.body();
        if !is_repeated {
            assembler.add(&head.path, body)?;
            last.clear();
            last.extend_from_slice(&head.path);
        } else if !body.is_empty() {
            match &head.rows {
                Rows::Odd(_) => assembler.problems.note(Problem::SamePath, key_of(body).unwrap_or_default()),
                Rows::Stream(_) | Rows::Mounts(_) => assembler.problems.note(Problem::Shadowed, &head.path[head.prefix_bytes..]),
            }
        }
        is_first = false;
        head.advance()?;
        if !head.is_some {
            heads.remove(first);
        }
    }
    Ok(())
}

enum Rows<'a> {
    Stream(SpillRows<'a>),
    Odd(SortedRows<'a>),
    Mounts(std::vec::IntoIter<Vec<u8>>),
}

impl Rows<'_> {
    fn body(&self) -> &[u8] {
        match self {
            Self::Stream(rows) => rows.body(),
            Self::Odd(rows) => rows.body(),
            Self::Mounts(_) => &[],
        }
    }
}

/// The next row of one stream, with its whole path.
struct Head<'a> {
    rows: Rows<'a>,
    path: Vec<u8>,
    prefix_bytes: usize,
    is_some: bool,
}

impl<'a> Head<'a> {
    fn new(rows: Rows<'a>, prefix: &[u8]) -> io::Result<Self> {
        let mut head = Self { rows, path: prefix.to_vec(), prefix_bytes: prefix.len(), is_some: true };
        head.advance()?;
        Ok(head)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.path.truncate(self.prefix_bytes);
        match &mut self.rows {
            Rows::Stream(rows) => {
                self.is_some = rows.advance()?;
                if self.is_some {
                    self.path.extend_from_slice(rows.name());
                }
            }
            Rows::Odd(rows) => {
                self.is_some = rows.advance()?;
                if self.is_some {
                    self.path.extend_from_slice(rows.name());
                }
            }
            Rows::Mounts(mounts) => match mounts.next() {
                Some(mount) => self.path.extend_from_slice(&mount),
                None => self.is_some = false,
            },
        }
        Ok(())
    }
}

/// Computes ids of entries again, with a salt, from what was just written. Called for next to no entry.
struct Resalter<'a> {
    file: &'a File,
    groups: &'a File,
    directories: &'a super::assemble::DirectoryTable,
    mask: u64,
}

impl Resalter<'_> {
    fn id(&mut self, entry: u32, number: u8) -> io::Result<u64> {
        use super::format::{Body, GROUP_ENTRIES, GroupDecoder, GroupRow, u64_at};
        let mut bounds = [0; 16];
        self.groups.read_exact_at(&mut bounds, u64::from(entry / GROUP_ENTRIES) * 8)?;
        let offset = |at| GroupRow::decode(u64_at(&bounds, at).unwrap_or(0)).offset;
        let (start, end) = (offset(0), offset(8));
        let mut group = vec![0; end.checked_sub(start).ok_or_else(broken_row)? as usize];
        self.file.read_exact_at(&mut group, PAGE_BYTES + start)?;
        let mut decoder = GroupDecoder::new(&group);
        let mut name = Vec::new();
        let mut body = None;
        for _ in 0..=entry % GROUP_ENTRIES {
            let record = decoder.next().ok_or_else(broken_row)?;
            name.truncate(record.shared);
            name.extend_from_slice(record.suffix);
            body = Some(record.body);
        }
        let salt = Salt { number, mask: self.mask };
        match body.ok_or_else(broken_row)? {
            Body::Directory(number) => Ok(salted_directory_id(PathHash(self.directories.get(number).path_hash), salt).0),
            Body::File(file) => {
                let (mut low, mut high) = (0, self.directories.count - 1);
                while low < high {
                    let middle = low + (high - low).div_ceil(2);
                    if self.directories.get(middle).first <= entry { low = middle } else { high = middle - 1 }
                }
                Ok(salted_file_id(PathHash(self.directories.get(low).path_hash), &name, file.version, salt).0)
            }
        }
    }
}
