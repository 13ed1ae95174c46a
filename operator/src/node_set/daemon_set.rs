//! The DaemonSet of a set's cache nodes. Their container has no capability, a user of its own and a read-only root; only the
//! container before it, which gives the folders their owner, is root, with the three capabilities that this needs.

use forebay_wire::unit::ByteSize;
use serde_json::{Value, json};

use super::{HOST_FOLDER, LISTS_FOLDER, MEMORY_FOLDER, NodeSet, RUN_FOLDER, Tier};
use crate::context::Settings;
use crate::names;
use crate::nodes::generation;

/// Kubelet renews a token at four fifths of its life. Shorter than ten minutes isn't allowed.
const TOKEN_SECONDS: u32 = 3600;

pub(super) fn build(set: &NodeSet, metadata: &Value, settings: &Settings, config: &str) -> Value {
    let mut spec = pod(set, settings);
    // Affinity isn't part of it: a node that changes hands restarts nobody else's cache.
    let template = generation::of_text(&format!("{spec}\n{config}"));
    spec["affinity"] = affinity(&set.placement.terms);
    let mut annotations = json!({
        names::TEMPLATE_ANNOTATION: template,
        "kubectl.kubernetes.io/default-container": "node",
    });
    if let Some(policy) = &set.policy {
        annotations[names::POLICY_NAME_ANNOTATION] = Value::from(policy.as_str());
    }
    let selected = json!({ names::COMPONENT_LABEL: names::NODE_COMPONENT, names::POLICY_LABEL: set.id });
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "selector": { "matchLabels": selected },
            // The operator replaces pods, one node at a time, and only where the driver holds the mounts meanwhile.
            "updateStrategy": { "type": "OnDelete" },
            "template": { "metadata": { "labels": set.labels(), "annotations": annotations }, "spec": spec },
        },
    })
}

/// Folders of the host and of memory, as volumes and where they are mounted.
struct Folders {
    paths: Vec<String>,
    volumes: Vec<Value>,
    mounts: Vec<Value>,
    memory_bytes: u64,
}

fn folders(set: &NodeSet, run: &str) -> Folders {
    let mut folders = Folders {
        paths: vec![run.to_owned()],
        volumes: vec![json!({ "name": "run", "hostPath": { "path": RUN_FOLDER, "type": "DirectoryOrCreate" } })],
        mounts: vec![json!({ "name": "run", "mountPath": RUN_FOLDER })],
        memory_bytes: 0,
    };
    for (index, tier) in set.tiers.iter().enumerate() {
        let name = format!("tier-{index}");
        let path = match tier {
            Tier::Memory { capacity } => {
                folders.volumes.push(json!({ "name": name, "emptyDir": { "medium": "Memory", "sizeLimit": capacity } }));
                folders.memory_bytes += bytes(capacity);
                MEMORY_FOLDER
            }
            Tier::Disk { folder, .. } => {
                if let Some(prefix) = prefix(folder) {
                    folders.add_pattern(&name, prefix, folder);
                    continue;
                }
                folders.volumes.push(json!({ "name": name, "hostPath": { "path": folder, "type": "DirectoryOrCreate" } }));
                folder
            }
        };
        folders.paths.push(path.to_owned());
        folders.mounts.push(json!({ "name": name, "mountPath": path }));
    }
    if set.tiers.iter().all(|tier| matches!(tier, Tier::Memory { .. })) {
        folders.add_lists(&set.id);
    }
    folders
}

impl Folders {
    /// Which folders fit is looked up on each node, so the pod gets the whole of what is above them, with what is mounted there.
    fn add_pattern(&mut self, name: &str, prefix: &str, folder: &str) {
        let at = inside(prefix);
        self.paths.push(inside(folder));
        if self.mounts.iter().any(|mount| mount["mountPath"] == at.as_str()) {
            return;
        }
        self.volumes.push(json!({ "name": name, "hostPath": { "path": prefix, "type": "Directory" } }));
        self.mounts.push(json!({ "name": name, "mountPath": at, "mountPropagation": "HostToContainer" }));
    }

    /// A node keeps its lists of files below `datasets` in a tier on a disk, else in the first tier. They may be larger than a tier in memory, and
    /// are needed again when the pod was replaced.
    fn add_lists(&mut self, id: &str) {
        let path = format!("{MEMORY_FOLDER}/datasets");
        self.volumes.push(json!({ "name": "lists", "hostPath": { "path": format!("{LISTS_FOLDER}/{id}"), "type": "DirectoryOrCreate" } }));
        self.mounts.push(json!({ "name": "lists", "mountPath": path }));
        self.paths.push(path);
    }
}

