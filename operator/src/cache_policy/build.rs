//! What a CachePolicy asks for: a set of cache nodes.
//! Pure. Does not know what is there already.
//! Invariant: everything on a node ends in the policy's UID: two policies never share a folder or a socket.

use forebay_api::CachePolicy;
use forebay_api::cache_policy::{KEEP_FREE_PERCENT, TierType};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::Observed;
use crate::context::Settings;
use crate::names;
use crate::node_set::{Built, NodeSet, Placement, Tier};

/// What a cache node needs at least.
const MEMORY_REQUEST: &str = "256Mi";

pub fn build(policy: &CachePolicy, observed: &Observed, settings: &Settings) -> Built {
    let id = policy.uid().unwrap_or_default();
    let placement =
        Placement { node_selector: Default::default(), tolerations: policy.spec.nodes.tolerations.clone(), terms: terms(policy, observed) };
    let set = NodeSet {
        name: names::node(&policy.name_any()),
        policy: Some(policy.name_any()),
        // So that it goes with the policy.
        owner: policy.controller_owner_ref(&()).unwrap_or_default(),
        tiers: tiers(policy, &id),
        source: policy.spec.source.clone(),
        ambient_credentials: policy.spec.ambient_credentials,
        memory_request: MEMORY_REQUEST,
        placement,
        id,
    };
    set.build(settings)
}

fn tiers(policy: &CachePolicy, uid: &str) -> Vec<Tier> {
    let mut tiers = Vec::new();
    for spec in &policy.spec.tiers {
        if spec.tier_type == TierType::Memory {
            tiers.push(Tier::Memory { capacity: spec.capacity.clone() });
            continue;
        }
        for path in &spec.paths {
            tiers.push(Tier::Disk {
                folder: format!("{}/{uid}", path.trim_end_matches('/')),
                capacity: spec.capacity.clone(),
                keep_free_percent: spec.keep_free_percent.unwrap_or(KEEP_FREE_PERCENT),
            });
        }
    }
    tiers
}

/// The policy's selector, without nodes that an older policy has.
fn terms(policy: &CachePolicy, observed: &Observed) -> Vec<Value> {
    let selector = policy.spec.nodes.selector.as_ref();
    let terms = selector.into_iter().flat_map(|selector| &selector.node_selector_terms);
    let mut terms: Vec<Value> = terms.filter_map(|term| serde_json::to_value(term).ok()).collect();
    if observed.taken.is_empty() {
        return terms;
    }
    if terms.is_empty() {
        terms.push(json!({}));
    }
    for term in &mut terms {
        let mut fields = term["matchFields"].as_array().cloned().unwrap_or_default();
        fields.extend(observed.taken.iter().map(|(node, _)| json!({ "key": "metadata.name", "operator": "NotIn", "values": [node] })));
        term["matchFields"] = Value::from(fields);
    }
    terms
}
