//! Specs of CachePolicies that the API server refuses: the field that it names, and how its sentence begins.

use serde_json::{Value, json};

#[rustfmt::skip]
pub(super) fn cases() -> Vec<(Value, &'static str, &'static str)> {
    let tier = |tier: Value| json!({ "tiers": [tier] });
    let disk = |more: Value| {
        let mut spec = json!({ "tiers": [{ "type": "Disk", "paths": ["/a"], "capacity": "1Ti" }] });
        spec.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        spec
    };
    vec![
        (json!({}), "spec.tiers", "Required value"),
        (json!({ "tiers": [] }), "spec.tiers", "should have at least 1 items"),
        (tier(json!({ "type": "Tape", "capacity": "1Ti" })), "spec.tiers[0].type", "supported values: \"Disk\", \"Memory\""),
        (tier(json!({ "type": "Disk", "paths": ["/a"] })), "spec.tiers[0].capacity", "Required value"),
        (tier(json!({ "type": "Disk", "capacity": "1Ti" })), "spec.tiers[0].paths", "a tier on disk needs a folder"),
        (tier(json!({ "type": "Disk", "capacity": "1Ti", "paths": [] })), "spec.tiers[0].paths", "a tier on disk needs a folder"),
        (tier(json!({ "type": "Disk", "capacity": "1Ti", "paths": ["a"] })), "spec.tiers[0].paths[0]", "this is no folder: write it from `/`"),
        (tier(json!({ "type": "Disk", "capacity": "1Ti", "paths": ["/a/../b"] })), "spec.tiers[0].paths[0]", "this is no folder"),
        (tier(json!({ "type": "Disk", "capacity": "1Ti", "paths": ["/"] })), "spec.tiers[0].paths[0]", "this is no folder"),
        (tier(json!({ "type": "Disk", "capacity": "1Ti", "paths": ["/nvme*/a"] })), "spec.tiers[0].paths[0]", "a pattern needs a folder to look in"),
        (tier(json!({ "type": "Disk", "capacity": "101%", "paths": ["/a"] })), "spec.tiers[0].capacity", "this is no capacity"),
        (tier(json!({ "type": "Disk", "capacity": "much", "paths": ["/a"] })), "spec.tiers[0].capacity", "this is no capacity"),
        (tier(json!({ "type": "Disk", "capacity": "0%", "paths": ["/a"] })), "spec.tiers[0].capacity", "a tier of 0 holds nothing"),
        (tier(json!({ "type": "Disk", "capacity": 0, "paths": ["/a"] })), "spec.tiers[0].capacity", "a tier of 0 holds nothing"),
        (tier(json!({ "type": "Disk", "capacity": "9%", "paths": ["/a"], "keepFreePercent": 100 })), "spec.tiers[0].keepFreePercent", "less than or equal to 99"),
        (tier(json!({ "type": "Memory", "capacity": "1Gi", "paths": ["/a"] })), "spec.tiers[0].paths", "memory has no folder"),
        (tier(json!({ "type": "Memory", "capacity": "10%" })), "spec.tiers[0].capacity", "a part of which memory is not clear"),
        (tier(json!({ "type": "Memory", "capacity": "1Gi", "keepFreePercent": 5 })), "spec.tiers[0].keepFreePercent", "memory has no filesystem"),
        (json!({ "tiers": [{ "type": "Memory", "capacity": "1Gi" }, { "type": "Memory", "capacity": "1Gi" }] }), "spec.tiers", "there are two tiers in memory"),
        (disk(json!({ "nodes": { "topologyKey": "not a label" } })), "spec.nodes.topologyKey", "this is no key of a label"),
        (disk(json!({ "nodes": { "selector": {} } })), "spec.nodes.selector.nodeSelectorTerms", "Required value"),
        (disk(json!({ "maxPriority": 1001 })), "spec.maxPriority", "should be less than or equal to 1000"),
        (disk(json!({ "maxPriority": -1001 })), "spec.maxPriority", "should be greater than or equal to -1000"),
        (disk(json!({ "source": { "maxBytesPerSecond": "fast" } })), "spec.source.maxBytesPerSecond", "this is no quantity"),
        (disk(json!({ "source": { "maxRequestsPerSecond": 0 } })), "spec.source.maxRequestsPerSecond", "greater than or equal to 1"),
        (disk(json!({ "allowedNamespaces": { "from": "Selector" } })), "spec.allowedNamespaces.selector", "`from: Selector` needs a selector"),
        (disk(json!({ "allowedNamespaces": { "selector": {} } })), "spec.allowedNamespaces.selector", "a selector goes with `from: Selector` only"),
        (disk(json!({ "allowedSources": ["imagenet"] })), "spec.allowedSources[0]", "this allows nothing: write how a source or an endpoint begins"),
        (disk(json!({ "ambientCredentials": "Maybe" })), "spec.ambientCredentials", "supported values: \"Allow\", \"Deny\""),
        (disk(json!({ "default": "yes" })), "spec.default", "must be of type boolean"),
    ]
}
