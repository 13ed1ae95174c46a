//! The kind `CachePolicy`: one cache over the nodes that it selects, and who may use it for what.
//! Knows fields and defaults. Does not know how a cache is built.

mod fields;

use forebay_wire::unit;
use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use fields::fields;

/// Share of a tier's filesystem that stays free unless the policy says otherwise: kubelet begins to evict pods at 10 or 15 %.
pub const KEEP_FREE_PERCENT: u8 = 15;
/// What a Dataset may name as its source unless the policy says otherwise.
pub const ALLOWED_SOURCES: [&str; 1] = ["s3://*"];

/// One cache over the nodes that it selects.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::duplicated_attributes, reason = "every column has a name, a type and a path")]
#[kube(
    group = "forebay.dev",
    version = "v1alpha1",
    kind = "CachePolicy",
    plural = "cachepolicies",
    singular = "cachepolicy",
    shortname = "cpol",
    category = "forebay",
    status = "CachePolicyStatus",
    schema = "disabled",
    doc = "One cache over the nodes that it selects. Its schema is in [`crate::crd`].",
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes.matched", description = "Nodes that it selects."),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.nodes.ready", description = "Of these, how many serve."),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".status.capacity", description = "Bytes of all tiers of all nodes."),
    printcolumn(name = "Datasets", type_ = "integer", json_path = ".status.datasets", description = "Datasets that use it."),
    printcolumn(
        name = "Default",
        type_ = "boolean",
        json_path = ".spec.default",
        description = "Whether a Dataset without policyRef uses it."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Since when it exists."),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1,
        description = "Why it is ready, or isn't."
    )
)]
pub struct CachePolicySpec {
    /// Whether a Dataset without `policyRef` uses it. Of several defaults the oldest is used, and the others say so.
    #[serde(default)]
    pub default: bool,
    /// Which nodes hold the cache; every node that pods can run on when left out.
    #[serde(default)]
    pub nodes: NodesSpec,
    /// What the cache may take of each node, fastest first.
    pub tiers: Vec<TierSpec>,
    /// What the sources may be asked for by the whole cache, reads of pods included, which come first.
    #[serde(default)]
    pub source: SourceLimitsSpec,
    /// The namespaces whose Datasets may use it.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
    /// What a Dataset may name; `*` stands for any characters. Entries s3: and file: are compared with the source. Entries https: and
    /// http: are compared with `s3.endpoint`; where there is none of them, every endpoint may be named. Link-local and loopback
    /// addresses and the API server are refused whatever stands here.
    #[serde(default = "allowed_sources")]
    pub allowed_sources: Vec<String>,
    /// Whether a Dataset without credentials of its own reads with the node's cloud role.
    #[serde(default)]
    pub ambient_credentials: AmbientCredentials,
    /// The highest `priority` that a Dataset can have here, -1000 to 1000: one that asks for more is counted with this.
    #[serde(default)]
    pub max_priority: i32,
}

fn allowed_sources() -> Vec<String> {
    ALLOWED_SOURCES.map(str::to_owned).to_vec()
}

/// Which nodes hold a cache. A node belongs to one policy: the older one keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodesSpec {
    /// As in a pod's node affinity; every node when left out, or when it has no terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::kubernetes::node_selector")]
    pub selector: Option<NodeSelector>,
    /// Taints that don't keep the cache from a node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::kubernetes::tolerations")]
    pub tolerations: Vec<Toleration>,
    /// A node label, such as `topology.kubernetes.io/zone`: one cache for each of its values, so that no block crosses zones.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topology_key: String,
}

/// Where cached blocks lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TierType {
    /// In memory; added to the memory limit of the node's cache pod.
    Memory,
    /// In folders of the node.
    #[default]
    Disk,
}

/// A part of a node that holds cached blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Memory, or Disk.
    #[serde(rename = "type")]
    pub tier_type: TierType,
    /// With Disk: absolute folders of the node, one a filesystem; `*` in a part stands for any characters: `/mnt/nvme*/forebay`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Of each folder: bytes such as `2Ti`, or with Disk a part of the filesystem such as `90%`.
    #[serde(deserialize_with = "capacity")]
    #[schemars(schema_with = "crate::kubernetes::int_or_string")]
    pub capacity: String,
    /// With Disk: the share of the filesystem that always stays free, whatever `capacity` says; 15 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_free_percent: Option<u8>,
}

fn capacity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    unit::quantity_text(deserializer)?.ok_or_else(|| D::Error::custom("a capacity is missing"))
}

/// What the sources may be asked for, by all nodes of the policy together: each takes its share by weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceLimitsSpec {
    /// Such as `40Gi`; no limit when left out.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "unit::quantity_text")]
    #[schemars(schema_with = "crate::kubernetes::int_or_string")]
    pub max_bytes_per_second: Option<String>,
    /// No limit when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_second: Option<u32>,
}

/// Which namespaces are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    #[default]
    All,
    /// Those that `selector` matches.
    Selector,
}

/// The namespaces whose Datasets may use a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedNamespaces {
    /// All, or those that `selector` matches.
    pub from: NamespacesFrom,
    /// With Selector: matched against the labels of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::kubernetes::label_selector")]
    pub selector: Option<LabelSelector>,
}

/// Whether the node's cloud role may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AmbientCredentials {
    /// Such a Dataset is read anonymously.
    #[default]
    Deny,
    Allow,
}

/// What is known about a CachePolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CachePolicyStatus {
    /// `metadata.generation` of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Degraded, and kstatus' Reconciling and Stalled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::kubernetes::conditions")]
    pub conditions: Vec<Condition>,
    /// Its nodes, counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<PolicyNodes>,
    /// Datasets that use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datasets: Option<i32>,
    /// Bytes of all tiers of all nodes that serve, such as `120Ti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// Bytes of them that are in use, such as `80.5Ti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
}

/// The nodes of a policy, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyNodes {
    /// Nodes that it selects and that belong to no older policy.
    pub matched: i32,
    /// Of these, how many serve.
    pub ready: i32,
}
