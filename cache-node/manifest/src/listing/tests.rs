//! Listing into a manifest: whatever the interruptions, the result is that of the whole bucket.
#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use rand::RngExt;

use super::log::ListingLog;
use crate::tests::model::{Rows, build, options, put, seeded};
use crate::{Builder, Manifest, SourceIndex};
use forebay_source::listing::{ListEvent, RangeId};
use forebay_source::{Key, Object, Version};

fn objects(keys: &[&str]) -> Vec<Object> {
    let object = |key: &&str| Object {
        key: Key(Bytes::copy_from_slice(key.as_bytes())),
        size: 7,
        modified: std::time::UNIX_EPOCH,
        version: Version("v".into()),
    };
    keys.iter().map(object).collect()
}

fn page(range: u32, keys: &[&str]) -> ListEvent {
    ListEvent::Page { range: RangeId(range), objects: objects(keys), after: Bytes::copy_from_slice(keys.last().unwrap().as_bytes()) }
}

fn events() -> Vec<ListEvent> {
    vec![
        page(0, &["a", "b/c"]),
        ListEvent::Split { from: RangeId(0), at: "m".into(), into: RangeId(1) },
        page(1, &["n/1", "n/2"]),
        ListEvent::Split { from: RangeId(1), at: "q".into(), into: RangeId(2) },
        page(2, &["r", "s"]),
        page(0, &["c//d", "m"]),
        ListEvent::Done { range: RangeId(0) },
        page(2, &["t"]),
        page(1, &["o", "q"]),
        ListEvent::Done { range: RangeId(2) },
        ListEvent::Done { range: RangeId(1) },
    ]
}

fn keys(log: &ListingLog) -> Vec<String> {
    let mut keys = Vec::new();
    log.visit(|key, _| {
        keys.push(String::from_utf8(key.to_vec()).unwrap());
        Ok(())
    })
    .unwrap();
    keys
}

#[test]
fn interleaved_ranges_come_back_in_key_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = ListingLog::open(&folder.path().join("log"), "s3://b/", 100, 60).unwrap();
    events().iter().for_each(|event| log.append(event).unwrap());
    assert!(log.checkpoint().is_done());
    assert_eq!(keys(&log), ["a", "b/c", "c//d", "m", "n/1", "n/2", "o", "q", "r", "s", "t"]);
    let mut builder = Builder::new(folder.path(), options(&["/"], 1)).unwrap();
    log.visit(|key, file| builder.push_file(SourceIndex(0), key, file)).unwrap();
    let manifest = Manifest::open(&builder.finish().unwrap()).unwrap();
    let mut rows = Rows::new();
    keys(&log).iter().for_each(|key| put(&mut rows, 0, key.as_bytes(), 7, "v"));
    rows.values_mut().for_each(|row| row.modified_seconds = 0);
    crate::tests::model::check(&manifest, &["/"], &rows);
    assert_eq!(build(folder.path(), &["/"], 2, &rows).summary().digest, manifest.summary().digest);
}

#[test]
fn a_log_cut_anywhere_is_gone_on_with_from_its_last_whole_record() {
    let mut random = seeded();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut log = ListingLog::open(&path, "s3://b/", 100, 60).unwrap();
    let mut states = vec![(log.checkpoint().clone(), std::fs::metadata(&path).unwrap().len())];
    for event in events() {
        log.append(&event).unwrap();
        states.push((log.checkpoint().clone(), std::fs::metadata(&path).unwrap().len()));
    }
    drop(log);
    let whole = std::fs::read(&path).unwrap();
    for length in (0..=whole.len()).rev() {
        let mut bytes = whole[..length].to_vec();
        if random.random_bool(0.5) {
            bytes.extend(std::iter::repeat_n(0xee, random.random_range(0..40)));
        }
        std::fs::write(&path, &bytes).unwrap();
        let log = ListingLog::open(&path, "s3://b/", 150, 60).unwrap();
        let (expected, _) = states.iter().rev().find(|(_, end)| *end <= length as u64).unwrap_or(&states[0]);
        assert_eq!(log.checkpoint(), expected, "{length} bytes");
    }
}

#[test]
fn a_log_of_another_source_or_too_old_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    for (name, now, rows) in [("s3://b/", 100, 0), ("s3://b/", 160, 2), ("s3://b/", 161, 0), ("s3://c/", 161, 0), ("s3://c/", 160, 0)] {
        let mut log = ListingLog::open(&path, name, now, 60).unwrap();
        assert_eq!(log.rows(), rows, "{name} at {now}");
        if rows == 0 {
            log.append(&page(0, &["a", "b"])).unwrap();
        }
    }
}
