//! Asks a running node over its Unix socket.

use std::path::{Path, PathBuf};

use forebay_wire::node_service as wire;
use forebay_wire::node_service::node_client::NodeClient;
use forebay_wire::volume_service::volumes_client::VolumesClient;
use forebay_wire::volume_service::{ReportReply, ReportRequest};
use futures::StreamExt;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::{DrainProgress, Freed, NodeStatus, PreloadOrder, PreloadProgress, Scope};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connect to the daemon at {socket}: it doesn't answer; see its log beside the socket")]
    Connect {
        socket: PathBuf,
        #[source]
        cause: tonic::transport::Error,
    },
    /// The daemon's own words.
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
    #[error("{op}: the daemon went away: {detail}")]
    Lost { op: &'static str, detail: String },
}

/// One connection to one node.
#[derive(Clone, Debug)]
pub struct Client(NodeClient<Channel>);

impl Client {
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        Ok(Self(NodeClient::new(channel(socket).await?)))
    }

    pub async fn status(&mut self, scope: Scope) -> Result<NodeStatus, ClientError> {
        let reply = self
            .0
            .status(wire::StatusRequest { nodes: scope == Scope::Cache })
            .await
            .map_err(|status| failed("ask for the status", &status))?;
        Ok(reply.into_inner().into())
    }

    pub async fn preload(&mut self, order: PreloadOrder) -> Result<BoxStream<'static, Result<PreloadProgress, ClientError>>, ClientError> {
        const OP: &str = "preload";
        let reply = self
            .0
            .preload(wire::PreloadRequest { paths: order.paths, verify: order.verify })
            .await
            .map_err(|status| failed(OP, &status))?;
        Ok(reply.into_inner().map(|step| step.map(Into::into).map_err(|status| failed(OP, &status))).boxed())
    }

    pub async fn pause_preload(&mut self) -> Result<(), ClientError> {
        self.0.pause_preload(wire::PausePreloadRequest {}).await.map_err(|status| failed("pause the preload", &status))?;
        Ok(())
    }

    pub async fn free(&mut self, paths: Vec<String>) -> Result<Freed, ClientError> {
        let reply = self.0.free(wire::FreeRequest { paths }).await.map_err(|status| failed("free", &status))?;
        let wire::FreeReply { files, bytes } = reply.into_inner();
        Ok(Freed { files, bytes })
    }

    pub async fn drain(&mut self) -> Result<BoxStream<'static, Result<DrainProgress, ClientError>>, ClientError> {
        const OP: &str = "drain";
        let reply = self.0.drain(wire::DrainRequest {}).await.map_err(|status| failed(OP, &status))?;
        Ok(reply.into_inner().map(|step| step.map(Into::into).map_err(|status| failed(OP, &status))).boxed())
    }

    pub async fn refresh(&mut self) -> Result<(), ClientError> {
        self.0.refresh(wire::RefreshRequest {}).await.map_err(|status| failed("refresh", &status))?;
        Ok(())
    }

    pub async fn set_log_level(&mut self, directives: String) -> Result<(), ClientError> {
        self.0.set_log_level(wire::SetLogLevelRequest { directives }).await.map_err(|status| failed("set the log level", &status))?;
        Ok(())
    }
}

/// What a node of a cluster, which listens at `socket`, holds and how well it serves.
pub async fn report(socket: &Path) -> Result<ReportReply, ClientError> {
    let mut client = VolumesClient::new(channel(socket).await?);
    let reply = client.report(ReportRequest {}).await.map_err(|status| failed("ask for a report", &status))?;
    Ok(reply.into_inner())
}

async fn channel(socket: &Path) -> Result<Channel, ClientError> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is never used: the connector knows the socket.
    Endpoint::from_static("http://node.invalid")
        .connect_with_connector(connector)
        .await
        .map_err(|cause| ClientError::Connect { socket: socket.to_owned(), cause })
}

fn failed(op: &'static str, status: &tonic::Status) -> ClientError {
    match status.code() {
        tonic::Code::NotFound => ClientError::NotFound(status.message().to_owned()),
        tonic::Code::FailedPrecondition => ClientError::Failed(status.message().to_owned()),
        _ => ClientError::Lost { op, detail: status.message().to_owned() },
    }
}
