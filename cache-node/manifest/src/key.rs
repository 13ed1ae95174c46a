//! Keys to paths: one total rule, so that each key is reachable by a path that can be told from it, or is counted.
//! Pure: knows bytes. Does not know sources, manifests or which other keys there are (what two keys that want one path get is the builder's).
//! Invariant: a mapped path has no part that is empty, `.`, `..`, longer than `NAME_BYTES_MAX`, or holds `/` or NUL: none leaves the mount.
//!
//! | key | becomes |
//! |---|---|
//! | parts of 1 to 255 bytes of anything but NUL (newlines, spaces, invalid UTF-8, `%` too) | the same path |
//! | an empty part: `/a`, `a//b`, and `a/` if it has bytes | the part is called `%2F`: `%2F/a`, `a/%2F/b`, `a/%2F` |
//! | `a/` without bytes (a folder marker) | the folder `a`, even if nothing is in it; the object itself isn't shown |
//! | the empty key (the prefix itself) without bytes; with bytes | nothing; the file `%2F` |
//! | a part `.` or `..` | `%2E` or `%2E%2E` |
//! | NUL in a part | `%00` in its place |
//! | a part over 255 bytes (after the above) | its first 238 bytes (fewer, not to cut a UTF-8 character), `%`, and the 16 hex digits of the part's xxh3 |
//! | over 512 parts, or over 16 KiB | none: counted as unreachable |
//! | `a`, when there is `a/b` too | the file is `a%file`; the folder keeps `a` (over 255 bytes: shortened as above, then `%file`) |
//! | two keys for one path after these rules | a key spelled like the path wins, else the first in byte order; the other is counted as unreachable |
//! | two sources with a file at one path | the source mounted deeper wins; the other's object is counted as shadowed |

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

/// Linux' limit (NAME_MAX) for one part of a path, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Of a key. S3 allows 1 KiB, files 4 KiB.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// Parts of a path: what 1 KiB of `a/a/a...` gives. Each open folder of the builder has a buffer.
pub const DEPTH_MAX: usize = 512;

const EMPTY_NAME: &[u8] = b"%2F";
const COLLISION_SUFFIX: &[u8] = b"%file";
/// `%` and 16 hex digits.
const HASH_SUFFIX_BYTES: usize = 17;

/// What was odd about a key. Stored by name in the manifest, so names may be added, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Problem {
    /// Renamed: `//` or a leading `/`, or bytes under a key that ends in `/`.
    EmptyPart,
    /// Renamed: `.` or `..`.
    DotPart,
    /// Renamed.
    NulByte,
    /// Renamed.
    LongPart,
    /// Renamed: both a file and a folder.
    FileAndFolder,
    /// Unreachable.
    TooDeep,
    /// Unreachable.
    TooLong,
    /// Unreachable: its version is longer than a manifest holds.
    LongVersion,
    /// Unreachable: another key of the same source has its path.
    SamePath,
    /// Unreachable: a source mounted deeper has a file at its path.
    Shadowed,
}

impl Problem {
    pub fn is_unreachable(self) -> bool {
        match self {
            Self::EmptyPart | Self::DotPart | Self::NulByte | Self::LongPart | Self::FileAndFolder => false,
            Self::TooDeep | Self::TooLong | Self::LongVersion | Self::SamePath | Self::Shadowed => true,
        }
    }
}

/// Where a key's object appears, relative to the source's mount path, without a leading `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped<'a> {
    /// Under the key's own spelling.
    Plain(&'a [u8]),
    /// A folder marker: the folder exists, the object isn't shown. Empty: the mount path itself. Without the trailing `/`.
    Folder(Cow<'a, [u8]>),
    /// Under another spelling; the key must be kept.
    Renamed(Vec<u8>, Problem),
    Unreachable(Problem),
}

/// Applies the table above to one key; `size` in bytes. Allocates only for an odd key.
pub fn to_path(key: &[u8], size: u64) -> Mapped<'_> {
    if key.len() > KEY_BYTES_MAX {
        return Mapped::Unreachable(Problem::TooLong);
    }
    let (key, is_marker) = match key {
        [] if size == 0 => return Mapped::Folder(Cow::Borrowed(key)),
        [rest @ .., b'/'] if size == 0 => (rest, true),
        _ => (key, false),
    };
    match (scan(key), is_marker) {
        (Scan::Plain, false) => Mapped::Plain(key),
        (Scan::Plain, true) => Mapped::Folder(Cow::Borrowed(key)),
        (Scan::TooDeep, _) => Mapped::Unreachable(Problem::TooDeep),
        (Scan::Odd(_), true) => Mapped::Folder(Cow::Owned(rename(key))),
        (Scan::Odd(problem), false) => Mapped::Renamed(rename(key), problem),
    }
}

/// The name that the file `name` takes where a folder has the same name.
pub fn beside_folder(name: &[u8]) -> Vec<u8> {
    let mut renamed = Vec::with_capacity(NAME_BYTES_MAX);
    if name.len() + COLLISION_SUFFIX.len() > NAME_BYTES_MAX {
        push_shortened(&mut renamed, name, name, NAME_BYTES_MAX - COLLISION_SUFFIX.len());
    } else {
        renamed.extend_from_slice(name);
    }
    renamed.extend_from_slice(COLLISION_SUFFIX);
    renamed
}

enum Scan {
    Plain,
    Odd(Problem),
    TooDeep,
}

/// One pass; the first odd part names the problem.
fn scan(key: &[u8]) -> Scan {
    let mut problem = None;
    let mut depth = 0;
    for part in key.split(|byte| *byte == b'/') {
        depth += 1;
        let found = match part {
            [] => Some(Problem::EmptyPart),
            b"." | b".." => Some(Problem::DotPart),
            _ if part.contains(&0) => Some(Problem::NulByte),
            _ if part.len() > NAME_BYTES_MAX => Some(Problem::LongPart),
            _ => None,
        };
        problem = problem.or(found);
    }
    match problem {
        _ if depth > DEPTH_MAX => Scan::TooDeep,
        Some(problem) => Scan::Odd(problem),
        None => Scan::Plain,
    }
}

fn rename(key: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(key.len() + 32);
    for (position, part) in key.split(|byte| *byte == b'/').enumerate() {
        if position > 0 {
            path.push(b'/');
        }
        let start = path.len();
        match part {
            [] => path.extend_from_slice(EMPTY_NAME),
            b"." => path.extend_from_slice(b"%2E"),
            b".." => path.extend_from_slice(b"%2E%2E"),
            _ => part.iter().for_each(|byte| match byte {
                0 => path.extend_from_slice(b"%00"),
                byte => path.push(*byte),
            }),
        }
        if path.len() - start > NAME_BYTES_MAX {
            let long = path.split_off(start);
            push_shortened(&mut path, &long, part, NAME_BYTES_MAX);
        }
    }
    path
}

/// Appends `name` cut so that it has, with the hash of `identity`, at most `bytes_max` bytes.
fn push_shortened(path: &mut Vec<u8>, name: &[u8], identity: &[u8], bytes_max: usize) {
    let mut cut = bytes_max - HASH_SUFFIX_BYTES;
    // At most three bytes back, so that a UTF-8 character isn't cut (of other bytes up to three are lost).
    for _ in 0..3 {
        if name[cut] & 0xc0 != 0x80 {
            break;
        }
        cut -= 1;
    }
    path.extend_from_slice(&name[..cut]);
    path.extend_from_slice(format!("%{:016x}", xxh3_64(identity)).as_bytes());
}
