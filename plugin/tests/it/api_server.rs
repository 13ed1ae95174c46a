//! A real API server with its etcd for all tests of this binary (KUBECONFIG_ENVTEST). Nothing else runs: no operator, no kubelet.
//! Each test has a namespace of its own.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use forebay_api::Dataset;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The machine may be busy with other builds.
const LIMIT: Duration = Duration::from_secs(180);

/// One test's part of the server.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    kubeconfig: PathBuf,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    /// `None`, loudly, where there is no server and need not be one.
    pub(crate) async fn new(name: &str) -> Option<Self> {
        static PREPARED: OnceCell<()> = OnceCell::const_new();
        let Some(kubeconfig) = std::env::var_os("KUBECONFIG_ENVTEST").filter(|path| !path.is_empty()).map(PathBuf::from) else {
            let must = ["CI", "FOREBAY_MUST_MOUNT"].into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
            assert!(
                must.is_none(),
                "{must:?} is set, so this test must run; it needs KUBECONFIG_ENVTEST, the kubeconfig of a server to spoil"
            );
            // Past the harness, which shows what a test prints only when it fails.
            let _ =
                writeln!(std::io::stderr(), "SKIPPED: a test of the plugin: needs KUBECONFIG_ENVTEST, the kubeconfig of a server to spoil");
            return None;
        };
        let read = Kubeconfig::read_from(&kubeconfig).unwrap();
        let client = Client::try_from(Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap()).unwrap();
        PREPARED.get_or_init(|| prepare(client.clone())).await;
        let world = Self { client, namespace: name.to_owned(), kubeconfig };
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        namespaces.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()).await.unwrap();
        Some(world)
    }

    pub(crate) fn datasets(&self) -> Api<Dataset> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a Dataset `t` as `manager`, as a GitOps tool does.
    pub(crate) async fn apply(&self, manager: &str, mut spec: Value) {
        if spec["source"].is_null() {
            spec["source"] = json!("s3://bucket/");
        }
        let object = json!({ "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": "t" }, "spec": spec });
        self.datasets().patch("t", &PatchParams::apply(manager), &Patch::Apply(&object)).await.unwrap();
    }

    /// The spec as the server has it.
    pub(crate) async fn spec(&self) -> Value {
        serde_json::to_value(self.datasets().get("t").await.unwrap().spec).unwrap()
    }

    /// A kubeconfig of a user with `rights`, a list of RBAC rules, in this namespace only.
    pub(crate) async fn somebody(&self, rights: Value) -> PathBuf {
        let rules: Vec<(&str, Value, &str)> = vec![
            ("roles", json!({ "metadata": { "name": "somebody" }, "rules": rights }), "rbac.authorization.k8s.io/v1"),
            (
                "rolebindings",
                json!({
                    "metadata": { "name": "somebody" },
                    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "somebody" },
                    "subjects": [{ "kind": "ServiceAccount", "name": "somebody", "namespace": self.namespace }]
                }),
                "rbac.authorization.k8s.io/v1",
            ),
            ("serviceaccounts", json!({ "metadata": { "name": "somebody" } }), "v1"),
        ];
        for (plural, object, version) in rules {
            let group = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
            self.post(&format!("{group}/namespaces/{}/{plural}", self.namespace), &object).await;
        }
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [] } });
        let token = self.post(&format!("/api/v1/namespaces/{}/serviceaccounts/somebody/token", self.namespace), &request).await;
        let mut config = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let mut whole = serde_json::to_value(&config.auth_infos[0]).unwrap();
        whole["user"] = json!({ "token": token["status"]["token"] });
        config.auth_infos[0] = serde_json::from_value(whole).unwrap();
        let path = std::env::temp_dir().join(format!("forebay-plugin-{}-{}.json", std::process::id(), self.namespace));
        // A token of a server that ends with the test.
        std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
        path
    }

    async fn post(&self, path: &str, object: &Value) -> Value {
        let request =
            http::Request::post(path).header("content-type", "application/json").body(serde_json::to_vec(object).unwrap()).unwrap();
        self.client.request(request).await.unwrap()
    }

    /// Runs the program in this namespace, as the server's administrator.
    pub(crate) async fn run(&self, line: &str) -> Ran {
        run(self.kubeconfig.clone(), &self.namespace, line).await
    }
}

/// Runs the program with a kubeconfig.
pub(crate) async fn run(kubeconfig: PathBuf, namespace: &str, line: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-forebay"));
    command.args(line.split(' ')).args(["-n", namespace]).arg("--kubeconfig").arg(kubeconfig);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

async fn prepare(client: Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in [forebay_api::crd::dataset(), forebay_api::crd::cache_policy()] {
        let name = crd.metadata.name.clone().unwrap();
        crds.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&crd)).await.unwrap();
        tokio::time::timeout(LIMIT, await_condition(crds.clone(), &name, conditions::is_crd_established())).await.unwrap().unwrap();
    }
}
