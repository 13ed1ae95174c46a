//! Blocks from a peer against the same frames over a bare connection, in turns, both sides of both in this process; prints a line of JSON a measure.
//!
//! `peer_bench [MILLISECONDS] [ROUNDS]` (500 for each side of a round, 6 rounds of which the first only warms). Blocks are in memory, so what is
//! measured is what lies between two stores: framing, checksums, TLS, tasks.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_daemon::identity::{Identity, Protocol};
use forebay_peer::frame::{self, Kind, PAYLOAD_BYTES_MAX};
use forebay_peer::{
    BlockRef, Blocks, Body, Coverage, DatasetId, Event, FreeRequest, Freed, Given, HoldsRequest, Introduction, ListingHead, ListingRequest,
    ListingState, ManifestRequest, Offered, PeerLimits, Peers, ReadRequest, Refusal, Security, Server, ServerLimits, ServerMetrics,
    StoreRequest, Want, server,
};
use forebay_wire::block::{BlockIndex, BlockSize, Extent, ObjectId, ObjectRef};
use forebay_wire::id::NodeName;
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CACHE: &str = "cache.bench.example";
const BLOCK_BYTES: u64 = 4 << 20;
/// A small read is what the kernel asks for at once; a large one is a block.
const SIZES: [(&str, u64); 2] = [("128k", 128 << 10), ("4m", BLOCK_BYTES)];
const STREAMS: [usize; 2] = [1, 8];
/// As long as an encoded `ReadRequest` of a short key.
const QUESTION_BYTES: usize = 100;

/// Every block is the same bytes.
struct Shelf(Bytes);

#[async_trait]
impl Blocks for Shelf {
    async fn read(&self, request: ReadRequest) -> Result<Given, Refusal> {
        let bytes = self.0.slice(request.extent.start() as usize..request.extent.end() as usize);
        Ok(Given { is_filling: false, body: futures::stream::once(async { Ok(bytes) }).boxed() })
    }
    async fn store(&self, _: StoreRequest, _: Body) -> Result<bool, Refusal> {
        Ok(false)
    }
    async fn manifest(&self, _: ManifestRequest) -> Result<Offered, Refusal> {
        Ok(Offered { listing: ListingState::default(), newer: None })
    }
    async fn holds(&self, request: HoldsRequest) -> Result<Vec<bool>, Refusal> {
        Ok(vec![true; request.blocks.len()])
    }
    async fn listing(&self, _: ListingRequest) -> Result<Option<(ListingHead, Bytes)>, Refusal> {
        Ok(None)
    }
    async fn coverage(&self, _: DatasetId) -> Result<Option<Coverage>, Refusal> {
        Ok(None)
    }
    async fn free(&self, _: FreeRequest) -> Result<Freed, Refusal> {
        Ok(Freed { files: 0, bytes: 0 })
    }
}

/// Under test, and its control: who gives `bytes` on request.
#[derive(Clone)]
enum Giver {
    Peer { peers: Arc<Peers>, owner: NodeName },
    Bare { address: String, identity: Option<Arc<Identity>> },
}

/// What one side did in one round.
struct Pass {
    bytes: u64,
    elapsed: Duration,
    cpu: Duration,
    /// Of each read, sorted.
    latencies: Vec<Duration>,
}

impl Pass {
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }
    fn cpu_nanos_per_kib(&self) -> f64 {
        self.cpu.as_nanos() as f64 / (self.bytes as f64 / 1024.0)
    }
    fn latency_us(&self, share: f64) -> f64 {
        let at = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

fn certificates(folder: &Path) -> Outcome<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![CACHE.to_owned()])?.signed_by(&key, &authority)?;
    for (name, text) in [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", authority.pem())] {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

fn introduction(node: &str) -> Outcome<Introduction> {
    let name = NodeName::new(node).ok_or("a node's name")?;
    Ok(Introduction::new(name, BlockSize::new(BLOCK_BYTES).ok_or("a block's size")?))
}

/// A node of a cache that gives `bytes`, and who asks it.
async fn peer(security: Security, bytes: Bytes) -> Outcome<Giver> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let own = introduction("owner")?;
    let owner = own.node.clone();
    let parts = Server {
        blocks: Arc::new(Shelf(bytes)),
        own,
        security: security.clone(),
        limits: ServerLimits::default(),
        metrics: Arc::new(ServerMetrics::default()),
    };
    tokio::spawn(server::run(listener, parts, std::future::pending()));
    let peers = Peers::new(introduction("reader")?, security, PeerLimits::default());
    peers.set([(owner.clone(), address)]);
    Ok(Giver::Peer { peers, owner })
}

