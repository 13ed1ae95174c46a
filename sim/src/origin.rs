//! The source: it has every file, takes its time, fails when it is told to, and remembers what it was asked for.
//! Knows blocks and who asked. Does not know who should have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_source::{Body, Key, Limits, ListPage, ListRequest, Object, RetryPolicy, Source, SourceError, SourceHandle, Version};
use forebay_wire::block::Extent;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::chance::Chance;
use crate::data::{self, Data, SOURCE, VERSION};

/// How much of an answer comes at once.
const PIECE_BYTES: usize = 16 << 10;

/// Told of each read before it is answered.
pub(crate) trait Watch: Send + Sync {
    /// `node` asks for a block that was asked for `before` times; `flying` are the nodes whose answers are under way.
    fn asked(&self, node: usize, file: u32, index: u32, before: u32, flying: &[usize]);
}

pub(crate) struct Origin {
    pub(crate) data: Arc<Data>,
    chance: Chance,
    pub(crate) watch: OnceLock<std::sync::Weak<dyn Watch>>,
    /// Of 1,000 requests so many fail.
    pub(crate) failing: Mutex<u64>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    reads: Vec<u32>,
    bytes: Vec<u64>,
    flying: HashMap<usize, Vec<usize>>,
}

/// What was read of the source until now.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) reads: u64,
    pub(crate) bytes: u64,
    /// Blocks that were asked for at least once, and the most that one was.
    pub(crate) blocks: u64,
    pub(crate) most: u32,
}

impl Origin {
    pub(crate) fn new(seed: u64, data: Arc<Data>) -> Arc<Self> {
        let counts = Counts { reads: vec![0; data.blocks()], bytes: vec![0; data.blocks()], flying: HashMap::new() };
        let chance = Chance::new(seed ^ 0x736f_7572);
        Arc::new(Self { data, chance, watch: OnceLock::new(), failing: Mutex::new(0), counts: Mutex::new(counts) })
    }

    pub(crate) fn totals(&self) -> Totals {
        let counts = self.counts.lock();
        Totals {
            reads: counts.reads.iter().map(|reads| u64::from(*reads)).sum(),
            bytes: counts.bytes.iter().sum(),
            blocks: counts.reads.iter().filter(|reads| **reads > 0).count() as u64,
            most: counts.reads.iter().max().copied().unwrap_or(0),
        }
    }

    /// The source as `node` reaches it until `is_dead`.
    pub(crate) fn handle(self: &Arc<Self>, node: usize, is_dead: Arc<AtomicBool>) -> SourceHandle {
        let front = Front { origin: self.clone(), node, is_dead };
        SourceHandle::wrap(Arc::new(front), Limits::default(), RetryPolicy::default())
    }
}

struct Front {
    origin: Arc<Origin>,
    node: usize,
    is_dead: Arc<AtomicBool>,
}

/// An answer under way.
struct Flying {
    origin: Arc<Origin>,
    block: usize,
    node: usize,
}

impl Drop for Flying {
    fn drop(&mut self) {
        if let Some(nodes) = self.origin.counts.lock().flying.get_mut(&self.block)
            && let Some(at) = nodes.iter().position(|node| *node == self.node)
        {
            nodes.swap_remove(at);
        }
    }
}

impl Front {
    fn error(&self, op: &'static str, key: &Key) -> Option<SourceError> {
        let (key, origin) = (key.0.escape_ascii().to_string(), SOURCE.to_owned());
        if self.is_dead.load(Relaxed) {
            // At once: what is left of a node that was killed must end.
            return Some(SourceError::Permanent { op, key, origin, detail: "the node is dead".to_owned() });
        }
        let fails = self.origin.chance.between(0, 999) < *self.origin.failing.lock();
        fails.then(|| SourceError::Unavailable { op, key, origin, detail: "by chance".to_owned() })
    }

    /// Counts a read of a block.
    fn begin(&self, file: u32, index: u32, extent: Extent) -> Flying {
        let (origin, block) = (&self.origin, self.origin.data.block(file, index));
        let (before, flying) = {
            let counts = origin.counts.lock();
            (counts.reads[block], counts.flying.get(&block).cloned().unwrap_or_default())
        };
        if let Some(watch) = origin.watch.get().and_then(std::sync::Weak::upgrade) {
            watch.asked(self.node, file, index, before, &flying);
        }
        let mut counts = origin.counts.lock();
        counts.reads[block] += 1;
        counts.bytes[block] += extent.len();
        counts.flying.entry(block).or_default().push(self.node);
        Flying { origin: origin.clone(), block, node: self.node }
    }
}

#[async_trait]
impl Source for Front {
    fn name(&self) -> &str {
        SOURCE
    }

    async fn list(&self, _: &ListRequest) -> Result<ListPage, SourceError> {
        // The list is there from the beginning, and the data set is frozen.
        Ok(ListPage::default())
    }

    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        let file = data::number(&key.0).filter(|file| *file < self.origin.data.files);
        let not_found = || SourceError::NotFound { op: "head", key: key.0.escape_ascii().to_string(), origin: SOURCE.to_owned() };
        let size = self.origin.data.size(file.ok_or_else(not_found)?);
        Ok(Object { key: key.clone(), size, modified: UNIX_EPOCH, version: Version(Bytes::from_static(VERSION)) })
    }

    async fn read(&self, key: &Key, _: &Version, extent: Extent, _whole: bool) -> Result<Body, SourceError> {
        if let Some(error) = self.error("read", key) {
            return Err(error);
        }
        let file = data::number(&key.0).filter(|file| *file < self.origin.data.files);
        let not_found = || SourceError::NotFound { op: "read", key: key.0.escape_ascii().to_string(), origin: SOURCE.to_owned() };
        let file = file.ok_or_else(not_found)?;
        let flying = self.begin(file, data::block_size().index(extent.start()).0, extent);
        sleep(self.origin.chance.millis(5, 40)).await;
        let bytes = self.origin.data.bytes(file, extent.start(), extent.end());
        let rest = (bytes, flying, self.is_dead.clone(), self.error("read", key));
        let pieces = futures::stream::unfold(Some(rest), |rest| async move {
            let (mut bytes, flying, is_dead, error) = rest?;
            if bytes.is_empty() {
                return None;
            }
            if bytes.len() > PIECE_BYTES {
                sleep(Duration::from_millis(1)).await;
            }
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            match error {
                // It breaks off behind the first piece.
                Some(error) => Some((Err(error), None)),
                None => Some((Ok(piece), Some((bytes, flying, is_dead, error)))),
            }
        });
        Ok(pieces.boxed())
    }
}
