//! A store's files changed at will: it opens or says why not, and a hit is the right bytes.
//! The input is a list of changes of six bytes: which file, where (three bytes), how, with what.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use forebay_store::{Admission, Capacity, Class, DatasetSlot, ReadOutcome, Store, StoreConfig};
use forebay_wire::block::{BlockIndex, BlockSize, Extent, ObjectId, ObjectRef};

const OBJECTS: u64 = 12;
const BLOCK: u64 = 64 << 10;

fn config(folder: &Path) -> StoreConfig {
    let block_size = BlockSize::new(BLOCK).expect("a power of two");
    StoreConfig { block_size, ..StoreConfig::one_folder(folder, Capacity::Bytes(64 << 20)) }
}

/// Most of them packed in segments, the last in files of their own.
fn object(number: u64) -> (ObjectRef, Vec<u8>) {
    let size = if number + 2 < OBJECTS { number * 3000 + 1 } else { number * 10_000 };
    let id = ObjectId::new("fuzz", &number.to_le_bytes(), b"v");
    let bytes = (0..size).map(|at| (at * (number + 3) % 251) as u8).collect();
    (ObjectRef { id, size }, bytes)
}

fn block(object: &ObjectRef, index: u32) -> Option<Extent> {
    BlockSize::new(BLOCK).expect("a power of two").extent(BlockIndex(index), object.size)
}

/// The files of a sound store, by their paths in it.
fn template() -> &'static Vec<(PathBuf, Vec<u8>)> {
    static TEMPLATE: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = scratch("template");
        let store = Store::open(config(&folder)).expect("an empty folder");
        let admission = Admission { class: Class::Auto, expires_at_seconds: None };
        for number in 0..OBJECTS {
            let (object, bytes) = object(number);
            for index in 0..2 {
                let Some(extent) = block(&object, index) else { continue };
                let part = &bytes[extent.start() as usize..extent.end() as usize];
                store.put(DatasetSlot::of("fuzz"), &object, BlockIndex(index), part, admission).expect("a sound disk");
            }
        }
        store.flush();
        drop(store);
        let mut files = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(at).expect("our folder") {
                let path = entry.expect("our folder").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&folder).expect("below it").to_owned();
                    files.push((name, std::fs::read(&path).expect("our file")));
                }
            }
        }
        std::fs::remove_dir_all(&folder).expect("our folder");
        files.sort();
        files
    })
}

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("forebay-fuzz-{name}-{}-{:?}", std::process::id(), std::thread::current().id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    folder
}

pub fn check(changes: &[u8]) {
    let folder = scratch("store");
    let mut files = template().clone();
    for change in changes.chunks_exact(6).take(64) {
        let count = files.len();
        let bytes = &mut files[usize::from(change[0]) % count].1;
        let at = usize::from(change[1]) | usize::from(change[2]) << 8 | usize::from(change[3]) << 16;
        match change[4] % 4 {
            0 => bytes.truncate(at),
            1 => bytes.resize(bytes.len().max(at.min(1 << 20)), change[5]),
            _ if bytes.is_empty() => {}
            2 => {
                let at = at % bytes.len();
                bytes[at] = change[5];
            }
            _ => {
                let at = at % bytes.len();
                bytes[at] ^= change[5];
            }
        }
    }
    for (name, bytes) in &files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("writable");
        std::fs::write(path, bytes).expect("writable");
    }
    if let Ok(store) = Store::open(config(&folder)) {
        for number in 0..OBJECTS {
            let (object, bytes) = object(number);
            for index in 0..2 {
                let Some(extent) = block(&object, index) else { continue };
                let mut into = vec![0; extent.len() as usize];
                if let Ok(ReadOutcome::Hit) = store.read(&object, extent, &mut into) {
                    assert!(into == bytes[extent.start() as usize..extent.end() as usize], "wrong bytes of object {number}");
                }
            }
        }
    }
    std::fs::remove_dir_all(&folder).expect("our folder");
}
