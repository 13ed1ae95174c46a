//! A real API server with its etcd for all tests of this binary (KUBECONFIG_ENVTEST), and one operator on it. Nothing else runs: no kubelet, no controllers.
//! Each test has a namespace, a node and a policy of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use forebay_api::condition::{ConditionType, find};
use forebay_api::{CachePolicy, Dataset};
use forebay_daemon::shutdown::Shutdown;
use forebay_operator::{names, run};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::golden::settings;

/// A condition is waited for at most so long: the machine may be busy with other builds.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Where the server's kubeconfig is; `None`, loudly, where there is no server and need not be one. Starts the operator at the first call.
fn kubeconfig() -> Option<&'static Path> {
    static KUBECONFIG: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = KUBECONFIG.get_or_init(|| {
        let path = PathBuf::from(std::env::var_os("KUBECONFIG_ENVTEST").filter(|path| !path.is_empty())?);
        start_operator(&path);
        Some(path)
    });
    if found.is_none() {
        let must = ["CI", "FOREBAY_MUST_MOUNT"].into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        assert!(must.is_none(), "{must:?} is set, so this test must run; it needs KUBECONFIG_ENVTEST, the kubeconfig of a server to spoil");
        // Past the harness, which shows what a test prints only when it fails.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: a test of the operator: needs KUBECONFIG_ENVTEST, the kubeconfig of a server to spoil");
    }
    found.as_deref()
}

fn start_operator(kubeconfig: &Path) {
    let path = kubeconfig.to_owned();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let client = client_of(&path).await;
            prepare(&client).await;
            ready.send(()).unwrap();
            // Lives as long as the process.
            let (shutdown, _trigger) = Shutdown::new();
            let exit = run::run(client, settings(), Default::default(), Default::default(), shutdown).await;
            panic!("the operator ended: {exit:?}");
        });
    });
    is_ready.recv_timeout(LIMIT).expect("the API server takes our kinds");
}

async fn client_of(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

async fn prepare(client: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in [forebay_api::crd::dataset(), forebay_api::crd::cache_policy()] {
        let name = crd.metadata.name.clone().unwrap();
        crds.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&crd)).await.unwrap();
        tokio::time::timeout(LIMIT, await_condition(crds.clone(), &name, conditions::is_crd_established())).await.unwrap().unwrap();
    }
    create_namespace(client, &settings().namespace).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &settings().namespace);
    let account = json!({ "metadata": { "name": settings().node_service_account } });
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    // There before the operator is: the first pass over it waits until everything was read.
    make_policy(client, EARLY, EARLY).await;
}

/// A policy that exists when the operator starts.
pub(crate) const EARLY: &str = "early";

/// Selects the nodes of one test.
async fn make_policy(client: &Client, name: &str, test: &str) {
    let term = json!({ "matchExpressions": [{ "key": "test", "operator": "In", "values": [test] }] });
    let policy = json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy", "metadata": { "name": name },
        "spec": {
            "nodes": { "selector": { "nodeSelectorTerms": [term] } },
            "tiers": [{ "type": "Disk", "paths": ["/var/lib/forebay"], "capacity": "10Gi" }],
        }
    });
    let policies: Api<CachePolicy> = Api::all(client.clone());
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
}

async fn create_namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    api.create(&PostParams::default(), &namespace).await.unwrap();
}

/// One test's part of the cluster.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) policy: String,
    pub(crate) node: String,
}

impl World {
    /// A namespace, a node, and a policy that selects this node only and allows sources everywhere but where it mustn't.
    pub(crate) async fn new(name: &str) -> Option<Self> {
        let world = Self::without_node(name).await?;
        world.make_node().await;
        Some(world)
    }

    pub(crate) async fn make_node(&self) {
        let world = self;
        let nodes: Api<Node> = Api::all(world.client.clone());
        let node = json!({ "metadata": { "name": world.node, "labels": { "test": world.namespace } } });
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }

    /// A pod of the CSI driver that is ready on this node, as kubelet would have it.
    pub(crate) async fn make_driver(&self) {
        let pods: Api<Pod> = self.own();
        let name = format!("{}-driver", self.node);
        let driver = json!({
            "metadata": { "name": name, "labels": { names::COMPONENT_LABEL: names::CSI_COMPONENT } },
            "spec": { "nodeName": self.node, "containers": [{ "name": "csi", "image": "fake" }] }
        });
        pods.create(&PostParams::default(), &serde_json::from_value(driver).unwrap()).await.unwrap();
        let status = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    }

    pub(crate) async fn without_node(name: &str) -> Option<Self> {
        let client = client_of(tokio::task::spawn_blocking(kubeconfig).await.unwrap()?).await;
        create_namespace(&client, name).await;
        let world = Self { client, namespace: name.to_owned(), policy: format!("{name}-policy"), node: format!("{name}-node") };
        make_policy(&world.client, &world.policy, name).await;
        Some(world)
    }

    pub(crate) fn datasets(&self) -> Api<Dataset> {
        self.api()
    }

    /// Of this test's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Of the operator's namespace.
    pub(crate) fn own<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &settings().namespace)
    }

    /// Creates a Dataset of this policy.
    pub(crate) async fn dataset(&self, name: &str, mut spec: Value) -> Dataset {
        if spec["policyRef"].is_null() {
            spec["policyRef"] = json!({ "name": self.policy });
        }
        let object = json!({ "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": name }, "spec": spec });
        self.datasets().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    pub(crate) async fn secret(&self, name: &str, entries: Value) {
        let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": entries });
        let api: Api<k8s_openapi::api::core::v1::Secret> = self.api();
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    }

    /// Waits until the Dataset has the condition with this status and reason; gives its message.
    pub(crate) async fn condition(&self, name: &str, kind: ConditionType, status: &str, reason: &str) -> String {
        let found = |dataset: Option<&Dataset>| {
            let conditions = &dataset?.status.as_ref()?.conditions;
            let condition = find(conditions, kind)?;
            (condition.status == status && condition.reason == reason).then(|| condition.message.clone())
        };
        let waited =
            tokio::time::timeout(LIMIT, await_condition(self.datasets(), name, |dataset: Option<&Dataset>| found(dataset).is_some())).await;
        match waited {
            Ok(dataset) => found(dataset.unwrap().as_ref()).unwrap(),
            Err(_) => {
                let now = self.datasets().get(name).await.unwrap().status;
                panic!("{name} never was {}={status} for {reason}: {now:#?}", kind.as_str());
            }
        }
    }
}

/// Waits until `look` gives something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let waited = tokio::time::timeout(LIMIT, async {
        loop {
            tick.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// The object that a policy's node parts are called.
pub(crate) fn node_object(world: &World) -> String {
    names::node(&world.policy)
}
