//! Random operations on the nodes of a cache and on its source, against a model of what each node may show: nodes stop, start again with their disk,
//! join and leave; links between them are cut or stall; the source changes, and is away for a while.
//!
//! The model keeps what each name was, and when. A node may show what a name was at any time since its last sync began; a read that goes on while
//! nodes come and go has the bytes of one such version, and fails only while the source is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forebay_node::control::Control;
use forebay_node::fs::Error;
use forebay_node::node::{Node, NodeError, Towards};
use forebay_peer::PeerLimits;
use forebay_store::StoreError;
use forebay_wire::dataset_spec::Eviction;
use forebay_wire::node_config::PeerNode;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::rig::Cache;
use crate::fs_model::{contents, from_environment};
use crate::memory_source::MemorySource;
use crate::semantics::{Rig, spec};

const NODES: usize = 5;
/// Less than what there is, so that all of it is not held even by all.
const CAPACITY_BYTES: u64 = 1 << 20;
const READS_AT_ONCE: usize = 12;
/// An open inode may be of a version that went: then the next look-up has another.
const LOOKS_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Open,
    /// Connections end, new ones are closed at once.
    Cut,
    /// Nothing gets through and nothing ends.
    Stalled,
}

/// From one node to another: what one takes for the other's address.
struct Link {
    address: SocketAddr,
    line: watch::Sender<Line>,
}

impl Link {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, line) = (listener.local_addr().unwrap(), watch::Sender::new(Line::Open));
        let seen = line.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, seen.clone()));
            }
        });
        Self { address, line }
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut line: watch::Receiver<Line>) {
    if line.wait_for(|line| *line != Line::Stalled).await.is_ok_and(|line| *line == Line::Cut) {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let disturbed = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
        line = line.wait_for(|line| *line != Line::Open) => line.map(|line| *line),
    };
    if disturbed.is_ok_and(|line| line == Line::Stalled) {
        // Both ends wait; what was on its way is lost.
        let _ended = line.wait_for(|line| *line != Line::Stalled).await;
    }
}

/// What a name was, from when on.
type History = Vec<(u64, Option<u64>)>;

