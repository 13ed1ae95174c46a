//! What an operator costs: the real program beside a real API server (KUBECONFIG), with many Datasets and many nodes. The nodes are FAKE: each is a
//! pod object and a Control server of its own with a certificate of its own, and no cache behind it.
//!
//!     operator_bench PROGRAM DATASETS NODES SECONDS
//!
//! Prints one JSON object: seconds until every node knew every Dataset, then of SECONDS at rest requests to the API server, CPU and memory of the
//! operator, and how long a changed Dataset took to reach all nodes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_api::{CachePolicy, Dataset};
use forebay_daemon::identity::{self, issued::Issued};
use forebay_operator::names;
use forebay_wire::control_service::control_server::{Control, ControlServer};
use forebay_wire::control_service::{
    CertificateOffer, CertificateOfferReply, CertificateRequest, CertificateRequestReply, Desired, ObservedDataset, SyncReply, SyncRequest,
};
use forebay_wire::node_service::{DatasetStatus, TierStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

const NAMESPACE: &str = "forebay-system";
const ACCOUNT: &str = "forebay-node";
const METRICS: &str = "127.0.0.1:9479";
/// What a change of a Dataset is recognised by in what nodes are told.
const MARK: &str = "7777s";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How many nodes know all Datasets, and how many were told of the change.
#[derive(Default)]
struct Told {
    everything: AtomicUsize,
    changed: AtomicUsize,
}

/// One node.
struct Fake {
    datasets: usize,
    told: Arc<Told>,
    issued: Arc<Issued>,
    token: String,
    /// Guards what it was told last, and whether it was counted.
    state: Mutex<(String, Desired, bool, bool)>,
}

#[tonic::async_trait]
impl Control for Fake {
    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncReply>, Status> {
        let SyncRequest { generation, desired, observed } = request.into_inner();
        let mut state = self.state.lock();
        let is_other = desired.as_ref().is_some_and(|desired| desired.since.is_empty() || desired.since == state.0);
        if let Some(desired) = desired.filter(|_| is_other) {
            let is_changed = desired.datasets.iter().any(|one| one.object.contains(MARK));
            let desired = if desired.since.is_empty() { desired } else { desired.onto(&state.1) };
            let is_whole = desired.datasets.len() == self.datasets;
            if is_whole && !std::mem::replace(&mut state.2, is_whole) {
                self.told.everything.fetch_add(1, Relaxed);
            }
            if is_changed && !std::mem::replace(&mut state.3, is_changed) {
                self.told.changed.fetch_add(1, Relaxed);
            }
            (state.0, state.1) = (generation, desired);
        }
        let of = |uid: &str| ObservedDataset {
            uid: uid.to_owned(),
            status: Some(DatasetStatus { files: 1000, bytes: 1 << 30, ..DatasetStatus::default() }),
            ..ObservedDataset::default()
        };
        let tier = TierStatus { path: "/a".to_owned(), capacity_bytes: 1 << 40, ..TierStatus::default() };
        // As a real node does it: what was said before is said once. Here that is everything of the same state.
        let observed_since = if observed == state.0 { observed } else { String::new() };
        let datasets = state.1.datasets.iter().filter(|_| observed_since.is_empty()).map(|dataset| of(&dataset.uid)).collect();
        let observed = state.0.clone();
        Ok(Response::new(SyncReply {
            generation: state.0.clone(),
            datasets,
            tiers: vec![tier],
            observed,
            observed_since,
            ..SyncReply::default()
        }))
    }

    async fn request_certificate(&self, _: Request<CertificateRequest>) -> Result<Response<CertificateRequestReply>, Status> {
        let request = self.issued.request().map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(CertificateRequestReply { request, token: self.token.clone() }))
    }

    async fn take_certificate(&self, request: Request<CertificateOffer>) -> Result<Response<CertificateOfferReply>, Status> {
        self.issued.take(&request.into_inner().certificate).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(CertificateOfferReply {}))
    }
}

/// Dies with this process.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Operator {
    fn start(program: &str) -> Result<Self, Failure> {
        let images = ["--node-image", "node", "--operator-image", "operator"];
        let mut command = Command::new(program);
        command.args(["run", "--namespace", NAMESPACE, "--identity", "bench", "--metrics", METRICS, "--node-service-account", ACCOUNT]);
        Ok(Self(command.args(images).spawn()?))
    }

    /// User and system time since its start.
    fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|at| fields.get(*at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0)).sum();
        // The kernel's unit in /proc is a hundredth of a second on every architecture that we build for.
        Ok(Duration::from_millis(ticks * 10))
    }

    fn resident_bytes(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10)
    }
}

async fn requests() -> Result<f64, Failure> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(METRICS).await?;
    connection.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    connection.read_to_string(&mut text).await?;
    let line = text.lines().find_map(|line| line.strip_prefix("forebay_operator_api_requests_total "));
    Ok(line.ok_or("the operator tells its requests")?.trim().parse()?)
}

