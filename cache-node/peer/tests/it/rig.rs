//! Nodes with blocks of their own, certificates to prove them by, and clients.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use forebay_daemon::identity::Identity;
use forebay_peer::{
    BlockRef, Blocks, Body, Coverage, DatasetId, FreeRequest, Freed, Given, HoldsRequest, Introduction, ListingHead, ListingRequest,
    ListingState, ManifestHead, ManifestRequest, Offered, PeerLimits, Peers, ReadRequest, Refusal, Security, Server, ServerLimits,
    ServerMetrics, StoreRequest, Want, server,
};
use forebay_wire::block::{BlockId, BlockIndex, BlockSize, Extent, ObjectId, ObjectRef};
use forebay_wire::id::NodeName;
use futures::StreamExt;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The name in the certificates of the cache.
pub(crate) const CACHE: &str = "node.cache.example";
pub(crate) const BLOCK: u64 = 1 << 20;

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// Bytes that tell their place.
pub(crate) fn pattern(len: u64) -> Bytes {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// The block that starts an object of `size` bytes.
pub(crate) fn block(number: u128, size: u64) -> BlockRef {
    let object = ObjectRef { id: ObjectId(number), size };
    let dataset = DatasetId::new("tests/data").unwrap();
    BlockRef { dataset, object, key: "key".into(), version: "v1".into(), index: BlockIndex(0) }
}

pub(crate) fn given(block: BlockRef) -> StoreRequest {
    StoreRequest { block, by_demand: false }
}

pub(crate) fn read(block: &BlockRef, start: u64, end: u64) -> ReadRequest {
    ReadRequest { block: block.clone(), extent: Extent::new(start, end).unwrap(), want: Want::Fill, background: false, elsewhere: false }
}

/// What a fake node does when a block is asked for.
pub(crate) enum Has {
    Whole(Bytes),
    /// Pieces as the test sends them; the fill ends with the channel.
    Filling(mpsc::Receiver<Bytes>),
    Refusal(Refusal),
}

/// A node's blocks, in memory.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) blocks: Mutex<HashMap<BlockId, Has>>,
    pub(crate) stored: Mutex<HashMap<BlockId, Vec<u8>>>,
    pub(crate) manifest: Mutex<Option<(ManifestHead, Bytes)>>,
    pub(crate) listing: Mutex<ListingState>,
    pub(crate) coverage: Mutex<Option<Coverage>>,
    /// What a listing has got so far.
    pub(crate) log: Mutex<Bytes>,
    pub(crate) freed: Mutex<Vec<String>>,
    /// Times that somebody was given a fill.
    pub(crate) fills: AtomicU64,
}

impl Shelf {
    pub(crate) fn put(&self, block: &BlockRef, has: Has) {
        self.blocks.lock().insert(block.id(), has);
    }
    /// The node is still filling the block; the test sends its pieces.
    pub(crate) fn fill(&self, block: &BlockRef) -> mpsc::Sender<Bytes> {
        let (sender, receiver) = mpsc::channel(1);
        self.put(block, Has::Filling(receiver));
        sender
    }
}

fn known(dataset: &DatasetId) -> Result<(), Refusal> {
    if dataset.as_str() == "tests/data" { Ok(()) } else { Err(Refusal::UnknownDataset) }
}

#[async_trait]
impl Blocks for Shelf {
    async fn read(&self, request: ReadRequest) -> Result<Given, Refusal> {
        known(&request.block.dataset)?;
        let (start, end) = (request.extent.start() as usize, request.extent.end() as usize);
        match self.blocks.lock().get_mut(&request.block.id()) {
            None => Err(Refusal::NotHeld),
            Some(Has::Refusal(refusal)) => Err(refusal.clone()),
            Some(Has::Whole(bytes)) => {
                let part = bytes.slice(start..end);
                Ok(Given { is_filling: false, body: futures::stream::iter([Ok(part)]).boxed() })
            }
            Some(Has::Filling(receiver)) => {
                if request.want == Want::Held {
                    return Err(Refusal::NotHeld);
                }
                self.fills.fetch_add(1, Relaxed);
                let receiver = std::mem::replace(receiver, mpsc::channel(1).1);
                let pieces =
                    futures::stream::unfold(
                        receiver,
                        |mut receiver| async move { receiver.recv().await.map(|piece| (Ok(piece), receiver)) },
                    );
                Ok(Given { is_filling: true, body: pieces.boxed() })
            }
        }
    }

