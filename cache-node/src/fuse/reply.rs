//! Sends answers, counts them and how long they took, and turns errors into errnos.
//! Knows the library's reply types. The one place where a request's end is recorded.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyData, ReplyEntry};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::errno::errno;
use crate::fs::{Attributes, Error, Kind, Node};

/// The requests that are told apart in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Lookup,
    Attributes,
    Open,
    Read,
    Release,
    OpenDirectory,
    ReadDirectory,
    Statistics,
    ExtendedAttribute,
}

impl Operation {
    const ALL: [Self; 9] = [
        Self::Lookup,
        Self::Attributes,
        Self::Open,
        Self::Read,
        Self::Release,
        Self::OpenDirectory,
        Self::ReadDirectory,
        Self::Statistics,
        Self::ExtendedAttribute,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Attributes => "getattr",
            Self::Open => "open",
            Self::Read => "read",
            Self::Release => "release",
            Self::OpenDirectory => "opendir",
            Self::ReadDirectory => "readdir",
            Self::Statistics => "statfs",
            Self::ExtendedAttribute => "getxattr",
        }
    }
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    operation: Operation,
    begun: Instant,
}

impl Timed {
    pub(super) fn begin(operation: Operation) -> Self {
        Self { operation, begun: Instant::now() }
    }
}

/// Bucket `i` counts what took at most `4 us << i`; the last one the rest, from 8 s on.
const BUCKETS: usize = 22;
const FIRST_BUCKET_NANOS: u64 = 4_000;
/// Sets of counters, so that threads on several cores don't pass one cache line around.
const SHARDS: usize = 8;

/// How long requests took, by operation. Counting takes no lock.
#[derive(Debug, Default)]
pub struct Latencies {
    shards: [Shard; SHARDS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([Counters; Operation::ALL.len()]);

#[derive(Debug, Default)]
struct Counters {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
    errors: AtomicU64,
}

impl Latencies {
    fn record(&self, timed: Timed, failed: bool) {
        let nanos = u64::try_from(timed.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let counters = &self.shards[shard()].0[timed.operation as usize];
        counters.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        counters.nanos.fetch_add(nanos, Ordering::Relaxed);
        if failed {
            counters.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests answered so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.sum(operation, |counters| counters.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum())
    }

    fn sum(&self, operation: Operation, of: impl Fn(&Counters) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(&shard.0[operation as usize])).sum()
    }
}

fn bucket(nanos: u64) -> usize {
    (nanos.div_ceil(FIRST_BUCKET_NANOS).max(1).next_power_of_two().trailing_zeros() as usize).min(BUCKETS - 1)
}

/// Threads take the shards in turn.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS));
    MINE.get()
}

impl Collector for Latencies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut durations = encoder.encode_descriptor(
            "forebay_fuse_request_duration_seconds",
            "Time from reading a request of the kernel to its answer",
            None,
            MetricType::Histogram,
        )?;
        for operation in Operation::ALL {
            let buckets: Vec<(f64, u64)> = (0..BUCKETS)
                .map(|i| {
                    let upper = if i + 1 == BUCKETS { f64::MAX } else { (FIRST_BUCKET_NANOS << i) as f64 / 1e9 };
                    (upper, self.sum(operation, |counters| counters.buckets[i].load(Ordering::Relaxed)))
                })
                .collect();
            let seconds = self.sum(operation, |counters| counters.nanos.load(Ordering::Relaxed)) as f64 / 1e9;
            let count = buckets.iter().map(|(_, count)| count).sum();
            durations.encode_family(&[("op", operation.label())])?.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }
        let mut errors =
            encoder.encode_descriptor("forebay_fuse_errors", "Requests that were answered with an errno", None, MetricType::Counter)?;
        for operation in Operation::ALL {
            let failed = self.sum(operation, |counters| counters.errors.load(Ordering::Relaxed));
            errors.encode_family(&[("op", operation.label())])?.encode_counter::<NoLabelSet, _, u64>(&failed, None)?;
        }
        Ok(())
    }
}

/// Generation of every node: an id is never used for other content, so there is one generation.
pub(super) const GENERATION: Generation = Generation(0);

impl Latencies {
    /// Counts a request that was answered by `answer`.
    pub(super) fn finish<T>(&self, timed: Timed, result: Result<T, Error>, answer: impl FnOnce(Result<T, fuser::Errno>)) {
        tracing::trace!(op = timed.operation.label(), failed = result.is_err(), "answered");
        let failed = result.is_err();
        answer(result.map_err(|error| errno(&error)));
        self.record(timed, failed);
    }

    /// A name that is absent is an answer too, if the kernel may keep it.
    pub(super) fn entry(&self, timed: Timed, reply: ReplyEntry, result: Result<Node, Error>, negative_ttl: Duration) {
        self.finish(timed, result, |result| match result {
            Ok(node) => reply.entry_with_ttls(&node.attributes.ttl, &node.entry_ttl, &file_attributes(&node.attributes), GENERATION),
            // Node id 0 with a lifetime: the kernel's negative entry.
            Err(fuser::Errno::ENOENT) if !negative_ttl.is_zero() => reply.entry(&negative_ttl, &ABSENT, GENERATION),
            Err(errno) => reply.error(errno),
        });
    }

    pub(super) fn attributes(&self, timed: Timed, reply: ReplyAttr, result: Result<Attributes, Error>) {
        self.finish(timed, result, |result| match result {
            Ok(attributes) => reply.attr(&attributes.ttl, &file_attributes(&attributes)),
            Err(errno) => reply.error(errno),
        });
    }

    pub(super) fn data(&self, timed: Timed, reply: ReplyData, result: Result<&[u8], Error>) {
        self.finish(timed, result, |result| match result {
            Ok(bytes) => reply.data(bytes),
            Err(errno) => reply.error(errno),
        });
    }
}

/// What `stat` tells as the best size of a read.
const BLOCK_BYTES: u32 = 1 << 20;

const ABSENT: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn file_attributes(attributes: &Attributes) -> FileAttr {
    let time = time(attributes.modified_seconds);
    FileAttr {
        ino: INodeNo(attributes.id.0),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: attributes.permissions,
        // Of a folder 1: "not counted", which tools like find understand.
        nlink: 1,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
    }
}

fn time(unix_seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(unix_seconds.unsigned_abs());
    let moved = if unix_seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moved.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_bounds_it() {
        for (nanos, expected) in [(0, 0), (4_000, 0), (4_001, 1), (8_000, 1), (8_001, 2), (u64::MAX / 2, BUCKETS - 1)] {
            assert_eq!(bucket(nanos), expected, "{nanos}");
        }
    }

    #[test]
    fn the_metrics_are_told_with_their_labels() {
        let latencies = std::sync::Arc::new(Latencies::default());
        latencies.record(Timed::begin(Operation::Read), true);
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(latencies));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("to a string");
        assert!(text.contains("forebay_fuse_request_duration_seconds_count{op=\"read\"} 1"), "{text}");
        assert!(text.contains("forebay_fuse_errors_total{op=\"read\"} 1"), "{text}");
    }

    #[test]
    fn times_before_1970_are_told() {
        assert_eq!(time(-1), UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(time(i64::MIN), UNIX_EPOCH - Duration::from_secs(i64::MIN.unsigned_abs()));
    }
}
