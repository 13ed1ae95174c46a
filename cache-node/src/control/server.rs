//! Answers the service on a Unix socket that only this user can open.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use forebay_wire::node_service as wire;
use forebay_wire::node_service::node_server::{Node, NodeServer};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::{Control, ControlError, PreloadOrder, Scope};

/// Listens at `socket`; a dead one there is replaced. Who connects from now on waits for `serve`. Within a runtime.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    // The folder is 0700 already; the mode is for a folder that somebody opened up.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves `control` until `shutdown` returns, then removes the socket.
pub async fn serve(listener: UnixListener, control: Arc<dyn Control>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let socket = listener.local_addr()?.as_pathname().map(Path::to_owned);
    let served = tonic::transport::Server::builder()
        .add_service(NodeServer::new(Service(control)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown)
        .await;
    if let Some(socket) = socket {
        drop(std::fs::remove_file(socket));
    }
    served.map_err(io::Error::other)
}

struct Service(Arc<dyn Control>);

#[tonic::async_trait]
impl Node for Service {
    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let scope = if request.get_ref().nodes { Scope::Cache } else { Scope::Node };
        Ok(Response::new(self.0.status(scope).await.into()))
    }

    type PreloadStream = BoxStream<'static, Result<wire::PreloadProgress, Status>>;

    async fn preload(&self, request: Request<wire::PreloadRequest>) -> Result<Response<Self::PreloadStream>, Status> {
        let wire::PreloadRequest { paths, verify } = request.into_inner();
        let progress = self.0.preload(PreloadOrder { paths, verify }).await.map_err(status)?;
        Ok(Response::new(progress.map(|step| Ok(step.into())).boxed()))
    }

    async fn pause_preload(&self, _: Request<wire::PausePreloadRequest>) -> Result<Response<wire::PausePreloadReply>, Status> {
        self.0.pause_preload().await.map_err(status)?;
        Ok(Response::new(wire::PausePreloadReply {}))
    }

    async fn free(&self, request: Request<wire::FreeRequest>) -> Result<Response<wire::FreeReply>, Status> {
        let super::Freed { files, bytes } = self.0.free(request.into_inner().paths).await.map_err(status)?;
        Ok(Response::new(wire::FreeReply { files, bytes }))
    }

    type DrainStream = BoxStream<'static, Result<wire::DrainProgress, Status>>;

    async fn drain(&self, _: Request<wire::DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let progress = self.0.drain().await.map_err(status)?;
        Ok(Response::new(progress.map(|step| Ok(step.into())).boxed()))
    }

    async fn refresh(&self, _: Request<wire::RefreshRequest>) -> Result<Response<wire::RefreshReply>, Status> {
        self.0.refresh().await.map_err(status)?;
        Ok(Response::new(wire::RefreshReply {}))
    }

    async fn set_log_level(&self, request: Request<wire::SetLogLevelRequest>) -> Result<Response<wire::SetLogLevelReply>, Status> {
        self.0.set_log_level(&request.into_inner().directives).await.map_err(status)?;
        Ok(Response::new(wire::SetLogLevelReply {}))
    }
}

fn status(error: ControlError) -> Status {
    match &error {
        ControlError::NotFound { .. } => Status::not_found(error.to_string()),
        ControlError::Failed { .. } => Status::failed_precondition(error.to_string()),
    }
}
