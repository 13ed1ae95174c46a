//! Work that holds up its thread, the disk's and long walks: done aside, on a thread for such work.
//! Knows tasks and the runtime. Does not know what the work is.
//! Invariant: on a runtime of one thread nothing runs beside it. Work is done there in turn, so that a run that is simulated comes out the same
//! each time; a process that serves has a runtime of several threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Of a `Line` at most, where work comes faster than fewer do it.
const THREADS_MAX: usize = 16;
/// The same where what they do holds them up: as many as ever wait for a disk at once.
const STUCK_THREADS_MAX: usize = 256;
/// Work that waits longer than this waits for threads that are held up, not for busy ones.
const STUCK_AFTER: Duration = Duration::from_millis(50);

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

/// Much small work of one kind, of which nobody waits for the end. As few threads do it as keep up, one for each core: what comes while they are
/// busy wakes nobody, which costs more than small work itself.
#[derive(Clone, Default)]
pub(crate) struct Line(Arc<Mutex<Waiting>>);

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    /// Oldest first, with when it came.
    work: VecDeque<(Instant, Work)>,
    threads: usize,
}

impl Line {
    /// Puts `work` at the end. Within a runtime; never waits.
    pub(crate) fn push(&self, work: impl FnOnce() + Send + 'static) {
        if is_in_turn() {
            tokio::spawn(async { work() });
            return;
        }
        let now = Instant::now();
        let is_short_of_threads = {
            let mut waiting = self.0.lock();
            let is_stuck = waiting.work.front().is_some_and(|(since, _)| now - *since > STUCK_AFTER);
            let threads_max = if is_stuck { STUCK_THREADS_MAX } else { width() };
            waiting.work.push_back((now, Box::new(work)));
            let is_short = waiting.threads < threads_max;
            waiting.threads += usize::from(is_short);
            is_short
        };
        if is_short_of_threads {
            let hand = Hand { line: self.clone(), is_done: false };
            tokio::task::spawn_blocking(|| hand.work());
        }
    }
}

fn width() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// One thread of a line.
struct Hand {
    line: Line,
    /// It found nothing more to do.
    is_done: bool,
}

impl Hand {
    fn work(mut self) {
        while let Some(work) = self.next() {
            // Its own affair: who waits for something of it is told by what it drops.
            let _ = catch_unwind(AssertUnwindSafe(work));
        }
    }

    fn next(&mut self) -> Option<Work> {
        let mut waiting = self.line.0.lock();
        let next = waiting.work.pop_front().map(|(_, work)| work);
        if next.is_none() {
            waiting.threads -= 1;
            self.is_done = true;
        }
        next
    }
}

impl Drop for Hand {
    /// Not done: the runtime ended before it began. The last one drops what nobody will do.
    fn drop(&mut self) {
        if !self.is_done {
            let left = {
                let mut waiting = self.line.0.lock();
                waiting.threads -= 1;
                if waiting.threads == 0 { std::mem::take(&mut waiting.work) } else { VecDeque::new() }
            };
            drop(left);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// One permit more when it is dropped.
    struct Over(Arc<Semaphore>);

    impl Drop for Over {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }

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

    #[tokio::test(flavor = "multi_thread")]
    async fn a_line_does_all_with_as_few_threads_as_there_are_cores() {
        let (line, done) = (Line::default(), Arc::new(AtomicUsize::new(0)));
        let (here, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all = Arc::new(Semaphore::new(0));
        for number in 0..1000 {
            let (done, here, most, all) = (done.clone(), here.clone(), most.clone(), all.clone());
            line.push(move || {
                let _over = Over(all);
                most.fetch_max(here.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::yield_now();
                here.fetch_sub(1, SeqCst);
                // One that fails costs only itself.
                assert!(number % 100 != 7, "told to fail");
                done.fetch_add(1, SeqCst);
            });
        }
        let _all = all.acquire_many(1000).await.unwrap();
        assert_eq!(done.load(SeqCst), 990);
        assert!(most.load(SeqCst) <= width(), "{} at once", most.load(SeqCst));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn work_that_is_held_up_holds_up_no_other() {
        let (line, gate, over) = (Line::default(), Arc::new(Mutex::new(())), Arc::new(Semaphore::new(0)));
        let held = gate.lock();
        for _ in 0..width() {
            let gate = gate.clone();
            line.push(move || drop(gate.lock()));
        }
        // Whoever comes a while later sees that the first of these wasn't taken.
        let limit = Instant::now() + Duration::from_secs(20);
        while over.available_permits() == 0 {
            assert!(Instant::now() < limit, "it waits for what is held up");
            let over = Over(over.clone());
            line.push(move || drop(over));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(held);
    }

    #[tokio::test]
    async fn in_turn_a_line_is_done_in_order() {
        let (line, done) = (Line::default(), Arc::new(Mutex::new(Vec::new())));
        for number in 0..10 {
            let done = done.clone();
            line.push(move || done.lock().push(number));
        }
        assert!(done.lock().is_empty(), "nothing runs beside this task");
        while done.lock().len() < 10 {
            tokio::task::yield_now().await;
        }
        assert!(done.lock().is_sorted());
    }

    #[test]
    fn work_that_a_runtime_leaves_behind_is_dropped() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).build().unwrap();
        let (line, over, gate) = (Line::default(), Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(())));
        let held = gate.lock();
        let in_the_way = gate.clone();
        runtime.spawn_blocking(move || drop(in_the_way.lock()));
        runtime.block_on(async {
            let over = Over(over.clone());
            line.push(move || drop(over));
        });
        runtime.shutdown_background();
        drop(held);
        assert_eq!(over.available_permits(), 1);
    }
}
