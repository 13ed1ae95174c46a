//! Damaged files: whatever bit is wrong, it is told before its bytes are used.

use rand::RngExt;

use super::model::{Rows, build, count, put, random_rows, seeded};
use crate::{DirectoryIndex, EntryIndex, Manifest, ManifestError};

/// Reads all of the file in all ways; the first error ends it.
fn read_everything(manifest: &Manifest) -> Result<(), ManifestError> {
    for number in 0..manifest.summary().directories as u32 {
        manifest.directory_path(DirectoryIndex(number))?;
        for entry in manifest.entries(DirectoryIndex(number), 0) {
            let entry = entry?;
            manifest.find(entry.id)?;
            manifest.lookup(DirectoryIndex(number), &entry.name)?;
            manifest.path(EntryIndex(entry.index.0))?;
        }
    }
    Ok(())
}

#[test]
fn every_flipped_bit_is_detected_before_its_page_is_used() {
    let mut random = seeded();
    let folder = tempfile::tempdir().unwrap();
    let mut rows = random_rows(&mut random, 1, 400);
    for number in 0..400 {
        put(&mut rows, 0, format!("plain/{number}").as_bytes(), number, &format!("{number:032x}"));
    }
    let path = build(folder.path(), &["/"], 1, &rows).file().to_owned();
    let whole = std::fs::read(&path).unwrap();
    let victim = folder.path().join("victim");
    for _ in 0..count(500, 10_000) {
        let mut bytes = whole.clone();
        let bit = random.random_range(0..bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&victim, &bytes).unwrap();
        let told = match Manifest::open(&victim) {
            Err(error) => error.is_damage(),
            // Padding, and pages that this reading doesn't touch, are found by the check of all pages.
            Ok(manifest) => {
                let read = read_everything(&manifest);
                assert!(read.as_ref().err().is_none_or(ManifestError::is_damage), "{read:?}");
                manifest.verify().is_err_and(|error| error.is_damage())
            }
        };
        assert!(told, "bit {bit} of {}", bytes.len());
    }
}

#[test]
fn a_cut_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = Rows::new();
    put(&mut rows, 0, b"a/b", 1, "v");
    let path = build(folder.path(), &["/"], 1, &rows).file().to_owned();
    let whole = std::fs::read(&path).unwrap();
    let victim = folder.path().join("victim");
    for length in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        std::fs::write(&victim, &whole[..length]).unwrap();
        assert!(Manifest::open(&victim).is_err_and(|error| error.is_damage()), "{length} bytes");
    }
    std::fs::write(&victim, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(Manifest::open(&victim).is_err_and(|error| error.is_damage()));
}

/// As a disk does that gives an error for a page: what was not looked at yet fails, and the process goes on.
#[test]
fn a_file_cut_while_it_is_mapped_fails_what_was_not_read_and_ends_nothing() {
    let mut random = seeded();
    let folder = tempfile::tempdir().unwrap();
    let mut rows = random_rows(&mut random, 1, 400);
    for number in 0..4000 {
        put(&mut rows, 0, format!("plain/{number}").as_bytes(), number, &format!("{number:032x}"));
    }
    let path = build(folder.path(), &["/"], 1, &rows).file().to_owned();
    let whole = std::fs::read(&path).unwrap();
    let victim = folder.path().join("victim");
    for pages in [1, 2, whole.len() as u64 / 4096 / 2] {
        std::fs::write(&victim, &whole).unwrap();
        let manifest = Manifest::open(&victim).unwrap();
        std::fs::File::options().write(true).open(&victim).unwrap().set_len(pages * 4096).unwrap();
        assert!(read_everything(&manifest).is_err_and(|error| error.is_damage()));
        assert!(manifest.verify().is_err_and(|error| error.is_damage()));
        assert!(Manifest::open(&victim).is_err_and(|error| error.is_damage()), "the next process doesn't open it");
    }
}

#[test]
fn wrong_bytes_under_right_checksums_never_panic() {
    let mut random = seeded();
    let folder = tempfile::tempdir().unwrap();
    let rows = random_rows(&mut random, 1, 100);
    let path = build(folder.path(), &["/"], 1, &rows).file().to_owned();
    let whole = std::fs::read(&path).unwrap();
    let victim = folder.path().join("victim");
    for _ in 0..count(500, 20_000) {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..20) {
            // Half of them in the header's numbers, where a wrong one does most.
            let at = if random.random_bool(0.5) { random.random_range(0..256) } else { random.random_range(0..bytes.len()) };
            bytes[at] = random.random();
        }
        crate::reseal(&mut bytes);
        std::fs::write(&victim, &bytes).unwrap();
        if let Ok(manifest) = Manifest::open(&victim) {
            for number in 0..manifest.summary().directories.min(500) as u32 {
                let _ = manifest.directory_path(DirectoryIndex(number));
                for entry in manifest.entries(DirectoryIndex(number), 0).take(200).map_while(Result::ok) {
                    let _ = (manifest.find(entry.id), manifest.path(entry.index), manifest.object(entry.index));
                    let _ = manifest.lookup(DirectoryIndex(number), &entry.name);
                }
            }
        }
    }
}