/// Of a pattern, the folder above its first part with a star; `None` for a plain folder.
fn prefix(folder: &str) -> Option<&str> {
    let star = folder.find('*')?;
    folder.get(..folder.get(..star)?.rfind('/')?)
}

/// Where the pod has folders that a pattern may fit: below a folder of their own, so that none of the image is covered.
pub(super) fn inside(folder: &str) -> String {
    format!("{HOST_FOLDER}{folder}")
}

/// Of a quantity that was checked where it came in.
fn bytes(text: &str) -> u64 {
    text.parse::<ByteSize>().map_or(0, ByteSize::bytes)
}

/// What a node needs to get its certificate from the operator: the pod's token, which kubelet renews, and whom to believe.
fn identity() -> Value {
    let token = json!({ "serviceAccountToken": { "audience": names::NODE_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token" } });
    let trusted = json!({ "configMap": { "name": names::AUTHORITY_SECRET, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } });
    json!({ "name": "identity", "projected": { "defaultMode": 0o440, "sources": [token, trusted] } })
}

fn pod(set: &NodeSet, settings: &Settings) -> Value {
    let run = format!("{RUN_FOLDER}/{}", set.id);
    let folders = folders(set, &run);
    let mut volumes = vec![json!({ "name": "config", "configMap": { "name": set.name } }), identity()];
    volumes.extend(folders.volumes.iter().cloned());
    let startup = json!({ "key": names::STARTUP_TAINT, "operator": "Exists" });
    let given = set.placement.tolerations.iter().filter_map(|toleration| serde_json::to_value(toleration).ok());
    let tolerations: Vec<Value> = given.chain([startup]).collect();
    let mut pod = json!({
        "serviceAccountName": settings.node_service_account,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": { "fsGroup": names::NODE_USER, "seccompProfile": { "type": "RuntimeDefault" } },
        "tolerations": tolerations,
        "initContainers": [prepare(settings, &folders)],
        "containers": [node(set, settings, &folders, &run)],
        "volumes": volumes,
    });
    if !set.placement.node_selector.is_empty() {
        pod["nodeSelector"] = json!(set.placement.node_selector);
    }
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

fn node(set: &NodeSet, settings: &Settings, folders: &Folders, run: &str) -> Value {
    let memory = |base: &str| match folders.memory_bytes {
        0 => base.to_owned(),
        more => (bytes(base) + more).to_string(),
    };
    let probe = |path: &str, period: u32, failures: u32| json!({ "httpGet": { "path": path, "port": "metrics" }, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5 });
    let mut mounts = folders.mounts.clone();
    mounts.push(json!({ "name": "config", "mountPath": "/etc/forebay/node.yaml", "subPath": "node.yaml", "readOnly": true }));
    mounts.push(json!({ "name": "identity", "mountPath": names::IDENTITY_FOLDER, "readOnly": true }));
    let at = |port: u16| format!("0.0.0.0:{port}");
    let (control, peers, cache) = (at(names::CONTROL_PORT), at(names::PEERS_PORT), names::node_host(&set.id));
    let mut command = vec!["forebay-node", "cluster", "--config", "/etc/forebay/node.yaml", "--run", run];
    command.extend(["--listen", &control, "--identity", names::IDENTITY_FOLDER, "--node", "$(NODE_NAME)"]);
    let mut ports = vec![(names::CONTROL_PORT_NAME, names::CONTROL_PORT), ("metrics", names::METRICS_PORT)];
    // Nodes that no policy has are not one cache: each reads for its own pods.
    if set.policy.is_some() {
        command.extend(["--peers", &peers, "--cache", &cache]);
        ports.push((names::PEERS_PORT_NAME, names::PEERS_PORT));
    }
    let ports: Vec<Value> = ports.into_iter().map(|(name, port)| json!({ "name": name, "containerPort": port })).collect();
    json!({
        "name": "node",
        "image": settings.node_image,
        "command": command,
        "env": [{ "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
        "ports": ports,
        // A node that waits to be told isn't ready, and isn't killed for it.
        "readinessProbe": probe("/readyz", 5, 2),
        "livenessProbe": probe("/healthz", 10, 6),
        "resources": {
            "requests": { "cpu": "100m", "memory": memory(set.memory_request) },
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

fn affinity(terms: &[Value]) -> Value {
    if terms.is_empty() {
        return json!({});
    }
    json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } })
}
