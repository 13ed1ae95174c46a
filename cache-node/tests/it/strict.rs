//! Objects larger than a block whose source keeps a checksum of the whole: what only that can show is detected, counted and never kept;
//! with `verify: Strict` it is never served.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forebay_node::fill::{FileObject, Fill, FillError, FillLimits, Origin};
use forebay_node::reader::Reader;
use forebay_node::rules::Placement;
use forebay_peer::DatasetId;
use forebay_source::checksum::{Algorithm, Checksum};
use forebay_source::{Body, Key, Limits, ListPage, ListRequest, Object, RetryPolicy, Source, SourceError, SourceHandle, Version};
use forebay_store::{Admission, Capacity, Class, DatasetSlot, Store, StoreConfig};
use forebay_wire::block::{BlockIndex, BlockSize, Extent, ObjectId, ObjectRef};
use forebay_wire::rule::{Copies, LocalCopy};
use futures::StreamExt;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::memory_source::{MemorySource, pattern};

const BLOCK: u64 = 64 << 10;
const LEN: usize = 3 * 65536 + 1000;

/// Spoils a byte in the middle of chosen reads, which no range, length or version shows.
pub(crate) struct Spoiling {
    inner: Arc<MemorySource>,
    /// Of the reads to come, by number from 0.
    spoiled: Mutex<BTreeSet<u32>>,
    spoils_all: bool,
    pub(crate) reads: AtomicU32,
    has_checksums: bool,
}

impl Spoiling {
    /// Spoils nothing, and keeps a checksum of each object.
    pub(crate) fn summed(inner: Arc<MemorySource>) -> Arc<Self> {
        let spoiled = Mutex::default();
        Arc::new(Self { inner, spoiled, spoils_all: false, reads: AtomicU32::new(0), has_checksums: true })
    }
}

#[async_trait]
impl Source for Spoiling {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        self.inner.list(request).await
    }
    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        self.inner.head(key).await
    }
    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        let number = self.reads.fetch_add(1, Relaxed);
        let spoils = self.spoils_all || self.spoiled.lock().remove(&number);
        let body = self.inner.read(key, version, extent, whole).await?;
        if !spoils {
            return Ok(body);
        }
        let parts: Vec<Bytes> = body.map(Result::unwrap).collect().await;
        let mut bytes = parts.concat();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Ok(futures::stream::iter([Ok(Bytes::from(bytes))]).boxed())
    }
    async fn checksum(&self, key: &Key, version: &Version) -> Result<Option<Checksum>, SourceError> {
        if !self.has_checksums {
            return Ok(None);
        }
        let size = self.inner.head(key).await?.size;
        let body = self.inner.read(key, version, Extent::new(0, size).unwrap(), true).await?;
        let bytes = body.map(Result::unwrap).collect::<Vec<_>>().await.concat();
        let sum = u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &bytes)).unwrap();
        Ok(Some(Checksum::new(Algorithm::Crc32, sum.to_be_bytes().to_vec())))
    }
}

struct Rig {
    source: Arc<Spoiling>,
    reader: Arc<Reader>,
    file: Arc<FileObject>,
    _folder: tempfile::TempDir,
}

struct Case {
    strict: bool,
    keep: bool,
    has_checksums: bool,
    spoiled: &'static [u32],
    spoils_all: bool,
}

const STRICT: Case = Case { strict: true, keep: true, has_checksums: true, spoiled: &[], spoils_all: false };
const STREAM: Case = Case { strict: false, ..STRICT };