    async fn store(&self, request: StoreRequest, mut body: Body) -> Result<bool, Refusal> {
        let block = request.block;
        known(&block.dataset)?;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.starts_with(b"full") {
                return Ok(false);
            }
        }
        self.stored.lock().insert(block.id(), bytes);
        Ok(true)
    }

    async fn manifest(&self, request: ManifestRequest) -> Result<Offered, Refusal> {
        known(&request.dataset)?;
        let manifest = self.manifest.lock().clone();
        let newer = manifest.filter(|(head, _)| (head.term, head.sequence) > request.than);
        let newer = newer.map(|(head, bytes)| (head, futures::stream::iter([Ok(bytes)]).boxed()));
        Ok(Offered { listing: self.listing.lock().clone(), newer })
    }

    /// Of source 1 of data sets that list; the listing's number is 9.
    async fn listing(&self, request: ListingRequest) -> Result<Option<(ListingHead, Bytes)>, Refusal> {
        known(&request.dataset)?;
        let log = self.log.lock().clone();
        let start = if request.listing == 9 { request.have } else { 0 };
        let rest = log.slice(usize::try_from(start).unwrap().min(log.len())..);
        let head = ListingHead { listing: 9, start, bytes: rest.len() as u64, number: (5, 6), began_ms_ago: 70 };
        Ok((request.source == 1 && !rest.is_empty()).then_some((head, rest)))
    }

    async fn free(&self, request: FreeRequest) -> Result<Freed, Refusal> {
        known(&request.dataset)?;
        let files = request.paths.len() as u64;
        self.freed.lock().extend(request.paths);
        Ok(Freed { files, bytes: files * 10 })
    }

    async fn holds(&self, request: HoldsRequest) -> Result<Vec<bool>, Refusal> {
        known(&request.dataset)?;
        let blocks = self.blocks.lock();
        let has = |(object, index): &(ObjectRef, BlockIndex)| blocks.contains_key(&BlockId { object: object.id, index: *index });
        Ok(request.blocks.iter().map(has).collect())
    }

    async fn coverage(&self, dataset: DatasetId) -> Result<Option<Coverage>, Refusal> {
        known(&dataset)?;
        Ok(*self.coverage.lock())
    }
}

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A folder with a certificate for `host` that is valid until `until`, and this authority to believe.
    pub(crate) fn folder(&self, host: &str, until: OffsetDateTime) -> TempDir {
        let folder = TempDir::new().unwrap();
        self.write(folder.path(), host, until);
        folder
    }

    pub(crate) fn write(&self, folder: &Path, host: &str, until: OffsetDateTime) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = until - Duration::from_secs(86400 * 100);
        params.not_after = until;
        let certificate = params.signed_by(&key, &self.0).unwrap();
        for (name, text) in [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", self.0.pem())] {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    /// Of a node of the cache. The folder's files are read now and may go.
    pub(crate) fn security(&self) -> Security {
        let folder = self.folder(CACHE, in_a_day());
        Security::tls(Identity::load(folder.path()).unwrap(), CACHE).unwrap()
    }
}

pub(crate) fn in_a_day() -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::from_secs(86400)
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) metrics: Arc<ServerMetrics>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    /// Cuts off what is under way, as a crash does.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap();
    }
}

pub(crate) fn introduction(node: &str) -> Introduction {
    Introduction::new(name(node), BlockSize::new(BLOCK).unwrap())
}

/// Starts a server on `address`, port 0 for any.
pub(crate) async fn serve_at(address: &str, own: Introduction, security: Security) -> Running {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shelf, metrics) = (Arc::new(Shelf::default()), Arc::new(ServerMetrics::default()));
    let limits = ServerLimits { heartbeat: Duration::from_millis(20), ..ServerLimits::default() };
    let parts = Server { blocks: shelf.clone(), own, security, limits, metrics: metrics.clone() };
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server::run(listener, parts, async move { drop(stopped.await) }));
    Running { address, shelf, metrics, stop: Some(stop), task }
}

pub(crate) async fn serve(node: &str, security: Security) -> Running {
    serve_at("127.0.0.1:0", introduction(node), security).await
}

/// Patient enough for a busy machine.
pub(crate) fn patient() -> PeerLimits {
    let seconds = Duration::from_secs;
    PeerLimits { connect: seconds(20), silence: seconds(20), hedge_min: seconds(20), ..PeerLimits::default() }
}

/// A client of these, by name and address.
pub(crate) fn client(security: Security, limits: PeerLimits, peers: &[(&str, SocketAddr)]) -> Arc<Peers> {
    let client = Peers::new(introduction("client"), security, limits);
    client.set(peers.iter().map(|(node, address)| (name(node), address.to_string())));
    client
}

pub(crate) async fn wait_until(what: &str, mut is_met: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !is_met() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
