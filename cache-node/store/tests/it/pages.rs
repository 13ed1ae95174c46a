//! Which reads leave the store's pages in the machine's page cache.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};

use forebay_store::{PutOutcome, ReadOutcome, Store, StoreConfig};
use forebay_wire::block::Extent;
use rustix::io::{Errno, ReadWriteFlags};

use crate::store_model::{AUTO, config, object, put};

const OBJECT_BYTES: u64 = 128 << 10;

/// The file below `folder` that has as many bytes.
fn file_of(folder: &Path, bytes: u64) -> Option<PathBuf> {
    std::fs::read_dir(folder).unwrap().flatten().find_map(|entry| {
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        if metadata.is_dir() { file_of(&path, bytes) } else { (metadata.len() == bytes).then_some(path) }
    })
}

/// Whether the first page can be read without the disk. To be asked once: the question itself may begin to read ahead.
fn is_in_memory(file: &File) -> bool {
    let mut byte = [0];
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT) {
        Ok(_) => true,
        Err(Errno::AGAIN) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_is_read_for_others_stays_in_memory_and_what_the_mount_keeps_does_not() {
    // On the disk that has the build, as the system's temporary folder may be memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(StoreConfig { drop_pages_after_read: true, ..config(folder.path(), 64 << 20) }).unwrap();
    let object = object(1, OBJECT_BYTES);
    assert_eq!(put(&store, &object, 0, AUTO), PutOutcome::Stored);
    // Pages that aren't written yet can't be dropped.
    store.flush();
    let file = File::open(file_of(folder.path(), OBJECT_BYTES).unwrap()).unwrap();
    let (extent, mut bytes) = (Extent::new(0, OBJECT_BYTES).unwrap(), vec![0; OBJECT_BYTES as usize]);
    assert_eq!(store.read(&object, extent, &mut bytes).unwrap(), ReadOutcome::Hit);
    assert!(!is_in_memory(&file), "the mount's page cache has them now");
    assert_eq!(store.read_for_others(&object, extent, &mut bytes).unwrap(), ReadOutcome::Hit);
    assert!(is_in_memory(&file), "nobody else here has them");
}
