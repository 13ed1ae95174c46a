//! The objects that a CachePolicy asks for: the node's configuration and the DaemonSet. Its certificates are made when they are due: `apply`.
//! Pure. Does not know what is there already.
//! Invariant: everything on a node ends in the policy's UID: two policies never share a folder or a socket.

mod config;
mod daemon_set;

use forebay_api::CachePolicy;
use forebay_api::cache_policy::{KEEP_FREE_PERCENT, TierType};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::Observed;
use crate::context::Settings;
use crate::names;

/// Not applied yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    pub config_map: Value,
    pub daemon_set: Value,
    /// Digest of the pod template: pods that carry another one are old.
    pub template: String,
}

/// What can't be built, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: &'static str,
    pub message: String,
}

/// A tier as a node's pod sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tier {
    /// In memory of the pod: lost with the pod, kept over a restart of its container.
    Memory { capacity: String },
    /// `folder` ends in the policy's UID.
    Disk { folder: String, capacity: String, keep_free_percent: u8 },
}

/// Where the pod's memory tier is mounted.
const MEMORY_FOLDER: &str = "/var/lib/forebay/memory";
/// Where nodes and the driver have their sockets.
const RUN_FOLDER: &str = "/run/forebay";

pub fn build(policy: &CachePolicy, observed: &Observed, settings: &Settings) -> Result<Built, Refused> {
    let uid = policy.uid().unwrap_or_default();
    let tiers = tiers(policy, &uid)?;
    let config = config::build(policy, &tiers, settings);
    let (daemon_set, template) = daemon_set::build(policy, observed, settings, &tiers, &config);
    let config_map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(policy, settings),
        "data": { "node.yaml": config },
    });
    Ok(Built { config_map, daemon_set, template })
}

fn tiers(policy: &CachePolicy, uid: &str) -> Result<Vec<Tier>, Refused> {
    let mut tiers = Vec::new();
    for (index, spec) in policy.spec.tiers.iter().enumerate() {
        if spec.tier_type == TierType::Memory {
            tiers.push(Tier::Memory { capacity: spec.capacity.clone() });
            continue;
        }
        for path in &spec.paths {
            if path.contains('*') {
                return Err(Refused {
                    reason: "PathPattern",
                    message: format!(
                        "spec.tiers[{index}].paths: `{path}` is a pattern, which this version can't look up on a node: name each folder"
                    ),
                });
            }
            tiers.push(Tier::Disk {
                folder: format!("{}/{uid}", path.trim_end_matches('/')),
                capacity: spec.capacity.clone(),
                keep_free_percent: spec.keep_free_percent.unwrap_or(KEEP_FREE_PERCENT),
            });
        }
    }
    Ok(tiers)
}

/// Owned by the policy, so that it goes with it.
pub(super) fn metadata(policy: &CachePolicy, settings: &Settings) -> Value {
    json!({
        "name": names::node(&policy.name_any()),
        "namespace": settings.namespace,
        "labels": labels(policy),
        "ownerReferences": [policy.controller_owner_ref(&())],
    })
}

fn labels(policy: &CachePolicy) -> Value {
    json!({
        names::NAME_LABEL: "forebay",
        names::MANAGED_BY_LABEL: names::FIELD_MANAGER,
        names::COMPONENT_LABEL: names::NODE_COMPONENT,
        names::POLICY_LABEL: policy.uid().unwrap_or_default(),
    })
}
