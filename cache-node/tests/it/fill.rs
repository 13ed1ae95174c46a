//! Fills: one flight per block, small and large objects, refused blocks, random reads, what the source is asked for.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use forebay_node::fill::{DIRECT_BYTES_MAX, FileObject, Fill, FillError, FillLimits, Origin};
use forebay_node::reader::Reader;
use forebay_node::rules::Placement;
use forebay_peer::DatasetId;
use forebay_source::{Key, Version};
use forebay_store::{Admission, Capacity, Class, DatasetSlot, Store, StoreConfig};
use forebay_wire::block::{BlockIndex, BlockSize, Extent, ObjectId, ObjectRef};
use forebay_wire::rule::{Copies, LocalCopy};

use crate::memory_source::{MemorySource, pattern};

const BLOCK: u64 = 64 << 10;

struct Rig {
    source: Arc<MemorySource>,
    origin: Arc<Origin>,
    fill: Arc<Fill>,
    reader: Reader,
    _folder: tempfile::TempDir,
}

fn rig(strict: bool) -> Rig {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let block_size = BlockSize::new(BLOCK).unwrap();
    let config = StoreConfig { block_size, ..StoreConfig::one_folder(folder.path(), Capacity::Bytes(1 << 28)) };
    let store = Arc::new(Store::open(config).unwrap());
    let limits = FillLimits { fills_max: 4, buffer_bytes: 4 * BLOCK };
    let fill = Fill::new(store.clone(), block_size, limits, tokio::runtime::Handle::current());
    let origin = Arc::new(Origin {
        handle: source.handle(),
        identity: "memory".to_owned(),
        slot: DatasetSlot::of("tests/fill"),
        dataset: DatasetId::new("tests/fill").unwrap(),
        strict,
    });
    Rig { source, origin, reader: Reader::new(store, fill.clone(), block_size), fill, _folder: folder }
}

impl Rig {
    fn put(&self, key: &str, len: usize, keep: bool) -> Arc<FileObject> {
        let version = self.source.put(key.as_bytes(), pattern(len as u64, len));
        let version = Version(format!("v{version}").into());
        let id = ObjectId::new("memory", key.as_bytes(), &version.0);
        let placement = if keep { Placement::Keep(Admission { class: Class::Auto, expires_at_seconds: None }) } else { Placement::Pass };
        let object = ObjectRef { id, size: len as u64 };
        Arc::new(FileObject {
            object,
            key: Key(key.as_bytes().to_vec().into()),
            version,
            origin: self.origin.clone(),
            placement,
            local_copy: LocalCopy::Hot,
            copies: Copies::ONE,
        })
    }
    async fn read(&self, file: &Arc<FileObject>, start: u64, end: u64, sequential: bool) -> Result<Vec<u8>, FillError> {
        self.reader.read(file, Extent::new(start, end).unwrap(), sequential).await.map(|bytes| bytes.to_vec())
    }
    fn asked(&self) -> (u64, u64) {
        (self.source.reads.load(Ordering::Relaxed), self.source.bytes.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_block_share_one_flight() {
    for strict in [false, true] {
        let rig = Arc::new(rig(strict));
        let file = rig.put("a", 200_000, true);
        let readers = (0..40_u64).map(|number| {
            let (rig, file) = (rig.clone(), file.clone());
            tokio::spawn(async move {
                let start = number * 5000;
                assert_eq!(rig.read(&file, start, start + 5000, true).await.unwrap(), pattern(200_000, 200_000)[start as usize..][..5000]);
            })
        });
        futures::future::try_join_all(readers).await.unwrap();
        assert_eq!(rig.asked(), (4, 200_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_not_kept_serves_the_rest_of_a_sequential_reader() {
    let rig = rig(false);
    let file = rig.put("a", 200_000, false);
    for start in (0..200_000).step_by(8000) {
        assert_eq!(rig.read(&file, start, start + 8000, true).await.unwrap(), pattern(200_000, 200_000)[start as usize..][..8000]);
    }
    assert_eq!(rig.asked(), (4, 200_000), "each block once, though none is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_random_read_takes_its_bytes_only_and_a_second_one_the_block() {
    let rig = rig(false);
    let file = rig.put("a", 1 << 20, true);
    let whole = pattern(1 << 20, 1 << 20);
    assert_eq!(rig.read(&file, 300_000, 304_096, false).await.unwrap(), whole[300_000..304_096]);
    assert_eq!(rig.asked(), (1, 4096));
    assert_eq!(rig.read(&file, 310_000, 314_096, false).await.unwrap(), whole[310_000..314_096]);
    assert_eq!(rig.asked(), (2, 4096 + BLOCK));
    assert!(DIRECT_BYTES_MAX * 100 <= BlockSize::DEFAULT.bytes(), "a direct read costs at most 1 % of a block");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fill_is_told_to_all_its_readers_and_can_be_asked_for_again() {
    let rig = rig(false);
    let file = rig.put("a", 1000, true);
    rig.source.away.store(true, Ordering::Relaxed);
    assert!(matches!(rig.read(&file, 0, 1000, true).await, Err(FillError::Source { .. })));
    rig.source.away.store(false, Ordering::Relaxed);
    assert_eq!(rig.read(&file, 0, 1000, true).await.unwrap(), pattern(1000, 1000));
    // Readers are served before the store has the block, and a flight that still is there answers too.
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while rig.fill.metrics().in_flight.get() > 0 {
        assert!(std::time::Instant::now() < limit, "fills end");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    rig.source.put(b"a", pattern(7, 1000));
    rig.reader.store().free(&file.object);
    assert!(matches!(rig.read(&file, 0, 1000, true).await, Err(FillError::Replaced { .. })));
    rig.source.delete(b"a");
    assert!(matches!(rig.read(&file, 0, 1000, true).await, Err(FillError::Gone { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_gives_up_leaves_the_flight_to_the_others() {
    let rig = rig(false);
    let file = rig.put("a", 1000, true);
    drop(rig.read(&file, 0, 1000, true));
    let waited = tokio::time::timeout(std::time::Duration::ZERO, rig.read(&file, 0, 1000, true)).await;
    drop(waited);
    let mut bytes = BytesMut::new();
    rig.fill.read(&file, BlockIndex(0), 0, 1000, &mut bytes).await.unwrap();
    assert_eq!(bytes, pattern(1000, 1000));
    assert!(rig.fill.load(&file, BlockIndex(0)).await.unwrap());
    assert_eq!(rig.asked().0, 1);
}
