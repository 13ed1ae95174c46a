//! Cache nodes that are configured alike, as two objects of one name: DaemonSet and configuration.
//! Knows how a cache node's pod looks. Does not know who asks for it: a CachePolicy, or `clients` for what no policy serves.
//! Pure but for `apply`. Invariant: everything on a machine ends in the set's id: two sets never share a folder or a socket.

pub mod apply;
mod config;
mod daemon_set;

use std::collections::BTreeMap;

use forebay_api::cache_policy::{AmbientCredentials, SourceLimitsSpec};
use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::context::Settings;
use crate::names;

/// What the objects are made from.
#[derive(Clone, Debug)]
pub struct NodeSet {
    /// Of both.
    pub name: String,
    /// Ends its folders on a machine, is the policy label of its pods, and part of the name in its certificates. Of the characters of a UID.
    pub id: String,
    /// The CachePolicy's name, for people who look at a pod.
    pub policy: Option<String>,
    /// With it the objects go.
    pub owner: OwnerReference,
    /// Fastest first; at least one.
    pub tiers: Vec<Tier>,
    pub source: SourceLimitsSpec,
    pub ambient_credentials: AmbientCredentials,
    /// What a node needs at least, beside its tiers in memory: a quantity.
    pub memory_request: &'static str,
    pub placement: Placement,
}

/// A tier as a node's pod sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tier {
    /// In memory of the pod: lost with the pod, kept over a restart of its container.
    Memory { capacity: String },
    /// `folder` ends in the set's id. It may be a pattern, whose first part has no star.
    Disk { folder: String, capacity: String, keep_free_percent: u8 },
}

/// Which nodes its pods go to.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    pub node_selector: BTreeMap<String, String>,
    /// The startup taint is tolerated anyway.
    pub tolerations: Vec<Toleration>,
    /// `nodeSelectorTerms` of a required node affinity; none: every node.
    pub terms: Vec<Value>,
}

/// Not applied yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    pub name: String,
    pub id: String,
    pub metadata: Value,
    pub config_map: Value,
    pub daemon_set: Value,
}

/// Where the pod's memory tier is mounted.
const MEMORY_FOLDER: &str = "/var/lib/forebay/memory";
/// Below it a pod has folders of its machine that a pattern may fit.
const HOST_FOLDER: &str = "/host";
/// Where nodes and the driver have their sockets.
const RUN_FOLDER: &str = "/run/forebay";
/// Where the host keeps lists of files for nodes without a tier on a disk.
const LISTS_FOLDER: &str = "/var/lib/forebay";

impl NodeSet {
    pub fn build(&self, settings: &Settings) -> Built {
        let metadata = self.metadata(settings);
        let config = config::build(self, settings);
        Built {
            name: self.name.clone(),
            id: self.id.clone(),
            daemon_set: daemon_set::build(self, &metadata, settings, &config),
            config_map: json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "node.yaml": config } }),
            metadata,
        }
    }

    fn metadata(&self, settings: &Settings) -> Value {
        json!({
            "name": self.name,
            "namespace": settings.namespace,
            "labels": self.labels(),
            "ownerReferences": [self.owner],
        })
    }

    fn labels(&self) -> Value {
        json!({
            names::NAME_LABEL: "forebay",
            names::MANAGED_BY_LABEL: names::FIELD_MANAGER,
            names::COMPONENT_LABEL: names::NODE_COMPONENT,
            names::POLICY_LABEL: self.id,
        })
    }
}
