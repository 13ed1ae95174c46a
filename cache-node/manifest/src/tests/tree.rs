//! Whole trees: odd keys, joined sources, equal ids, deep and wide folders.

use rand::RngExt;

use super::model::{Rows, build, build_with, check, count, model, options, put, random_rows, seeded};
use crate::{Builder, ManifestError, SourceIndex};

#[test]
fn random_and_odd_keys_are_reachable_by_their_rule_or_counted() {
    let mut random = seeded();
    for _ in 0..count(12, 200) {
        let folder = tempfile::tempdir().unwrap();
        let rows = random_rows(&mut random, 1, 1000);
        check(&build(folder.path(), &["/"], 1, &rows), &["/"], &rows);
    }
}

#[test]
fn joined_sources_make_one_tree() {
    let mut random = seeded();
    let joins: [&[&str]; 5] =
        [&["/", "/images"], &["/a", "/a/b", "/a-b"], &["/images", "/"], &["/x/y/z"], &["/a", "/", "/a/a", "/empty/one"]];
    for mounts in joins.iter().cycle().take(count(10, 200)) {
        let folder = tempfile::tempdir().unwrap();
        let rows = random_rows(&mut random, mounts.len().min(3) as u16, 300);
        check(&build(folder.path(), mounts, 1, &rows), mounts, &rows);
    }
}

#[test]
fn an_empty_listing_is_an_empty_folder() {
    let folder = tempfile::tempdir().unwrap();
    let rows = Rows::new();
    let manifest = build(folder.path(), &["/"], 1, &rows);
    check(&manifest, &["/"], &rows);
    assert_eq!(manifest.lookup(manifest.root(), b"a").unwrap(), None);
    assert_eq!(manifest.find(crate::ContentId(8)).unwrap(), None);
    assert!(matches!(manifest.entry(crate::EntryIndex(0)), Err(ManifestError::OutOfRange { .. })));
    assert!(matches!(manifest.directory(crate::DirectoryIndex(1)), Err(ManifestError::OutOfRange { .. })));
    check(&build(folder.path(), &["/a/b"], 2, &rows), &["/a/b"], &rows);
}

#[test]
fn entries_with_equal_ids_are_told_apart_whatever_their_order() {
    let mut random = seeded();
    for _ in 0..count(5, 100) {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = Rows::new();
        for number in 0..1500 {
            put(&mut rows, 0, format!("d{}/{number}", number % 40).as_bytes(), random.random_range(1..1000), &format!("{number}"));
        }
        let manifest = build_with(folder.path(), options(&["/"], 1), &rows, 0xffff << 48);
        check(&manifest, &["/"], &rows);
    }
}

#[test]
fn a_deep_and_a_wide_tree_spill_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = Rows::new();
    for number in 0..count(30_000, 100_000) {
        put(&mut rows, 0, format!("wide/{number:09}-{:0200}", number % 7).as_bytes(), 1, "v");
        if number % 10 == 0 {
            put(&mut rows, 0, format!("one-each/{number}/file").as_bytes(), 1, "v");
        }
    }
    for depth in 1..500 {
        put(&mut rows, 0, &[b"d/".repeat(depth).as_slice(), b"f"].concat(), 1, "v");
        put(&mut rows, 0, &[b"d/".repeat(depth).as_slice(), b"z"].concat(), 1, "v");
    }
    check(&build(folder.path(), &["/"], 1, &rows), &["/"], &rows);
}

#[test]
fn many_odd_keys_are_sorted_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = Rows::new();
    for number in 0..count(60_000, 200_000) {
        put(&mut rows, 0, format!("/{}//{number}-{:0100}", number % 10, 0).as_bytes(), 1, "v");
    }
    check(&build(folder.path(), &["/"], 1, &rows), &["/"], &rows);
}

#[test]
fn file_and_folder_of_one_name_are_both_there() {
    let mut rows = Rows::new();
    for key in ["a", "a/b", "a-b", "a!", "b", "b/c", "b%file"] {
        put(&mut rows, 0, key.as_bytes(), 7, key);
    }
    let paths: Vec<String> = model(&["/"], &rows).0.into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    assert_eq!(paths, ["/a", "/a!", "/a%file", "/a-b", "/a/b", "/b", "/b%file", "/b/c"]);
    let folder = tempfile::tempdir().unwrap();
    check(&build(folder.path(), &["/"], 1, &rows), &["/"], &rows);
}

#[test]
fn keys_out_of_order_and_bad_mounts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(folder.path(), options(&["/"], 1)).unwrap();
    builder.push_row(SourceIndex(0), b"b", 1, 1, b"v").unwrap();
    for key in [b"a", b"b"] {
        assert!(matches!(builder.push_row(SourceIndex(0), key, 1, 1, b"v"), Err(ManifestError::Build { .. })));
    }
    assert!(matches!(builder.push_row(SourceIndex(1), b"c", 1, 1, b"v"), Err(ManifestError::Build { .. })));
    for mounts in [&["images"][..], &["/a/"], &["/a//b"], &["/.."], &["/a", "/a"], &[]] {
        assert!(matches!(Builder::new(folder.path(), options(mounts, 1)), Err(ManifestError::Build { .. })), "{mounts:?}");
    }
}

#[test]
fn equal_listings_have_equal_digests() {
    let mut random = seeded();
    let folder = tempfile::tempdir().unwrap();
    let mut rows = random_rows(&mut random, 2, 300);
    let mounts = &["/", "/images"];
    put(&mut rows, 0, b"one/more", 5, "v");
    let digest = build(folder.path(), mounts, 1, &rows).summary().digest;
    assert_eq!(build(folder.path(), mounts, 2, &rows).summary().digest, digest);
    put(&mut rows, 0, b"one/more", 6, "v");
    assert_ne!(build(folder.path(), mounts, 3, &rows).summary().digest, digest);
    rows.remove(&(0, b"one/more".to_vec()));
    assert_ne!(build(folder.path(), mounts, 4, &rows).summary().digest, digest);
}
