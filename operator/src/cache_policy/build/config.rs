//! The node's own file, from the policy.

use forebay_api::CachePolicy;
use forebay_api::cache_policy::AmbientCredentials;
use serde_json::json;

use super::{MEMORY_FOLDER, Tier};
use crate::context::Settings;
use crate::names;

/// `node.yaml` as `forebay-node cluster --config` reads it.
pub(super) fn build(policy: &CachePolicy, tiers: &[Tier], settings: &Settings) -> String {
    let tiers: Vec<_> = tiers
        .iter()
        .map(|tier| match tier {
            // The volume's size is the limit; nobody evicts from it.
            Tier::Memory { capacity } => json!({ "path": MEMORY_FOLDER, "capacity": capacity, "keepFreePercent": 0 }),
            Tier::Disk { folder, capacity, keep_free_percent } => {
                json!({ "path": folder, "capacity": capacity, "keepFreePercent": keep_free_percent })
            }
        })
        .collect();
    let ambient = match policy.spec.ambient_credentials {
        AmbientCredentials::Deny => "Deny",
        AmbientCredentials::Allow => "Allow",
    };
    let mut file = json!({
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "NodeConfig",
        "tiers": tiers,
        "ambientCredentials": ambient,
        "metrics": { "address": format!("0.0.0.0:{}", names::METRICS_PORT) },
        "log": { "format": "JSON", "level": settings.log_level },
    });
    let limits = &policy.spec.source;
    if let Some(bytes) = &limits.max_bytes_per_second {
        file["source"]["maxBytesPerSecond"] = json!(bytes);
    }
    if let Some(requests) = limits.max_requests_per_second {
        file["source"]["maxRequestsPerSecond"] = json!(requests);
    }
    serde_saphyr::to_string(&file).expect("a file of maps, lists and scalars can be written")
}