async fn prepare(client: &Client, datasets: usize) -> Result<String, Failure> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in [forebay_api::crd::dataset(), forebay_api::crd::cache_policy()] {
        crds.patch(&crd.name_any(), &PatchParams::apply("bench").force(), &Patch::Apply(&crd)).await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } }))?).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    accounts.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": ACCOUNT } }))?).await?;
    let policy = json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy", "metadata": { "name": "bench" },
        "spec": { "default": true, "tiers": [{ "type": "Disk", "paths": ["/var/lib/forebay"], "capacity": "10Gi" }] }
    });
    let policies: Api<CachePolicy> = Api::all(client.clone());
    let uid = policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?.uid().unwrap_or_default();
    let api: Api<Dataset> = Api::namespaced(client.clone(), "default");
    for number in 0..datasets {
        let dataset = json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": format!("d{number}") },
            "spec": { "source": format!("s3://bucket/{number}/"), "rules": [{ "path": "/train", "cache": "Pin" }] }
        });
        api.create(&PostParams::default(), &serde_json::from_value(dataset)?).await?;
    }
    Ok(uid)
}

/// A node, its cache node's pod and who answers there.
async fn make_node(
    client: &Client,
    number: usize,
    policy: &str,
    trusted: &str,
    folder: &Path,
    told: &Arc<Told>,
    datasets: usize,
) -> Result<(), Failure> {
    let name = format!("n{number}");
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": name } }))?).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let ports =
        json!([{ "name": names::CONTROL_PORT_NAME, "containerPort": port }, { "name": names::PEERS_PORT_NAME, "containerPort": 1 }]);
    let pod = json!({
        "metadata": { "name": name, "labels": { names::COMPONENT_LABEL: names::NODE_COMPONENT, names::POLICY_LABEL: policy } },
        "spec": { "nodeName": name, "serviceAccountName": ACCOUNT, "containers": [{ "name": "node", "image": "fake", "ports": ports }] }
    });
    let uid = pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?.uid();
    let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid });
    let asked = json!({ "spec": { "audiences": [names::NODE_AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound } });
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let made = accounts.create_token_request(ACCOUNT, &PostParams::default(), &serde_json::from_value(asked)?).await?;
    let token = made.status.and_then(|status| status.token).unwrap_or_default();
    let own = folder.join(&name);
    std::fs::create_dir(&own)?;
    std::fs::write(own.join("ca.crt"), trusted)?;
    let issued = Issued::load(&own, &own.join("kept"))?;
    let incoming = ReceiverStream::new(identity::incoming(listener, issued.identity().clone(), names::OPERATOR_HOST));
    let service = ControlServer::new(Fake { datasets, told: told.clone(), issued, token, state: Mutex::default() })
        .max_decoding_message_size(64 << 20);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let conditions = json!([{ "type": "Ready", "status": "True" }]);
    let status =
        json!({ "status": { "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }], "conditions": conditions } });
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<Duration, Failure> {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > Duration::from_secs(600) {
            return Err(format!("waited in vain: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(begin.elapsed())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, program, datasets, nodes, seconds] = &arguments[..] else { return Err("operator_bench PROGRAM DATASETS NODES SECONDS".into()) };
    let (datasets, nodes, rest): (usize, usize, u64) = (datasets.parse()?, nodes.parse()?, seconds.parse()?);
    let client = Client::try_default().await?;
    let policy = prepare(&client, datasets).await?;
    let operator = Operator::start(program)?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let trusted = loop {
        if let Some(map) = maps.get_opt(names::AUTHORITY_SECRET).await? {
            break map.data.unwrap_or_default().remove("ca.crt").unwrap_or_default();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (folder, told) = (tempfile::tempdir()?, Arc::new(Told::default()));
    let begin = Instant::now();
    for number in 0..nodes {
        make_node(&client, number, &policy, &trusted, folder.path(), &told, datasets).await?;
    }
    until("all nodes to know all Datasets", || told.everything.load(Relaxed) == nodes).await?;
    let known = begin.elapsed();
    // Statuses of all Datasets are written once more, with what nodes told.
    let mut last = requests().await?;
    loop {
        tokio::time::sleep(Duration::from_secs(15)).await;
        let now = requests().await?;
        if now - last < 100.0 || begin.elapsed() > Duration::from_secs(900) {
            break;
        }
        last = now;
    }
    let (asked, cpu, at_rest) = (requests().await?, operator.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(rest)).await;
    let minutes = at_rest.elapsed().as_secs_f64() / 60.0;
    let requests_a_minute = (requests().await? - asked) / minutes;
    let cpu_share = (operator.cpu()? - cpu).as_secs_f64() / at_rest.elapsed().as_secs_f64();
    let resident = operator.resident_bytes()?;
    let api: Api<Dataset> = Api::namespaced(client.clone(), "default");
    api.patch("d0", &PatchParams::default(), &Patch::Merge(&json!({ "spec": { "sync": { "interval": MARK } } }))).await?;
    let change = until("all nodes to know of the change", || told.changed.load(Relaxed) == nodes).await?;
    let figures: BTreeMap<&str, Value> = [
        ("datasets", json!(datasets)),
        ("nodes", json!(nodes)),
        ("all_known_seconds", json!(known.as_secs_f64())),
        ("rest_api_requests_a_minute", json!(requests_a_minute)),
        ("rest_cpu_cores", json!(cpu_share)),
        ("rest_resident_mib", json!(resident >> 20)),
        ("change_reaches_all_seconds", json!(change.as_secs_f64())),
    ]
    .into();
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