struct World {
    rng: StdRng,
    source: Arc<MemorySource>,
    cache: Cache,
    /// From each to each.
    links: Vec<Vec<Link>>,
    nodes: Vec<Option<Arc<Rig>>>,
    /// Who is in the list of nodes.
    members: BTreeSet<usize>,
    history: BTreeMap<String, History>,
    /// When each node's last sync began.
    synced: Vec<u64>,
    clock: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let cache = Cache::new(NODES);
        let mut links = Vec::new();
        for _ in 0..NODES {
            let mut row = Vec::new();
            for node in &cache.list {
                row.push(Link::to(node.address.parse().unwrap()).await);
            }
            links.push(row);
        }
        Self {
            rng: StdRng::seed_from_u64(seed),
            source: MemorySource::new(),
            cache,
            links,
            nodes: vec![None; NODES],
            members: (0..3).collect(),
            history: BTreeMap::new(),
            synced: vec![0; NODES],
            clock: 1,
        }
    }

    fn key(&mut self) -> String {
        format!("d{}/f{}", self.rng.random_range(0..4), self.rng.random_range(0..20))
    }

    fn put(&mut self) {
        let key = self.key();
        // The source numbers its versions the same way.
        let next = 1 + self.history.values().flatten().filter_map(|(_, version)| *version).max().unwrap_or(0);
        assert_eq!(self.source.put(key.as_bytes(), contents(next)), next);
        self.clock += 1;
        self.history.entry(key).or_default().push((self.clock, Some(next)));
    }

    fn delete(&mut self) {
        let key = self.key();
        self.source.delete(key.as_bytes());
        self.clock += 1;
        self.history.entry(key).or_default().push((self.clock, None));
    }

    /// What `key` was since `then`, what it is now at the end.
    fn since(&self, key: &str, then: u64) -> Vec<Option<u64>> {
        let mut seen = vec![None];
        for (at, version) in self.history.get(key).into_iter().flatten() {
            if *at <= then {
                seen.clear();
            }
            seen.push(*version);
        }
        seen
    }

    /// The list of nodes as node `number` sees it.
    fn list(&self, number: usize) -> Vec<PeerNode> {
        let seen = |other: &usize| {
            let address =
                if *other == number { self.cache.list[number].address.clone() } else { self.links[number][*other].address.to_string() };
            PeerNode { address, ..self.cache.list[*other].clone() }
        };
        self.members.iter().map(seen).collect()
    }

    fn tell_members(&self) {
        for (number, rig) in self.running() {
            rig.node.set_peers(&self.list(number)).unwrap();
        }
    }

    fn running(&self) -> Vec<(usize, Arc<Rig>)> {
        self.nodes.iter().enumerate().filter_map(|(number, rig)| Some((number, rig.clone()?))).collect()
    }

    async fn start(&mut self, number: usize) {
        if self.members.insert(number) {
            self.tell_members();
        }
        let config = || {
            let mut config = self.cache.config(number, CAPACITY_BYTES);
            config.peers.as_mut().unwrap().nodes = self.list(number);
            config
        };
        let millis = Duration::from_millis;
        let limits = PeerLimits { connect: millis(500), silence: millis(500), hedge_min: millis(20), ..PeerLimits::default() };
        let start = || {
            let towards = Towards { limits, take_over: millis(100), ..Towards::default() };
            Node::start_towards(config(), Eviction::S3Fifo, tokio::runtime::Handle::current(), towards).map_err(Box::new)
        };
        // The one that was stopped in this very process may not have let go of its folder yet.
        let mut node = start();
        for _ in 0..100 {
            if !node.as_ref().is_err_and(|error| matches!(**error, NodeError::Store(StoreError::InUse { .. }))) {
                break;
            }
            tokio::time::sleep(millis(50)).await;
            node = start();
        }
        let node = node.unwrap();
        let rules = "  sync: { interval: 1h }\n  rules: [{ path: /d0, copies: { min: 2 } }, { path: /d1, localCopy: Always }, { path: /d2, cache: Never }]\n";
        let dataset = node.add_with(spec(rules), Path::new("/nowhere"), vec![self.source.handle()]).unwrap();
        let rig = Arc::new(Rig { node, dataset });
        rig.listed().await;
        self.nodes[number] = Some(rig);
        self.sync(number).await;
    }

    async fn sync(&mut self, number: usize) {
        let (rig, began) = (self.nodes[number].clone().unwrap(), self.clock);
        rig.sync().await;
        self.synced[number] = began;
    }

    fn set_lines(&self, line: impl Fn(usize, usize) -> Line) {
        for (from, row) in self.links.iter().enumerate() {
            for (to, link) in row.iter().enumerate() {
                link.line.send_replace(line(from, to));
            }
        }
    }

    /// Reads on some of `rigs` at once, while `event` goes on.
    async fn read_while(&mut self, rigs: &[(usize, Arc<Rig>)], event: impl Future<Output = ()>) {
        let mut reads = Vec::new();
        for _ in 0..READS_AT_ONCE {
            let Some((number, rig)) = rigs.choose(&mut self.rng).cloned() else { break };
            let (key, offset, len) = (self.key(), self.rng.random_range(0..150_000), self.rng.random_range(1..=100_000));
            let offset = if self.rng.random_bool(0.5) { 0 } else { offset };
            let allowed = self.since(&key, self.synced[number]);
            let is_away = self.source.away.load(Relaxed);
            reads.push(async move { read(&rig, number, &key, offset, len, &allowed, is_away).await });
        }
        tokio::join!(futures::future::join_all(reads), event);
    }

    async fn step(&mut self) {
        let running = self.running();
        let some = running.choose(&mut self.rng).map(|(number, _)| *number).unwrap();
        let stopped: Vec<usize> = (0..NODES).filter(|number| self.nodes[*number].is_none()).collect();
        let others: Vec<_> = running.iter().filter(|(number, _)| *number != some).cloned().collect();
        let event = self.rng.random_range(0..100);
        println!(
            "{}: event {event} at node {some}, running {:?}, listed {:?}",
            self.clock,
            running.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            self.members
        );
        match event {
            0..20 => self.put(),
            20..26 => self.delete(),
            26..40 => self.sync(some).await,
            40..45 => drop(running[0].1.node.free(vec!["/d3".to_owned()]).await),
            // Stopped while the others read from it.
            45..52 if running.len() > 1 => {
                let rig = self.nodes[some].take().unwrap();
                return self.read_while(&others, async { rig.node.stop().await }).await;
            }
            52..64 => {
                if let Some(number) = stopped.choose(&mut self.rng).copied() {
                    self.start(number).await;
                }
            }
            // One that is stopped leaves the list.
            64..68 => {
                if let Some(number) = stopped.iter().find(|number| self.members.contains(number)) {
                    self.members.remove(number);
                    self.tell_members();
                }
            }
            68..74 => {
                let side: Vec<bool> = (0..NODES).map(|_| self.rng.random_bool(0.5)).collect();
                self.set_lines(|from, to| if side[from] == side[to] { Line::Open } else { Line::Cut });
            }
            74..78 => self.set_lines(|_, to| if to == some { Line::Stalled } else { Line::Open }),
            78..86 => self.set_lines(|_, _| Line::Open),
            86..90 => {
                self.source.away.store(true, Relaxed);
                self.read_while(&running, async {}).await;
                self.source.away.store(false, Relaxed);
            }
            _ => {}
        }
        let running = self.running();
        self.read_while(&running, async {}).await;
    }
}

