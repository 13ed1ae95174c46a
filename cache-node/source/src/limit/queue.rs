//! Who may have a request in flight: two queues, on-demand first.
//! Invariant: `in_flight` is the number of permits that exist.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Priority;
use super::adaptive::{Adaptive, Kind};

/// Waiting requests of one priority; beyond it something is wrong, and waiting longer helps nobody.
const WAITING_MAX: usize = 1 << 16;
/// Background requests leave a quarter of the limit free, so that a reader's request starts at once.
const BACKGROUND_SHARE: (u32, u32) = (3, 4);

pub(super) struct Queue {
    /// Guards counts, queues and the limit; never held while waiting.
    state: Mutex<State>,
}

struct State {
    in_flight: u32,
    background_in_flight: u32,
    on_demand: VecDeque<oneshot::Sender<Permit>>,
    background: VecDeque<oneshot::Sender<Permit>>,
    adaptive: Adaptive,
}

impl State {
    fn has_room(&self, priority: Priority) -> bool {
        self.in_flight < self.adaptive.limit().max(1)
            && (priority == Priority::OnDemand || self.background_in_flight < self.background_max())
    }
    fn background_max(&self) -> u32 {
        (self.adaptive.limit() * BACKGROUND_SHARE.0 / BACKGROUND_SHARE.1).max(1)
    }
    fn count(&mut self, priority: Priority) {
        self.in_flight += 1;
        self.background_in_flight += u32::from(priority == Priority::Background);
    }
    fn uncount(&mut self, priority: Priority) {
        self.in_flight -= 1;
        self.background_in_flight -= u32::from(priority == Priority::Background);
    }
}

/// The right to one request in flight, until dropped.
pub(super) struct Permit {
    /// `None` when the place was taken back by hand.
    queue: Option<Arc<Queue>>,
    priority: Priority,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let mut state = queue.state.lock();
        state.uncount(self.priority);
        queue.grant(&mut state);
    }
}

impl Queue {
    pub(super) fn new(max: u32) -> Arc<Self> {
        let state = State {
            in_flight: 0,
            background_in_flight: 0,
            on_demand: VecDeque::new(),
            background: VecDeque::new(),
            adaptive: Adaptive::new(max),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    pub(super) fn limit(&self) -> u32 {
        self.state.lock().adaptive.limit()
    }

    /// Waits for a turn; an error when too many wait already. Dropping the future gives the place up.
    pub(super) async fn acquire(self: &Arc<Self>, priority: Priority) -> Result<Permit, String> {
        let turn = {
            let mut state = self.state.lock();
            let nobody_waits = match priority {
                Priority::OnDemand => state.on_demand.is_empty(),
                Priority::Background => state.on_demand.is_empty() && state.background.is_empty(),
            };
            if nobody_waits && state.has_room(priority) {
                state.count(priority);
                return Ok(Permit { queue: Some(self.clone()), priority });
            }
            let queue = match priority {
                Priority::OnDemand => &mut state.on_demand,
                Priority::Background => &mut state.background,
            };
            if queue.len() >= WAITING_MAX {
                return Err(format!("{WAITING_MAX} requests wait for their turn already"));
            }
            let (grant, turn) = oneshot::channel();
            queue.push_back(grant);
            turn
        };
        turn.await.map_err(|_| "the limiter is gone".to_owned())
    }

    pub(super) fn answered(self: &Arc<Self>, kind: Kind, elapsed: Duration) {
        let mut state = self.state.lock();
        // Background requests alone never fill the limit: they use it when they fill their share.
        let is_used = state.in_flight >= state.background_max();
        state.adaptive.answered(kind, elapsed, is_used, Instant::now());
        self.grant(&mut state);
    }

    pub(super) fn throttled(&self) {
        self.state.lock().adaptive.throttled(Instant::now());
    }

    /// Hands free places to who waits longest, on-demand first.
    fn grant(self: &Arc<Self>, state: &mut State) {
        for priority in [Priority::OnDemand, Priority::Background] {
            while state.has_room(priority) {
                let waiting = match priority {
                    Priority::OnDemand => state.on_demand.pop_front(),
                    Priority::Background => state.background.pop_front(),
                };
                let Some(turn) = waiting else { break };
                state.count(priority);
                if let Err(mut permit) = turn.send(Permit { queue: Some(self.clone()), priority }) {
                    // Who waited has left. Dropping the permit as it is would lock again.
                    permit.queue = None;
                    state.uncount(priority);
                }
            }
        }
    }
}
