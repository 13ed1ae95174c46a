//! Answers the CSI driver of this machine: which data set a volume means, its mount, its figures. And `forebay-node report`, beside it.
//! Knows the service's messages. Its texts reach pods' events, so each says what to do.

use std::io;
use std::path::{Component, PathBuf};
use std::sync::Arc;

use forebay_wire::volume_service as wire;
use forebay_wire::volume_service::volumes_server::{Volumes, VolumesServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::{Cluster, Served, wanted};
use crate::fill::chain;

/// Serves until `stop` returns.
pub(super) async fn serve(listener: UnixListener, cluster: Arc<Cluster>, stop: impl Future<Output = ()>) -> io::Result<()> {
    let server = tonic::transport::Server::builder().add_service(VolumesServer::new(Service(cluster)));
    server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop).await.map_err(io::Error::other)
}

struct Service(Arc<Cluster>);

impl Service {
    fn find(&self, volume: &wire::VolumeRef) -> Result<(String, Served), Status> {
        let wire::VolumeRef { uid, namespace, name } = volume;
        let full = format!("{namespace}/{name}");
        let state = self.0.state.lock();
        let found = if uid.is_empty() {
            state.served.iter().find(|(_, served)| served.dataset.fs.name() == full)
        } else if wanted::is_uid(uid) {
            state.served.get_key_value(uid)
        } else {
            return Err(Status::invalid_argument(format!("`{}` is no UID of a Dataset", uid.escape_debug())));
        };
        if let Some((uid, served)) = found {
            return Ok((uid.clone(), served.clone()));
        }
        // One that was refused is known: its cause is of more use than that it isn't served.
        match state.refused.get(uid) {
            Some(refused) => Err(Status::failed_precondition(refused.sentence.clone())),
            None => Err(Status::not_found(format!(
                "this node wasn't told of the data set {} yet; look at `kubectl get dataset` in its namespace: it must exist and name a policy",
                if uid.is_empty() { &full } else { uid }
            ))),
        }
    }
}

#[tonic::async_trait]
impl Volumes for Service {
    async fn resolve(&self, request: Request<wire::VolumeRef>) -> Result<Response<wire::Volume>, Status> {
        let (uid, served) = self.find(request.get_ref())?;
        if served.is_leaving {
            return Err(Status::failed_precondition(format!("the data set {} is being deleted", served.dataset.fs.name())));
        }
        let ready = served.dataset.fs.manifest().is_some() || served.dataset.refresh.error().is_none();
        Ok(Response::new(wire::Volume { uid, name: served.dataset.fs.name().to_owned(), ready }))
    }

    async fn attach(&self, request: Request<wire::AttachRequest>) -> Result<Response<wire::AttachReply>, Status> {
        let wire::AttachRequest { uid, holder } = request.into_inner();
        let holder = PathBuf::from(holder);
        if !holder.is_absolute() || holder.components().any(|part| part == Component::ParentDir) {
            return Err(Status::invalid_argument("the holder's socket must be an absolute path without `..`"));
        }
        let (uid, served) = self.find(&wire::VolumeRef { uid, ..wire::VolumeRef::default() })?;
        let attached = self.0.mounts.attach(&uid, &served.dataset, holder).await;
        attached.map_err(|error| Status::failed_precondition(format!("{}: {}", served.dataset.fs.name(), chain(&error))))?;
        Ok(Response::new(wire::AttachReply { pid: std::process::id() }))
    }

    async fn stat(&self, request: Request<wire::VolumeRef>) -> Result<Response<wire::VolumeStat>, Status> {
        let (uid, served) = self.find(request.get_ref())?;
        let statistics = served.dataset.fs.statistics();
        let mut abnormal = Vec::new();
        if let Some(error) = served.dataset.refresh.error() {
            abnormal.push(format!("the source can't be listed, what was listed before is served: {error}"));
        }
        Ok(Response::new(wire::VolumeStat {
            bytes: statistics.bytes,
            files: statistics.files + statistics.directories,
            cached_bytes: served.dataset.held().map_or(0, |held| held.coverage.held_bytes),
            abnormal,
            mounted: Some(self.0.mounts.is_mounted(&uid)),
        }))
    }

    async fn report(&self, _: Request<wire::ReportRequest>) -> Result<Response<wire::ReportReply>, Status> {
        let observed = Some(self.0.observe().await);
        Ok(Response::new(wire::ReportReply { observed, version: env!("CARGO_PKG_VERSION").to_owned() }))
    }
}
