//! Puts many small objects, closes the store, opens it again and reads one; prints one line of JSON.
//!
//! `store_restart [OBJECTS] [FOLDER]` (1,000,000 objects, the system's temporary folder). Times begin with the second opening.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use forebay_store::{Admission, Capacity, Class, DatasetSlot, PutOutcome, ReadOutcome, Store, StoreConfig};
use forebay_wire::block::{BlockIndex, Extent, ObjectId, ObjectRef};

/// Small enough that a million fit anywhere, so that objects are what costs.
const OBJECT_BYTES: u64 = 512;

fn object(number: u64) -> ObjectRef {
    ObjectRef { id: ObjectId::new("s3://restart/", &number.to_le_bytes(), b"1"), size: OBJECT_BYTES }
}

fn bytes(number: u64) -> Vec<u8> {
    (0..OBJECT_BYTES / 8).flat_map(|word| (number ^ word << 32).to_le_bytes()).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let objects: u64 = arguments.first().map_or(Ok(1_000_000), |text| text.parse())?;
    let folder = arguments.get(1).map_or_else(std::env::temp_dir, PathBuf::from).join("forebay-store-restart");
    std::fs::create_dir_all(&folder)?;
    // The machine's own limit, not ours, is the disk: the capacity is only to be out of the way.
    let config = StoreConfig::one_folder(&folder, Capacity::Bytes(objects * OBJECT_BYTES * 4 + (1 << 30)));
    let (dataset, admission) = (DatasetSlot::of("restart"), Admission { class: Class::Auto, expires_at_seconds: None });
    let store = Store::open(config.clone())?;
    for number in 0..objects {
        let put = store.put(dataset, &object(number), BlockIndex(0), &bytes(number), admission)?;
        if put != PutOutcome::Stored {
            return Err(format!("object {number} was not kept: {put:?}").into());
        }
    }
    store.flush();
    drop(store);

    let begin = Instant::now();
    let store = Store::open(config)?;
    let open = begin.elapsed();
    let mut into = vec![0; OBJECT_BYTES as usize];
    let extent = Extent::new(0, OBJECT_BYTES).ok_or("an object has bytes")?;
    let mut kept = 0;
    let mut first_hit = None;
    for number in (0..objects).rev() {
        if store.read(&object(number), extent, &mut into)? == ReadOutcome::Hit {
            if into != bytes(number) {
                return Err(format!("object {number} came back with other bytes").into());
            }
            first_hit.get_or_insert(begin.elapsed());
            kept += 1;
        }
    }
    let first_hit = first_hit.ok_or("nothing was kept")?;
    let index_bytes = store.usage().index_bytes;
    println!(
        "{{\"objects\":{objects},\"kept\":{kept},\"open_ms\":{:.3},\"first_hit_ms\":{:.3},\"index_bytes_per_object\":{:.2}}}",
        open.as_secs_f64() * 1e3,
        first_hit.as_secs_f64() * 1e3,
        index_bytes as f64 / objects as f64,
    );
    drop(store);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
