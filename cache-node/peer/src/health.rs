//! What is known of a peer's health: how long it usually takes, and whether it is bypassed. Pure: the clock is the caller's.
//! Knows durations and outcomes. Does not know connections.

use std::time::Duration;

/// A first failure keeps a peer out for so long; each next one doubles it. Short, so that a restart is hardly noticed.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The same of a peer that never answered yet: it starts at the same time as this one, more often than not.
const PAUSE_NEW: Duration = Duration::from_millis(16);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Before anything is known: the round trip of a far rack and a disk's seek.
const LATENCY_FIRST: Duration = Duration::from_millis(20);

/// Whether a peer is asked. A circuit breaker (Nygard 2007) without a threshold: the first failure of any kind opens it, for a moment; a probe in the
/// background closes it, so no reader ever waits to find out. Failures are forgotten at the first good answer, not at a good probe: a peer that greets
/// and then falls silent is left alone for longer each time.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    is_open: bool,
    has_answered: bool,
}

impl Breaker {
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// A request failed. How long to wait before the probe, if this one began the bypass.
    pub(crate) fn failed(&mut self) -> Option<Duration> {
        if self.is_open {
            // One of many that were under way: the same failure.
            return None;
        }
        self.is_open = true;
        Some(self.pause())
    }

    /// A probe failed: how long to wait before the next one.
    pub(crate) fn probe_failed(&mut self) -> Duration {
        self.pause()
    }

    pub(crate) fn probe_succeeded(&mut self) {
        self.is_open = false;
        if !std::mem::replace(&mut self.has_answered, true) {
            self.failures = 0;
        }
    }

    pub(crate) fn succeeded(&mut self) {
        (self.failures, self.has_answered) = (0, true);
    }

    fn pause(&mut self) -> Duration {
        let first = if self.has_answered { PAUSE_MIN } else { PAUSE_NEW };
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

/// How long a peer takes to its first sign: a smoothed mean and its deviation, as TCP estimates when to send again (Jacobson 1988; RFC 6298).
#[derive(Debug)]
pub(crate) struct Latency {
    mean_us: f64,
    deviation_us: f64,
    is_known: bool,
}

impl Default for Latency {
    fn default() -> Self {
        let first_us = LATENCY_FIRST.as_secs_f64() * 1e6;
        Self { mean_us: first_us, deviation_us: first_us / 2.0, is_known: false }
    }
}

impl Latency {
    pub(crate) fn observe(&mut self, taken: Duration) {
        let us = taken.as_secs_f64() * 1e6;
        if !std::mem::replace(&mut self.is_known, true) {
            (self.mean_us, self.deviation_us) = (us, us / 2.0);
            return;
        }
        self.deviation_us += ((self.mean_us - us).abs() - self.deviation_us) / 4.0;
        self.mean_us += (us - self.mean_us) / 8.0;
    }

    /// Longer than that is unusual: mean and four deviations.
    pub(crate) fn usual(&self) -> Duration {
        Duration::from_secs_f64((self.mean_us + 4.0 * self.deviation_us) / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_fails_is_left_alone_for_longer_each_time_and_forgiven_at_an_answer() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.failed(), Some(PAUSE_NEW), "it may just be starting");
        assert_eq!(breaker.probe_failed(), PAUSE_NEW * 2);
        breaker.probe_succeeded();
        assert_eq!(breaker.failed(), Some(PAUSE_MIN));
        assert!(breaker.is_open());
        assert_eq!(breaker.failed(), None, "those that were under way find one probe running");
        assert_eq!(breaker.probe_failed(), PAUSE_MIN * 2);
        breaker.probe_succeeded();
        assert!(!breaker.is_open());
        assert_eq!(breaker.failed(), Some(PAUSE_MIN * 4), "a greeting alone mends nothing");
        for _ in 0..20 {
            assert!(breaker.probe_failed() <= PAUSE_MAX);
        }
        breaker.probe_succeeded();
        breaker.succeeded();
        assert_eq!(breaker.failed(), Some(PAUSE_MIN));
    }

    #[test]
    fn the_usual_time_follows_the_peer() {
        let mut latency = Latency::default();
        assert!(latency.usual() >= LATENCY_FIRST);
        for _ in 0..200 {
            latency.observe(Duration::from_millis(1));
        }
        assert!(latency.usual() < Duration::from_millis(2), "{:?}", latency.usual());
        for _ in 0..200 {
            latency.observe(Duration::from_millis(50));
        }
        assert!((50..60).contains(&latency.usual().as_millis()), "{:?}", latency.usual());
    }
}
