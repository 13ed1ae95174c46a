//! The tree that a manifest must show, made with maps, and random objects to make it from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::key::{self, Mapped};
use crate::{BuildOptions, Builder, EntryKind, Manifest, MountedSource, SourceIndex};

/// A path in the model, and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Folder,
    File(Row),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) source: u16,
    pub(crate) key: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) modified_seconds: i64,
    pub(crate) version: Vec<u8>,
}

pub(crate) type Rows = BTreeMap<(u16, Vec<u8>), Row>;

/// Seed of this run: printed, and taken from FOREBAY_SEED.
pub(crate) fn seeded() -> StdRng {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("FOREBAY_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

pub(crate) fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("FOREBAY_TORTURE").is_some() { long } else { short }
}

pub(crate) fn options(mounts: &[&str], sequence: u64) -> BuildOptions {
    let sources = mounts
        .iter()
        .enumerate()
        .map(|(position, mount)| MountedSource { name: format!("s3://bucket-{position}/prefix/"), mount_path: (*mount).to_owned() })
        .collect();
    BuildOptions { term: 1, sequence, created_seconds: 1_700_000_000, sources }
}

pub(crate) fn build_with(directory: &Path, options: BuildOptions, rows: &Rows, mask: u64) -> Manifest {
    let mut builder = Builder::new(directory, options).unwrap().with_id_mask(mask);
    for row in rows.values() {
        builder.push_row(SourceIndex(row.source), &row.key, row.size, row.modified_seconds, &row.version).unwrap();
    }
    Manifest::open(&builder.finish().unwrap()).unwrap()
}

pub(crate) fn build(directory: &Path, mounts: &[&str], sequence: u64, rows: &Rows) -> Manifest {
    build_with(directory, options(mounts, sequence), rows, u64::MAX)
}

/// Adds a row, or replaces that of the key.
pub(crate) fn put(rows: &mut Rows, source: u16, key: &[u8], size: u64, version: &str) {
    let row = Row { source, key: key.to_vec(), size, modified_seconds: 1_600_000_000 + size as i64 % 977, version: version.into() };
    rows.insert((source, key.to_vec()), row);
}

/// A key of few letters and many oddities, so that keys collide.
pub(crate) fn random_key(random: &mut StdRng) -> Vec<u8> {
    const PARTS: [&[u8]; 22] = [
        b"a",
        b"b",
        b"a-b",
        b"a!",
        b"ab",
        b"",
        b".",
        b"..",
        b"\0",
        b"a\0b",
        b"%2F",
        b"%2E",
        b"%2E%2E",
        b"%00",
        b"a%file",
        b"b%file",
        b"\n",
        b"\xff\xfe",
        b"caf\xc3\xa9",
        b"images",
        b"a%00b",
        b"...",
    ];
    let mut key = Vec::new();
    for position in 0..random.random_range(1..5) {
        if position > 0 {
            key.push(b'/');
        }
        match random.random_range(0..40) {
            0 => key.extend(std::iter::repeat_n(b'x', random.random_range(240..300))),
            1 => key.extend("\u{e9}".repeat(random.random_range(100..160)).as_bytes()),
            2 => key.extend((0..random.random_range(1..9)).map(|_| random.random::<u8>())),
            3 => key.extend(format!("n{:05}.JPEG", random.random_range(0..1000)).as_bytes()),
            _ => key.extend_from_slice(PARTS[random.random_range(0..PARTS.len())]),
        }
    }
    if random.random_bool(0.1) {
        key.push(b'/');
    }
    if random.random_bool(0.01) {
        key = b"d/".repeat(random.random_range(500..600));
        key.push(b'f');
    }
    key
}

pub(crate) fn random_version(random: &mut StdRng) -> String {
    match random.random_range(0..4) {
        0 => format!("{:032x}-{}", random.random::<u128>(), random.random::<u32>()),
        1 => format!("{}-{}", random.random::<u32>(), random.random::<u16>()),
        _ => format!("{:032x}", random.random::<u128>()),
    }
}

pub(crate) fn random_rows(random: &mut StdRng, sources: u16, count: usize) -> Rows {
    let mut rows = Rows::new();
    for _ in 0..count {
        let size = random.random::<u64>().unbounded_shr(random.random_range(0..80));
        let (source, key) = (random.random_range(0..sources), random_key(random));
        let modified_seconds = if random.random_bool(0.1) { random.random() } else { 1_700_000_000 + random.random_range(0..100) };
        let version = random_version(random).into_bytes();
        rows.insert((source, key.clone()), Row { source, key, size, modified_seconds, version });
    }
    rows
}

/// The rules of `key`, with maps. Also how many objects are in no path.
pub(crate) fn model(mounts: &[&str], rows: &Rows) -> (BTreeMap<Vec<u8>, Node>, u64) {
    let mut unreachable = 0;
    let mut folders: BTreeSet<Vec<u8>> = BTreeSet::new();
    // Best first: of equal paths, plain before odd, then the deeper mount, then the first in key order.
    let mut files: Vec<(Vec<u8>, bool, usize, Row)> = Vec::new();
    let prefix_of = |source: u16| mounts[usize::from(source)].trim_end_matches('/').as_bytes().to_vec();
    let mut add_folders = |path: &[u8], itself: bool| {
        for (at, _) in path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0) {
            folders.insert(path[..at].to_vec());
        }
        if itself && !path.is_empty() {
            folders.insert(path.to_vec());
        }
    };
    for mount in mounts {
        add_folders(mount.trim_end_matches('/').as_bytes(), true);
    }
    for row in rows.values() {
        let join = |path: &[u8]| [prefix_of(row.source).as_slice(), b"/", path].concat();
        match key::to_path(&row.key, row.size) {
            Mapped::Plain(path) => files.push((join(path), false, usize::MAX - prefix_of(row.source).len(), row.clone())),
            Mapped::Renamed(path, _) => files.push((join(&path), true, 0, row.clone())),
            Mapped::Folder(path) if path.is_empty() => {}
            Mapped::Folder(path) => add_folders(&join(&path), true),
            Mapped::Unreachable(_) => unreachable += 1,
        }
    }
    files.sort_by(|left, right| (&left.0, left.1, left.2).cmp(&(&right.0, right.1, right.2)));
    let before = files.len();
    files.dedup_by(|later, earlier| later.0 == earlier.0);
    unreachable += (before - files.len()) as u64;
    for (path, ..) in &files {
        add_folders(path, false);
    }
    let mut tree: BTreeMap<Vec<u8>, Node> = folders.iter().map(|path| (path.clone(), Node::Folder)).collect();
    let (beside, plain): (Vec<_>, Vec<_>) = files.into_iter().partition(|(path, ..)| folders.contains(path));
    for (path, _, _, row) in plain {
        tree.insert(path, Node::File(row));
    }
    for (path, _, _, row) in beside {
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap() + 1;
        let renamed = [&path[..slash], &key::beside_folder(&path[slash..])].concat();
        if let std::collections::btree_map::Entry::Vacant(e) = tree.entry(renamed) {
            e.insert(Node::File(row));
        } else {
            unreachable += 1;
        }
    }
    (tree, unreachable)
}

