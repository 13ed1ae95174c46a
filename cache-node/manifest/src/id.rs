//! Node ids: a hash of what an entry is, so that new bytes get a new inode and the page cache is never stale.
//! Knows paths, names, versions. Does not know manifests: a tree listed on demand uses the same functions, so ids survive the switch.
//! Invariant: bit 0 is 0 (left to the I/O mode), bit 1 tells folders from files, and neither 0 nor 1 is ever an id.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::version::VersionRef;
use forebay_source::Version;

/// Hash of a folder's path: chained by its names from the root, so that it costs one hash a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathHash(pub u64);

impl PathHash {
    pub const ROOT: Self = Self(0x466f_7265_6261_7921);

    /// The folder `name` in this one.
    pub fn child(self, name: &[u8]) -> Self {
        Self(xxh3_64_with_seed(name, self.0))
    }

    /// Of a path such as `/a/b`; empty parts don't count, so `/` is the root.
    pub fn of(path: &[u8]) -> Self {
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).fold(Self::ROOT, Self::child)
    }
}

/// FUSE node id of a file's version or of a folder, but for bit 0, which `fs` sets to the I/O mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub u64);

/// The bits of an id that come from the hash.
pub(super) const ID_MASK: u64 = !3;
const DIRECTORY_BIT: u64 = 2;
/// Stands for a file whose hash is 0, as 0 is reserved.
const ZERO_HASH: u64 = 4;

impl ContentId {
    pub fn is_directory(self) -> bool {
        self.0 & DIRECTORY_BIT != 0
    }
}

/// Id of the file `name` with `version` in the folder of `parent`.
pub fn file_id(parent: PathHash, name: &[u8], version: &Version) -> ContentId {
    salted_file_id(parent, name, VersionRef::parse(&version.0), Salt::default())
}

/// Id of a folder; `PathHash::of` its path.
pub fn directory_id(path: PathHash) -> ContentId {
    salted_directory_id(path, Salt::default())
}

/// How one manifest departs from the plain id, where two of its entries have the same: all of them take the next salt, so that the outcome
/// depends on what they are and not on their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt {
    pub(super) number: u8,
    /// Which bits of the hash count; fewer than `ID_MASK` only in tests, to make equal ids likely.
    pub(super) mask: u64,
}

impl Default for Salt {
    fn default() -> Self {
        Self { number: 0, mask: ID_MASK }
    }
}

pub(super) fn salted_directory_id(path: PathHash, salt: Salt) -> ContentId {
    let hash = xxh3_64_with_seed(&path.0.to_le_bytes(), u64::from(salt.number));
    ContentId(hash & salt.mask & ID_MASK | DIRECTORY_BIT)
}

/// Parent, version and name in one buffer: one hash, nothing on the heap. Names are at most `NAME_BYTES_MAX` bytes; of a longer one (no file has it) the end is hashed apart.
pub(super) fn salted_file_id(parent: PathHash, name: &[u8], version: VersionRef<'_>, salt: Salt) -> ContentId {
    const NAME_AT: usize = 8 + 21;
    let mut buffer = [0u8; NAME_AT + super::key::NAME_BYTES_MAX];
    buffer[..8].copy_from_slice(&parent.0.to_le_bytes());
    buffer[8..NAME_AT].copy_from_slice(&version.fixed());
    let (head, tail) = name.split_at(name.len().min(super::key::NAME_BYTES_MAX));
    buffer[NAME_AT..NAME_AT + head.len()].copy_from_slice(head);
    let seed = if tail.is_empty() { u64::from(salt.number) } else { xxh3_64_with_seed(tail, u64::from(salt.number)) };
    match xxh3_64_with_seed(&buffer[..NAME_AT + head.len()], seed) & salt.mask & ID_MASK {
        0 => ContentId(ZERO_HASH),
        hash => ContentId(hash),
    }
}
