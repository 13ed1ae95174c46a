//! The other nodes: where they are, the connections to them, how they are, and what can be asked of them.
//! Knows names and addresses. Does not know who owns a block.
//! Invariants: a connection carries one request at a time; a peer that failed is asked again only after it answered a probe.
//!
//! Why a small pool and no streams side by side on one connection: TCP's window is then the back-pressure of each answer, and a reader that is slow
//! holds up nobody else; encryption of several answers runs on several cores; a lost packet delays one answer. The price is a connection an answer
//! under way, which the fills' own limits bound, and one handshake each, which is paid once for hundreds of answers.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use forebay_wire::id::NodeName;
use forebay_wire::peer_message as wire;
use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::answer::Answer;
use super::connection;
use super::error::{ConnectError, PeerError};
use super::exchange::{Exchange, Line};
use super::frame::{Frame, Kind, PAYLOAD_BYTES_MAX};
use super::handshake::{self, Capabilities, Introduction};
use super::health::{Breaker, Latency};
use super::message::{
    self, Coverage, DatasetId, FreeRequest, Freed, HoldsRequest, ListingHead, ListingRequest, ListingState, ManifestHead, ManifestRequest,
    ReadRequest, StoreRequest,
};
use super::metrics::ClientMetrics;
use super::transport::Security;

/// A connection is not used again so long after its last answer; the other side closes it later than that.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Nor so long after it was made: what a certificate proved is proved again, by the one in force then.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// Limits of the side that asks.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// To one peer: requests beyond that wait. With 1,000 nodes a node's fills are spread over all of them.
    pub connections_max: usize,
    /// From the first packet to the end of the greeting.
    pub connect: Duration,
    /// Without a frame for so long, a peer that owes an answer has failed. It sends a sign of life four times as often.
    pub silence: Duration,
    /// From a request to its last byte, signs of life or not: longer than a source is asked again.
    pub answer: Duration,
    /// A second peer is asked when the first shows no sign in its usual time, which is taken to be at least this.
    pub hedge_min: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            connections_max: 16,
            connect: Duration::from_secs(1),
            silence: Duration::from_secs(1),
            answer: Duration::from_secs(120),
            hedge_min: Duration::from_millis(5),
        }
    }
}

/// All other nodes of the cache. Used behind an `Arc`.
pub struct Peers {
    shared: Arc<Shared>,
    /// Guards which peers there are; they themselves are shared out.
    list: RwLock<HashMap<NodeName, Arc<Peer>>>,
}

struct Shared {
    own: Introduction,
    security: Security,
    limits: PeerLimits,
    metrics: ClientMetrics,
}

/// One other node.
pub(crate) struct Peer {
    shared: Arc<Shared>,
    name: NodeName,
    /// `host:port`.
    address: String,
    places: Arc<Semaphore>,
    /// Guards connections without a request, the one used last at the end.
    idle: Mutex<Vec<Line>>,
    health: Mutex<Health>,
    /// Told when it doesn't answer at all, for those that wait for its first sign.
    silent: Notify,
}

#[derive(Default)]
struct Health {
    breaker: Breaker,
    latency: Latency,
    /// When it was last asked for nothing but a sign of life.
    sounded_at: Option<Instant>,
}

impl Peers {
    /// Knows nobody before `set`.
    pub fn new(own: Introduction, security: Security, limits: PeerLimits) -> Arc<Self> {
        let shared = Arc::new(Shared { own, security, limits, metrics: ClientMetrics::default() });
        Arc::new(Self { shared, list: RwLock::default() })
    }

    /// Knows these from now on, each with its `host:port`. Who stays where it was keeps its connections; requests under way end as they would have.
    pub fn set(&self, peers: impl IntoIterator<Item = (NodeName, String)>) {
        let mut list = self.list.write();
        let mut next = HashMap::new();
        for (name, address) in peers {
            let known = list.get(&name).filter(|peer| peer.address == address).cloned();
            let peer = known.unwrap_or_else(|| Peer::new(self.shared.clone(), name.clone(), address));
            next.insert(name, peer);
        }
        *list = next;
    }

    pub fn metrics(&self) -> &ClientMetrics {
        &self.shared.metrics
    }
    pub fn limits(&self) -> &PeerLimits {
        &self.shared.limits
    }

