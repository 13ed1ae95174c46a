//! Objects as people write them become the types and come back as they were.

use forebay_api::cache_policy::{AmbientCredentials, NamespacesFrom, TierType};
use forebay_api::{CachePolicy, Dataset};
use serde_json::{Value, json};

fn dataset(spec: &Value) -> Value {
    json!({ "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": "imagenet", "namespace": "vision" }, "spec": spec })
}

fn policy(spec: &Value) -> Value {
    json!({ "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy", "metadata": { "name": "gpu-pool" }, "spec": spec })
}

/// Specs that parse, and give themselves back: nothing is lost, nothing is added.
#[test]
fn datasets_come_back_as_they_were_written() {
    let specs = [
        json!({ "source": "s3://imagenet/train/" }),
        json!({ "source": "s3://imagenet/train/", "secretRef": { "name": "s3-credentials" }, "preload": { "when": "Once" } }),
        json!({ "source": "s3://a-b/", "serviceAccountName": "reader", "s3": { "requesterPays": true, "roleARN": "", "anonymous": false } }),
        json!({
            "sources": [
                { "path": "/images", "uri": "s3://laion/images/", "secretRef": { "name": "s3" }, "s3": {
                    "endpoint": "https://minio.corp:9000", "region": "us-east-1", "addressing": "Auto",
                    "caBundleRef": { "name": "corp-ca", "key": "ca.crt" }
                } },
                { "path": "/labels", "uri": "file:///mnt/nfs/labels" }
            ],
            "policyRef": { "name": "gpu-pool" },
            "rules": [
                { "path": "/images/train", "cache": "Pin", "maxBytes": "120Ti", "copies": { "min": 1, "max": 3 } },
                { "path": "/images/raw", "cache": "Never" },
                { "path": "/labels", "ttl": "24h", "localCopy": "Always" }
            ],
            "eviction": "S3FIFO",
            "quota": "500Ti",
            "priority": 10,
            "preload": { "when": "Once", "paths": ["/images/train"], "maxBytesPerSecond": "20Gi", "revision": 1, "suspend": false },
            "sync": { "mode": "Interval", "interval": "10m" },
            "permissions": { "uid": 0, "gid": 0, "fileMode": "0444", "directoryMode": "0555" },
            "volume": { "claim": "Create" },
            "verify": "Strict"
        }),
    ];
    for spec in specs {
        let object: Dataset = serde_json::from_value(dataset(&spec)).unwrap();
        assert_eq!(serde_json::to_value(&object).unwrap(), dataset(&spec));
    }
}

#[test]
fn a_quantity_may_be_a_number() {
    let spec = json!({ "source": "s3://abc", "rules": [{ "path": "/a", "cache": "Pin", "maxBytes": 1_000_000 }] });
    let object: Dataset = serde_json::from_value(dataset(&spec)).unwrap();
    let rule = &object.spec.rules.as_ref().unwrap()[0];
    assert_eq!(rule.max_bytes.as_deref(), Some("1000000"));
    let wrong = json!({ "source": "s3://abc", "rules": [{ "path": "/a", "maxBytes": true }] });
    assert!(serde_json::from_value::<Dataset>(dataset(&wrong)).is_err());
}

#[test]
fn an_unknown_field_is_no_dataset() {
    let error = serde_json::from_value::<Dataset>(dataset(&json!({ "sorce": "s3://abc" }))).unwrap_err();
    assert!(error.to_string().contains("unknown field `sorce`"), "{error}");
}

#[test]
fn the_shortest_policy_takes_the_defaults() {
    let object: CachePolicy =
        serde_json::from_value(policy(&json!({ "tiers": [{ "type": "Disk", "paths": ["/var/lib/forebay"], "capacity": "20%" }] })))
            .unwrap();
    let spec = object.spec;
    assert!(!spec.default);
    assert_eq!(spec.tiers[0].tier_type, TierType::Disk);
    assert_eq!(spec.allowed_namespaces.from, NamespacesFrom::All);
    assert_eq!(spec.allowed_sources, ["s3://*"]);
    assert_eq!(spec.ambient_credentials, AmbientCredentials::Deny);
    assert_eq!(spec.max_priority, 0);
    assert!(spec.nodes.selector.is_none() && spec.source.max_bytes_per_second.is_none());
}

#[test]
fn policies_come_back_as_they_were_written() {
    let spec = json!({
        "default": true,
        "nodes": {
            "selector": { "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "gpu", "operator": "Exists" }] }] },
            "tolerations": [{ "key": "gpu", "operator": "Exists", "effect": "NoSchedule" }],
            "topologyKey": "topology.kubernetes.io/zone"
        },
        "tiers": [
            { "type": "Memory", "capacity": "32Gi" },
            { "type": "Disk", "paths": ["/mnt/nvme*/forebay"], "capacity": "90%", "keepFreePercent": 15 }
        ],
        "source": { "maxBytesPerSecond": "40Gi", "maxRequestsPerSecond": 3500 },
        "allowedNamespaces": { "from": "Selector", "selector": { "matchLabels": { "team": "vision" } } },
        "allowedSources": ["s3://*"],
        "ambientCredentials": "Deny",
        "maxPriority": 100
    });
    let object: CachePolicy = serde_json::from_value(policy(&spec)).unwrap();
    assert_eq!(serde_json::to_value(&object).unwrap(), policy(&spec));
}
