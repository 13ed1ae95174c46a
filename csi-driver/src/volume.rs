//! Which data set a volume means: from what kubelet hands over to a value that is valid by type.
//! Pure. Knows the attributes' names. Does not know whether such a data set exists.
//! Invariant: the namespace of an inline volume is the pod's, as kubelet says it; nothing that a pod's author writes can name another.

use std::collections::HashMap;
use std::fmt;

use forebay_wire::id::{self, DatasetName};

/// The driver's name, in CSIDriver objects, volumes and paths.
pub(crate) const DRIVER: &str = "csi.forebay.dev";

/// What kubelet adds by itself begins so; a value that a pod's author gave such a key is overwritten by kubelet (podInfoOnMount).
const KUBELETS: &str = "csi.storage.k8s.io/";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
/// What external provisioners add to a persistent volume; ours has none, but a volume may be copied from one that had.
const PROVISIONERS: &str = "storage.kubernetes.io/";
const DATASET: &str = "dataset";
const NAMESPACE: &str = "namespace";

/// kubelet's handle of a volume; unique on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VolumeId(String);

/// The UID of a Dataset, safe as the name of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uid(String);

/// What a volume asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A PersistentVolume: its handle is the Dataset's UID. The name is for people, if it is told.
    Persistent { uid: Uid, name: Option<DatasetName> },
    /// `volumes: [{csi: {volumeAttributes: {dataset: NAME}}}]`: of the pod's own namespace.
    Inline { name: DatasetName },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volumeHandle `{handle}` is no UID of a Dataset: write the value of its metadata.uid, or let the operator make the volume")]
    Handle { handle: String },
    #[error("volumeAttributes names no data set: write `dataset: NAME`, the name of a Dataset in the pod's namespace")]
    NoDataset,
    #[error(
        "volumeAttributes.dataset `{value}` is no name of a Dataset: write its metadata.name alone, \
         a-z, 0-9 and `-`, at most 63 characters, without a namespace or a path"
    )]
    Dataset { value: String },
    #[error(
        "volumeAttributes.namespace is `{value}`, the pod is in `{pod}`: an inline volume reads data sets of its pod's namespace only; \
         leave `namespace` out, and create the Dataset in `{pod}`"
    )]
    OtherNamespace { value: String, pod: String },
    #[error("volumeAttributes.namespace `{value}` is no name of a namespace: leave it out")]
    Namespace { value: String },
    #[error("volumeAttributes.{key} is unknown: `dataset` is all that an inline volume takes; remove `{key}`")]
    Unknown { key: String },
    #[error("kubelet didn't say the pod's namespace: the CSIDriver object {DRIVER} must have podInfoOnMount: true, as the chart writes it")]
    NoPodNamespace,
}

impl VolumeId {
    /// `None` when it is empty.
    pub(crate) fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Uid {
    /// Kubernetes writes UUIDs; any DNS label will do.
    pub(crate) fn new(text: &str) -> Option<Self> {
        id::is_label(text).then(|| Self(text.to_owned()))
    }
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Persistent { name: Some(name), .. } | Self::Inline { name } => write!(f, "data set {name}"),
            Self::Persistent { uid, name: None } => write!(f, "the data set with UID {uid}"),
        }
    }
}

impl Volume {
    /// From the handle and the context of a request.
    pub(crate) fn parse(handle: &VolumeId, context: &HashMap<String, String>) -> Result<Self, VolumeError> {
        for key in context.keys() {
            if key != DATASET && key != NAMESPACE && !key.starts_with(KUBELETS) && !key.starts_with(PROVISIONERS) {
                return Err(VolumeError::Unknown { key: key.clone() });
            }
        }
        let dataset = context.get(DATASET);
        let namespace = context.get(NAMESPACE);
        if context.get(EPHEMERAL).is_some_and(|value| value == "true") {
            Self::inline(dataset, namespace, context.get(POD_NAMESPACE))
        } else {
            Self::persistent(handle, dataset, namespace)
        }
    }

    fn inline(dataset: Option<&String>, namespace: Option<&String>, pod: Option<&String>) -> Result<Self, VolumeError> {
        let pod = pod.filter(|pod| id::is_label(pod)).ok_or(VolumeError::NoPodNamespace)?;
        if let Some(value) = namespace.filter(|value| *value != pod) {
            return Err(VolumeError::OtherNamespace { value: value.clone(), pod: pod.clone() });
        }
        let value = dataset.ok_or(VolumeError::NoDataset)?;
        let name = DatasetName::new(pod, value).ok_or_else(|| VolumeError::Dataset { value: value.clone() })?;
        Ok(Self::Inline { name })
    }