    /// Peers that are bypassed now.
    pub fn bypassed(&self) -> Vec<NodeName> {
        let list = self.list.read();
        let open = list.values().filter(|peer| peer.health.lock().breaker.is_open());
        open.map(|peer| peer.name.clone()).collect()
    }

    /// Asks for bytes of a block. The answer's bytes are read from what is given back; dropping it cancels.
    pub async fn read(&self, peer: &NodeName, request: &ReadRequest) -> Result<Answer, PeerError> {
        let asked = (Kind::Read, Bytes::from(request.encode()));
        let exchange = self.ask(peer, asked, Capabilities::READ, Some(self.shared.limits.answer)).await?;
        Ok(Answer::new(exchange, request.extent.len()))
    }

    /// Gives a peer a block, all of its bytes; whether it keeps it.
    pub async fn store(&self, peer: &NodeName, request: &StoreRequest, mut bytes: Bytes) -> Result<bool, PeerError> {
        let asked = (Kind::Store, Bytes::from(request.encode()));
        let mut exchange = self.ask(peer, asked, Capabilities::STORE, Some(self.shared.limits.answer)).await?;
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(PAYLOAD_BYTES_MAX));
            exchange.send(bytes.is_empty(), part).await?;
        }
        done(&mut exchange).await.map(|done| done.kept)
    }

    /// Asks for a manifest that is newer than the caller's. There is no limit to how long it takes while bytes come.
    pub async fn manifest(&self, peer: &NodeName, request: &ManifestRequest) -> Result<Listed, PeerError> {
        let asked = (Kind::Manifest, Bytes::from(request.encode()));
        let mut exchange = self.ask(peer, asked, Capabilities::MANIFEST, None).await?;
        loop {
            let Frame { kind, payload, .. } = exchange.next().await?;
            match kind {
                Kind::Waiting => {}
                Kind::Done => {
                    let done: wire::Done = message::decode(&payload).map_err(|why| exchange.nonsense(why.0))?;
                    return Ok(Listed::Same(ListingState::from_wire(done.listing)));
                }
                Kind::ManifestHead => {
                    let head = ManifestHead::decode(&payload).map_err(|why| exchange.nonsense(why.0))?;
                    return Ok(Listed::Newer(head, Answer::new(exchange, head.bytes)));
                }
                _ => return Err(exchange.nonsense(format!("a {kind:?} came instead of a manifest"))),
            }
        }
    }

    /// Asks for what a listing that goes on there has got beyond what the caller has: head and bytes; `None`: nothing.
    pub async fn listing(&self, peer: &NodeName, request: &ListingRequest) -> Result<Option<(ListingHead, Vec<u8>)>, PeerError> {
        let asked = (Kind::Listing, Bytes::from(request.encode()));
        let mut exchange = self.ask(peer, asked, Capabilities::LISTING, None).await?;
        loop {
            let Frame { kind, payload, .. } = exchange.next().await?;
            match kind {
                Kind::Waiting => {}
                Kind::Done => return Ok(None),
                Kind::ListingHead => {
                    let head = ListingHead::decode(&payload).map_err(|why| exchange.nonsense(why.0))?;
                    return Ok(Some((head, Answer::new(exchange, head.bytes).whole().await?)));
                }
                _ => return Err(exchange.nonsense(format!("a {kind:?} came instead of a listing"))),
            }
        }
    }

    /// Drops what a peer caches below paths.
    pub async fn free(&self, peer: &NodeName, request: &FreeRequest) -> Result<Freed, PeerError> {
        let asked = (Kind::Free, Bytes::from(request.encode()));
        let mut exchange = self.ask(peer, asked, Capabilities::FREE, Some(self.shared.limits.answer)).await?;
        done(&mut exchange).await.map(|done| Freed { files: done.files, bytes: done.bytes })
    }

    /// Asks which blocks a peer has, in the request's order.
    pub async fn holds(&self, peer: &NodeName, request: &HoldsRequest) -> Result<Vec<bool>, PeerError> {
        let asked = (Kind::Holds, Bytes::from(request.encode()));
        let mut exchange = self.ask(peer, asked, Capabilities::HOLDS, Some(self.shared.limits.answer)).await?;
        let held = done(&mut exchange).await?.held;
        if held.len() != request.blocks.len() {
            return Err(exchange.nonsense(format!("{} answers came to {} questions", held.len(), request.blocks.len())));
        }
        Ok(held)
    }

    /// Asks how much of a data set a peer holds; `None` while it doesn't know.
    pub async fn coverage(&self, peer: &NodeName, dataset: &DatasetId) -> Result<Option<Coverage>, PeerError> {
        let asked = (Kind::Coverage, Bytes::from(message::encode_coverage_request(dataset)));
        let mut exchange = self.ask(peer, asked, Capabilities::COVERAGE, Some(self.shared.limits.answer)).await?;
        Ok(done(&mut exchange).await?.coverage.map(Coverage::from_wire))
    }

    /// How long a peer usually takes to its first sign; after that a second one may be asked.
    pub(crate) fn hedge_after(&self, answer: &Answer) -> Duration {
        let usual = answer.peer().health.lock().latency.usual();
        usual.max(self.shared.limits.hedge_min).min(self.shared.limits.silence)
    }

    async fn ask(
        &self,
        name: &NodeName,
        asked: (Kind, Bytes),
        needed: Capabilities,
        deadline: Option<Duration>,
    ) -> Result<Exchange, PeerError> {
        let peer = self.find(name).ok_or_else(|| PeerError::Unlisted { peer: name.clone() })?;
        peer.ask(asked, needed, deadline).await
    }

    pub(crate) fn find(&self, name: &NodeName) -> Option<Arc<Peer>> {
        self.list.read().get(name).cloned()
    }
}

