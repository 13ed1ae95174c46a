//! A manifest file of any bytes, its checksums made right: reading it in all ways gives rows or errors, never a panic or an endless loop.

use forebay_manifest::{DirectoryIndex, EntryIndex, Manifest};

/// Rows read at most: a small file can claim many.
const ROWS_MAX: usize = 2000;

pub fn check(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    forebay_manifest::reseal(&mut bytes);
    let path = std::env::temp_dir().join(format!("forebay-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&path, &bytes).expect("the temporary folder is writable");
    let opened = Manifest::open(&path);
    std::fs::remove_file(&path).expect("it was written");
    let Ok(manifest) = opened else { return };
    for number in 0..manifest.summary().directories.min(ROWS_MAX as u64) as u32 {
        let _ = manifest.directory_path(DirectoryIndex(number));
        for entry in manifest.entries(DirectoryIndex(number), 0).take(ROWS_MAX) {
            let Ok(entry) = entry else { break };
            let _ = manifest.find(entry.id);
            let _ = manifest.lookup(DirectoryIndex(number), &entry.name);
            let _ = manifest.path(entry.index);
            let _ = manifest.object(EntryIndex(entry.index.0));
        }
    }
}
