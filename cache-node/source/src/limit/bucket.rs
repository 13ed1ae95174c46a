//! A token bucket for two priorities: on-demand takers may run into debt, background ones wait until there is none.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::Priority;

/// Tokens saved up for a burst, in seconds of the rate.
const BURST_SECONDS: f64 = 0.25;

pub(super) struct Bucket {
    /// Per second: the bits of an `f64`.
    rate: AtomicU64,
    /// Guards tokens and the time they were counted at; never held while waiting.
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub(super) fn new(rate: f64) -> Self {
        Self { rate: AtomicU64::new(rate.to_bits()), state: Mutex::new((rate * BURST_SECONDS, Instant::now())) }
    }

    /// Holds for what is earned from now on; who waits already looks again when its wait is over.
    pub(super) fn set_rate(&self, rate: f64) {
        self.rate.store(rate.to_bits(), Relaxed);
    }

    /// Waits until `count` may be used. On demand it is reserved at once, and the wait is for the debt; in the background nothing is
    /// reserved before the debt is paid, so what readers want comes first.
    pub(super) async fn take(&self, count: f64, priority: Priority) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                let (now, rate) = (Instant::now(), f64::from_bits(self.rate.load(Relaxed)));
                let earned = now.duration_since(state.1).as_secs_f64() * rate;
                *state = ((state.0 + earned).min((rate * BURST_SECONDS).max(1.0)), now);
                let is_taken = priority == Priority::OnDemand || state.0 > 0.0;
                if is_taken {
                    state.0 -= count;
                }
                let wait = Duration::from_secs_f64((-state.0).max(0.0) / rate);
                match (is_taken, priority) {
                    (true, Priority::Background) => return,
                    (true, Priority::OnDemand) => Ok(wait),
                    (false, _) => Err(wait.max(Duration::from_millis(1))),
                }
            };
            match wait {
                Ok(wait) if wait.is_zero() => return,
                Ok(wait) => return tokio::time::sleep(wait).await,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }
}
