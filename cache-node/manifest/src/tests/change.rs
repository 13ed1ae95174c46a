//! What changes between manifests: the diff, the catalog, the removed entries.

use std::collections::BTreeMap;

use rand::RngExt;

use super::model::{Node, Rows, build, count, model, options, random_rows, random_version, seeded};
use crate::{Builder, Catalog, ContentId, Manifest, ManifestError, RemovedEntry, RemovedList, What, diff};
use forebay_source::{Key, Version};

/// Path to what changed there, from the two trees.
fn expected(mounts: &[&str], old: &Rows, new: &Rows) -> BTreeMap<Vec<u8>, &'static str> {
    let (old, new) = (model(mounts, old).0, model(mounts, new).0);
    let mut changes = BTreeMap::new();
    for path in old.keys().chain(new.keys()) {
        let what = match (old.get(path), new.get(path)) {
            (Some(_), None) => "removed",
            (None, Some(_)) => "added",
            (Some(Node::File(left)), Some(Node::File(right))) if left == right => continue,
            (Some(Node::File(left)), Some(Node::File(right))) if left.version == right.version => "touched",
            (Some(Node::Folder), Some(Node::Folder)) => continue,
            _ => "replaced",
        };
        changes.insert(path.clone(), what);
    }
    changes
}

fn actual(old: &Manifest, new: &Manifest) -> BTreeMap<Vec<u8>, &'static str> {
    let mut changes = BTreeMap::new();
    diff(old, new, |change| {
        let folder = if change.directory_path == b"/" { b"" } else { change.directory_path };
        let what = match change.what {
            What::Added { id } => {
                assert!(new.find(id).unwrap().is_some_and(|entry| entry.name == change.name));
                "added"
            }
            What::Removed { id } => {
                assert!(old.find(id).unwrap().is_some_and(|entry| entry.name == change.name));
                "removed"
            }
            What::Replaced { old: before, new: after } => {
                assert!(old.find(before).unwrap().is_some() && new.find(after).unwrap().is_some());
                "replaced"
            }
            What::Touched { id } => {
                assert!(old.find(id).unwrap().is_some() && new.find(id).unwrap().is_some());
                "touched"
            }
        };
        let path = [folder, b"/", change.name].concat();
        assert_eq!(changes.insert(path, what), None, "told once");
    })
    .unwrap();
    changes
}

fn change(random: &mut rand::rngs::StdRng, sources: u16, rows: &mut Rows) {
    let keys: Vec<_> = rows.keys().cloned().collect();
    for key in keys {
        match random.random_range(0..60) {
            0 => drop(rows.remove(&key)),
            1 => rows.get_mut(&key).unwrap().version = random_version(random).into_bytes(),
            2 => rows.get_mut(&key).unwrap().modified_seconds ^= 1,
            _ => {}
        }
    }
    let count = random.random_range(0..20);
    rows.extend(random_rows(random, sources, count));
}

#[test]
fn the_diff_is_that_of_the_trees() {
    let mut random = seeded();
    for round in 0..count(20, 1000) {
        let folder = tempfile::tempdir().unwrap();
        let mounts: &[&str] = if round % 2 == 0 { &["/"] } else { &["/", "/images"] };
        let sources = mounts.len() as u16;
        let old_rows = random_rows(&mut random, sources, 300);
        let mut new_rows = old_rows.clone();
        change(&mut random, sources, &mut new_rows);
        let old = build(folder.path(), mounts, 1, &old_rows);
        let new = build(folder.path(), mounts, 2, &new_rows);
        assert_eq!(actual(&old, &new), expected(mounts, &old_rows, &new_rows));
        assert_eq!(actual(&new, &old), expected(mounts, &new_rows, &old_rows));
        assert_eq!(actual(&old, &old), BTreeMap::new());
    }
}

fn finish(catalog: &Catalog, sequence: u64) -> std::path::PathBuf {
    Builder::new(catalog.directory(), options(&["/"], sequence)).unwrap().finish().unwrap()
}

