//! Runs an S3 service on loopback until it is told to stop, and counts what it hands out.
//! Beside the S3 protocol it answers `GET /_counters` with JSON, so that whoever measures can ask the source what it was asked for.

pub(crate) mod folder;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub(crate) const ACCESS_KEY: &str = "forebay";
pub(crate) const SECRET_KEY: &str = "forebay-loopback-only";
pub(crate) const COUNTERS_PATH: &str = "/_counters";

/// What the server handed out since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    gets: AtomicU64,
    lists: AtomicU64,
    heads: AtomicU64,
    body_bytes: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) gets: u64,
    pub(crate) lists: u64,
    pub(crate) heads: u64,
    /// Bytes of objects that went to the socket.
    pub(crate) body_bytes: u64,
}

impl Counters {
    fn read(&self) -> Counted {
        let Self { gets, lists, heads, body_bytes } = self;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted { gets: get(gets), lists: get(lists), heads: get(heads), body_bytes: get(body_bytes) }
    }
}

/// Serves the folders below `root` as buckets; writes the endpoint to `ready` once it listens.
pub(crate) async fn serve_folder(root: &Path, listen: SocketAddr, ready: Option<PathBuf>) -> Result<()> {
    let counters = Arc::new(Counters::default());
    run(service(root, counters.clone())?, counters, listen, ready).await
}

fn service(root: &Path, counters: Arc<Counters>) -> Result<S3Service> {
    let mut builder = S3ServiceBuilder::new(folder::FolderServer::open(root, counters)?);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    Ok(builder.build())
}

/// Accepts connections until SIGTERM or SIGINT.
async fn run(service: S3Service, counters: Arc<Counters>, listen: SocketAddr, ready: Option<PathBuf>) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    println!("serving S3 at {endpoint} (key {ACCESS_KEY}, secret {SECRET_KEY})");
    if let Some(path) = ready {
        let draft = path.with_extension("draft");
        std::fs::write(&draft, &endpoint).with_context(|| format!("write {}", draft.display()))?;
        std::fs::rename(&draft, &path)?;
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted.context("accept a connection")?.0,
            _ = terminate.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        socket.set_nodelay(true)?;
        let (service, counters) = (service.clone(), counters.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| answer(service.clone(), counters.clone(), request));
            let connection =
                hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
}

async fn answer(service: S3Service, counters: Arc<Counters>, request: Request<Incoming>) -> Result<Response<s3s::Body>, Infallible> {
    if request.uri().path() == COUNTERS_PATH && request.method() == Method::GET {
        let text = serde_json::to_string(&counters.read()).unwrap_or_default();
        return Ok(Response::new(s3s::Body::from(Bytes::from(text))));
    }
    let answered = service.call(request.map(s3s::Body::from)).await;
    Ok(answered.unwrap_or_else(|error| {
        tracing::warn!(?error, "a request could not be answered");
        let mut response = Response::new(s3s::Body::empty());
        *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        response
    }))
}

/// Asks a server started by this program what it has handed out.
pub(crate) fn counted(endpoint: &str) -> Result<Counted> {
    use std::io::{Read, Write};
    let address = endpoint.strip_prefix("http://").context("the endpoint begins with http://")?;
    let mut socket = std::net::TcpStream::connect(address).with_context(|| format!("connect to {endpoint}"))?;
    write!(socket, "GET {COUNTERS_PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").context("an HTTP answer has a body")?.1;
    let json = body.get(body.find('{').context("the counters are JSON")?..=body.rfind('}').context("the counters are JSON")?);
    serde_json::from_str(json.unwrap_or_default()).context("read the counters")
}
