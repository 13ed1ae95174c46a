//! The DaemonSet of a policy's cache nodes. Their container has no capability, a user of its own and a read-only root; only the
//! container before it, which gives the folders their owner, is root, with the three capabilities that this needs.

use forebay_api::CachePolicy;
use forebay_wire::unit::ByteSize;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{MEMORY_FOLDER, Observed, RUN_FOLDER, Tier};
use crate::context::Settings;
use crate::names;
use crate::nodes::generation;

/// What a node needs at least, beside its tiers in memory.
const MEMORY_REQUEST: &str = "256Mi";

/// The object, and the digest of its pod template.
pub(super) fn build(policy: &CachePolicy, observed: &Observed, settings: &Settings, tiers: &[Tier], config: &str) -> (Value, String) {
    let mut spec = pod(policy, settings, tiers);
    // Affinity isn't part of it: a node that changes hands restarts nobody else's cache.
    let template = generation::of_text(&format!("{spec}\n{config}"));
    spec["affinity"] = affinity(policy, observed);
    let annotations = json!({
        names::TEMPLATE_ANNOTATION: template,
        names::POLICY_NAME_ANNOTATION: policy.name_any(),
        "kubectl.kubernetes.io/default-container": "node",
    });
    let selected = json!({ names::COMPONENT_LABEL: names::NODE_COMPONENT, names::POLICY_LABEL: policy.uid().unwrap_or_default() });
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": super::metadata(policy, settings),
        "spec": {
            "selector": { "matchLabels": selected },
            // The operator replaces pods, one node at a time, and only where the driver holds the mounts meanwhile.
            "updateStrategy": { "type": "OnDelete" },
            "template": { "metadata": { "labels": super::labels(policy), "annotations": annotations }, "spec": spec },
        },
    });
    (object, template)
}

/// Folders of the host and of memory, as volumes and where they are mounted.
struct Folders {
    paths: Vec<String>,
    volumes: Vec<Value>,
    mounts: Vec<Value>,
    memory_bytes: u64,
}

fn folders(tiers: &[Tier], run: &str) -> Folders {
    let mut folders = Folders {
        paths: vec![run.to_owned()],
        volumes: vec![json!({ "name": "run", "hostPath": { "path": RUN_FOLDER, "type": "DirectoryOrCreate" } })],
        mounts: vec![json!({ "name": "run", "mountPath": RUN_FOLDER })],
        memory_bytes: 0,
    };
    for (index, tier) in tiers.iter().enumerate() {
        let name = format!("tier-{index}");
        let path = match tier {
            Tier::Memory { capacity } => {
                folders.volumes.push(json!({ "name": name, "emptyDir": { "medium": "Memory", "sizeLimit": capacity } }));
                folders.memory_bytes += bytes(capacity);
                MEMORY_FOLDER
            }
            Tier::Disk { folder, .. } => {
                folders.volumes.push(json!({ "name": name, "hostPath": { "path": folder, "type": "DirectoryOrCreate" } }));
                folder
            }
        };
        folders.paths.push(path.to_owned());
        folders.mounts.push(json!({ "name": name, "mountPath": path }));
    }
    folders
}

/// Of a quantity that was checked where it came in.
fn bytes(text: &str) -> u64 {
    text.parse::<ByteSize>().map_or(0, ByteSize::bytes)
}

