//! Answers the operator: takes what is wanted, tells what is there. Over mutual TLS, and only to the operator.
//! Knows the service's messages and who may call. Does not know how a state is reached.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use forebay_daemon::identity;
use forebay_wire::control_service as wire;
use forebay_wire::control_service::control_server::{Control, ControlServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::certificate::{Certificate, CertificateError};
use super::{Cluster, Served};
use crate::control::{Control as _, PreloadState, Scope};
use crate::fill::chain;
use crate::refresh::Trouble;

/// The DNS name in the operator's certificate.
const OPERATOR: &str = "operator.forebay.dev";
/// Ten thousand data sets with their rules and secrets stay below.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const PROBLEM_SAMPLES: usize = 10;

/// Serves until `stop` returns.
pub(super) async fn serve(listener: TcpListener, cluster: Arc<Cluster>, stop: impl Future<Output = ()>) -> io::Result<()> {
    let identity = cluster.certificate.identity().clone();
    let service = ControlServer::new(Service(cluster)).max_decoding_message_size(MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(identity::incoming(listener, identity, OPERATOR)), stop)
        .await
        .map_err(io::Error::other)
}

struct Service(Arc<Cluster>);

#[tonic::async_trait]
impl Control for Service {
    async fn sync(&self, request: Request<wire::SyncRequest>) -> Result<Response<wire::SyncReply>, Status> {
        let request = request.into_inner();
        let is_new = self.0.state.lock().generation() != request.generation;
        let is_question = is_new && request.desired.is_none();
        let seen = request.observed.clone();
        if is_new && request.desired.is_some() {
            // Goes on when the caller leaves: half of a state is nobody's wish.
            let cluster = self.0.clone();
            if tokio::spawn(async move { cluster.follow(request).await }).await.is_err() {
                return Err(Status::internal("what is wanted could not be followed: a bug of the node, see its log"));
            }
        }
        let mut reply = self.0.observe().await;
        if is_question {
            reply.peers = self.0.peers();
        }
        self.0.reports.lock().shorten(&mut reply, &seen);
        Ok(Response::new(reply))
    }

    async fn request_certificate(&self, _: Request<wire::CertificateRequest>) -> Result<Response<wire::CertificateRequestReply>, Status> {
        self.certificate(|certificate| certificate.request()).await
    }

    async fn take_certificate(&self, request: Request<wire::CertificateOffer>) -> Result<Response<wire::CertificateOfferReply>, Status> {
        let offered = request.into_inner().certificate;
        self.certificate(move |certificate| certificate.take(&offered).map(|()| wire::CertificateOfferReply {})).await
    }
}

impl Service {
    async fn certificate<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Certificate) -> Result<T, CertificateError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let cluster = self.0.clone();
        match tokio::task::spawn_blocking(move || ask(&cluster.certificate)).await {
            Ok(Ok(answer)) => Ok(Response::new(answer)),
            Ok(Err(error)) => Err(Status::failed_precondition(chain(&error))),
            Err(_) => Err(Status::unavailable("the node is stopping")),
        }
    }
}

impl Cluster {
    /// Also what a report is made of.
    pub(super) async fn observe(&self) -> wire::SyncReply {
        let status: crate::control::NodeStatus = self.node.status(Scope::Node).await;
        let by_name = |name: &str| status.datasets.iter().find(|dataset| dataset.name == name).cloned();
        let state = self.state.lock();
        let mut datasets: Vec<wire::ObservedDataset> = state
            .served
            .iter()
            .map(|(uid, served)| {
                let mut observed = observed(uid, served);
                observed.mounted = self.mounts.is_mounted(uid);
                if let Some(mut status) = by_name(served.dataset.fs.name()) {
                    let held = served.dataset.held().unwrap_or_default().coverage;
                    (status.cached_files, status.cached_bytes) = (held.held_files, held.held_bytes);
                    observed.status = Some(status.into());
                }
                observed
            })
            .collect();
        for (uid, refused) in &state.refused {
            let known = datasets.iter().position(|observed| observed.uid == *uid);
            let observed = match known {
                Some(at) => &mut datasets[at],
                None => {
                    datasets.push(wire::ObservedDataset { uid: uid.clone(), ..wire::ObservedDataset::default() });
                    datasets.last_mut().expect("just pushed")
                }
            };
            observed.problem.clone_from(&refused.sentence);
            observed.problem_kind = refused.kind.into();
        }
        wire::SyncReply {
            generation: state.generation().to_owned(),
            node: self.name.clone(),
            datasets,
            tiers: status.tiers.into_iter().map(Into::into).collect(),
            refused: String::new(),
            peers: Vec::new(),
            certificate_due: self.certificate.is_due(),
            ..wire::SyncReply::default()
        }
    }

    /// The list that is in force, as it was told.
    fn peers(&self) -> Vec<wire::Peer> {
        let state = self.state.lock();
        state.wanted.as_ref().and_then(|wanted| wanted.desired.as_ref()).map_or_else(Vec::new, |desired| desired.peers.clone())
    }
}

fn observed(uid: &str, served: &Served) -> wire::ObservedDataset {
    let progress = served.dataset.preload.progress().borrow().clone();
    // What a preload wants and has. Once it is done the cache may let go of blocks and a sync may find files: then what a walk finds is the truth.
    let walked = served.dataset.held().and_then(|held| held.wanted);
    let (wanted, held) = progress.as_ref().map_or((0, 0), |progress| match (progress.state, walked) {
        (PreloadState::Done, Some(walked)) => (walked.bytes, walked.held_bytes),
        _ => (progress.bytes_total, progress.bytes_done),
    });
    let problem_kind = served.dataset.refresh.trouble().map_or(wire::Problem::None, |trouble| match trouble {
        Trouble::Denied => wire::Problem::Denied,
        Trouble::Unreachable => wire::Problem::Unreachable,
        Trouble::Here => wire::Problem::Node,
    });
    wire::ObservedDataset {
        uid: uid.to_owned(),
        status: None,
        wanted_bytes: wanted,
        wanted_held_bytes: held,
        problem: served.dataset.refresh.error().unwrap_or_default(),
        problem_kind: problem_kind.into(),
        mounted: false,
        unreachable_samples: served.dataset.unreachable_samples(PROBLEM_SAMPLES),
    }
}