/// Reads a part of `key`, of one of the versions that are `allowed`; the last one of them is what is there now.
async fn read(rig: &Rig, number: usize, key: &str, offset: usize, len: usize, allowed: &[Option<u64>], is_away: bool) {
    let now = *allowed.last().unwrap();
    for _ in 0..LOOKS_MAX {
        let found = match rig.find(key).await {
            Ok(found) => found,
            Err(Error::NotFound | Error::Stale { .. }) => {
                assert!(allowed.contains(&None), "{key} is hidden on node {number}, allowed is {allowed:?}");
                return;
            }
            Err(_) if is_away => return,
            Err(error) => panic!("find {key} on node {number}: {error}"),
        };
        let Ok(version) = rig.fs().extended_attribute(found.id, b"user.forebay.version") else { continue };
        let version: u64 = String::from_utf8(version).unwrap()[1..].parse().unwrap();
        assert!(allowed.contains(&Some(version)), "{key} on node {number} shows v{version}, allowed is {allowed:?}");
        let whole = contents(version);
        let expected = &whole[offset.min(whole.len())..(offset + len).min(whole.len())];
        match rig.read(found.id, offset as u64, len).await {
            Ok(bytes) => {
                assert!(
                    bytes == expected,
                    "{key} v{version} on node {number} at {offset}: {} bytes, {} expected",
                    bytes.len(),
                    expected.len()
                );
                return;
            }
            Err(Error::Stale { .. }) => assert_ne!(now, Some(version), "{key} v{version} is in the source and can be read"),
            Err(_) if is_away => return,
            Err(error) => panic!("read {key} v{version} on node {number}: {error}"),
        }
    }
    panic!("{key} on node {number} stays stale, allowed is {allowed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_node_shows_is_what_the_model_allows_whoever_comes_and_goes() {
    let steps = from_environment("FOREBAY_TORTURE").map_or(150, |count| if count > 1 { count } else { 4000 });
    let seed = from_environment("FOREBAY_SEED").unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed} steps={steps}");
    let mut world = World::new(seed).await;
    for _ in 0..60 {
        world.put();
    }
    for number in 0..3 {
        world.start(number).await;
    }
    for _ in 0..steps {
        world.step().await;
    }
    // In the end all is well, and each node shows just what there is.
    world.set_lines(|_, _| Line::Open);
    for number in 0..NODES {
        if world.nodes[number].is_none() {
            world.start(number).await;
        }
        world.sync(number).await;
    }
    for (number, rig) in world.running() {
        for (key, history) in &world.history {
            read(&rig, number, key, 0, 300_000, &[history.last().unwrap().1], false).await;
        }
        rig.node.stop().await;
    }
}
