//! The node's own file.

use forebay_api::cache_policy::AmbientCredentials;
use serde_json::json;

use super::daemon_set::inside;
use super::{MEMORY_FOLDER, NodeSet, Tier};
use crate::context::Settings;
use crate::names;

/// `node.yaml` as `forebay-node cluster --config` reads it.
pub(super) fn build(set: &NodeSet, settings: &Settings) -> String {
    let tiers: Vec<_> = set
        .tiers
        .iter()
        .map(|tier| match tier {
            // The volume's size is the limit; nobody evicts from it.
            Tier::Memory { capacity } => json!({ "path": MEMORY_FOLDER, "capacity": capacity, "keepFreePercent": 0 }),
            Tier::Disk { folder, capacity, keep_free_percent } => {
                let folder = if folder.contains('*') { &inside(folder) } else { folder };
                json!({ "path": folder, "capacity": capacity, "keepFreePercent": keep_free_percent })
            }
        })
        .collect();
    let ambient = match set.ambient_credentials {
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
    if let Some(bytes) = &set.source.max_bytes_per_second {
        file["source"]["maxBytesPerSecond"] = json!(bytes);
    }
    if let Some(requests) = set.source.max_requests_per_second {
        file["source"]["maxRequestsPerSecond"] = json!(requests);
    }
    serde_saphyr::to_string(&file).expect("a file of maps, lists and scalars can be written")
}
