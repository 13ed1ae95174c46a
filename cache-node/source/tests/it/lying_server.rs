//! A server over raw TCP that speaks enough S3 to be believed, and lies as it is told.
//! Objects live in memory; every request asks `Lies` what to do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    Truth,
    SlowDown,
    InternalError,
    /// The connection is closed before an answer.
    Hangup,
    /// Closed after this share (of 256) of the body.
    BreakAfter(u8),
    /// A smaller Content-Length, and a body to match.
    ShortAnnounced,
    /// A larger Content-Length, and more bytes.
    LongAnnounced,
    /// More bytes than Content-Length says.
    LongUnannounced,
    /// Another range than was asked for.
    WrongRange,
    /// 200 and the whole object for a range.
    RangeIgnored,
    /// Other bytes under another ETag, whatever If-Match says.
    OtherVersion,
    NoEtag,
    /// 200 whose body is an error document.
    OkWithError,
    /// A flipped byte, under the checksum of the right bytes. For a range, which has no checksum: the truth.
    FlippedByte,
    /// Nothing more comes after the head of the answer.
    StallInBody,
    StallBeforeAnswer,
    /// To `Server::trap`.
    Redirect(u16),
    /// Not HTTP.
    Garbage,
}

impl Lie {
    pub(crate) const ALL: [Self; 18] = [
        Self::Truth,
        Self::SlowDown,
        Self::InternalError,
        Self::Hangup,
        Self::BreakAfter(128),
        Self::ShortAnnounced,
        Self::LongAnnounced,
        Self::LongUnannounced,
        Self::WrongRange,
        Self::RangeIgnored,
        Self::OtherVersion,
        Self::NoEtag,
        Self::OkWithError,
        Self::FlippedByte,
        Self::StallInBody,
        Self::StallBeforeAnswer,
        Self::Redirect(307),
        Self::Garbage,
    ];
}

type Lies = Box<dyn FnMut(&str) -> Lie + Send>;

struct Shared {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    lies: Mutex<Lies>,
    requests: AtomicU32,
    trap: SocketAddr,
    trapped: AtomicU32,
}

pub(crate) struct LyingServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

pub(crate) fn etag(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}

impl LyingServer {
    pub(crate) async fn start(objects: BTreeMap<String, Vec<u8>>, lies: impl FnMut(&str) -> Lie + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let trap = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            objects: Mutex::new(objects),
            lies: Mutex::new(Box::new(lies)),
            requests: AtomicU32::new(0),
            trap: trap.local_addr().unwrap(),
            trapped: AtomicU32::new(0),
        });
        let serving = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let shared = shared.clone();
                    tokio::spawn(async move { serve(&shared, socket).await });
                }
            }
        });
        let trapping = tokio::spawn({
            let shared = shared.clone();
            async move {
                while trap.accept().await.is_ok() {
                    shared.trapped.fetch_add(1, Relaxed);
                }
            }
        });
        Self { shared, address, tasks: vec![serving, trapping] }
    }
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
    pub(crate) fn requests(&self) -> u32 {
        self.shared.requests.load(Relaxed)
    }
    /// Connections to where redirects point.
    pub(crate) fn trapped(&self) -> u32 {
        self.shared.trapped.load(Relaxed)
    }
    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) {
        self.shared.objects.lock().insert(key.to_owned(), bytes);
    }
}

