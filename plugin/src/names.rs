//! Names that operator and chart give to what they make: how the plugin finds it.
//! Invariant: those of `operator/src/names.rs` and the chart; a test of the cluster sees them differ.

/// Who wrote a field, as `kubectl get --show-managed-fields` tells.
pub const FIELD_MANAGER: &str = "kubectl-forebay";
/// Where the chart is installed unless somebody chose otherwise.
pub const SYSTEM_NAMESPACE: &str = "forebay-system";
/// The CSI driver's own name.
pub const DRIVER: &str = "csi.forebay.dev";
/// UID of the CachePolicy that a cache node's pod belongs to, or `CLIENT`.
pub const POLICY_LABEL: &str = "forebay.dev/policy";
/// In the place of a policy's UID: nodes outside every policy.
pub const CLIENT: &str = "client";
pub const DATASET_LABEL: &str = "forebay.dev/dataset";
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
pub const NODE_COMPONENT: &str = "node";
pub const CSI_COMPONENT: &str = "csi";
pub const OPERATOR_COMPONENT: &str = "operator";
/// The container of a cache node's pod that answers.
pub const NODE_CONTAINER: &str = "node";
/// Below it each cache node has its folder, which ends in the policy's UID.
pub const RUN_FOLDER: &str = "/run/forebay";
/// The scheduling gate that a pod waits at until its data sets are warm.
pub const WARM_GATE: &str = "forebay.dev/warm";

/// The PersistentVolume of a Dataset.
pub fn volume(dataset_uid: &str) -> String {
    format!("forebay-{dataset_uid}")
}
