//! A server that speaks S3's real protocol over keys that exist only as a formula: ten million of them cost nothing.
//! Knows ListObjectsV2, GetObject and HeadObject, path style, unsigned or signed alike. Does not check signatures, and stores nothing.

mod keys;
mod xml;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

pub(crate) use keys::{Keys, Layout, contents};

const PAGE_KEYS_MAX: usize = 1000;
const FRAME_BYTES: u64 = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub layout: Layout,
    pub keys: u64,
    /// Bytes of each object.
    pub object_bytes: u64,
    /// How long a page takes, as at S3; zero for none.
    pub page_delay: Duration,
}

type Answer = Response<Either<Full<Bytes>, Generated>>;

/// Serves until `shutdown` resolves; requests in flight are dropped then.
pub(crate) async fn run(listener: TcpListener, options: Options, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
    let server = Arc::new(Server { keys: Keys::new(options.layout, options.keys), options });
    let accept = async {
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let server = server.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(&request).await) }
                });
                // A client that hangs up is no error of the server.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
            });
        }
    };
    tokio::select! {
        result = accept => result,
        () = shutdown => Ok(()),
    }
}

/// Serves at `listen` until SIGTERM or SIGINT; writes the endpoint to `ready` once it listens.
pub(crate) async fn serve(listen: SocketAddr, ready: Option<PathBuf>, options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    println!("serving S3 at {endpoint}: {} generated keys", options.keys);
    if let Some(path) = ready {
        let draft = path.with_extension("draft");
        std::fs::write(&draft, &endpoint).with_context(|| format!("write {}", draft.display()))?;
        std::fs::rename(&draft, &path)?;
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    Ok(run(listener, options, shutdown).await?)
}

struct Server {
    keys: Keys,
    options: Options,
}

impl Server {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path().trim_start_matches('/');
        let (_bucket, key) = path.split_once('/').unwrap_or((path, ""));
        match (request.method(), key.is_empty()) {
            (&Method::GET, true) => {
                tokio::time::sleep(self.options.page_delay).await;
                self.list(request.uri().query().unwrap_or_default())
            }
            (&Method::HEAD, true) => answer(StatusCode::OK, Vec::new(), Bytes::new()),
            (&Method::GET, false) => self.object(&xml::unescaped(key), request.headers(), true),
            (&Method::HEAD, false) => self.object(&xml::unescaped(key), request.headers(), false),
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn list(&self, query: &str) -> Answer {
        let mut page = xml::Page { prefix: Vec::new(), delimiter: None, limit: PAGE_KEYS_MAX, is_url: false };
        let (mut after, mut token) = (Vec::new(), None);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = xml::unescaped(value);
            match name {
                "prefix" => page.prefix = value,
                "delimiter" => page.delimiter = value.first().copied(),
                "start-after" => after = value,
                // Ours is the last key, escaped once more.
                "continuation-token" => token = Some(xml::unescaped(&String::from_utf8_lossy(&value))),
                "max-keys" => {
                    page.limit =
                        std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).unwrap_or(PAGE_KEYS_MAX).min(PAGE_KEYS_MAX)
                }
                "encoding-type" => page.is_url = value == b"url",
                _ => {}
            }
        }
        let body = page.write(&self.keys, token.as_deref().unwrap_or(&after), self.options.object_bytes);
        answer(StatusCode::OK, vec![("content-type", "application/xml".to_owned())], Bytes::from(body))
    }

    fn object(&self, key: &[u8], headers: &HeaderMap, has_body: bool) -> Answer {
        let Some(index) = self.keys.find(key) else { return refusal(StatusCode::NOT_FOUND, "NoSuchKey") };
        let etag = format!("\"{}\"", keys::etag(index));
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if header("if-match").is_some_and(|asked| asked != etag) {
            return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let size = self.options.object_bytes;
        let mut fields =
            vec![("etag", etag), ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT".to_owned()), ("accept-ranges", "bytes".to_owned())];
        let mut status = StatusCode::OK;
        let (mut start, mut end) = (0, size);
        if let Some(range) = header("range") {
            let parts = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
            let parsed = parts.and_then(|(first, last)| {
                Some((first.parse::<u64>().ok()?, if last.is_empty() { size } else { last.parse::<u64>().ok()? + 1 }))
            });
            match parsed {
                Some((first, last)) if first < size && first < last => (start, end) = (first, last.min(size)),
                _ => return refusal(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
            }
            status = StatusCode::PARTIAL_CONTENT;
            fields.push(("content-range", format!("bytes {start}-{}/{size}", end - 1)));
        }
        if !has_body {
            fields.push(("content-length", (end - start).to_string()));
            return answer(status, fields, Bytes::new());
        }
        let mut response = Response::new(Either::Right(Generated { index, next: start, end }));
        finish(&mut response, status, fields);
        response
    }
}

fn answer(status: StatusCode, fields: Vec<(&'static str, String)>, body: Bytes) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body)));
    finish(&mut response, status, fields);
    response
}

fn finish(response: &mut Answer, status: StatusCode, fields: Vec<(&'static str, String)>) {
    *response.status_mut() = status;
    for (name, value) in fields {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
    answer(status, vec![("content-type", "application/xml".to_owned())], Bytes::from(body))
}

/// The bytes `[next, end)` of object `index`.
struct Generated {
    index: u64,
    next: u64,
    end: u64,
}

impl Body for Generated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.next == self.end {
            return Poll::Ready(None);
        }
        let end = self.end.min(self.next + FRAME_BYTES);
        let bytes = keys::contents(self.index, self.next, end);
        self.next = end;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.next)
    }
}
