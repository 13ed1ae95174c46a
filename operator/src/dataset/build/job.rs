//! The Job that shows a preload and ends when it is done: it follows the Dataset's status, nodes do the work.
//! In the operator's own namespace, where no quota, queue or mesh of the user's stops it.

use forebay_api::Dataset;
use forebay_wire::dataset_spec::file::PreloadFile;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Job;
use crate::context::Settings;
use crate::names;

pub(super) fn build(dataset: &Dataset, preload: &PreloadFile, settings: &Settings) -> Job {
    let uid = dataset.uid().unwrap_or_default();
    let (namespace, dataset_name) = (dataset.namespace().unwrap_or_default(), dataset.name_any());
    let (revision, suspend) = (preload.revision.unwrap_or(0), preload.suspend.unwrap_or(false));
    let name = names::job(&uid, revision);
    let mut labels = super::labels(&uid);
    labels[names::COMPONENT_LABEL] = Value::from("preload");
    let mut container = json!({
        "name": "follow",
        "image": settings.operator_image,
        "command": ["forebay-operator", "follow", "--namespace", namespace, "--name", dataset_name, "--revision", revision.to_string()],
        "resources": { "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "64Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    if let Some(policy) = &settings.image_pull_policy {
        container["imagePullPolicy"] = Value::from(policy.as_str());
    }
    let object = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": { names::DATASET_NAME_ANNOTATION: format!("{namespace}/{dataset_name}") },
        },
        "spec": {
            "suspend": suspend,
            // It only watches: whatever ended it, another may go on.
            "backoffLimit": 1000,
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "restartPolicy": "OnFailure",
                    "serviceAccountName": settings.job_service_account,
                    "imagePullSecrets": settings.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
                    "tolerations": [{ "operator": "Exists", "effect": "NoSchedule" }],
                    "securityContext": { "runAsNonRoot": true, "runAsUser": names::NODE_USER, "seccompProfile": { "type": "RuntimeDefault" } },
                    "containers": [container],
                },
            },
        },
    });
    Job { name, object, suspend }
}
