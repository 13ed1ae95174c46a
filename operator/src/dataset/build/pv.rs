//! The PersistentVolume of a Dataset. It can't be owned by an object of a namespace: it is found by its label, and the finalizer removes it.

use forebay_api::Dataset;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::names;

pub(super) fn build(dataset: &Dataset) -> Value {
    let uid = dataset.uid().unwrap_or_default();
    let (namespace, name) = (dataset.namespace().unwrap_or_default(), dataset.name_any());
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": names::volume(&uid), "labels": super::labels(&uid) },
        "spec": {
            "capacity": { "storage": super::NOMINAL_CAPACITY },
            "accessModes": ["ReadOnlyMany"],
            // Deleting a claim never touches data: neither the source's nor the cache's.
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "volumeMode": "Filesystem",
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name },
            "csi": {
                "driver": names::DRIVER,
                "volumeHandle": uid,
                "readOnly": true,
                "volumeAttributes": { "dataset": name, "namespace": namespace },
            },
        },
    })
}
