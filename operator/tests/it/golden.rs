//! Everything that is built, compared with files: what reaches the API server changes only on purpose. `UPDATE_GOLDEN=1` writes them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use forebay_api::{CachePolicy, Dataset};
use forebay_operator::authority::Lives;
use forebay_operator::cache_policy::{self, Observed as PolicyObserved};
use forebay_operator::clients;
use forebay_operator::clients::plan::Driver;
use forebay_operator::context::{ClientSettings, Settings};
use forebay_operator::dataset::observe::Observed;
use forebay_operator::dataset::{build, validate};
use forebay_wire::dataset_spec::Eviction;
use serde_json::{Value, json};

pub(crate) fn settings() -> Settings {
    Settings {
        namespace: "forebay-system".to_owned(),
        identity: "test".to_owned(),
        node_image: "forebay-node:test".to_owned(),
        operator_image: "forebay-operator:test".to_owned(),
        image_pull_policy: None,
        image_pull_secrets: Vec::new(),
        node_service_account: "forebay-node".to_owned(),
        job_service_account: "forebay-job".to_owned(),
        priority_class: None,
        node_memory: "1Gi".to_owned(),
        clients: Some(ClientSettings { memory: "256Mi".to_owned(), ambient_credentials: false }),
        log_level: "info".to_owned(),
        api_server: Vec::new(),
        sync_every: Duration::from_millis(200),
        references_every: Duration::from_millis(500),
        lives: Lives { settle: Duration::from_secs(86400), certificate: Duration::from_secs(86400) },
        default_policy: None,
    }
}

fn check(name: &str, objects: &[Value]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.yaml"));
    let text: Vec<String> = objects.iter().map(|object| serde_saphyr::to_string(object).unwrap()).collect();
    let text = text.join("---\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}: write it by UPDATE_GOLDEN=1", path.display()));
    assert!(text == expected, "{} differs: look at `git diff` after UPDATE_GOLDEN=1\n{text}", path.display());
}

fn dataset(spec: Value) -> Dataset {
    serde_json::from_value(json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset",
        "metadata": { "name": "imagenet", "namespace": "vision", "uid": "11111111-1111-1111-1111-111111111111" },
        "spec": spec
    }))
    .unwrap()
}

fn policy(spec: Value) -> CachePolicy {
    serde_json::from_value(json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy",
        "metadata": { "name": "gpu-pool", "uid": "22222222-2222-2222-2222-222222222222" },
        "spec": spec
    }))
    .unwrap()
}

fn built(spec: Value) -> build::Built {
    let dataset = dataset(spec);
    let observed = Observed {
        policy: Ok(policy(json!({ "tiers": [{ "type": "Disk", "paths": ["/a"], "capacity": "1Gi" }] }))),
        namespace_labels: None,
        references: Default::default(),
        missing: None,
        claim: None,
        volume: None,
        jobs: Vec::new(),
        matched: 1,
        nodes: Vec::new(),
        clients: Vec::new(),
        eviction: Eviction::Hold,
    };
    let valid = validate::validate(&dataset, &observed, &[]).unwrap();
    build::build(&dataset, &valid, &settings())
}

#[test]
fn the_objects_of_the_shortest_dataset() {
    let built = built(json!({ "source": "s3://imagenet/train/", "preload": { "when": "Once" } }));
    let volume = built.volume.unwrap().bound_to("33333333-3333-3333-3333-333333333333");
    check("dataset", &[built.claim.unwrap(), volume, built.job.unwrap().object]);
}

#[test]
fn a_dataset_without_claim_or_preload_makes_nothing() {
    let built = built(json!({ "source": "s3://imagenet/train/", "volume": { "claim": "None" }, "preload": { "when": "Manual" } }));
    assert_eq!((built.claim, built.volume, built.job), (None, None, None));
}

#[test]
fn a_suspended_preload_suspends_its_job() {
    let built = built(json!({ "source": "s3://imagenet/train/", "preload": { "when": "Always", "revision": 7, "suspend": true } }));
    let job = built.job.unwrap();
    assert!(job.suspend && job.object["spec"]["suspend"] == json!(true) && job.name.ends_with("-7"), "{job:?}");
}

