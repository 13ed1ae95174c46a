//! A FAKE cache node: a Control server that keeps what it is told and answers what a test sets. There is no kubelet here that could run a real one.
//! It gets its certificate as a real one does, with the token that kubelet would give its pod, unless a test has it show another.

use std::sync::{Arc, Mutex};

use forebay_daemon::identity;
use forebay_daemon::identity::issued::Issued;
use forebay_operator::names;
use forebay_wire::control_service::control_server::{Control, ControlServer};
use forebay_wire::control_service::{
    CertificateOffer, CertificateOfferReply, CertificateRequest, CertificateRequestReply, Desired, ObservedDataset, SyncReply, SyncRequest,
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::api_server::{World, node_object, until};
use crate::golden::settings;

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) calls: usize,
    /// How often `desired` came along.
    pub(crate) told: usize,
    pub(crate) generation: String,
    pub(crate) desired: Option<Desired>,
    /// What it says of each data set that it was told of.
    pub(crate) says: ObservedDataset,
    /// How often it was asked who it is, and given a certificate.
    pub(crate) asked: usize,
    pub(crate) certificates: usize,
    /// Says that half of the life of the one that it has is over.
    pub(crate) wants_certificate: bool,
}

pub(crate) struct FakeNode {
    pub(crate) state: Arc<Mutex<State>>,
    pod: String,
    pods: Api<Pod>,
    server: JoinHandle<()>,
}

struct Service {
    state: Arc<Mutex<State>>,
    issued: Arc<Issued>,
    token: String,
}

#[tonic::async_trait]
impl Control for Service {
    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncReply>, Status> {
        let SyncRequest { generation, desired, observed: _ } = request.into_inner();
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        if let Some(desired) = desired {
            assert_eq!(desired.since, "", "it says everything each time, as an older release does, so it is told everything");
            state.told += 1;
            state.generation = generation;
            state.desired = Some(desired);
        }
        let of = |uid: &str| ObservedDataset { uid: uid.to_owned(), ..state.says.clone() };
        let datasets = state.desired.iter().flat_map(|desired| &desired.datasets).map(|dataset| of(&dataset.uid)).collect();
        let tier = forebay_wire::node_service::TierStatus {
            path: "/a".to_owned(),
            capacity_bytes: 10 << 30,
            used_bytes: 1 << 30,
            ..Default::default()
        };
        let certificate_due = state.wants_certificate;
        Ok(Response::new(SyncReply {
            generation: state.generation.clone(),
            datasets,
            tiers: vec![tier],
            certificate_due,
            ..SyncReply::default()
        }))
    }

    async fn request_certificate(&self, _: Request<CertificateRequest>) -> Result<Response<CertificateRequestReply>, Status> {
        self.state.lock().unwrap().asked += 1;
        Ok(Response::new(CertificateRequestReply { request: self.issued.request().unwrap(), token: self.token.clone() }))
    }

    async fn take_certificate(&self, request: Request<CertificateOffer>) -> Result<Response<CertificateOfferReply>, Status> {
        self.issued.take(&request.into_inner().certificate).unwrap();
        let mut state = self.state.lock().unwrap();
        state.certificates += 1;
        state.wants_certificate = false;
        Ok(Response::new(CertificateOfferReply {}))
    }
}

/// What it shows when it is asked who it is.
#[derive(Clone, Copy)]
pub(crate) enum Proof {
    /// A token of its pod, as kubelet would have it.
    Token,
    /// A token of its pod that is for the API server.
    ForOthers,
    /// A token of this other pod of ours.
    OfPod(&'static str),
    MadeUp,
}

/// As kubelet asks for it.
async fn token(world: &World, pods: &Api<Pod>, pod: &str, audience: &str) -> String {
    let uid = pods.get(pod).await.unwrap().uid();
    let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid });
    let spec = json!({ "spec": { "audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound } });
    let request = serde_json::from_value(spec).unwrap();
    let accounts: Api<ServiceAccount> = world.own();
    let made = accounts.create_token_request(&settings().node_service_account, &PostParams::default(), &request).await.unwrap();
    made.status.unwrap().token.unwrap()
}

impl FakeNode {
    /// Of the policy of `world`.
    pub(crate) async fn start(world: &World) -> Self {
        Self::start_with(world, Proof::Token).await
    }

    /// One that no policy has.
    pub(crate) async fn start_client(world: &World) -> Self {
        Self::start_as(world, format!("{}-client", world.node), names::CLIENT, Proof::Token).await
    }

    pub(crate) async fn start_with(world: &World, proof: Proof) -> Self {
        let policies: Api<forebay_api::CachePolicy> = Api::all(world.client.clone());
        let uid = policies.get(&world.policy).await.unwrap().uid().unwrap();
        Self::start_as(world, format!("{}-0", node_object(world)), &uid, proof).await
    }

    async fn start_as(world: &World, pod: String, policy_uid: &str, proof: Proof) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pods = world.own::<Pod>();
        // As a pod mounts it: there once the operator made it.
        let maps: Api<ConfigMap> = world.own();
        let trusted = until("whom to believe", || async { maps.get_opt(names::AUTHORITY_SECRET).await.unwrap() }).await;
        Self::make_pod(world, &pods, &pod, policy_uid, port).await;
        let token = match proof {
            Proof::Token => token(world, &pods, &pod, names::NODE_AUDIENCE).await,
            Proof::ForOthers => token(world, &pods, &pod, "https://kubernetes.default.svc").await,
            Proof::OfPod(other) => token(world, &pods, other, names::NODE_AUDIENCE).await,
            Proof::MadeUp => "made.up".to_owned(),
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), &trusted.data.unwrap()["ca.crt"]).unwrap();
        let issued = Issued::load(folder.path(), &folder.path().join("kept")).unwrap();
        let incoming = ReceiverStream::new(identity::incoming(listener, issued.identity().clone(), names::OPERATOR_HOST));
        let service = ControlServer::new(Service { state: state.clone(), issued, token });
        let server = Server::builder().add_service(service).serve_with_incoming(incoming);
        let server = tokio::spawn(async move {
            server.await.unwrap();
            drop(folder);
        });
        Self { state, pod, pods, server }
    }

    /// As the DaemonSet's controller and kubelet would have it.
    async fn make_pod(world: &World, pods: &Api<Pod>, name: &str, policy_uid: &str, port: u16) {
        let pod = json!({
            "metadata": { "name": name, "labels": { names::COMPONENT_LABEL: names::NODE_COMPONENT, names::POLICY_LABEL: policy_uid } },
            "spec": {
                "nodeName": world.node,
                "serviceAccountName": settings().node_service_account,
                "containers": [{ "name": "node", "image": "fake", "ports": [{ "name": names::CONTROL_PORT_NAME, "containerPort": port }] }]
            }
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        let status =
            json!({ "status": { "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }], "conditions": ready } });
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    pub(crate) fn says(&self, says: ObservedDataset) {
        self.state.lock().unwrap().says = says;
    }

    pub(crate) fn wants_certificate(&self) {
        self.state.lock().unwrap().wants_certificate = true;
    }

    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    /// Waits until it was told something that `looks` accepts.
    pub(crate) async fn told(&self, what: &str, looks: impl Fn(&Desired) -> bool) -> Desired {
        until(what, || async { self.state().desired.filter(|desired| looks(desired)) }).await
    }

    pub(crate) async fn stop(self) {
        self.server.abort();
        self.pods.delete(&self.pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}
