//! Keeps a mount served: lets the machine's cache node adopt it, notices when that node dies or goes silent, and asks the next one.
//! Knows time, the hold and the cache nodes. Does not know what is bound where. It can't kill a node, which is another container's: it says so.
//! Invariant: a request of a pod waits for a node until `adopt_within`, then fails; it never hangs for good, and never sees other bytes.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use forebay_daemon::shutdown::Shutdown;
use forebay_mounter::hold::{Event, Hold};
use forebay_mounter::protocol::Reply;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cache_node::{CacheNodes, Problem};
use crate::metrics::Metrics;
use crate::volume::Uid;

/// Between two tries while readers have just begun to wait, and later.
const RETRY_SOON: Duration = Duration::from_millis(100);
const RETRY_LATER: Duration = Duration::from_secs(1);
const SOON_FOR: Duration = Duration::from_secs(10);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Without a report of the node for so long it is called hung.
    pub(crate) hung_after: Duration,
    /// Without a node for so long, requests fail.
    pub(crate) adopt_within: Duration,
}

/// Whether somebody answers the mount's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    /// Requests wait. With what the last try failed, if one did.
    Waiting {
        problem: Option<Problem>,
    },
    Serving,
    /// The node lives and has stopped to report.
    Hung,
    /// Every request fails, for good.
    Aborted {
        why: String,
    },
}

/// What one keeper works with.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) uid: Uid,
    pub(crate) name: String,
    pub(crate) hold: Arc<Hold>,
    pub(crate) holder_socket: PathBuf,
    pub(crate) nodes: CacheNodes,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: watch::Sender<Attachment>,
}

type Attach = Pin<Box<dyn Future<Output = Result<(), Problem>> + Send>>;

/// What happens next.
enum Next {
    Event(Event),
    Attached(Result<(), Problem>),
    Died,
    Due,
    Stop,
}

struct Run {
    keeper: Keeper,
    /// The adopter, readable when it is dead.
    process: Option<AsyncFd<std::os::fd::OwnedFd>>,
    attach: Option<Attach>,
    try_at: Option<Instant>,
    waits_since: Instant,
    report_by: Option<Instant>,
}

impl Keeper {
    /// Runs until `shutdown`, or until the holder's events end. Leaves the mount as it is.
    pub(crate) async fn keep(self, mut events: mpsc::Receiver<Event>, shutdown: Shutdown) {
        let now = Instant::now();
        let mut run = Run { keeper: self, process: None, attach: None, try_at: Some(now), waits_since: now, report_by: None };
        // A mount that was given back has its adopter already.
        if run.keeper.hold.status().ready {
            run.serves();
        }
        loop {
            match run.next(&mut events, &shutdown).await {
                Next::Stop => return,
                Next::Event(event) => run.heard(event),
                Next::Attached(result) => run.attached(result),
                Next::Died => run.died(),
                Next::Due => run.due(),
            }
        }
    }
}