fn pod(policy: &CachePolicy, settings: &Settings, tiers: &[Tier]) -> Value {
    let object = names::node(&policy.name_any());
    let run = format!("{RUN_FOLDER}/{}", policy.uid().unwrap_or_default());
    let folders = folders(tiers, &run);
    let mut volumes = vec![
        json!({ "name": "config", "configMap": { "name": object } }),
        json!({ "name": "tls", "secret": { "secretName": object, "defaultMode": 0o440 } }),
    ];
    volumes.extend(folders.volumes.iter().cloned());
    let startup = json!({ "key": names::STARTUP_TAINT, "operator": "Exists" });
    let given = policy.spec.nodes.tolerations.iter().filter_map(|toleration| serde_json::to_value(toleration).ok());
    let tolerations: Vec<Value> = given.chain([startup]).collect();
    let mut pod = json!({
        "serviceAccountName": settings.node_service_account,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": { "fsGroup": names::NODE_USER, "seccompProfile": { "type": "RuntimeDefault" } },
        "tolerations": tolerations,
        "initContainers": [prepare(settings, &folders)],
        "containers": [node(settings, &folders, &run)],
        "volumes": volumes,
    });
    if !settings.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = settings.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    }
    if let Some(class) = &settings.priority_class {
        pod["priorityClassName"] = Value::from(class.as_str());
    }
    if let Some(pull) = &settings.image_pull_policy {
        pod["initContainers"][0]["imagePullPolicy"] = Value::from(pull.as_str());
        pod["containers"][0]["imagePullPolicy"] = Value::from(pull.as_str());
    }
    pod
}

/// Gives the folders their owner. Root, with what that takes and no more.
fn prepare(settings: &Settings, folders: &Folders) -> Value {
    let owner = names::NODE_USER.to_string();
    let begin = ["forebay-node", "prepare-folders", "--owner", &owner];
    let command: Vec<&str> = begin.into_iter().chain(folders.paths.iter().map(String::as_str)).collect();
    json!({
        "name": "folders",
        "image": settings.node_image,
        "command": command,
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "64Mi" } },
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"] },
        },
        "volumeMounts": folders.mounts,
    })
}

fn node(settings: &Settings, folders: &Folders, run: &str) -> Value {
    let memory = |base: &str| match folders.memory_bytes {
        0 => base.to_owned(),
        more => (bytes(base) + more).to_string(),
    };
    let probe = |path: &str, period: u32, failures: u32| json!({ "httpGet": { "path": path, "port": "metrics" }, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5 });
    let mut mounts = folders.mounts.clone();
    mounts.push(json!({ "name": "config", "mountPath": "/etc/forebay/node.yaml", "subPath": "node.yaml", "readOnly": true }));
    mounts.push(json!({ "name": "tls", "mountPath": "/etc/forebay/tls", "readOnly": true }));
    json!({
        "name": "node",
        "image": settings.node_image,
        "command": [
            "forebay-node", "cluster", "--config", "/etc/forebay/node.yaml", "--run", run,
            "--listen", format!("0.0.0.0:{}", names::CONTROL_PORT), "--certificates", "/etc/forebay/tls", "--node", "$(NODE_NAME)",
        ],
        "env": [{ "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
        "ports": [
            { "name": names::CONTROL_PORT_NAME, "containerPort": names::CONTROL_PORT },
            { "name": "metrics", "containerPort": names::METRICS_PORT },
        ],
        // A node that waits to be told isn't ready, and isn't killed for it.
        "readinessProbe": probe("/readyz", 5, 2),
        "livenessProbe": probe("/healthz", 10, 6),
        "resources": {
            "requests": { "cpu": "100m", "memory": memory(MEMORY_REQUEST) },
            "limits": { "memory": memory(&settings.node_memory) },
        },
        "securityContext": {
            "runAsUser": names::NODE_USER,
            "runAsGroup": names::NODE_USER,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": mounts,
    })
}

/// The policy's selector, without nodes that an older policy has.
fn affinity(policy: &CachePolicy, observed: &Observed) -> Value {
    let selector = policy.spec.nodes.selector.as_ref();
    let terms = selector.into_iter().flat_map(|selector| &selector.node_selector_terms);
    let mut terms: Vec<Value> = terms.filter_map(|term| serde_json::to_value(term).ok()).collect();
    if !observed.taken.is_empty() {
        if terms.is_empty() {
            terms.push(json!({}));
        }
        for term in &mut terms {
            let mut fields = term["matchFields"].as_array().cloned().unwrap_or_default();
            fields.extend(observed.taken.iter().map(|(node, _)| json!({ "key": "metadata.name", "operator": "NotIn", "values": [node] })));
            term["matchFields"] = Value::from(fields);
        }
    }
    if terms.is_empty() {
        return json!({});
    }
    json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } })
}
