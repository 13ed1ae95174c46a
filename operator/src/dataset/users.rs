//! Which pods use a Dataset's volume, by claim or inline, and on which nodes.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt;

use crate::names;
use crate::nodes::DatasetKey;

/// The Dataset that a volume of a pod means, by name in the pod's own namespace. A claim has its Dataset's name.
pub fn dataset_of(volume: &Volume) -> Option<&str> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(&claim.claim_name);
    }
    let csi = volume.csi.as_ref().filter(|csi| csi.driver == names::DRIVER)?;
    csi.volume_attributes.as_ref()?.get("dataset").map(String::as_str)
}

/// The names of pods in `namespace` that use the Dataset `name` and haven't ended, sorted.
pub fn of<'a>(pods: impl IntoIterator<Item = &'a Pod>, namespace: &str, name: &str) -> Vec<String> {
    let mut users: Vec<String> = pods
        .into_iter()
        .filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace) && !has_ended(pod))
        .filter(|pod| volumes(pod).iter().any(|volume| dataset_of(volume) == Some(name)))
        .map(ResourceExt::name_any)
        .collect();
    users.sort();
    users
}

/// What pods that were put on a node and haven't ended use there, by the node's name. A claim may be anybody's: that there is a Dataset of its name
/// isn't known here. A pod that a node says it has is no reason to trust that node with anything: mirror pods are left out.
pub fn by_node<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeMap<String, BTreeSet<DatasetKey>> {
    let mut found: BTreeMap<String, BTreeSet<DatasetKey>> = BTreeMap::new();
    for pod in pods.into_iter().filter(|pod| !has_ended(pod) && !pod.annotations().contains_key(names::MIRROR_ANNOTATION)) {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) else { continue };
        for name in volumes(pod).iter().filter_map(dataset_of) {
            let key = DatasetKey { namespace: pod.namespace().unwrap_or_default(), name: name.to_owned() };
            found.entry(node.clone()).or_default().insert(key);
        }
    }
    found
}

pub fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// Its volumes are unmounted, or were never mounted.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn users_by_claim_and_inline_are_found() {
        let pod = |name: &str, namespace: &str, phase: &str, volume: serde_json::Value| -> Pod {
            let spec = json!({ "containers": [], "volumes": [volume] });
            serde_json::from_value(
                json!({ "metadata": { "name": name, "namespace": namespace }, "spec": spec, "status": { "phase": phase } }),
            )
            .unwrap()
        };
        let claim = json!({ "name": "data", "persistentVolumeClaim": { "claimName": "imagenet" } });
        let inline = |driver: &str| json!({ "name": "data", "csi": { "driver": driver, "volumeAttributes": { "dataset": "imagenet" } } });
        let pods = [
            pod("by-claim", "vision", "Running", claim.clone()),
            pod("inline", "vision", "Pending", inline(names::DRIVER)),
            pod("another-driver", "vision", "Running", inline("csi.example.com")),
            pod("ended", "vision", "Succeeded", claim.clone()),
            pod("elsewhere", "speech", "Running", claim),
        ];
        assert_eq!(of(&pods, "vision", "imagenet"), ["by-claim", "inline"]);
        assert!(of(&pods, "vision", "laion").is_empty());
    }

    #[test]
    fn a_node_uses_what_pods_that_were_put_on_it_use() {
        let pod = |name: &str, more: serde_json::Value, spec: serde_json::Value| -> Pod {
            let mut whole = json!({ "metadata": { "name": name, "namespace": "vision" }, "spec": { "containers": [] } });
            whole["metadata"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            whole["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            serde_json::from_value(whole).unwrap()
        };
        let inline = |name: &str| json!([{ "name": "data", "csi": { "driver": names::DRIVER, "volumeAttributes": { "dataset": name } } }]);
        let mirror = json!({ "annotations": { names::MIRROR_ANNOTATION: "x" } });
        let pods = [
            pod("a", json!({}), json!({ "nodeName": "n1", "volumes": inline("imagenet") })),
            pod("b", json!({}), json!({ "nodeName": "n1", "volumes": inline("laion") })),
            pod("waits", json!({}), json!({ "volumes": inline("laion") })),
            pod("without", json!({}), json!({ "nodeName": "n2" })),
            pod("made-by-the-node", mirror, json!({ "nodeName": "n2", "volumes": inline("laion") })),
        ];
        let key = |name: &str| DatasetKey { namespace: "vision".to_owned(), name: name.to_owned() };
        assert_eq!(by_node(&pods), BTreeMap::from([("n1".to_owned(), BTreeSet::from([key("imagenet"), key("laion")]))]));
    }
}
