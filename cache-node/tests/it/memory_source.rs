//! A source in memory that changes behind our back, counts what it is asked, and can be slow or away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_source::retry::RetryPolicy;
use forebay_source::{Body, Key, Limits, ListPage, ListRequest, Object, Source, SourceError, SourceHandle, Version};
use forebay_wire::block::Extent;
use futures::StreamExt;
use parking_lot::Mutex;

const NAME: &str = "s3://memory/";
const PAGE: usize = 100;

#[derive(Default)]
pub(crate) struct MemorySource {
    objects: Mutex<BTreeMap<Vec<u8>, (u64, Bytes)>>,
    next: AtomicU64,
    pub(crate) reads: AtomicU64,
    /// Pages of listings of everything: a folder that is listed on demand isn't one.
    pub(crate) pages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) away: AtomicBool,
    /// Pages of listings of everything that are given before such listings wait; `None`: they don't.
    pub(crate) pages_max: Mutex<Option<u64>>,
    /// Keys of such listings, in the order in which they were given.
    pub(crate) listed: Mutex<Vec<Vec<u8>>>,
}

impl MemorySource {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts an object and gives its version's number.
    pub(crate) fn put(&self, key: &[u8], bytes: impl Into<Bytes>) -> u64 {
        let version = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.objects.lock().insert(key.to_vec(), (version, bytes.into()));
        version
    }
    pub(crate) fn delete(&self, key: &[u8]) {
        self.objects.lock().remove(key);
    }
    /// How many objects have no bytes.
    pub(crate) fn empty(&self) -> usize {
        self.objects.lock().values().filter(|(_, bytes)| bytes.is_empty()).count()
    }
    pub(crate) fn handle(self: &Arc<Self>) -> SourceHandle {
        let policy = RetryPolicy {
            attempts_max: 2,
            pause_min: Duration::from_millis(1),
            pause_max: Duration::from_millis(2),
            ..RetryPolicy::default()
        };
        SourceHandle::wrap(self.clone(), Limits::default(), policy)
    }

    fn object(key: &[u8], version: u64, bytes: &Bytes) -> Object {
        Object {
            key: Key(Bytes::copy_from_slice(key)),
            size: bytes.len() as u64,
            modified: UNIX_EPOCH + Duration::from_secs(1_700_000_000 + version),
            version: Version(Bytes::from(format!("v{version}"))),
        }
    }

    fn here(&self, op: &'static str, key: &[u8]) -> Result<(), SourceError> {
        if self.away.load(Ordering::Relaxed) {
            let (key, origin) = (key.escape_ascii().to_string(), NAME.to_owned());
            return Err(SourceError::Unavailable { op, key, origin, detail: "away".to_owned() });
        }
        Ok(())
    }
}

#[async_trait]
impl Source for MemorySource {
    fn name(&self) -> &str {
        NAME
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        let page = self.pages.fetch_add(u64::from(!request.one_level), Ordering::Relaxed);
        while !request.one_level && self.pages_max.lock().is_some_and(|max| page >= max) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.here("list", &request.prefix)?;
        let mut page = ListPage::default();
        let mut last = None;
        for (key, (version, bytes)) in self.objects.lock().iter() {
            let after = request
                .after
                .as_ref()
                .is_none_or(|after| key.as_slice() > &after[..] && !(after.ends_with(b"/") && request.one_level && key.starts_with(after)));
            let before = request.before.as_ref().is_none_or(|before| key.as_slice() < &before[..]);
            if !key.starts_with(&request.prefix) || !after || !before {
                continue;
            }
            if page.objects.len() + page.folders.len() == PAGE {
                page.next = last;
                break;
            }
            let rest = &key[request.prefix.len()..];
            match rest.iter().position(|byte| *byte == b'/').filter(|_| request.one_level) {
                Some(at) => {
                    let folder = Bytes::copy_from_slice(&key[..request.prefix.len() + at + 1]);
                    if page.folders.last() != Some(&folder) {
                        page.folders.push(folder.clone());
                    }
                    last = Some(folder);
                }
                None => {
                    page.objects.push(Self::object(key, *version, bytes));
                    last = Some(Bytes::copy_from_slice(key));
                }
            }
        }
        if !request.one_level {
            self.listed.lock().extend(page.objects.iter().map(|object| object.key.0.to_vec()));
        }
        Ok(page)
    }

    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        self.here("head", &key.0)?;
        let objects = self.objects.lock();
        let (version, bytes) = objects.get(&key.0[..]).ok_or_else(|| SourceError::NotFound {
            op: "head",
            key: key.0.escape_ascii().to_string(),
            origin: NAME.to_owned(),
        })?;
        Ok(Self::object(&key.0, *version, bytes))
    }

    async fn read(&self, key: &Key, version: &Version, extent: Extent, _whole: bool) -> Result<Body, SourceError> {
        self.here("read", &key.0)?;
        let (op, named, origin) = ("read", key.0.escape_ascii().to_string(), NAME.to_owned());
        let found = self.objects.lock().get(&key.0[..]).cloned();
        let Some((current, bytes)) = found else { return Err(SourceError::NotFound { op, key: named, origin }) };
        if version.0 != format!("v{current}").as_bytes() {
            return Err(SourceError::Replaced { op, key: named, origin });
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(extent.len(), Ordering::Relaxed);
        let part = bytes.slice(extent.start() as usize..extent.end() as usize);
        let pieces: Vec<_> = (0..part.len()).step_by(10_000).map(|at| Ok(part.slice(at..(at + 10_000).min(part.len())))).collect();
        Ok(futures::stream::iter(pieces).boxed())
    }
}

/// Bytes that tell their object, version and place apart.
pub(crate) fn pattern(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}
