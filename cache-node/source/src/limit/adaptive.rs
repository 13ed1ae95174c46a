//! How many requests in flight suit the source now. Pure: latencies and times come as arguments.
//! Grows while it is used and latency stays near its best; shrinks on throttling, and a little when answers queue up at the source.

use std::time::{Duration, Instant};

/// What latency is compared within: a page of a listing takes longer than the first byte of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    List,
    Head,
    Read,
}

/// Before anything is known.
const START: f64 = 32.0;
/// Latency alone never takes it below this: a slow source is not a full one.
const FLOOR: f64 = 8.0;
/// One throttled round shrinks once: all its requests left under the old limit.
const SHRINK_PAUSE: Duration = Duration::from_millis(500);
const THROTTLE_FACTOR: f64 = 0.7;
const QUEUE_FACTOR: f64 = 0.95;
/// Answers this many times slower than the best, and by this much, are waiting in the source's queue.
const QUEUE_RATIO: f64 = 4.0;
const QUEUE_SECONDS: f64 = 0.05;
/// The best latency is forgotten by this share at each answer: after some thousand answers a slower normal is accepted.
const FORGET: f64 = 0.0005;

#[derive(Clone, Copy, Default)]
struct Latency {
    best: f64,
    usual: f64,
}

pub(super) struct Adaptive {
    limit: f64,
    max: f64,
    /// Doubles each round until something pushes back.
    is_starting: bool,
    shrunk: Option<Instant>,
    latencies: [Latency; 3],
}

impl Adaptive {
    pub(super) fn new(max: u32) -> Self {
        let max = f64::from(max);
        Self { limit: START.min(max), max, is_starting: true, shrunk: None, latencies: [Latency::default(); 3] }
    }

    /// At least 1, at most the ceiling.
    pub(super) fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// An answer came after `elapsed`; `is_used`: as many requests ran as could.
    pub(super) fn answered(&mut self, kind: Kind, elapsed: Duration, is_used: bool, now: Instant) {
        let seconds = elapsed.as_secs_f64();
        let latency = &mut self.latencies[kind as usize];
        if latency.best == 0.0 {
            *latency = Latency { best: seconds, usual: seconds };
        }
        latency.best = (latency.best * (1.0 + FORGET)).min(seconds);
        latency.usual += (seconds - latency.usual) * 0.05;
        let is_queueing = latency.usual > latency.best * QUEUE_RATIO && latency.usual - latency.best > QUEUE_SECONDS;
        if is_queueing {
            if self.limit > FLOOR {
                self.shrink(QUEUE_FACTOR, FLOOR.min(self.max), now);
            }
        } else if is_used {
            // Growing what isn't used would only let a later burst through.
            let step = if self.is_starting { 1.0 } else { 1.0 / self.limit };
            self.limit = (self.limit + step).min(self.max);
        }
    }

    pub(super) fn throttled(&mut self, now: Instant) {
        self.shrink(THROTTLE_FACTOR, 1.0, now);
    }

    fn shrink(&mut self, factor: f64, floor: f64, now: Instant) {
        self.is_starting = false;
        if self.shrunk.is_none_or(|at| now.saturating_duration_since(at) >= SHRINK_PAUSE) {
            self.shrunk = Some(now);
            self.limit = (self.limit * factor).max(floor);
        }
    }
}