/// The least that gives the same frames: no handshake, no pool, no limits, nobody else.
async fn bare(identity: Option<Arc<Identity>>, bytes: Bytes) -> Outcome<Giver> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let served = identity.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (bytes, identity) = (bytes.clone(), served.clone());
            tokio::spawn(async move {
                tcp.set_nodelay(true)?;
                match identity {
                    None => answer(tcp, bytes).await,
                    Some(identity) => answer(identity.acceptor(CACHE, Protocol::Peer)?.accept(tcp).await?, bytes).await,
                }
            });
        }
    });
    Ok(Giver::Bare { address, identity })
}

/// A question is its length in bytes; the answer is frames.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: Bytes) -> Outcome<()> {
    let mut question = [0; QUESTION_BYTES];
    loop {
        stream.read_exact(&mut question).await?;
        let length = u64::from_le_bytes(question[..8].try_into()?) as usize;
        let mut left = bytes.slice(..length);
        while !left.is_empty() {
            let part = left.split_to(left.len().min(PAYLOAD_BYTES_MAX));
            let header = frame::header(Kind::Data, left.is_empty(), 1, &part);
            stream.write_all_buf(&mut Buf::chain(&header[..], part)).await?;
        }
        stream.flush().await?;
    }
}

async fn take(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), length: u64) -> Outcome<u64> {
    let mut question = [0; QUESTION_BYTES];
    question[..8].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&question).await?;
    stream.flush().await?;
    let (mut received, mut bytes) = (BytesMut::new(), 0);
    loop {
        if let Some(frame) = frame::decode(&mut received)? {
            bytes += frame.payload.len() as u64;
            if frame.is_last {
                return Ok(bytes);
            }
            continue;
        }
        // No more than one frame: what is received is never copied to be joined with the next.
        let whole = match received.is_empty() {
            true => frame::HEADER_BYTES + PAYLOAD_BYTES_MAX,
            false => frame::wanted(&received)?,
        };
        let missing = whole - received.len();
        received.reserve(missing);
        stream.read_buf(&mut (&mut received).limit(missing)).await?;
    }
}

/// An open way to a giver.
enum Line {
    Peer { peers: Arc<Peers>, owner: NodeName, request: ReadRequest },
    Plain { stream: TcpStream, length: u64 },
    Tls { stream: Box<TlsStream<TcpStream>>, length: u64 },
}

impl Line {
    async fn open(giver: Giver, length: u64) -> Outcome<Self> {
        match giver {
            Giver::Peer { peers, owner } => {
                let object = ObjectRef { id: ObjectId::new("s3://bench/", b"key", b"1"), size: BLOCK_BYTES };
                let dataset = DatasetId::new("bench/peers").ok_or("a data set")?;
                let (key, version) = (Bytes::from_static(b"key"), Bytes::from_static(b"1"));
                let block = BlockRef { dataset, object, key, version, index: BlockIndex(0) };
                let extent = Extent::new(0, length).ok_or("a read has bytes")?;
                Ok(Self::Peer {
                    peers,
                    owner,
                    request: ReadRequest { block, extent, want: Want::Held, background: false, elsewhere: false },
                })
            }
            Giver::Bare { address, identity } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let Some(identity) = identity else { return Ok(Self::Plain { stream, length }) };
                let host = ServerName::try_from(CACHE)?;
                let stream = Box::new(identity.connector(Protocol::Peer)?.connect(host, stream).await?);
                Ok(Self::Tls { stream, length })
            }
        }
    }

    /// One read; its bytes.
    async fn read(&mut self) -> Outcome<u64> {
        match self {
            Self::Plain { stream, length } => take(stream, *length).await,
            Self::Tls { stream, length } => take(stream, *length).await,
            Self::Peer { peers, owner, request } => {
                let (mut answer, mut bytes) = (peers.read(owner, request).await?, 0);
                loop {
                    match answer.event().await? {
                        Event::Waiting => {}
                        Event::Data(piece) => bytes += piece.len() as u64,
                        Event::End => return Ok(bytes),
                    }
                }
            }
        }
    }
}

