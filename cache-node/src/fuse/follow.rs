//! What a session does besides answering: it follows its holder, gives the mount back to the next one, and lets go of what the store evicted.
//! Knows the holder's connection and the passthrough table. Does not know requests.
//! Invariant: the first reason to end is the one that is told.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::FuseError;
use super::passthrough::Passthrough;
use crate::handover::Handover;

/// How often the passthrough table looks for files that the store evicted.
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// How often the holder's socket is tried while nobody listens.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(50);

/// The first reason to end is the one that is told.
pub(super) type End = Arc<Mutex<Option<oneshot::Sender<Result<(), FuseError>>>>>;

pub(super) fn finish(end: &End, result: Result<(), FuseError>) {
    if let Some(end) = end.lock().take() {
        // Nobody waits any more: the process is ending.
        let _ = end.send(result);
    }
}

/// Without its holder a mount can be neither unmounted nor handed on. A holder that ends with its mount: the session ends, and with the last copy of
/// the device every read fails. One that is started again: it gets the mount back.
pub(super) fn follow_holder(handover: &Handover, end: End) -> Result<(), FuseError> {
    let watched = handover.another()?;
    spawn("holder", move || {
        loop {
            watched.wait_until_gone();
            if !watched.is_lasting() {
                return finish(&end, Err(FuseError::HolderGone));
            }
            if watched.is_retired() {
                return;
            }
            tracing::warn!("the driver that holds the mount is gone; reads go on, and the next driver gets the mount back");
            while let Err(error) = watched.give_back() {
                if watched.is_retired() {
                    return;
                }
                tracing::debug!(%error, "nobody takes the mount back yet");
                std::thread::park_timeout(GIVE_BACK_EVERY);
            }
            tracing::info!("the driver has the mount back");
        }
    })
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), FuseError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map(drop).map_err(|cause| FuseError::Session { op: "start a thread of", cause })
}

pub(super) async fn sweep(passthrough: Arc<Passthrough>, notifier: Handover) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (passthrough, teller) = (Arc::clone(&passthrough), notifier.clone());
        let swept = tokio::task::spawn_blocking(move || {
            let prune = passthrough.sweep();
            if prune.is_empty() { Ok(()) } else { teller.notify(prune, None) }
        });
        match swept.await {
            Ok(Ok(())) => {}
            Ok(Err(_)) if notifier.is_retired() => return,
            Ok(Err(error)) if !notifier.is_lasting() => return tracing::warn!(%error, "the holder is gone"),
            // It is told again at the next tick.
            Ok(Err(error)) => tracing::debug!(%error, "the holder is away"),
            Err(_) => return,
        }
    }
}
