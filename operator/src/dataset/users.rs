//! Which pods use a Dataset's volume, by claim or inline.
//! Pure.

use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt;

use crate::names;

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
}
