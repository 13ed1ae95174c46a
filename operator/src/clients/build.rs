//! The clients' set of cache nodes.
//! Pure.

use forebay_api::cache_policy::{AmbientCredentials, SourceLimitsSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use super::ClientSettings;
use super::plan::Driver;
use crate::context::Settings;
use crate::names;
use crate::node_set::{Built, NodeSet, Placement, Tier};

/// Less than a cache node: it is on nodes that are not its own, and mostly idle.
const MEMORY_REQUEST: &str = "64Mi";

pub fn build(clients: &ClientSettings, driver: &Driver, terms: Vec<Value>, lease_uid: &str, settings: &Settings) -> Built {
    let set = NodeSet {
        name: names::CLIENT_OBJECT.to_owned(),
        id: names::CLIENT.to_owned(),
        policy: None,
        // The Lease is the release's: whatever the pre-delete hook didn't manage goes with it.
        owner: OwnerReference {
            api_version: "coordination.k8s.io/v1".to_owned(),
            kind: "Lease".to_owned(),
            name: names::LEASE.to_owned(),
            uid: lease_uid.to_owned(),
            ..OwnerReference::default()
        },
        tiers: vec![Tier::Memory { capacity: clients.memory.clone() }],
        source: SourceLimitsSpec::default(),
        ambient_credentials: if clients.ambient_credentials { AmbientCredentials::Allow } else { AmbientCredentials::Deny },
        memory_request: MEMORY_REQUEST,
        placement: Placement { node_selector: driver.node_selector.clone(), tolerations: driver.tolerations.clone(), terms },
    };
    set.build(settings)
}
