//! A token bucket for two priorities: on-demand takers may run into debt, background ones wait until there is none.

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::Priority;

/// Tokens saved up for a burst, in seconds of the rate.
const BURST_SECONDS: f64 = 0.25;

pub(super) struct Bucket {
    /// Per second.
    rate: f64,
    /// Guards tokens and the time they were counted at; never held while waiting.
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub(super) fn new(rate: f64) -> Self {
        Self { rate, state: Mutex::new((rate * BURST_SECONDS, Instant::now())) }
    }

    /// Waits until `count` may be used. On demand it is reserved at once, and the wait is for the debt; in the background nothing is
    /// reserved before the debt is paid, so what readers want comes first.
    pub(super) async fn take(&self, count: f64, priority: Priority) {
        loop {
            let wait = {
                let mut state = self.state.lock();
                let now = Instant::now();
                let earned = now.duration_since(state.1).as_secs_f64() * self.rate;
                *state = ((state.0 + earned).min((self.rate * BURST_SECONDS).max(1.0)), now);
                let is_taken = priority == Priority::OnDemand || state.0 > 0.0;
                if is_taken {
                    state.0 -= count;
                }
                let wait = Duration::from_secs_f64((-state.0).max(0.0) / self.rate);
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