/// Reads from one giver, one after the other, until `until`: bytes and the time of each.
async fn read(giver: Giver, length: u64, until: Instant) -> Outcome<(u64, Vec<Duration>)> {
    let mut line = Line::open(giver, length).await?;
    let (mut bytes, mut latencies) = (0, Vec::new());
    while Instant::now() < until {
        let begin = Instant::now();
        bytes += line.read().await?;
        latencies.push(begin.elapsed());
    }
    Ok((bytes, latencies))
}

async fn pass(giver: &Giver, length: u64, streams: usize, time: Duration) -> Outcome<Pass> {
    let (begin, cpu) = (Instant::now(), cpu());
    let mut readers = JoinSet::new();
    for _ in 0..streams {
        readers.spawn(read(giver.clone(), length, begin + time));
    }
    let (mut bytes, mut latencies) = (0, Vec::new());
    while let Some(ended) = readers.join_next().await {
        let (read, times) = ended??;
        bytes += read;
        latencies.extend(times);
    }
    latencies.sort_unstable();
    Ok(Pass { bytes, elapsed: begin.elapsed(), cpu: self::cpu().saturating_sub(cpu), latencies })
}

/// Of this process, which is both sides.
fn cpu() -> Duration {
    let nanos = |thread: std::fs::DirEntry| -> Option<u64> {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse().ok()
    };
    Duration::from_nanos(std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten().filter_map(nanos).sum())
}

/// Sends `length` bytes and gets them back: what the network and the kernel alone take.
async fn echo(length: u64, time: Duration) -> Outcome<Pass> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let (mut from, mut to) = tcp.split();
        tokio::io::copy(&mut from, &mut to).await
    });
    let mut tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let (sent, mut received) = (vec![7; length as usize], vec![0; length as usize]);
    let (begin, cpu) = (Instant::now(), cpu());
    let mut latencies = Vec::new();
    while begin.elapsed() < time {
        let sending = Instant::now();
        let (mut from, mut to) = tcp.split();
        tokio::try_join!(to.write_all(&sent), from.read_exact(&mut received))?;
        latencies.push(sending.elapsed());
    }
    drop(tcp);
    let bytes = length * latencies.len() as u64;
    server.await??;
    latencies.sort_unstable();
    Ok(Pass { bytes, elapsed: begin.elapsed(), cpu: self::cpu().saturating_sub(cpu), latencies })
}

fn tell(row: &str, rounds: &[(Pass, Pass)]) {
    let each = |value: fn(&Pass) -> f64| {
        let (control, forebay): (Vec<f64>, Vec<f64>) = rounds.iter().map(|(control, forebay)| (value(control), value(forebay))).unzip();
        format!("{{\"control\":{control:?},\"forebay\":{forebay:?}}}")
    };
    println!(
        "{{\"row\":\"{row}\",\"bytes_per_second\":{},\"cpu_ns_per_kib\":{},\"p50_us\":{},\"p99_us\":{}}}",
        each(Pass::rate),
        each(Pass::cpu_nanos_per_kib),
        each(|pass| pass.latency_us(0.5)),
        each(|pass| pass.latency_us(0.99)),
    );
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let time = Duration::from_millis(arguments.first().map_or(Ok(500), |text| text.parse())?);
    let rounds: usize = arguments.get(1).map_or(Ok(6), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    certificates(folder.path())?;
    let bytes: Bytes = (0..BLOCK_BYTES).map(|at| (at * 7 + at / 251) as u8).collect();
    for transport in ["plain", "tls"] {
        let identity = (transport == "tls").then(|| Identity::load(folder.path())).transpose()?;
        let security = match &identity {
            Some(identity) => Security::tls(identity.clone(), CACHE).ok_or("the cache's name")?,
            None => Security::plain(),
        };
        let (control, forebay) = (bare(identity, bytes.clone()).await?, peer(security, bytes.clone()).await?);
        for (size, length) in SIZES {
            for streams in STREAMS {
                let mut pairs = Vec::new();
                for _ in 0..rounds {
                    pairs.push((pass(&control, length, streams, time).await?, pass(&forebay, length, streams, time).await?));
                }
                tell(&format!("{transport}-{size}-streams-{streams}"), &pairs[1..]);
            }
        }
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            pairs.push((echo(128 << 10, time).await?, pass(&forebay, 128 << 10, 1, time).await?));
        }
        tell(&format!("{transport}-latency"), &pairs[1..]);
    }
    Ok(())
}