    fn persistent(handle: &VolumeId, dataset: Option<&String>, namespace: Option<&String>) -> Result<Self, VolumeError> {
        let uid = Uid::new(&handle.0).ok_or_else(|| VolumeError::Handle { handle: handle.to_string() })?;
        if let Some(value) = namespace.filter(|value| !id::is_label(value)) {
            return Err(VolumeError::Namespace { value: value.clone() });
        }
        if let Some(value) = dataset.filter(|value| !id::is_label(value)) {
            return Err(VolumeError::Dataset { value: value.clone() });
        }
        let name = namespace.zip(dataset).and_then(|(namespace, dataset)| DatasetName::new(namespace, dataset));
        Ok(Self::Persistent { uid, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b4d3f5e-8f4c-4a41-9a36-0c3a5d6c7e8f";

    fn check(handle: &str, context: &[(&str, &str)], expected: Result<&Volume, &str>) {
        let context = context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let parsed = Volume::parse(&VolumeId(handle.to_owned()), &context);
        match (&parsed, expected) {
            (Ok(volume), Ok(wanted)) => assert_eq!(volume, wanted, "{context:?}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}\ndoesn't say: {part}"),
            _ => panic!("{context:?}: {parsed:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_persistent_volume_is_its_handle() {
        let uid = Uid::new(UID).expect("a label");
        let bare = Volume::Persistent { uid: uid.clone(), name: None };
        let named = Volume::Persistent { uid, name: DatasetName::new("vision", "imagenet") };
        check(UID, &[], Ok(&bare));
        check(UID, &[("dataset", "imagenet"), ("namespace", "vision")], Ok(&named));
        check(UID, &[("csi.storage.k8s.io/pod.namespace", "other"), ("csi.storage.k8s.io/ephemeral", "false")], Ok(&bare));
        check(UID, &[("storage.kubernetes.io/csiProvisionerIdentity", "x")], Ok(&bare));
        for handle in ["../../etc", "a/b", "A", "-a", "a.b", " "] {
            check(handle, &[], Err("no UID"));
        }
        check(UID, &[("dataset", "Image")], Err("no name of a Dataset"));
        check(UID, &[("dataset", "a"), ("namespace", "..")], Err("no name of a namespace"));
        check(UID, &[("secret", "x")], Err("secret is unknown"));
    }

    #[test]
    fn an_inline_volume_is_of_the_pods_namespace() {
        let pod = [("csi.storage.k8s.io/ephemeral", "true"), ("csi.storage.k8s.io/pod.namespace", "vision")];
        let with = |more: &[(&'static str, &'static str)]| [&pod[..], more].concat();
        let inline = Volume::Inline { name: DatasetName::new("vision", "imagenet").expect("labels") };
        check("csi-1", &with(&[("dataset", "imagenet")]), Ok(&inline));
        check("csi-1", &with(&[("dataset", "imagenet"), ("namespace", "vision")]), Ok(&inline));
        check("csi-1", &with(&[("dataset", "imagenet"), ("csi.storage.k8s.io/serviceAccount.name", "default")]), Ok(&inline));
        check("csi-1", &with(&[]), Err("write `dataset: NAME`"));
        check("csi-1", &with(&[("dataset", "imagenet"), ("namespace", "finance")]), Err("create the Dataset in `vision`"));
        check("csi-1", &with(&[("dataset", "imagenet"), ("Dataset", "imagenet")]), Err("remove `Dataset`"));
        check("csi-1", &with(&[("dataset", "imagenet"), ("path", "/train")]), Err("remove `path`"));
        let long = "a".repeat(64);
        for name in ["..", ".", "", "finance/ledger", "/etc", "Imagenet", "a_b", "a\0b", "imagenet ", "-a", "a.b", &long] {
            check("csi-1", &[&pod[..], &[("dataset", name)]].concat(), Err("no name of a Dataset"));
        }
        check("csi-1", &[pod[0], ("dataset", "imagenet")], Err("podInfoOnMount"));
        check("csi-1", &[pod[0], ("csi.storage.k8s.io/pod.namespace", "../a"), ("dataset", "imagenet")], Err("podInfoOnMount"));
    }
}
