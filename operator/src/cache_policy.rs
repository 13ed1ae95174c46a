//! One pass over a CachePolicy: its cache nodes' DaemonSet, configuration and certificates, and how they do.
//! Knows the order of the steps. Does not know data sets: it only wakes those that may use the policy.
//! Invariant: a node belongs to one policy, the oldest that selects it.

pub mod build;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use forebay_api::CachePolicy;
use forebay_daemon::logging::chain;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;

use crate::context::Context;
use crate::dataset::policy::age;
use crate::error::{Error, backoff};
use crate::nodes::{DatasetKey, Members};
use crate::{names, node_set, selector};
use status::Outcome;

/// Nodes, pods and figures are looked at in memory; nothing is called while nothing changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What there is, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Nodes that it selects and that no older policy has, each with its zone: the value of the label that `nodes.topologyKey` names, empty without one.
    pub nodes: Members,
    /// Nodes that it selects and an older policy has, with that policy's name.
    pub taken: Vec<(String, String)>,
    /// Whether an older policy is the default as well; its name.
    pub other_default: Option<String>,
}

pub async fn reconcile(object: Arc<DeserializeGuard<CachePolicy>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let policy = object.0.as_ref().map_err(|invalid| Error::Unreadable(invalid.error.clone()))?;
    ctx.metrics.reconciles.inc();
    if policy.metadata.deletion_timestamp.is_some() {
        // What it owns is removed by Kubernetes; Datasets say that it is gone. Until then its nodes go on as they are.
        ctx.hub.set_members(&policy.uid().unwrap_or_default(), Members::new());
        wake_datasets(&ctx);
        return Ok(Action::await_change());
    }
    if is_given_up(policy, &ctx.lease_uid) {
        // The policy itself stays: it is the user's.
        node_set::apply::remove(&ctx, &names::node(&policy.name_any()), &policy.uid().unwrap_or_default()).await?;
        return Ok(Action::await_change());
    }
    let uid = policy.uid().unwrap_or_default();
    let nodes = ctx.stores.nodes.state();
    let observed = observe(policy, &ctx.stores.policies(), nodes.iter().map(|node| &**node));
    ctx.hub.set_members(&uid, observed.nodes.clone());
    let (outcome, error) = match node_set::apply::apply(&ctx, &build::build(policy, &observed, &ctx.settings)).await {
        Ok(()) => (Outcome::Applied, None),
        Err(error) => (Outcome::Failed { message: error.sentence(), times: ctx.memory.failures(&uid) + 1 }, Some(error)),
    };
    let written = status::write(&ctx, policy, &observed, &outcome).await;
    if ctx.memory.policy_changed(&uid, policy.metadata.generation, observed.nodes.len()) {
        wake_datasets(&ctx);
    }
    let Some(error) = error else {
        written?;
        ctx.memory.succeeded(&uid);
        return Ok(Action::requeue(LOOK_EVERY));
    };
    if let Err(error) = written {
        tracing::warn!(policy = %policy.name_any(), error = %chain(&error), "a status can't be written");
    }
    Err(error)
}

pub fn on_error(object: Arc<DeserializeGuard<CachePolicy>>, error: &Error, ctx: Arc<Context>) -> Action {
    let metadata = kube::Resource::meta(&*object);
    let failures = ctx.memory.failed(metadata.uid.as_deref().unwrap_or_default());
    ctx.metrics.reconciles_failed.inc();
    tracing::warn!(policy = metadata.name.as_deref().unwrap_or_default(), failures, error = %chain(error), "a CachePolicy can't be reconciled");
    Action::requeue(backoff(failures))
}

