//! The network between the nodes: who can reach whom, and how fast.
//! Knows hosts by their number, links, latencies. Does not know what is said, or what a host has.
//! Invariant: what is under way on a link that is cut arrives when it is mended, or never, as TCP has it.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use forebay_peer::{Network, Pipe};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::pipe::{End, Lane};

/// One way, of a healthy link; up to as much again by chance.
const LATENCY: Duration = Duration::from_micros(200);
/// What a host can send: 10 GbE.
const BYTES_PER_SECOND: u64 = 1_250_000_000;

pub(crate) type Arrivals = mpsc::UnboundedReceiver<(Pipe, String)>;

pub(crate) struct Net {
    chance: Chance,
    /// Guards all below.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hosts: Vec<Host>,
    by_address: HashMap<String, usize>,
    /// From one host to another.
    cuts: HashSet<(usize, usize)>,
    lanes: Vec<Weak<Lane>>,
    connections: u64,
    bytes: u64,
}

struct Host {
    address: String,
    /// `None` while nobody listens: callers are refused.
    inbox: Option<mpsc::UnboundedSender<(Pipe, String)>>,
    /// Nothing gets there or comes from there, and nobody is told.
    is_silent: bool,
    /// On top of each packet's way.
    slow: Duration,
    free_at: Option<Instant>,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { chance: Chance::new(seed ^ 0x6e65_7400), state: Mutex::default() })
    }

    /// A host more; its number.
    pub(crate) fn add(&self, address: &str) -> usize {
        let mut state = self.state.lock();
        let host = Host { address: address.to_owned(), inbox: None, is_silent: false, slow: Duration::ZERO, free_at: None };
        state.hosts.push(host);
        let number = state.hosts.len() - 1;
        state.by_address.insert(address.to_owned(), number);
        number
    }

    /// The host listens from now on. Connections of its last life are broken.
    pub(crate) fn listen(&self, host: usize) -> Arrivals {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        state.each_lane_of(host, |lane| lane.reset(true, true));
        state.hosts[host].inbox = Some(sender);
        state.hosts[host].is_silent = false;
        receiver
    }

    /// The host's process is gone; `silently`, as when its machine lost power: then nobody is told.
    pub(crate) fn kill(&self, host: usize, silently: bool) {
        let mut state = self.state.lock();
        state.hosts[host].inbox = None;
        state.hosts[host].is_silent = silently;
        state.each_lane_of(host, |lane| lane.reset(!silently || lane.to == host, !silently || lane.from == host));
    }

    /// Whether bytes get from one host to another.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        let state = self.state.lock();
        state.is_cut(from, to)
    }

    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.state.lock().cuts.insert((from, to));
    }

    pub(crate) fn mend_all(&self) {
        let mut state = self.state.lock();
        state.cuts.clear();
        state.lanes.retain(|lane| lane.strong_count() > 0);
        state.lanes.iter().filter_map(Weak::upgrade).for_each(|lane| lane.wake());
    }

    pub(crate) fn slow_down(&self, host: usize, by: Duration) {
        self.state.lock().hosts[host].slow = by;
    }

    /// When `len` bytes that are sent now arrive.
    pub(crate) fn due(&self, from: usize, to: usize, len: usize) -> Instant {
        let (now, jitter) = (Instant::now(), self.chance.next() % LATENCY.as_nanos() as u64);
        let mut state = self.state.lock();
        state.bytes += len as u64;
        let slow = state.hosts[from].slow + state.hosts[to].slow;
        let begin = state.hosts[from].free_at.map_or(now, |free_at| free_at.max(now));
        let sent = begin + Duration::from_nanos(len as u64 * 1_000_000_000 / BYTES_PER_SECOND);
        state.hosts[from].free_at = Some(sent);
        sent + LATENCY + Duration::from_nanos(jitter) + slow
    }

    /// Connections that were made, and bytes that were sent.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.connections, state.bytes)
    }

    async fn connect(self: &Arc<Self>, from: usize, address: &str) -> io::Result<Pipe> {
        let to = self.state.lock().by_address.get(address).copied().ok_or(ErrorKind::NotFound)?;
        sleep(LATENCY * 2 + self.slowness(from, to) * 2).await;
        if self.is_cut(from, to) || self.is_cut(to, from) {
            // The caller has a limit.
            std::future::pending::<()>().await;
        }
        let mut state = self.state.lock();
        let inbox = state.hosts[to].inbox.clone().ok_or(ErrorKind::ConnectionRefused)?;
        let (there, back) = (Lane::new(self.clone(), from, to), Lane::new(self.clone(), to, from));
        if state.connections.is_multiple_of(1024) {
            state.lanes.retain(|lane| lane.strong_count() > 0);
        }
        state.connections += 1;
        state.lanes.extend([Arc::downgrade(&there), Arc::downgrade(&back)]);
        let caller = state.hosts[from].address.clone();
        drop(state);
        let (mine, theirs) = (End::new(back.clone(), there.clone()), End::new(there, back));
        inbox.send((Box::new(theirs), caller)).map_err(|_| ErrorKind::ConnectionRefused)?;
        Ok(Box::new(mine))
    }

    fn slowness(&self, from: usize, to: usize) -> Duration {
        let state = self.state.lock();
        state.hosts[from].slow + state.hosts[to].slow
    }
}

impl State {
    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.hosts[from].is_silent || self.hosts[to].is_silent || self.cuts.contains(&(from, to))
    }

    fn each_lane_of(&self, host: usize, act: impl Fn(&Lane)) {
        let of = |lane: &Arc<Lane>| lane.from == host || lane.to == host;
        self.lanes.iter().filter_map(Weak::upgrade).filter(of).for_each(|lane| act(&lane));
    }
}

/// The network as one host sees it.
pub(crate) struct Seen {
    pub(crate) net: Arc<Net>,
    pub(crate) host: usize,
}

#[async_trait]
impl Network for Seen {
    async fn connect(&self, address: &str) -> io::Result<Pipe> {
        self.net.connect(self.host, address).await
    }
}
