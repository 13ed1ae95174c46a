//! How fast what nobody waits for may go.
//! Knows bytes and a rate. Does not know what they are for.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Bytes per second, in the order of asking.
pub(crate) struct Bucket {
    bytes_per_second: Option<u64>,
    /// Guards when the next bytes are due.
    next: Mutex<Instant>,
}

impl Bucket {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    pub(crate) async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let due = {
            let mut next = self.next.lock();
            let due = (*next).max(Instant::now());
            *next = due + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            due
        };
        tokio::time::sleep_until(due).await;
    }
}
