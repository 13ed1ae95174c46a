//! Work that holds up its thread, the disk's and long walks: done aside, on a thread for such work.
//! Knows tasks and the runtime. Does not know what the work is.
//! Invariant: on a runtime of one thread nothing runs beside it. Work is done there in turn, so that a run that is simulated comes out the same
//! each time; a process that serves has a runtime of several threads.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

fn is_in_turn() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// Begins `work`, which may hold up its thread. Within a runtime; dropping what is given back doesn't end the work.
pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match is_in_turn() {
        true => tokio::spawn(async { work() }),
        false => tokio::task::spawn_blocking(work),
    }
}

/// The end of a queue that work puts things into.
pub(crate) struct Feeder<T> {
    sender: mpsc::Sender<T>,
    in_turn: bool,
}

/// A queue from work to a task, of `length` at most; when it is full the work waits. Work that is done in turn can't wait for the task, so there it
/// takes all. Within a runtime.
pub(crate) fn queue<T>(length: usize) -> (Feeder<T>, mpsc::Receiver<T>) {
    let in_turn = is_in_turn();
    let (sender, receiver) = mpsc::channel(if in_turn { Semaphore::MAX_PERMITS } else { length });
    (Feeder { sender, in_turn }, receiver)
}

impl<T> Feeder<T> {
    /// Nobody wants anything any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Puts one in; drops it when nobody wants it. Called by work.
    pub(crate) fn put(&self, thing: T) {
        let closed = match self.in_turn {
            true => self.sender.try_send(thing).is_err(),
            false => self.sender.blocking_send(thing).is_err(),
        };
        // Who reads has gone, and looks at `is_closed`.
        let _ = closed;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    async fn counted() -> usize {
        let (feeder, mut receiver) = queue(2);
        let work = spawn(move || (0..100).for_each(|number| feeder.put(number)));
        let mut count = 0;
        while receiver.recv().await == Some(count) {
            count += 1;
        }
        work.await.unwrap();
        count
    }

    #[tokio::test]
    async fn in_turn_work_feeds_all_before_anybody_takes() {
        assert_eq!(counted().await, 100);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn aside_work_waits_for_who_takes() {
        assert_eq!(counted().await, 100);
    }
}