/// What a peer has of a data set's list of files.
pub enum Listed {
    /// Nothing newer.
    Same(ListingState),
    Newer(ManifestHead, Answer),
}

/// Waits for the end of a request that isn't answered with bytes.
async fn done(exchange: &mut Exchange) -> Result<wire::Done, PeerError> {
    loop {
        let Frame { kind, payload, .. } = exchange.next().await?;
        match kind {
            Kind::Waiting => {}
            Kind::Done => return message::decode(&payload).map_err(|why| exchange.nonsense(why.0)),
            _ => return Err(exchange.nonsense(format!("a {kind:?} came instead of an end"))),
        }
    }
}

fn what(needed: Capabilities) -> &'static str {
    match needed {
        Capabilities::READ => "read a block",
        Capabilities::STORE => "store a block",
        Capabilities::MANIFEST => "copy a manifest",
        Capabilities::HOLDS => "tell which blocks it holds",
        Capabilities::COVERAGE => "tell how much it holds",
        Capabilities::LISTING => "give its listing",
        _ => "free files",
    }
}

impl Peer {
    fn new(shared: Arc<Shared>, name: NodeName, address: String) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(shared.limits.connections_max));
        let (idle, health, silent) = (Mutex::default(), Mutex::default(), Notify::new());
        Arc::new(Self { shared, name, address, places, idle, health, silent })
    }

    async fn ask(self: Arc<Self>, asked: (Kind, Bytes), needed: Capabilities, deadline: Option<Duration>) -> Result<Exchange, PeerError> {
        let (line, place) = self.line().await?;
        if !line.capabilities.has(needed) {
            self.give_back(line);
            return Err(PeerError::Unsupported { peer: self.name.clone(), what: what(needed) });
        }
        self.shared.metrics.requests.add(1);
        Exchange::begin(self, line, place, asked, deadline).await
    }

    pub(crate) fn name(&self) -> &NodeName {
        &self.name
    }
    pub(crate) fn limits(&self) -> &PeerLimits {
        &self.shared.limits
    }
    pub(crate) fn metrics(&self) -> &ClientMetrics {
        &self.shared.metrics
    }

    pub(crate) fn observe(&self, first_sign: Duration) {
        self.health.lock().latency.observe(first_sign);
    }
    pub(crate) fn succeeded(&self) {
        self.health.lock().breaker.succeeded();
    }

    /// A request failed because of the peer: it is bypassed until it answers a probe.
    pub(crate) fn failed(self: &Arc<Self>) {
        self.shared.metrics.failures.add(1);
        let begun = self.health.lock().breaker.failed();
        // The other connections end in the same place.
        self.idle.lock().clear();
        if let (Some(pause), Ok(runtime)) = (begun, Handle::try_current()) {
            info!(peer = %self.name, "a peer failed and is bypassed for a while");
            runtime.spawn(probe(Arc::downgrade(self), pause));
        }
    }

    /// The same, and it isn't one connection: whoever waits for a first sign of it needn't find out by himself.
    pub(crate) fn fell_silent(self: &Arc<Self>) {
        self.failed();
        self.silent.notify_waiters();
    }

    /// Ready when somebody finds that it doesn't answer.
    pub(crate) fn silent(&self) -> Notified<'_> {
        self.silent.notified()
    }

    /// Asks for a sign of life and nothing else, unless that was done just now; how it went is seen by whether it is bypassed then.
    pub(crate) fn sound(self: Arc<Self>, dataset: &DatasetId) {
        let silence = self.limits().silence;
        {
            let mut health = self.health.lock();
            if health.breaker.is_open() || health.sounded_at.is_some_and(|at| at.elapsed() < silence) {
                return;
            }
            health.sounded_at = Some(Instant::now());
        }
        let asked = Bytes::from(HoldsRequest { dataset: dataset.clone(), blocks: Vec::new() }.encode());
        tokio::spawn(async move {
            if let Ok(mut exchange) = self.ask((Kind::Holds, asked), Capabilities::HOLDS, None).await {
                // A refusal is a sign, too.
                drop(done(&mut exchange).await);
            }
        });
    }

    pub(crate) fn bypassed(&self) -> PeerError {
        self.shared.metrics.bypassed.add(1);
        PeerError::Bypassed { peer: self.name.clone() }
    }

    /// A connection without a request: one that was used before, or a new one.
    async fn line(self: &Arc<Self>) -> Result<(Line, OwnedSemaphorePermit), PeerError> {
        let is_bypassed = || self.health.lock().breaker.is_open();
        if is_bypassed() {
            return Err(self.bypassed());
        }
        // Closed by nobody.
        let place = self.places.clone().acquire_owned().await.map_err(|_| self.bypassed())?;
        // Those that had the places may have found out meanwhile.
        if is_bypassed() {
            return Err(self.bypassed());
        }
        if let Some(line) = self.take_idle() {
            return Ok((line, place));
        }
        match self.connect().await {
            Ok(line) => Ok((line, place)),
            Err(cause) => {
                self.fell_silent();
                Err(PeerError::Connect { peer: self.name.clone(), address: self.address.clone(), cause })
            }
        }
    }

    fn take_idle(&self) -> Option<Line> {
        let mut idle = self.idle.lock();
        while let Some(mut line) = idle.pop() {
            if line.used_at.elapsed() > IDLE_MAX {
                // All others are older.
                idle.clear();
                return None;
            }
            // Nothing is owed: what is there to read is the end of a connection that the other side closed.
            if line.reader.next().now_or_never().is_none() {
                return Some(line);
            }
        }
        None
    }

    pub(crate) fn give_back(&self, mut line: Line) {
        line.used_at = Instant::now();
        if line.made_at.elapsed() < AGE_MAX && line.stream < u32::MAX / 2 {
            self.idle.lock().push(line);
        }
    }

    async fn connect(&self) -> Result<Line, ConnectError> {
        let limit = self.shared.limits.connect;
        let made = timeout(limit, async {
            let stream = self.shared.security.connect(&self.address).await?;
            let (mut reader, mut writer) = connection::split(stream);
            let agreed = handshake::greet(&self.shared.own, &self.name, &mut reader, &mut writer).await?;
            let now = Instant::now();
            Ok(Line { reader, writer, capabilities: agreed.capabilities, stream: 0, made_at: now, used_at: now })
        });
        made.await.unwrap_or(Err(ConnectError::Silent(limit)))
    }
}

/// Tries a peer that failed until it greets, or until it is no longer in the list.
async fn probe(peer: Weak<Peer>, mut pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(peer) = peer.upgrade() else { return };
        match peer.connect().await {
            Ok(line) => {
                peer.health.lock().breaker.probe_succeeded();
                peer.give_back(line);
                peer.metrics().recovered.add(1);
                info!(peer = %peer.name, "a peer that had failed is asked again");
                return;
            }
            Err(error) => {
                debug!(peer = %peer.name, %error, "a peer is still away");
                pause = peer.health.lock().breaker.probe_failed();
            }
        }
    }
}
