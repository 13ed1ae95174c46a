//! CSI's Node service: a request is parsed, waits its turn, is done by `sessions`, and answered.
//! Knows the messages. Does not know how anything is mounted.
//! Invariant: one operation at a time for each volume, and one that began runs to its end, whether kubelet still waits for it or not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_wire::csi;
use forebay_wire::csi::node_server::Node;
use forebay_wire::csi::node_service_capability::rpc::Type as Capability;
use forebay_wire::csi::volume_capability::AccessType;
use forebay_wire::csi::volume_usage::Unit;
use tonic::{Code, Request, Response, Status};

use crate::error::Error;
use crate::kubelet::{Kubelet, Target};
use crate::locks::{Held, Locks};
use crate::metrics::Metrics;
use crate::sessions::{Sessions, Stats};
use crate::status::status;
use crate::volume::{Volume, VolumeId};

/// How long a request waits for an earlier one on its volume before kubelet is told to come again.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// How long a new pod's data set may be unknown before kubelet is told so.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
/// Between two questions whether it is known now: a socket, and a lookup in memory.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const NOT_STAGED: &str = "nothing is staged: a session is mounted with its first volume and ends with its last";

#[derive(Clone, Debug)]
pub(crate) struct NodeService {
    pub(crate) node_id: String,
    pub(crate) kubelet: Arc<Kubelet>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) locks: Arc<Locks<VolumeId>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl NodeService {
    /// Runs one operation to its end, counts it, and maps its error.
    async fn run<T: Send + 'static>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let started = Instant::now();
        // A task of its own: kubelet's deadline must not cut an operation in two.
        let result = tokio::spawn(work).await.unwrap_or_else(|error| Err(Error::Broken { detail: error.to_string() }));
        let answer = result.map_err(|error| status(&error));
        let code = answer.as_ref().map_or_else(|status| status.code(), |_| Code::Ok);
        self.metrics.observe(method, code, started.elapsed());
        match &answer {
            Ok(_) => tracing::debug!(op = method, elapsed_ms = started.elapsed().as_millis() as u64, "done"),
            // Kubelet comes again, and the pod's events show it meanwhile.
            Err(status) if matches!(code, Code::Unavailable | Code::Aborted | Code::NotFound) => {
                tracing::info!(op = method, ?code, reason = status.message(), "not yet");
            }
            Err(status) => tracing::warn!(op = method, ?code, reason = status.message(), "failed"),
        }
        answer.map(Response::new)
    }

    async fn turn(&self, volume: &VolumeId) -> Result<Held<VolumeId>, Error> {
        let turn = self.locks.lock_within(volume, TURN_WITHIN).await;
        turn.ok_or_else(|| Error::Pending { volume: volume.to_string() })
    }

    /// A pod is often made together with its data set, and comes here before the cache node was told. Kubelet's own next attempt would come later and
    /// later, so a while is waited for that here.
    async fn bind(&self, volume: &Volume, target: &Target) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            match self.sessions.bind(volume, target).await {
                Err(Error::Unknown { .. } | Error::NoCacheNode { .. }) if begin.elapsed() < KNOWN_WITHIN => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                bound => return bound,
            }
        }
    }

    fn target(&self, field: &'static str, text: &str) -> Result<Target, Error> {
        if text.is_empty() { Err(Error::Missing { field }) } else { Ok(self.kubelet.target(field, text)?) }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_stage_volume(&self, _: Request<csi::NodeStageVolumeRequest>) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        Err(Status::unimplemented(NOT_STAGED))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        Err(Status::unimplemented(NOT_STAGED))
    }

    /// Read-only, whatever the pod says: a data set can't be written.
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let (this, request) = (self.clone(), request.into_inner());
        self.run("NodePublishVolume", async move {
            let id = id(&request.volume_id)?;
            let target = this.target("target_path", &request.target_path)?;
            check(request.volume_capability)?;
            let volume = Volume::parse(&id, &request.volume_context)?;
            let _turn = this.turn(&id).await?;
            this.bind(&volume, &target).await?;
            Ok(csi::NodePublishVolumeResponse {})
        })
        .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let (this, request) = (self.clone(), request.into_inner());
        self.run("NodeUnpublishVolume", async move {
            let id = id(&request.volume_id)?;
            let target = this.target("target_path", &request.target_path)?;
            let _turn = this.turn(&id).await?;
            this.sessions.unbind(&target).await?;
            Ok(csi::NodeUnpublishVolumeResponse {})
        })
        .await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let (this, request) = (self.clone(), request.into_inner());
        self.run("NodeGetVolumeStats", async move {
            id(&request.volume_id)?;
            // The specification's code for a path that no volume can be at, as for one where none is.
            let target = this.target("volume_path", &request.volume_path).map_err(|error| match error {
                Error::Path(_) => Error::NotMounted { path: request.volume_path.clone() },
                other => other,
            })?;
            Ok(stats(this.sessions.stats(&target).await?))
        })
        .await
    }

    async fn node_expand_volume(
        &self,
        _: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("a data set is as large as its source: nothing is expanded"))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capability = |kind: Capability| csi::NodeServiceCapability {
            r#type: Some(csi::node_service_capability::Type::Rpc(csi::node_service_capability::Rpc { r#type: kind.into() })),
        };
        // No staging: kubelet refuses to unstage while the kernel's table shows the same file system elsewhere, and a session's own mount is there.
        let all = [Capability::GetVolumeStats, Capability::VolumeCondition];
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities: all.map(capability).to_vec() }))
    }

    async fn node_get_info(&self, _: Request<csi::NodeGetInfoRequest>) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        // No limit of volumes, and no topology: every machine can mount every data set.
        Ok(Response::new(csi::NodeGetInfoResponse { node_id: self.node_id.clone(), max_volumes_per_node: 0, accessible_topology: None }))
    }
}

fn id(text: &str) -> Result<VolumeId, Error> {
    VolumeId::new(text).ok_or(Error::Missing { field: "volume_id" })
}

/// Any access mode will do, since all are read; a block device will not.
fn check(capability: Option<csi::VolumeCapability>) -> Result<(), Error> {
    match capability.ok_or(Error::Missing { field: "volume_capability" })?.access_type {
        Some(AccessType::Block(_)) => Err(Error::Block),
        Some(AccessType::Mount(_)) | None => Ok(()),
    }
}

fn stats(stats: Stats) -> csi::NodeGetVolumeStatsResponse {
    let usage = |unit: Unit, total: u64| {
        // Full: nothing can be written.
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        csi::VolumeUsage { available: 0, total, used: total, unit: unit.into() }
    };
    let usage = stats.stat.map(|stat| vec![usage(Unit::Bytes, stat.bytes), usage(Unit::Inodes, stat.files)]).unwrap_or_default();
    let message = if stats.abnormal.is_empty() { "all is well".to_owned() } else { stats.abnormal.join("; ") };
    let condition = csi::VolumeCondition { abnormal: !stats.abnormal.is_empty(), message };
    csi::NodeGetVolumeStatsResponse { usage, volume_condition: Some(condition) }
}
