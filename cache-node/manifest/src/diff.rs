//! What changed between two manifests, folder by folder; folders with equal digests are not entered.
//! Knows two manifests. Does not know what is done about a change.
//! Invariant: memory is bounded by depth: a suspended pair of folders is a few numbers.

use super::format::Body;
use super::{ContentId, Directory, DirectoryIndex, Entry, EntryKind, Manifest, ManifestError};

/// One name that differs. Borrowed: valid during the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The folder's path (`/` or `/a/b`) and id.
    pub directory_path: &'a [u8],
    pub directory: ContentId,
    pub name: &'a [u8],
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Of a new folder, it and all below it are told, it first.
    Added { id: ContentId },
    /// Of a removed folder, it and all below it are told, it first.
    Removed { id: ContentId },
    /// A new version, or a file became a folder or the reverse (what is below either is told too).
    Replaced { old: ContentId, new: ContentId },
    /// The same version with another time, size or key: the bytes stand, attributes are to be read again.
    Touched { id: ContentId },
}

/// One side of a pair of folders, and how far it has been read.
#[derive(Clone, Copy)]
struct Side {
    directory: Directory,
    done: u32,
}

/// A folder that is in one or both manifests.
struct Pair {
    old: Option<Side>,
    new: Option<Side>,
    /// Of the path.
    path_bytes: usize,
}

/// Tells `sink` each name that differs, a folder before what is below it, names of a folder in order. Cost: the changed folders only.
pub fn diff(old: &Manifest, new: &Manifest, mut sink: impl FnMut(Change<'_>)) -> Result<(), ManifestError> {
    let (old_root, new_root) = (old.directory(old.root())?, new.directory(new.root())?);
    if old_root.digest == new_root.digest {
        return Ok(());
    }
    let mut path = Vec::new();
    let start = |directory| Some(Side { directory, done: 0 });
    let mut pairs = vec![Pair { old: start(old_root), new: start(new_root), path_bytes: 0 }];
    while let Some(pair) = pairs.last_mut() {
        path.truncate(pair.path_bytes);
        match step(old, new, pair, &path, &mut sink)? {
            Step::Done => {
                pairs.pop();
            }
            Step::Below { name, old: below_old, new: below_new } => {
                path.push(b'/');
                path.extend_from_slice(&name);
                let enter = |manifest: &Manifest, index: Option<DirectoryIndex>| index.map(|index| manifest.directory(index)).transpose();
                let (below_old, below_new) = (enter(old, below_old)?, enter(new, below_new)?);
                pairs.push(Pair { old: below_old.and_then(start), new: below_new.and_then(start), path_bytes: path.len() });
            }
        }
    }
    Ok(())
}

enum Step {
    Done,
    /// This folder comes next; the pair goes on after it.
    Below {
        name: Vec<u8>,
        old: Option<DirectoryIndex>,
        new: Option<DirectoryIndex>,
    },
}

/// Goes through a pair until a folder is to be entered.
fn step(old: &Manifest, new: &Manifest, pair: &mut Pair, path: &[u8], sink: &mut impl FnMut(Change<'_>)) -> Result<Step, ManifestError> {
    let rows = |manifest, side: &Option<Side>| match side {
        Some(side) => Manifest::entries(manifest, side.directory.index, side.done).peekable(),
        None => Manifest::entries(manifest, DirectoryIndex(0), u32::MAX).peekable(),
    };
    let (mut old_rows, mut new_rows) = (rows(old, &pair.old), rows(new, &pair.new));
    // The same id on both sides: it is the path's.
    let directory = pair.new.or(pair.old).map_or(ContentId(0), |side| side.directory.id);
    loop {
        let is_old = match (old_rows.peek(), new_rows.peek()) {
            (None, None) => return Ok(Step::Done),
            (Some(Ok(left)), Some(Ok(right))) => match left.name.cmp(&right.name) {
                std::cmp::Ordering::Less => Some(true),
                std::cmp::Ordering::Greater => Some(false),
                std::cmp::Ordering::Equal => None,
            },
            (Some(_), None | Some(Ok(_))) => Some(true),
            (None | Some(_), Some(_)) => Some(false),
        };
        let left = if is_old == Some(false) { None } else { old_rows.next().transpose()? };
        let right = if is_old == Some(true) { None } else { new_rows.next().transpose()? };
        for (side, entry) in [(&mut pair.old, &left), (&mut pair.new, &right)] {
            if let (Some(side), Some(_)) = (side, entry) {
                side.done += 1;
            }
        }
        if let Some(what) = compare(old, new, left.as_ref(), right.as_ref())? {
            let name = left.as_ref().or(right.as_ref()).map_or(&[][..], |entry| &entry.name);
            let directory_path = if path.is_empty() { b"/" } else { path };
            sink(Change { directory_path, directory, name, what });
        }
        let (below_old, below_new) = (folder_of(left.as_ref()), folder_of(right.as_ref()));
        let is_equal = match (below_old, below_new) {
            (Some(left), Some(right)) => old.directory(left)?.digest == new.directory(right)?.digest,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if let (false, Some(entry)) = (is_equal, left.or(right)) {
            return Ok(Step::Below { name: entry.name, old: below_old, new: below_new });
        }
    }
}

fn folder_of(entry: Option<&Entry>) -> Option<DirectoryIndex> {
    match &entry?.kind {
        EntryKind::Directory(index) => Some(*index),
        EntryKind::File { .. } => None,
    }
}

fn compare(old: &Manifest, new: &Manifest, left: Option<&Entry>, right: Option<&Entry>) -> Result<Option<What>, ManifestError> {
    Ok(match (left, right) {
        (None, None) => None,
        (Some(left), None) => Some(What::Removed { id: left.id }),
        (None, Some(right)) => Some(What::Added { id: right.id }),
        (Some(left), Some(right)) if left.id != right.id => Some(What::Replaced { old: left.id, new: right.id }),
        (Some(left), Some(right)) => {
            let is_same = left.kind == right.kind && origin(old, left)? == origin(new, right)?;
            let is_folder = folder_of(Some(left)).is_some();
            (!is_same && !is_folder).then_some(What::Touched { id: right.id })
        }
    })
}

/// Of a file: the source's name, and the key where the path doesn't spell it.
type OriginOf = (String, Option<Vec<u8>>);

/// `None` for a folder.
fn origin(manifest: &Manifest, entry: &Entry) -> Result<Option<OriginOf>, ManifestError> {
    manifest.with_body(entry.index, |body| match body {
        Body::Directory(_) => None,
        Body::File(file) => {
            let name = manifest.summary().sources.get(usize::from(file.source)).map(|source| source.name.clone());
            Some((name.unwrap_or_default(), file.key.map(<[u8]>::to_vec)))
        }
    })
}