impl Drop for LyingServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A closed connection is the end of it, whoever closed it.
async fn serve(shared: &Shared, mut socket: TcpStream) {
    let mut input = Vec::new();
    loop {
        while !input.windows(4).any(|four| four == b"\r\n\r\n") {
            match socket.read_buf(&mut input).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let head = String::from_utf8_lossy(&input).into_owned();
        input.clear();
        shared.requests.fetch_add(1, Relaxed);
        let lie = (shared.lies.lock())(&head);
        if answer(shared, &mut socket, &head, lie).await.is_none() {
            return;
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

async fn send(socket: &mut TcpStream, status: &str, fields: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await.ok()?;
    socket.write_all(body).await.ok()
}

fn refusal(code: &str) -> Vec<u8> {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told to</Message></Error>").into_bytes()
}

/// `None` closes the connection.
async fn answer(shared: &Shared, socket: &mut TcpStream, head: &str, lie: Lie) -> Option<()> {
    match lie {
        Lie::SlowDown => return send(socket, "503 Slow Down", "", &refusal("SlowDown")).await,
        Lie::InternalError => return send(socket, "500 Internal", "", &refusal("InternalError")).await,
        Lie::Hangup => return None,
        Lie::OkWithError => return send(socket, "200 OK", "", &refusal("InternalError")).await,
        Lie::StallBeforeAnswer => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            return None;
        }
        Lie::Redirect(status) => {
            let fields = format!("Location: http://{}/elsewhere\r\n", shared.trap);
            return send(socket, &format!("{status} Moved"), &fields, &refusal("TemporaryRedirect")).await;
        }
        Lie::Garbage => {
            socket.write_all(b"\x00\x01 what is this\r\n\r\n").await.ok()?;
            return None;
        }
        _ => {}
    }
    let target = head.split(' ').nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = path.strip_prefix("/bucket")?.trim_start_matches('/').to_owned();
    if key.is_empty() {
        let page = listing(&shared.objects.lock(), query);
        return send_lying(socket, "200 OK", "", page, lie).await;
    }
    let Some(mut bytes) = shared.objects.lock().get(&key).cloned() else {
        return send(socket, "404 Not Found", "", &refusal("NoSuchKey")).await;
    };
    if lie == Lie::OtherVersion {
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
    }
    let tag = format!("\"{}\"", etag(&bytes));
    if lie != Lie::OtherVersion && header(head, "if-match").is_some_and(|asked| asked != tag) {
        return send(socket, "412 Precondition Failed", "", &refusal("PreconditionFailed")).await;
    }
    let mut fields = format!(
        "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n{}",
        if lie == Lie::NoEtag { String::new() } else { format!("ETag: {tag}\r\n") }
    );
    let range = header(head, "range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-')).filter(|_| lie != Lie::RangeIgnored);
    let size = bytes.len();
    let (status, body) = match range {
        Some((first, last)) => {
            let (mut first, mut last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            last = last.min(size - 1);
            if lie == Lie::WrongRange {
                // The same length elsewhere, where there is room, as a confused proxy would.
                (first, last) = if first > 0 { (first - 1, last - 1) } else { (first, last - usize::from(last > first)) };
            }
            fields += &format!("Content-Range: bytes {first}-{last}/{size}\r\n");
            ("206 Partial Content", bytes[first..=last].to_vec())
        }
        None => {
            let sum = u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &bytes)).unwrap();
            fields += &format!("x-amz-checksum-crc32: {}\r\n", base64(&sum.to_be_bytes()));
            if lie == Lie::FlippedByte {
                let at = size / 2;
                bytes[at] ^= 1;
            }
            ("200 OK", bytes)
        }
    };
    send_lying(socket, status, &fields, body, lie).await
}

/// Keys of a page: few, so that a listing has many.
const PAGE_KEYS: usize = 7;

/// The answer to ListObjectsV2. Keys here need no escapes.
fn listing(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> Vec<u8> {
    let after = query.split('&').find_map(|field| field.strip_prefix("start-after=")).unwrap_or_default();
    let mut rest = objects.iter().filter(|(key, _)| key.as_str() > after);
    let rows: String = rest
        .by_ref()
        .take(PAGE_KEYS)
        .map(|(key, bytes)| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
                etag(bytes),
                bytes.len()
            )
        })
        .collect();
    let is_truncated = rest.next().is_some();
    format!("<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>{rows}</ListBucketResult>").into_bytes()
}

/// Sends the body as the lie would have it.
async fn send_lying(socket: &mut TcpStream, status: &str, fields: &str, mut body: Vec<u8>, lie: Lie) -> Option<()> {
    let full = body.len();
    let (announced, sent) = match lie {
        Lie::BreakAfter(share) => (full, full * usize::from(share) / 256),
        Lie::ShortAnnounced => (full - 1, full - 1),
        Lie::LongAnnounced => (full + 3, full + 3),
        Lie::LongUnannounced => (full, full + 7),
        Lie::StallInBody => (full, full / 2),
        _ => (full, full),
    };
    body.resize(sent.max(full), b'!');
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {announced}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.ok()?;
    socket.write_all(&body[..sent]).await.ok()?;
    if lie == Lie::StallInBody {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    (sent == announced && lie != Lie::StallInBody).then_some(())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |three: &[u8], at: usize| {
        let value = three.iter().chain([0, 0].iter()).take(3).fold(0usize, |value, byte| value << 8 | usize::from(*byte));
        char::from(DIGITS[value >> (18 - 6 * at) & 63])
    };
    let parts = bytes.chunks(3).map(|three| (0..4).map(|at| if at <= three.len() { digit(three, at) } else { '=' }).collect::<String>());
    parts.collect()
}
