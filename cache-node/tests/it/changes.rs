//! Objects replaced, deleted and added behind the back of a mount, under open files, through the real program and the real kernel.
//! The sync's interval is long: what is right again within a second is so because a fill noticed, what a refresh shows because it listed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::crash::{seed, versions};
use crate::fuse::can_mount;
use crate::fuse::tree::first_wrong;
use crate::laptop::Laptop;

const FILES: u64 = 24;
const BYTES: u64 = 90_000;
/// What SEMANTICS S-05 says.
const RIGHT_WITHIN: Duration = Duration::from_secs(1);

fn changes() -> u32 {
    if std::env::var_os("FOREBAY_TORTURE").is_some() { 1000 } else { 60 }
}

fn size(version: u64) -> u64 {
    BYTES + version % 7
}

/// Puts `version` of a file in place, in one step.
fn put(laptop: &Laptop, file: u64, version: u64) {
    versions::put(&laptop.path("bucket"), &laptop.path("partial"), &format!("f{file}"), versions::id(file, version), size(version));
}

fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}

/// Reads all of it: right bytes of that version, or the error.
fn read(path: &Path, file: u64, version: u64) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    Ok(bytes.len() as u64 == size(version) && first_wrong(versions::id(file, version), 0, &bytes).is_none())
}

/// Waits for the condition, no longer than a name may be wrong.
fn within(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < RIGHT_WITHIN, "{what} within {RIGHT_WITHIN:?}");
        std::thread::yield_now();
    }
}

#[test]
fn changed_objects_are_right_within_a_second_and_no_open_file_mixes_versions() {
    if !can_mount() {
        return;
    }
    let mut random = SmallRng::seed_from_u64(seed());
    let laptop = Laptop::with("  sync: { interval: 1h }\n");
    let mut versions = vec![Some(0); FILES as usize];
    for file in 0..FILES {
        put(&laptop, file, 0);
    }
    laptop.mount();
    laptop.refresh();
    let mut next = 0;
    for change in 0..changes() {
        let file = random.random_range(0..FILES);
        let path = laptop.path("data").join(format!("f{file}"));
        let at = file as usize;
        next += 1;
        let Some(version) = versions[at] else {
            assert_eq!(File::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound, "change {change}");
            put(&laptop, file, next);
            laptop.refresh();
            within("an added file", || read(&path, file, next).is_ok_and(|right| right));
            versions[at] = Some(next);
            continue;
        };
        let open = File::open(&path).unwrap();
        let id = versions::id(file, version);
        // Cached or not: a whole read brings the file here, and then the old version goes on.
        let is_cached = random.random_bool(0.5);
        let mut bytes = vec![0; size(version) as usize];
        if is_cached {
            open.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(first_wrong(id, 0, &bytes), None, "change {change}");
        } else {
            laptop.free_path(&format!("/f{file}"));
            rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        let is_deleted = random.random_bool(0.3);
        if is_deleted {
            fs::remove_file(laptop.path("bucket").join(format!("f{file}"))).unwrap();
        } else {
            put(&laptop, file, next);
        }
        let noticed = match open.read_exact_at(&mut bytes, 0) {
            Ok(()) => {
                assert_eq!(first_wrong(id, 0, &bytes), None, "change {change}: an open file mixes versions");
                false
            }
            Err(error) => {
                assert!(is_stale(&error), "change {change}: {error}");
                assert!(!is_cached, "change {change}: what is cached stays readable");
                true
            }
        };
        if !noticed {
            laptop.refresh();
        }
        if is_deleted {
            within("a deleted name is gone", || File::open(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
            versions[at] = None;
        } else {
            within("the new version", || {
                read(&path, file, next).unwrap_or_else(|error| {
                    assert!(is_stale(&error), "change {change}: {error}");
                    false
                })
            });
            versions[at] = Some(next);
        }
        // The file that is open all the while: its own version still, or nothing.
        if let Err(error) = open.read_exact_at(&mut bytes, 0) {
            assert!(is_stale(&error), "change {change}: {error}");
        } else {
            assert_eq!(first_wrong(id, 0, &bytes), None, "change {change}: after the change");
        }
    }
    laptop.refresh();
    for (file, version) in versions.iter().enumerate() {
        let path = laptop.path("data").join(format!("f{file}"));
        match version {
            Some(version) => assert!(read(&path, file as u64, *version).unwrap(), "file {file}"),
            None => assert_eq!(fs::metadata(&path).unwrap_err().kind(), io::ErrorKind::NotFound),
        }
    }
}
