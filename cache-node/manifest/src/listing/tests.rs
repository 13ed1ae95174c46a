//! Listing into a manifest: whatever the interruptions, the result is that of the whole bucket.
#![expect(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use rand::RngExt;

use super::handover::{self, Place};
use super::log::{Begun, ListingLog, Wanted};
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

/// A listing of that source that begins now, or goes on with one that is at most 60 seconds old.
fn wanted(name: &str, now: i64) -> Wanted {
    let anew = Begun { at: now, name: name.to_owned(), listing: 1 + now as u64, number: (7, 3) };
    Wanted { anew, age_max: 60, newest: (7, 2) }
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
    let mut log = ListingLog::open(&folder.path().join("log"), &wanted("s3://b/", 100)).unwrap();
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
    let mut log = ListingLog::open(&path, &wanted("s3://b/", 100)).unwrap();
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
        let log = ListingLog::open(&path, &wanted("s3://b/", 150)).unwrap();
        let (expected, _) = states.iter().rev().find(|(_, end)| *end <= length as u64).unwrap_or(&states[0]);
        assert_eq!(log.checkpoint(), expected, "{length} bytes");
    }
}

#[test]
fn a_log_of_another_source_or_too_old_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    for (name, now, rows) in [("s3://b/", 100, 0), ("s3://b/", 160, 2), ("s3://b/", 161, 0), ("s3://c/", 161, 0), ("s3://c/", 160, 0)] {
        let mut log = ListingLog::open(&path, &wanted(name, now)).unwrap();
        assert_eq!(log.rows(), rows, "{name} at {now}");
        if rows == 0 {
            log.append(&page(0, &["a", "b"])).unwrap();
        }
    }
}

#[test]
fn a_log_that_would_become_an_older_manifest_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    ListingLog::open(&path, &wanted("s3://b/", 100)).unwrap().append(&page(0, &["a", "b"])).unwrap();
    for (newest, rows) in [((7, 2), 2), ((6, 9), 2), ((7, 3), 0)] {
        let log = ListingLog::open(&path, &Wanted { newest, ..wanted("s3://b/", 110) }).unwrap();
        assert_eq!(log.rows(), rows, "{newest:?}");
    }
}

#[test]
fn what_was_handed_over_at_any_moment_is_gone_on_with() {
    let mut random = seeded();
    let (lister, heir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (path, handed) = (super::log_path(lister.path(), 1), super::log_path(heir.path(), 1));
    assert_eq!(handover::part(lister.path(), 1, Place::default(), 100).unwrap(), None);
    let mut log = ListingLog::open(&path, &wanted("s3://b/", 100)).unwrap();
    let mut place = Place::default();
    // Of an earlier one of the heir's own.
    ListingLog::open(&handed, &wanted("s3://b/", 50)).unwrap().append(&page(0, &["z"])).unwrap();
    for event in events() {
        log.append(&event).unwrap();
        while let Some(mut part) = handover::part(lister.path(), 1, place, random.random_range(40..400)).unwrap() {
            assert_eq!((part.listing, part.number, part.began), (101, (7, 3), 100));
            (part.number, part.began) = ((7, 9), 117);
            let next = handover::keep(heir.path(), 1, "s3://b/", place, &part).unwrap().unwrap();
            // Less than a whole record came: the next piece may be longer.
            place = next;
            if random.random_bool(0.1) {
                // A heir that was started again knows nothing.
                place = Place::default();
            }
        }
        let kept = ListingLog::open(&handed, &Wanted { newest: (7, 8), ..wanted("s3://b/", 150) }).unwrap();
        assert_eq!((kept.checkpoint(), kept.begun().number, kept.begun().at), (log.checkpoint(), (7, 9), 117));
        assert_eq!(keys(&kept), keys(&log));
    }
    // While the heir lists itself nothing is kept.
    let own = ListingLog::open(&handed, &wanted("s3://b/", 150)).unwrap();
    let part = handover::part(lister.path(), 1, Place::default(), 1 << 20).unwrap().unwrap();
    assert_eq!(handover::keep(heir.path(), 1, "s3://b/", Place::default(), &part).unwrap(), None);
    drop(own);
    // What doesn't follow isn't kept either.
    let later = handover::Part { start: 7, ..part };
    assert_eq!(handover::keep(heir.path(), 1, "s3://b/", Place { listing: 101, have: 8 }, &later).unwrap(), Some(Place::default()));
    std::fs::rename(&handed, super::log_path(heir.path(), 0)).unwrap();
    handover::forget(heir.path()).unwrap();
    assert!(!super::log_path(heir.path(), 0).exists());
}