/// Compares every path, every way to reach it, and the counts.
pub(crate) fn check(manifest: &Manifest, mounts: &[&str], rows: &Rows) {
    let (expected, unreachable) = model(mounts, rows);
    let mut seen = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut open = vec![(manifest.root(), Vec::new())];
    while let Some((directory, path)) = open.pop() {
        let folder = manifest.directory(directory).unwrap();
        assert_eq!(manifest.directory_path(directory).unwrap(), if path.is_empty() { b"/".to_vec() } else { path.clone() });
        let mut before: Option<Vec<u8>> = None;
        let mut visited = Vec::new();
        manifest
            .visit(directory, 0, |name, found| {
                visited.push((name.to_vec(), found));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(visited.len(), folder.count as usize);
        for (position, entry) in manifest.entries(directory, 0).enumerate() {
            let entry = entry.unwrap();
            assert!(before.as_ref().is_none_or(|before| *before < entry.name), "names ascend");
            assert_eq!((&visited[position].0, visited[position].1.id), (&entry.name, entry.id));
            assert_eq!(manifest.entry_found(entry.index).unwrap(), visited[position].1);
            assert_eq!(manifest.lookup_found(directory, &entry.name).unwrap(), Some(visited[position].1));
            assert_eq!(manifest.lookup(directory, &entry.name).unwrap().as_ref(), Some(&entry));
            assert_eq!(manifest.find(entry.id).unwrap().as_ref(), Some(&entry));
            assert_eq!(manifest.find_found(crate::ContentId(entry.id.0 | 1)).unwrap(), Some(visited[position].1), "bit 0 is the mode's");
            assert_eq!(manifest.entry(entry.index).unwrap(), entry);
            assert_eq!(manifest.entries(directory, position as u32).next().unwrap().unwrap(), entry);
            let mut absent = entry.name.clone();
            absent.push(b'!');
            let is_absent = !visited.iter().any(|(name, _)| *name == absent);
            assert_eq!(manifest.lookup_found(directory, &absent).unwrap().is_none(), is_absent);
            assert!(ids.insert(entry.id), "ids are unique");
            assert!(entry.id.0 > 1 && entry.id.0 & 1 == 0);
            let whole = [path.as_slice(), b"/", &entry.name].concat();
            assert_eq!(manifest.path(entry.index).unwrap(), whole);
            let node = match &entry.kind {
                EntryKind::Directory(child) => {
                    assert!(entry.id.is_directory());
                    assert_eq!(manifest.directory(*child).unwrap().id, entry.id);
                    assert_eq!(manifest.directory(*child).unwrap().parent, directory);
                    open.push((*child, whole.clone()));
                    Node::Folder
                }
                EntryKind::File { size, modified_seconds, version } => {
                    assert!(!entry.id.is_directory());
                    let object = manifest.object(entry.index).unwrap();
                    assert_eq!((object.object.size, &object.version), (*size, version));
                    Node::File(Row {
                        source: object.source.0,
                        key: object.key.0.to_vec(),
                        size: *size,
                        modified_seconds: *modified_seconds,
                        version: version.0.to_vec(),
                    })
                }
            };
            seen.insert(whole, node);
            before = Some(entry.name);
        }
    }
    assert_eq!(seen, expected);
    let summary = manifest.summary();
    assert_eq!(summary.problems.unreachable(), unreachable, "{:?}", summary.problems);
    assert_eq!(summary.files, expected.values().filter(|node| matches!(node, Node::File(_))).count() as u64);
    assert_eq!(summary.directories, 1 + expected.values().filter(|node| matches!(node, Node::Folder)).count() as u64);
}