#[test]
fn the_objects_of_a_policy() {
    let policy = policy(json!({
        "nodes": {
            "selector": { "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "pool", "operator": "In", "values": ["gpu"] }] }] },
            "tolerations": [{ "key": "gpu", "operator": "Exists" }],
        },
        "tiers": [
            { "type": "Memory", "capacity": "32Gi" },
            { "type": "Disk", "paths": ["/mnt/nvme0/forebay", "/mnt/nvme1/forebay/"], "capacity": "90%", "keepFreePercent": 20 },
        ],
        "source": { "maxBytesPerSecond": "40Gi", "maxRequestsPerSecond": 3500 },
        "ambientCredentials": "Allow",
    }));
    let observed = PolicyObserved {
        nodes: [("n1".to_owned(), String::new())].into(),
        taken: vec![("n2".to_owned(), "older".to_owned())],
        ..PolicyObserved::default()
    };
    let mut settings = settings();
    settings.image_pull_secrets = vec!["registry".to_owned()];
    settings.image_pull_policy = Some("IfNotPresent".to_owned());
    settings.priority_class = Some("system-node-critical".to_owned());
    let built = cache_policy::build::build(&policy, &observed, &settings);
    let config = built.config_map["data"]["node.yaml"].as_str().unwrap();
    let parsed = forebay_wire::node_config::NodeConfig::parse("node.yaml", config).unwrap();
    assert_eq!(parsed.tiers.len(), 3, "a node reads what is written for it");
    check("cache-policy", &[built.config_map, built.daemon_set]);
}

#[test]
fn the_objects_of_the_shortest_policy() {
    let policy = policy(json!({ "tiers": [{ "type": "Disk", "paths": ["/var/lib/forebay"], "capacity": "20%" }] }));
    let built = cache_policy::build::build(&policy, &PolicyObserved::default(), &settings());
    check("cache-policy-short", &[built.config_map, built.daemon_set]);
}

#[test]
fn the_objects_of_clients() {
    let settings = settings();
    let driver = Driver { node_selector: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(), ..Driver::of([]) };
    let terms = vec![json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["gpu-1"] }] })];
    let lease = "44444444-4444-4444-4444-444444444444";
    let built = clients::build(settings.clients.as_ref().unwrap(), &driver, terms, lease, &settings);
    let config = built.config_map["data"]["node.yaml"].as_str().unwrap();
    let parsed = forebay_wire::node_config::NodeConfig::parse("node.yaml", config).unwrap();
    assert_eq!(parsed.tiers.len(), 1, "a node reads what is written for it");
    check("clients", &[built.config_map, built.daemon_set]);
}

#[test]
fn a_policy_without_disks_keeps_its_lists_of_files_on_the_host() {
    let policy = policy(json!({ "tiers": [{ "type": "Memory", "capacity": "32Gi" }] }));
    let built = cache_policy::build::build(&policy, &PolicyObserved::default(), &settings());
    let volumes = built.daemon_set["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let lists = volumes.iter().find(|volume| volume["name"] == "lists").unwrap();
    assert_eq!(lists["hostPath"]["path"], json!("/var/lib/forebay/22222222-2222-2222-2222-222222222222"));
}

#[test]
fn a_pattern_of_folders_is_looked_up_on_each_node() {
    let paths = ["/mnt/nvme*/forebay", "/mnt/ssd*/forebay", "/srv/cache"];
    let policy = policy(json!({ "tiers": [{ "type": "Disk", "paths": paths, "capacity": "90%" }] }));
    let built = cache_policy::build::build(&policy, &PolicyObserved::default(), &settings());
    let config = built.config_map["data"]["node.yaml"].as_str().unwrap();
    let parsed = forebay_wire::node_config::NodeConfig::parse("node.yaml", config).unwrap();
    assert_eq!(parsed.tiers[0].path, Path::new("/host/mnt/nvme*/forebay/22222222-2222-2222-2222-222222222222"));
    check("cache-policy-pattern", &[built.config_map, built.daemon_set]);
}
