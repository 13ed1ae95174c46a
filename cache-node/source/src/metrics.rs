//! What a source did, counted: a few atomics that the metrics endpoint reads.
//! Knows counts. Does not know names of metrics, labels or how they are exported.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the latency buckets in milliseconds; the last bucket is everything above.
pub const LATENCY_BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// Counters of one source, shared by both priorities. Each only grows, but `in_flight`.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    /// Requests sent, the repeated ones included.
    pub lists: Counter,
    pub heads: Counter,
    pub reads: Counter,
    /// Bytes of bodies that arrived, the ones thrown away included.
    pub bytes: Counter,
    /// Requests that were sent again after a failure.
    pub retries: Counter,
    /// Answers that asked for fewer requests (503 SlowDown, 429).
    pub throttles: Counter,
    /// Attempts that failed, whatever the cause.
    pub errors: Counter,
    /// Answers that contradicted themselves: wrong range, length or checksum.
    pub corrupt: Counter,
    /// Requests that run now.
    pub in_flight: Counter,
    /// Time to the first byte of a read, or to the whole answer of a list or head.
    pub latency: Histogram,
}

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }
}

/// Durations by bucket (`LATENCY_BOUNDS_MS`), not cumulative, with their sum.
#[derive(Debug, Default)]
pub struct Histogram {
    pub buckets: [Counter; LATENCY_BOUNDS_MS.len() + 1],
    pub sum_us: Counter,
}

impl Histogram {
    pub fn observe(&self, elapsed: Duration) {
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.buckets[bucket].add(1);
        self.sum_us.add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    }
}