fn rig(case: Case) -> Rig {
    let Case { strict, keep, has_checksums, spoiled, spoils_all } = case;
    let folder = tempfile::tempdir().unwrap();
    let spoiled = Mutex::new(spoiled.iter().copied().collect());
    let source = Arc::new(Spoiling { inner: MemorySource::new(), spoiled, spoils_all, reads: AtomicU32::new(0), has_checksums });
    let block_size = BlockSize::new(BLOCK).unwrap();
    let config = StoreConfig { block_size, ..StoreConfig::one_folder(folder.path(), Capacity::Bytes(1 << 28)) };
    let store = Arc::new(Store::open(config).unwrap());
    let limits = FillLimits { fills_max: 4, buffer_bytes: 4 * BLOCK };
    let fill = Fill::new(store.clone(), block_size, limits, tokio::runtime::Handle::current());
    let policy = RetryPolicy { attempts_max: 2, pause_max: Duration::from_millis(2), ..RetryPolicy::default() };
    let handle = SourceHandle::wrap(source.clone(), Limits::default(), policy);
    let (identity, slot) = ("memory".to_owned(), DatasetSlot::of("tests/strict"));
    let origin = Arc::new(Origin { handle, identity, slot, dataset: DatasetId::new("tests/strict").unwrap(), strict });
    let version = Version(format!("v{}", source.inner.put(b"a", pattern(9, LEN))).into());
    let placement = if keep { Placement::Keep(Admission { class: Class::Auto, expires_at_seconds: None }) } else { Placement::Pass };
    let object = ObjectRef { id: ObjectId::new("memory", b"a", &version.0), size: LEN as u64 };
    let file = Arc::new(FileObject {
        object,
        key: Key(Bytes::from_static(b"a")),
        version,
        origin,
        placement,
        local_copy: LocalCopy::Hot,
        copies: Copies::ONE,
    });
    Rig { source, reader: Arc::new(Reader::new(store, fill, block_size).strict(strict)), file, _folder: folder }
}

