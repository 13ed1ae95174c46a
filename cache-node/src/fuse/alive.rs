//! Tells the holder, once a second, that this daemon still answers: its runtime runs, and no thread is stuck in a request.
//! Knows threads and time. Does not know requests: one that waits for a source is a task, and holds no thread up.
//! Invariant: says nothing it has not just seen. Silence is what the holder acts on, so a process that is stopped needs no code of its own.

use std::cell::OnceCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::handover::Handover;

/// Several times within what a holder allows (see `mount --hung-after`), at a cost that nobody sees.
const EVERY: Duration = Duration::from_secs(1);

/// What the threads of a session are at. Each counts its own begins and ends, in a place of its own: no clock and no shared line on the way of a request.
#[derive(Debug, Default)]
pub(super) struct Loops {
    threads: Mutex<Vec<Arc<AtomicU64>>>,
}

thread_local! {
    /// Odd: this thread is in a request.
    static TURN: OnceCell<Arc<AtomicU64>> = const { OnceCell::new() };
}

/// A request that this thread is in.
pub(super) struct Turn {
    /// It ends on the thread that began it.
    _here: PhantomData<*const ()>,
}

impl Loops {
    pub(super) fn begin(&self) -> Turn {
        TURN.with(|turn| {
            let turn = turn.get_or_init(|| {
                let turn = Arc::default();
                self.threads.lock().push(Arc::clone(&turn));
                turn
            });
            step(turn);
        });
        Turn { _here: PhantomData }
    }

    fn turns(&self) -> Vec<u64> {
        self.threads.lock().iter().map(|turn| turn.load(Ordering::Relaxed)).collect()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURN.with(|turn| turn.get().map(|turn| step(turn)));
    }
}

/// Only the thread itself writes, so this needs no atomic addition.
fn step(turn: &AtomicU64) {
    turn.store(turn.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Compares two looks at the threads.
#[derive(Debug, Default)]
struct Watch {
    before: Vec<u64>,
}

impl Watch {
    /// Whether a thread is in the same request as at the look before.
    fn is_stuck(&mut self, turns: Vec<u64>) -> bool {
        let stuck = self.before.iter().zip(&turns).any(|(before, now)| before == now && now % 2 == 1);
        self.before = turns;
        stuck
    }
}

/// Reports until the runtime or the holder is gone. Blocking: for a thread and a connection of its own.
pub(super) fn report(loops: &Loops, runtime: &Handle, holder: &Handover) {
    let mut watch = Watch::default();
    let mut was_stuck = false;
    loop {
        let (ticked, tick) = sync_channel(1);
        runtime.spawn(async move {
            tokio::time::sleep(EVERY).await;
            // This thread may have ended with the process.
            let _ = ticked.send(());
        });
        // Without an answer for as long as the runtime is stuck.
        if tick.recv().is_err() {
            return;
        }
        let stuck = watch.is_stuck(loops.turns());
        if stuck && !was_stuck {
            tracing::warn!("a thread has been in one request for over a second: the holder isn't told that all is well");
        }
        was_stuck = stuck;
        if holder.is_retired() {
            return;
        }
        if !stuck && let Err(error) = holder.alive() {
            tracing::debug!(%error, "the holder is gone");
            if !holder.is_lasting() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_stuck_that_is_in_the_same_request_twice() {
        let loops = Loops::default();
        let mut watch = Watch::default();
        assert!(!watch.is_stuck(loops.turns()), "no thread");
        let first = loops.begin();
        assert!(!watch.is_stuck(loops.turns()), "seen once");
        assert!(watch.is_stuck(loops.turns()), "seen twice");
        drop(first);
        assert!(!watch.is_stuck(loops.turns()), "it ended");
        assert!(!watch.is_stuck(loops.turns()), "idle");
        let _second = loops.begin();
        assert!(!watch.is_stuck(loops.turns()), "another request");
        std::thread::scope(|scope| {
            scope.spawn(|| drop(loops.begin()));
        });
        assert!(watch.is_stuck(loops.turns()), "another thread doesn't hide it");
    }
}
