//! Files whose bytes are a function of number and version, and a ledger of what was put when, shared by processes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::fuse::tree::fill;

/// What `fill` and `first_wrong` call a version of a file.
pub(crate) fn id(file: u64, version: u64) -> u64 {
    version * 100_000 + file
}

/// Puts a file in place in one step, as an object store does.
pub(crate) fn put(folder: &Path, partial: &Path, name: &str, id: u64, size: u64) {
    let mut bytes = vec![0; size as usize];
    fill(id, 0, &mut bytes);
    fs::write(partial, &bytes).unwrap();
    fs::rename(partial, folder.join(name)).unwrap();
}

/// The version of each file: raised before it is put, so that nobody sees one that the ledger doesn't have.
pub(crate) struct Ledger(File);

impl Ledger {
    pub(crate) fn create(path: &Path, files: u64) -> Self {
        let ledger = Self(File::options().read(true).write(true).create_new(true).open(path).unwrap());
        ledger.0.set_len(8 * files).unwrap();
        ledger
    }
    pub(crate) fn open(path: &Path) -> Self {
        Self(File::open(path).unwrap())
    }
    pub(crate) fn get(&self, file: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 8 * file).unwrap();
        u64::from_le_bytes(bytes)
    }
    pub(crate) fn set(&self, file: u64, version: u64) {
        self.0.write_all_at(&version.to_le_bytes(), 8 * file).unwrap();
    }
}