impl Rig {
    async fn read(&self, start: u64, end: u64) -> Result<Vec<u8>, FillError> {
        let extent = Extent::new(start, end).unwrap();
        let mut into = vec![0; extent.len() as usize];
        if self.reader.try_read(&self.file.object, extent, &mut into) {
            return Ok(into);
        }
        self.reader.read(&self.file, extent, true).await.map(|bytes| bytes.to_vec())
    }
    async fn read_all(&self) -> Result<Vec<u8>, FillError> {
        let mut all = Vec::new();
        while all.len() < LEN {
            let at = all.len() as u64;
            all.extend(self.read(at, (at + 30_000).min(LEN as u64)).await?);
        }
        Ok(all)
    }
    fn counts(&self) -> (u64, u64) {
        let metrics = self.reader.fill().metrics();
        (metrics.verified.get(), metrics.mismatched.get())
    }
    fn is_complete(&self) -> bool {
        self.reader.store().is_complete(&self.file.object)
    }
    async fn settled(&self) {
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        while self.reader.fill().metrics().in_flight.get() > 0 {
            assert!(std::time::Instant::now() < limit, "fills end");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_12_what_only_the_whole_shows_is_counted_and_never_kept() {
    for spoiled in [&[0], &[1], &[3]] {
        let rig = rig(Case { spoiled, ..STREAM });
        // It streams: who reads before the end may see it.
        assert_ne!(rig.read_all().await.unwrap(), pattern(9, LEN));
        rig.settled().await;
        assert_eq!(rig.counts(), (0, 1));
        assert!((0..4).all(|block| !rig.reader.store().contains(&rig.file.object, BlockIndex(block))), "nothing is kept");
        assert_eq!(rig.read_all().await.unwrap(), pattern(9, LEN));
        rig.settled().await;
        assert_eq!(rig.counts(), (1, 1));
        assert!(rig.is_complete());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_checksum_nothing_is_compared() {
    for strict in [false, true] {
        let rig = rig(Case { strict, has_checksums: false, ..STREAM });
        assert_eq!(rig.read_all().await.unwrap(), pattern(9, LEN));
        rig.settled().await;
        assert!(rig.is_complete());
        assert_eq!((rig.counts(), rig.source.reads.load(Relaxed)), ((0, 0), 4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_at_random_complete_an_object_only_after_its_check() {
    for seed in 0..10 {
        let rig = Arc::new(rig(STREAM));
        let readers = (0..16).map(|reader| {
            let (rig, mut random) = (rig.clone(), SmallRng::seed_from_u64(seed * 100 + reader));
            tokio::spawn(async move {
                for _ in 0..20 {
                    let start = random.random_range(0..LEN as u64 - 1);
                    let end = random.random_range(start + 1..=LEN as u64);
                    assert_eq!(rig.read(start, end).await.unwrap(), pattern(9, LEN)[start as usize..end as usize]);
                    if rig.is_complete() {
                        assert!(rig.counts().0 > 0, "complete before it was compared");
                    }
                }
            })
        });
        futures::future::try_join_all(readers).await.unwrap();
        rig.settled().await;
        assert_eq!((rig.is_complete(), rig.counts().1), (true, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_12_strict_serves_no_byte_that_was_not_compared() {
    for keep in [true, false] {
        for spoiled in [&[][..], &[0], &[2], &[3], &[0, 4]] {
            let rig = rig(Case { keep, spoiled, ..STRICT });
            assert_eq!(rig.read(100_000, 100_010).await.unwrap(), pattern(9, LEN)[100_000..100_010]);
            assert_eq!(rig.counts().0, 1, "the whole was compared before the first byte");
            assert_eq!(rig.read_all().await.unwrap(), pattern(9, LEN), "keep {keep}, spoiled {spoiled:?}");
            let spoiled_reads = spoiled.len() as u64 - u64::from(rig.source.spoiled.lock().len() as u32);
            assert!(spoiled_reads == 0 || rig.counts().1 > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_reads_a_kept_object_from_its_source_once() {
    let rig = rig(STRICT);
    assert_eq!(rig.read_all().await.unwrap(), pattern(9, LEN));
    assert_eq!(rig.source.reads.load(Relaxed), 4);
    assert!(rig.is_complete());
    let mut into = vec![0; 10];
    assert!(rig.reader.try_read(&rig.file.object, Extent::new(5, 15).unwrap(), &mut into));
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_refuses_what_never_sums_up() {
    for keep in [true, false] {
        let rig = rig(Case { keep, spoils_all: true, ..STRICT });
        let error = rig.read(0, 10).await.unwrap_err();
        assert!(matches!(&error, FillError::Source { cause: SourceError::Corrupt { .. }, .. }), "{error}");
        assert!(rig.counts().1 > 0 && !rig.is_complete());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_sees_other_bytes_that_come_after_the_check() {
    // Not kept: read 0 is the comparison, each later one is a block.
    let rig = rig(Case { keep: false, spoiled: &[1, 3], ..STRICT });
    assert_eq!(rig.read_all().await.unwrap(), pattern(9, LEN));
    assert_eq!(rig.counts().1, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_does_not_serve_half_an_object_from_the_store() {
    let rig = rig(STRICT);
    assert!(rig.reader.fill().load(&rig.file, BlockIndex(0)).await.unwrap());
    let mut into = vec![0; 10];
    assert!(!rig.reader.try_read(&rig.file.object, Extent::new(0, 10).unwrap(), &mut into));
    rig.source.inner.away.store(true, Relaxed);
    assert!(rig.read(0, 10).await.is_err());
    rig.source.inner.away.store(false, Relaxed);
    assert_eq!(rig.read(0, 10).await.unwrap(), pattern(9, LEN)[..10]);
}

/// Seconds, or the whole minute in the long form.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_source_is_gone_cached_reads_are_untouched() {
    let away = Duration::from_secs(if std::env::var_os("FOREBAY_TORTURE").is_some() { 60 } else { 2 });
    let rig = rig(STREAM);
    assert_eq!(rig.read_all().await.unwrap(), pattern(9, LEN));
    rig.settled().await;
    rig.source.inner.away.store(true, Relaxed);
    let (started, reads) = (std::time::Instant::now(), rig.source.reads.load(Relaxed));
    while started.elapsed() < away {
        let began = std::time::Instant::now();
        assert_eq!(rig.read_all().await.unwrap(), pattern(9, LEN));
        assert!(began.elapsed() < Duration::from_secs(1), "a cached read waited");
    }
    assert_eq!(rig.source.reads.load(Relaxed), reads, "nothing was asked of the source");
}