/// Pure: which nodes are this policy's.
pub fn observe<'a>(policy: &CachePolicy, policies: &[CachePolicy], nodes: impl Iterator<Item = &'a Node>) -> Observed {
    let older: Vec<&CachePolicy> = policies
        .iter()
        .filter(|other| other.metadata.deletion_timestamp.is_none() && other.uid() != policy.uid() && age(other) < age(policy))
        .collect();
    let selects =
        |policy: &CachePolicy, node: &Node| selector::fits(node, policy.spec.nodes.selector.as_ref(), &policy.spec.nodes.tolerations);
    let mut observed = Observed {
        other_default: older.iter().find(|other| policy.spec.default && other.spec.default).map(|other| other.name_any()),
        ..Observed::default()
    };
    for node in nodes.filter(|node| selects(policy, node)) {
        match older.iter().find(|other| selects(other, node)) {
            Some(other) => observed.taken.push((node.name_any(), other.name_any())),
            None => {
                // A node without the label is of the zone without a name.
                let zone = node.labels().get(&policy.spec.nodes.topology_key).cloned().unwrap_or_default();
                observed.nodes.insert(node.name_any(), zone);
            }
        }
    }
    observed.taken.sort();
    observed
}

/// The policy that `node` belongs to: of those that aren't being deleted the oldest that selects it.
pub fn owner<'a>(node: &Node, policies: &'a [CachePolicy]) -> Option<&'a CachePolicy> {
    let alive = policies.iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    alive
        .filter(|policy| selector::fits(node, policy.spec.nodes.selector.as_ref(), &policy.spec.nodes.tolerations))
        .min_by_key(|policy| age(policy))
}

/// By the pre-delete hook of this very installation.
pub fn is_given_up(policy: &CachePolicy, lease_uid: &str) -> bool {
    policy.annotations().get(names::UNINSTALL_ANNOTATION).is_some_and(|value| value == lease_uid)
}

fn wake_datasets(ctx: &Context) {
    for dataset in ctx.stores.datasets() {
        ctx.hub.wake(DatasetKey { namespace: dataset.namespace().unwrap_or_default(), name: dataset.name_any() });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn policy(name: &str, age: u8, pool: Option<&str>) -> CachePolicy {
        let terms = pool
            .map(|pool| json!({ "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "pool", "operator": "In", "values": [pool] }] }] }));
        serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy",
            "metadata": { "name": name, "uid": name, "creationTimestamp": format!("2026-01-0{age}T00:00:00Z") },
            "spec": { "default": true, "nodes": { "selector": terms }, "tiers": [{ "type": "Disk", "paths": ["/a"], "capacity": "1Gi" }] }
        }))
        .unwrap()
    }

    #[test]
    fn a_node_belongs_to_the_oldest_policy_that_selects_it() {
        let node = |name: &str, pool: &str| -> Node {
            serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "pool": pool } } })).unwrap()
        };
        let nodes = [node("n2", "gpu"), node("n1", "cpu")];
        let (gpu, all) = (policy("gpu", 1, Some("gpu")), policy("all", 2, None));
        let policies = [all.clone(), gpu.clone()];
        let of_gpu = observe(&gpu, &policies, nodes.iter());
        let only = |name: &str| Members::from([(name.to_owned(), String::new())]);
        assert_eq!((of_gpu.nodes, of_gpu.taken, of_gpu.other_default), (only("n2"), vec![], None));
        let of_all = observe(&all, &policies, nodes.iter());
        assert_eq!((of_all.nodes, of_all.taken), (only("n1"), vec![("n2".to_owned(), "gpu".to_owned())]));
        assert_eq!(of_all.other_default.as_deref(), Some("gpu"));
        let owner_of = |node: &Node, policies: &[CachePolicy]| owner(node, policies).map(ResourceExt::name_any);
        assert_eq!(owner_of(&nodes[0], &policies).as_deref(), Some("gpu"));
        assert_eq!(owner_of(&nodes[1], &policies).as_deref(), Some("all"));
        assert_eq!(owner_of(&nodes[1], std::slice::from_ref(&gpu)), None);
        let ending: CachePolicy = serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy",
            "metadata": { "name": "ending", "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "tiers": [] }
        }))
        .unwrap();
        assert_eq!(owner_of(&nodes[1], &[ending]), None, "a policy that is being deleted has no nodes");
    }
}
