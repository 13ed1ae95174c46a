//! A FAKE cache node: a Control server that keeps what it is told and answers what a test sets. There is no kubelet here that could run a real one.
//! Its certificates are the ones that the operator made for its policy, unless a test gives it others.

use std::sync::{Arc, Mutex};

use forebay_operator::names;
use forebay_wire::control_service::control_server::{Control, ControlServer};
use forebay_wire::control_service::{Desired, ObservedDataset, SyncReply, SyncRequest};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::api_server::{World, node_object, until};

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) calls: usize,
    /// How often `desired` came along.
    pub(crate) told: usize,
    pub(crate) generation: String,
    pub(crate) desired: Option<Desired>,
    /// What it says of each data set that it was told of.
    pub(crate) says: ObservedDataset,
}

pub(crate) struct FakeNode {
    pub(crate) state: Arc<Mutex<State>>,
    pod: String,
    pods: Api<Pod>,
    server: JoinHandle<()>,
}

struct Service(Arc<Mutex<State>>);

#[tonic::async_trait]
impl Control for Service {
    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncReply>, Status> {
        let SyncRequest { generation, desired } = request.into_inner();
        let mut state = self.0.lock().unwrap();
        state.calls += 1;
        if let Some(desired) = desired {
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
        Ok(Response::new(SyncReply { generation: state.generation.clone(), datasets, tiers: vec![tier], ..SyncReply::default() }))
    }
}

/// PEM: certificate, key, what it trusts.
pub(crate) type Pem = (Vec<u8>, Vec<u8>, Vec<u8>);

async fn made_for(world: &World, object: &str) -> Pem {
    let secrets: Api<Secret> = world.own();
    let secret = until("the certificates", || async { secrets.get_opt(object).await.unwrap() }).await;
    let data = secret.data.unwrap();
    let file = |key: &str| data[key].0.clone();
    (file("tls.crt"), file("tls.key"), file("ca.crt"))
}

impl FakeNode {
    /// With the certificates that the operator made for the policy of `world`.
    pub(crate) async fn start(world: &World) -> Self {
        let pem = made_for(world, &node_object(world)).await;
        Self::start_with(world, pem).await
    }

    /// With those that it made for clients.
    pub(crate) async fn start_client(world: &World) -> Self {
        let pem = made_for(world, names::CLIENT_OBJECT).await;
        Self::start_as(world, format!("{}-client", world.node), names::CLIENT, pem).await
    }

    pub(crate) async fn start_with(world: &World, pem: Pem) -> Self {
        let policies: Api<forebay_api::CachePolicy> = Api::all(world.client.clone());
        let uid = policies.get(&world.policy).await.unwrap().uid().unwrap();
        Self::start_as(world, format!("{}-0", node_object(world)), &uid, pem).await
    }

    async fn start_as(world: &World, pod: String, policy_uid: &str, (certificate, key, trusted): Pem) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)).client_ca_root(Certificate::from_pem(trusted));
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = ControlServer::new(Service(state.clone()));
        let server = Server::builder().tls_config(tls).unwrap().add_service(service).serve_with_incoming(incoming);
        let server = tokio::spawn(async move { server.await.unwrap() });
        let pods = world.own::<Pod>();
        Self::make_pod(world, &pods, &pod, policy_uid, address.port()).await;
        Self { state, pod, pods, server }
    }

    /// As the DaemonSet's controller and kubelet would have it.
    async fn make_pod(world: &World, pods: &Api<Pod>, name: &str, policy_uid: &str, port: u16) {
        let pod = json!({
            "metadata": { "name": name, "labels": { names::COMPONENT_LABEL: names::NODE_COMPONENT, names::POLICY_LABEL: policy_uid } },
            "spec": {
                "nodeName": world.node,
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
