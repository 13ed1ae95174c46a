//! The PersistentVolumeClaim of a Dataset: its name, its namespace, owned by it.

use forebay_api::Dataset;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::names;

pub(super) fn build(dataset: &Dataset) -> Value {
    let uid = dataset.uid().unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": dataset.name_any(),
            "namespace": dataset.namespace().unwrap_or_default(),
            "labels": super::labels(&uid),
            "ownerReferences": [dataset.controller_owner_ref(&())],
        },
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeMode": "Filesystem",
            "volumeName": names::volume(&uid),
            "resources": { "requests": { "storage": super::NOMINAL_CAPACITY } },
        },
    })
}
