//! Answers `/metrics` (OpenMetrics text), `/healthz` and `/readyz` over HTTP.
//! Knows a registry and the health. Does not know what is measured.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::health::{Health, State};
use crate::shutdown::Shutdown;

#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for metrics: choose a free port, or 0 for any")]
pub struct ListenError {
    pub address: SocketAddr,
    #[source]
    cause: io::Error,
}

/// Takes the port; with port 0 a free one, which `local_addr` tells.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|cause| ListenError { address, cause })
}

/// Answers until `shutdown`.
pub async fn serve(listener: TcpListener, registry: Arc<Registry>, health: Arc<Health>, shutdown: Shutdown) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state((registry, health));
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.wait().await }).await
}

type Parts = (Arc<Registry>, Arc<Health>);

async fn metrics(Shared((registry, _)): Shared<Parts>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "a metric couldn't be written\n").into_response(),
    }
}

async fn ready(Shared((_, health)): Shared<Parts>) -> Response {
    match health.state() {
        State::Ready => "ready\n".into_response(),
        State::Starting(waits_for) => (StatusCode::SERVICE_UNAVAILABLE, format!("starting: {waits_for}\n")).into_response(),
        State::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_endpoint_tells_metrics_and_readiness_and_stops() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("forebay_reader_bytes", "Bytes.", counter.clone());
        counter.inc_by(42);
        let health = Arc::new(Health::default());
        let (shutdown, trigger) = Shutdown::new();
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(registry), health.clone(), shutdown));
        assert!(fetch(address, "/metrics").await.contains("forebay_reader_bytes_total 42\n"));
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.set_ready();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/secrets").await.starts_with("HTTP/1.1 404"));
        assert!(listen(address).await.unwrap_err().to_string().contains("choose a free port"));
        trigger.stop();
        server.await.unwrap().unwrap();
    }
}
