//! The files of a data set at one moment: an immutable, versioned, memory-mapped file built from a listing.
//! Knows names, sizes, times, versions, and which key of which source a path stands for. Does not know which bytes are cached, nor FUSE.
//! Invariant: nothing that was read from a damaged page is ever returned: every page is checked before its first use.
//!
//! `Builder` takes objects in key order and writes the file; `Manifest` reads it; `diff` compares two; `Catalog` keeps the current and the
//! previous one and refuses to go back; `Removed` remembers what the kernel may still hold of older ones; `listing` drives a source.

mod assemble;
pub mod builder;
pub mod catalog;
pub mod diff;
mod format;
pub mod id;
mod index;
pub mod key;
pub mod listing;
mod pages;
pub mod removed;
mod search;
mod spill;
#[cfg(test)]
mod tests;
pub mod version;
pub mod view;
mod walk;

use std::path::PathBuf;

use forebay_source::Version;

pub use builder::{BuildOptions, Builder, MountedSource};
pub use catalog::Catalog;
pub use diff::{Change, What, diff};
#[doc(hidden)]
pub use format::reseal;
pub use id::{ContentId, PathHash, directory_id, file_id};
pub use removed::{RemovedEntry, RemovedList};
pub use view::{Manifest, ManifestObject};
pub use walk::Entries;

/// Number of a folder in one manifest. Means nothing in another manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectoryIndex(pub u32);

/// Number of an entry (a file's or a folder's name in its folder) in one manifest. The entries of a folder are contiguous, in name order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryIndex(pub u32);

/// Position of a source in `Summary::sources`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceIndex(pub u16);

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: EntryIndex,
    /// The folder that holds it.
    pub directory: DirectoryIndex,
    pub name: Vec<u8>,
    pub id: ContentId,
    pub kind: EntryKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File {
        /// In bytes.
        size: u64,
        /// Since the epoch; negative before it.
        modified_seconds: i64,
        version: Version,
    },
    Directory(DirectoryIndex),
}

/// What the hot path needs of an entry: `Copy`, nothing on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub index: EntryIndex,
    /// The folder that holds it.
    pub directory: DirectoryIndex,
    pub id: ContentId,
    pub kind: FoundKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKind {
    File { size: u64, modified_seconds: i64 },
    Directory(DirectoryIndex),
}

/// A folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    pub index: DirectoryIndex,
    /// Of its path: the same in every manifest. The root's is never seen by the kernel, which calls it node 1.
    pub id: ContentId,
    /// The root's parent is the root.
    pub parent: DirectoryIndex,
    /// Its own entry in its parent; `None` for the root.
    pub entry: Option<EntryIndex>,
    /// Number of the first of its entries.
    pub first: EntryIndex,
    /// How many entries it has.
    pub count: u32,
    /// For `file_id` of what it holds.
    pub path_hash: PathHash,
    /// Of everything below: equal digests mean equal subtrees.
    pub digest: u64,
}

/// What a manifest says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of the one who listed; with `sequence` it only grows.
    pub term: u64,
    pub sequence: u64,
    pub files: u64,
    /// With the root.
    pub directories: u64,
    /// Sum of all files' sizes.
    pub bytes: u64,
    /// Sum of the sizes of files over `LARGE_FILE_BYTES`.
    pub large_bytes: u64,
    pub created_seconds: i64,
    /// Of the whole tree: equal for equal listings, whenever they were made.
    pub digest: u64,
    pub sources: Vec<MountedSource>,
    pub problems: Problems,
}

/// Of a file that takes longer to read than to open, however it is opened.
pub const LARGE_FILE_BYTES: u64 = 1 << 20;

/// Keys that didn't become a path of the same spelling, counted by kind, each with its first samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problems {
    pub kinds: std::collections::BTreeMap<key::Problem, ProblemCount>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProblemCount {
    pub count: u64,
    /// The first `SAMPLES_MAX` keys, as text: what isn't UTF-8 or is a control character is escaped.
    pub samples: Vec<String>,
}

/// Samples kept of each kind of problem: enough to see the pattern, few enough for a status.
pub const SAMPLES_MAX: usize = 10;

impl Problems {
    pub fn note(&mut self, problem: key::Problem, key: &[u8]) {
        let kind = self.kinds.entry(problem).or_default();
        kind.count += 1;
        if kind.samples.len() < SAMPLES_MAX {
            kind.samples.push(key.escape_ascii().to_string());
        }
    }

    /// How many objects can't be reached by any path.
    pub fn unreachable(&self) -> u64 {
        self.kinds.iter().filter(|(problem, _)| problem.is_unreachable()).map(|(_, kind)| kind.count).sum()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file's bytes aren't those that were written. List again; the previous manifest may serve until then.
    #[error("read manifest {}: page {page} is damaged; the data set must be listed again", path.display())]
    Damaged { path: PathBuf, page: u64 },
    #[error("open manifest {}: {detail}; the data set must be listed again", path.display())]
    Format { path: PathBuf, detail: String },
    #[error("{op} manifest {}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("read manifest {}: it has no {what} {number}", path.display())]
    OutOfRange { path: PathBuf, what: &'static str, number: u32 },
    /// A caller's mistake: objects out of order, a bad mount path.
    #[error("build manifest in {}: {detail}", path.display())]
    Build { path: PathBuf, detail: String },
    #[error("accept manifest {}: its term {term}, sequence {sequence} is not newer than term {current_term}, sequence {current_sequence}", path.display())]
    NotNewer { path: PathBuf, term: u64, sequence: u64, current_term: u64, current_sequence: u64 },
}

impl ManifestError {
    /// Whether the file is unusable, so that another listing is the cure.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Format { .. } => true,
            Self::Io { .. } | Self::OutOfRange { .. } | Self::Build { .. } | Self::NotNewer { .. } => false,
        }
    }

    /// Whether it is this manifest's file that is unusable.
    pub fn is_damage_of(&self, manifest: &Manifest) -> bool {
        match self {
            Self::Damaged { path, .. } | Self::Format { path, .. } => path == manifest.file(),
            Self::Io { .. } | Self::OutOfRange { .. } | Self::Build { .. } | Self::NotNewer { .. } => false,
        }
    }
}
