//! Names that the operator gives to what it makes, and the labels it finds it by.
//! Invariant: a name that was given out never changes: objects of an older release must be found again.

/// The one field manager of everything that is applied.
pub const FIELD_MANAGER: &str = "forebay-operator";
/// Holds a Dataset until its volume and its cache are gone.
pub const FINALIZER: &str = "forebay.dev/dataset";
/// The CSI driver's own name.
pub const DRIVER: &str = "csi.forebay.dev";

/// UID of the CachePolicy that an object belongs to, or `CLIENT`.
pub const POLICY_LABEL: &str = "forebay.dev/policy";
/// UID of the Dataset that an object belongs to.
pub const DATASET_LABEL: &str = "forebay.dev/dataset";
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Value of the component label on cache nodes' pods.
pub const NODE_COMPONENT: &str = "node";
/// Value of the component label on the CSI driver's pods.
pub const CSI_COMPONENT: &str = "csi";
/// Digest of the pod template that a pod was made from, so that an old pod is told from a new one.
pub const TEMPLATE_ANNOTATION: &str = "forebay.dev/template";
/// Name of the CachePolicy that a pod belongs to: a name may be too long for a label.
pub const POLICY_NAME_ANNOTATION: &str = "forebay.dev/policy-name";
/// `namespace/name` of the Dataset that a Job belongs to.
pub const DATASET_NAME_ANNOTATION: &str = "forebay.dev/dataset-name";
/// Set by the pre-delete hook: the object is given up, with the UID of the leader's Lease as value, so that another installation ignores it.
pub const UNINSTALL_ANNOTATION: &str = "forebay.dev/uninstall";

/// The scheduling gate that a pod waits at until its data sets are warm.
pub const WARM_GATE: &str = "forebay.dev/warm";
/// How long it waits at most, such as `45m`.
pub const WARM_TIMEOUT_ANNOTATION: &str = "forebay.dev/warm-timeout";

/// The taint that keeps pods from a new node until it can mount: whoever makes nodes puts it on, the operator takes it off.
pub const STARTUP_TAINT: &str = "forebay.dev/not-ready";

/// Kubernetes' own, on pods that a node made for itself: nobody but the node says that they are there.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The leader's Lease.
pub const LEASE: &str = "forebay-operator";
/// The Secret that holds the operator's certificate authorities, and the ConfigMap that tells nodes whom to believe.
pub const AUTHORITY_SECRET: &str = "forebay-authority";
/// Put on that Secret by whoever wants another authority; taken off when there is one.
pub const ROTATE_ANNOTATION: &str = "forebay.dev/rotate";
/// The port of a cache node's pod that answers Sync.
pub const CONTROL_PORT_NAME: &str = "control";
pub const CONTROL_PORT: u16 = 7070;
/// The port of a cache node's pod that gives blocks to the other nodes of its cache.
pub const PEERS_PORT_NAME: &str = "peers";
pub const PEERS_PORT: u16 = 7071;
pub const METRICS_PORT: u16 = 9464;
/// The user that a cache node runs as.
pub const NODE_USER: u32 = 65532;

/// The PersistentVolume of a Dataset.
pub fn volume(dataset_uid: &str) -> String {
    format!("forebay-{dataset_uid}")
}

/// The DaemonSet and ConfigMap of a CachePolicy. The policy's own name may have 63 characters: that is still a valid object name,
/// and never used as a label.
pub fn node(policy: &str) -> String {
    format!("forebay-node-{policy}")
}

/// Stands where a policy's UID does for the nodes that no policy serves: no UID is a word.
pub const CLIENT: &str = "client";
/// The DaemonSet and ConfigMap of these nodes. Not by `node`: a policy may be called `client`.
pub const CLIENT_OBJECT: &str = "forebay-client";

/// The Job that shows a preload.
pub fn job(dataset_uid: &str, revision: i64) -> String {
    format!("forebay-preload-{dataset_uid}-{revision}")
}

/// What a cache node's certificate is made out to. `policy_uid` may be `CLIENT`.
pub fn node_host(policy_uid: &str) -> String {
    format!("node.{policy_uid}.forebay.dev")
}

/// Whom the token of a cache node's pod is for: no API server takes it.
pub const NODE_AUDIENCE: &str = "node.forebay.dev";
/// Where a node's pod has that token, and whom to believe.
pub const IDENTITY_FOLDER: &str = "/etc/forebay/identity";

/// What the operator's own certificate is made out to.
pub const OPERATOR_HOST: &str = "operator.forebay.dev";
