//! The signal to stop, given once, seen by everybody who holds a `Shutdown`.
//! Knows SIGTERM and SIGINT. Does not know what stopping means.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Told when to stop. Clones are told together.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Tells to stop; dropping it tells, too, so that nobody waits for ever.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    pub fn new() -> (Self, Trigger) {
        let (sender, receiver) = watch::channel(false);
        (Self(receiver), Trigger(sender))
    }

    /// Returns when told to stop. Safe to cancel.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // An error says that every trigger is gone: that stops, too.
        drop(receiver.wait_for(|stop| *stop).await);
    }

    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl Trigger {
    /// Repeating it does nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A `Shutdown` that SIGTERM and SIGINT give. Needs a running tokio.
pub fn on_signals() -> io::Result<(Shutdown, Trigger)> {
    let (shutdown, trigger) = Shutdown::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = trigger.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
        }
        stop.stop();
    });
    Ok((shutdown, trigger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_reaches_every_clone_and_late_ones() {
        let (shutdown, trigger) = Shutdown::new();
        let other = shutdown.clone();
        assert!(!shutdown.is_stopping());
        trigger.stop();
        trigger.stop();
        shutdown.wait().await;
        other.wait().await;
        assert!(other.is_stopping());
    }

    #[tokio::test]
    async fn a_lost_trigger_stops() {
        let (shutdown, trigger) = Shutdown::new();
        drop(trigger);
        shutdown.wait().await;
        assert!(shutdown.is_stopping());
    }
}