#[test]
fn the_catalog_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(folder.path()).unwrap();
    assert!(catalog.current().is_none());
    for sequence in [3, 5, 9] {
        assert_eq!(catalog.accept(&finish(&catalog, sequence)).unwrap().summary().sequence, sequence);
    }
    assert!(matches!(catalog.accept(&finish(&catalog, 8)), Err(ManifestError::NotNewer { .. })));
    assert!(matches!(catalog.accept(&finish(&catalog, 9)), Err(ManifestError::NotNewer { .. })));
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|row| row.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), [Builder::file_name(1, 5), Builder::file_name(1, 9)]);
    std::fs::write(folder.path().join("x.partial"), "left by a killed builder").unwrap();
    let catalog = Catalog::open(folder.path()).unwrap();
    assert_eq!((catalog.newest(), names().len()), ((1, 9), 2));
    let (current, before) = (catalog.current().unwrap(), catalog.before(&catalog.current().unwrap()).unwrap());
    assert_eq!(before.summary().sequence, 5);
    assert!(catalog.before(&before).is_none());
    catalog.set_aside(&current);
    assert_eq!(catalog.current().unwrap().summary().sequence, 5);
    let catalog = Catalog::open(folder.path()).unwrap();
    assert_eq!((catalog.newest(), catalog.current().unwrap().summary().sequence), ((1, 9), 5));
    assert!(matches!(catalog.accept(&finish(&catalog, 7)), Err(ManifestError::NotNewer { .. })));
    catalog.accept(&finish(&catalog, 10)).unwrap();
    assert_eq!(names(), [Builder::file_name(1, 5), Builder::file_name(1, 10)]);
}

#[test]
fn a_manifest_damaged_on_disk_gives_way_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(folder.path()).unwrap();
    catalog.accept(&finish(&catalog, 1)).unwrap();
    let path = catalog.accept(&finish(&catalog, 2)).unwrap().file().to_owned();
    std::fs::write(&path, &std::fs::read(&path).unwrap()[..100]).unwrap();
    let catalog = Catalog::open(folder.path()).unwrap();
    assert_eq!((catalog.newest(), catalog.current().unwrap().summary().sequence), ((1, 2), 1));
}

fn removed(number: u64) -> RemovedEntry {
    RemovedEntry {
        id: ContentId(number * 4),
        path: format!("/a/{number}").into_bytes(),
        source_name: "s3://bucket/".to_owned(),
        key: Key(format!("a/{number}\u{0}").into()),
        size: number,
        modified_seconds: -1,
        version: Version("v".into()),
    }
}

#[test]
fn removed_entries_outlive_a_restart_and_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("removed");
    let list = RemovedList::open_with(&path, 100).unwrap();
    for number in 1..=20_000 {
        list.insert(&removed(number)).unwrap();
    }
    list.remove(ContentId(4 * 19_999)).unwrap();
    list.remove(ContentId(4)).unwrap();
    for list in [list, RemovedList::open_with(&path, 100).unwrap()] {
        assert_eq!(list.len(), 99);
        assert_eq!(list.get(ContentId(4 * 20_000 + 1)).unwrap(), Some(removed(20_000)), "bit 0 is the mode's");
        assert_eq!(list.get(ContentId(4 * 19_999)).unwrap(), None);
        assert_eq!(list.get(ContentId(4 * 19_900)).unwrap(), None);
        assert_eq!(list.get(ContentId(4 * 19_901)).unwrap(), Some(removed(19_901)));
    }
    assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20, "what is void is given back");
}

#[test]
fn a_damaged_removed_entry_is_not_there() {
    let mut random = seeded();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("removed");
    let list = RemovedList::open(&path).unwrap();
    (1..=10).for_each(|number| list.insert(&removed(number)).unwrap());
    let whole = std::fs::read(&path).unwrap();
    for _ in 0..count(300, 10_000) {
        let mut bytes = whole.clone();
        let bit = random.random_range(0..bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes.truncate(random.random_range(0..=bytes.len()));
        std::fs::write(&path, &bytes).unwrap();
        let list = RemovedList::open(&path).unwrap();
        for number in 1..=10 {
            assert!(list.get(ContentId(4 * number)).unwrap().is_none_or(|entry| entry == removed(number)));
        }
    }
    std::fs::write(&path, &whole).unwrap();
    let list = RemovedList::open(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[30] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(list.get(ContentId(4)).unwrap(), None, "damaged after it was opened");
}