impl Run {
    async fn next(&mut self, events: &mut mpsc::Receiver<Event>, shutdown: &Shutdown) -> Next {
        let deadline = self.deadline();
        let Self { process, attach, .. } = self;
        tokio::select! {
            () = shutdown.wait() => Next::Stop,
            event = events.recv() => event.map_or(Next::Stop, Next::Event),
            () = dead(process.as_ref()) => Next::Died,
            result = finished(attach.as_mut()) => Next::Attached(result),
            () = reached(deadline) => Next::Due,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.is_aborted() {
            return None;
        }
        let give_up = (!self.is_served()).then(|| self.waits_since + self.keeper.limits.adopt_within);
        let try_at = self.try_at.filter(|_| self.attach.is_none());
        [give_up, try_at, self.report_by].into_iter().flatten().min()
    }

    fn due(&mut self) {
        let now = Instant::now();
        if self.report_by.is_some_and(|at| at <= now) {
            self.report_by = None;
            let after = self.keeper.limits.hung_after;
            tracing::error!(dataset = self.keeper.name, ?after, "the cache node lives and doesn't answer: delete its pod, readers wait");
            self.keeper.state.send_replace(Attachment::Hung);
            self.keeper.metrics.hung.inc();
            // Should it be another program under the same pid by now, it adopts when it is asked.
            self.try_at = Some(now);
        }
        if !self.is_served() && now >= self.waits_since + self.keeper.limits.adopt_within {
            return self.abort(&format!("no cache node served it within {} s", self.keeper.limits.adopt_within.as_secs()));
        }
        if self.attach.is_none() && self.try_at.is_some_and(|at| at <= now) {
            self.try_at = None;
            let Keeper { nodes, uid, holder_socket, .. } = &self.keeper;
            let (nodes, uid, socket) = (nodes.clone(), uid.clone(), holder_socket.clone());
            self.attach = Some(Box::pin(async move { nodes.attach(&uid, &socket).await }));
        }
    }

    fn attached(&mut self, result: Result<(), Problem>) {
        self.attach = None;
        let adopted = self.keeper.hold.status().node_pid.is_some();
        match result {
            // It says so, and yet is silent where it should report: only a new adoption or a report tells better.
            Ok(()) if self.is_hung() => self.try_at = Some(Instant::now() + RETRY_LATER),
            Ok(()) if adopted => self.serves(),
            // A node that adopted and died since has no say any more.
            Ok(()) => self.try_again(Problem { is_stated: false, detail: "the cache node died while it adopted".to_owned() }),
            Err(problem) => self.try_again(problem),
        }
    }

    fn try_again(&mut self, problem: Problem) {
        let pause = if self.waits_since.elapsed() < SOON_FOR { RETRY_SOON } else { RETRY_LATER };
        self.try_at = Some(Instant::now() + pause);
        if self.is_hung() {
            self.try_at = Some(Instant::now() + RETRY_LATER);
        } else if !self.is_aborted() && !self.is_served() {
            tracing::debug!(dataset = self.keeper.name, problem = problem.detail, "nobody serves the mount yet");
            self.keeper.state.send_replace(Attachment::Waiting { problem: Some(problem) });
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Adopted { pid } => {
                tracing::debug!(dataset = self.keeper.name, pid, "the mount is adopted");
                self.keeper.metrics.adoptions.inc();
                self.watch_adopter();
            }
            Event::Ready { pid: _ } => self.serves(),
            Event::Alive { pid: _ } if self.is_served() => {
                self.report_by = Some(Instant::now() + self.keeper.limits.hung_after);
                if self.is_hung() {
                    self.serves();
                }
            }
            Event::Alive { pid: _ } => {}
            // The process may live on: as another program, after an exec, or without this mount.
            Event::Gone { pid: _ } if self.process.is_some() => self.died(),
            Event::Gone { pid: _ } => {}
            Event::Unmount { answer } => {
                let detail = "kubelet unmounts this volume when its last pod is gone".to_owned();
                answer.send(&Reply::Failed { errno: None, detail });
            }
        }
    }

    fn serves(&mut self) {
        if self.is_aborted() {
            return;
        }
        self.watch_adopter();
        self.try_at = None;
        if *self.keeper.state.borrow() != Attachment::Serving {
            let status = self.keeper.hold.status();
            tracing::info!(dataset = self.keeper.name, pid = status.node_pid, epoch = status.epoch, "the mount is served");
            self.report_by = Some(Instant::now() + self.keeper.limits.hung_after);
            self.keeper.state.send_replace(Attachment::Serving);
        }
    }

    fn watch_adopter(&mut self) {
        let watched = self.keeper.hold.adopter().and_then(|adopter| {
            let Some((_, process)) = adopter else { return Ok(None) };
            // SAFETY: the descriptor is owned by what it is moved into, so it stays open and the same until that is dropped.
            Ok(Some(unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?))
        });
        match watched {
            Ok(process) => self.process = process,
            Err(error) => tracing::error!(%error, dataset = self.keeper.name, "the cache node's end can't be watched"),
        }
    }

    fn died(&mut self) {
        self.process = None;
        self.report_by = None;
        if self.is_aborted() {
            return;
        }
        if !self.keeper.hold.is_connected() {
            return self.abort("the kernel's connection is closed");
        }
        if !self.keeper.hold.features().resend {
            // What the dead node had read would never be answered.
            return self.abort("the cache node died, and this kernel can't send its requests again (Linux 6.9 can)");
        }
        tracing::warn!(dataset = self.keeper.name, "the cache node is gone: requests wait for the next one");
        self.keeper.metrics.deaths.inc();
        self.keeper.state.send_replace(Attachment::Waiting { problem: None });
        self.waits_since = Instant::now();
        self.try_at = Some(self.waits_since);
    }

    fn abort(&mut self, why: &str) {
        tracing::error!(dataset = self.keeper.name, why, "reads of the mount fail from now on; pods must be started again");
        if let Err(error) = self.keeper.hold.abort(why) {
            tracing::error!(%error, dataset = self.keeper.name, "the connection can't be aborted: reads may hang");
        }
        self.try_at = None;
        self.report_by = None;
        self.keeper.metrics.aborts.inc();
        self.keeper.state.send_replace(Attachment::Aborted { why: why.to_owned() });
    }

    fn is_served(&self) -> bool {
        matches!(*self.keeper.state.borrow(), Attachment::Serving | Attachment::Hung)
    }

    fn is_hung(&self) -> bool {
        *self.keeper.state.borrow() == Attachment::Hung
    }

    fn is_aborted(&self) -> bool {
        matches!(*self.keeper.state.borrow(), Attachment::Aborted { .. })
    }
}

async fn dead(process: Option<&AsyncFd<std::os::fd::OwnedFd>>) {
    match process {
        // An error would repeat at once, for ever: better not to be woken at all.
        Some(process) => match process.readable().await {
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn finished(attach: Option<&mut Attach>) -> Result<(), Problem> {
    match attach {
        Some(attach) => attach.await,
        None => std::future::pending().await,
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
