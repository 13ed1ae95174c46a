//! Which nodes have a client, and what each is told.
//! Pure: what was seen, and the time, come as arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_api::CachePolicy;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Toleration};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::cache_policy::owner;
use crate::nodes::{DatasetKey, Serves};
use crate::{names, selector};

/// kubelet unmounts within seconds of a pod's end. A client that says for longer that something is still mounted isn't believed: it would have
/// the next secret as well.
const UNMOUNTED_WITHIN: Duration = Duration::from_secs(60);

/// Where the CSI driver is: without it a client is of no use.
#[derive(Clone, Debug, PartialEq)]
pub struct Driver {
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
}

impl Driver {
    /// As its DaemonSet among `sets` says; everywhere if it isn't there.
    pub fn of<'a>(sets: impl IntoIterator<Item = &'a DaemonSet>) -> Self {
        let is_driver = |set: &&DaemonSet| set.labels().get(names::COMPONENT_LABEL).is_some_and(|found| found == names::CSI_COMPONENT);
        match sets.into_iter().find(is_driver).and_then(|set| set.spec.template.spec.as_ref()) {
            Some(pod) => Self {
                node_selector: pod.node_selector.clone().unwrap_or_default(),
                tolerations: pod.tolerations.clone().unwrap_or_default(),
            },
            None => Self {
                node_selector: BTreeMap::new(),
                tolerations: vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }],
            },
        }
    }

    pub fn fits(&self, node: &Node) -> bool {
        self.node_selector.iter().all(|(key, value)| node.labels().get(key) == Some(value)) && selector::fits(node, None, &self.tolerations)
    }
}

/// What there is, at one moment.
pub struct Seen<'a> {
    pub nodes: &'a [Arc<Node>],
    pub policies: &'a [CachePolicy],
    pub driver: &'a Driver,
    /// By node's name, of what is in `wanted`.
    pub uses: &'a BTreeMap<String, BTreeSet<DatasetKey>>,
    /// With the UID of the policy whose nodes are told of it.
    pub wanted: &'a BTreeMap<DatasetKey, String>,
    /// Clients that answer, by node's name.
    pub serving: &'a BTreeMap<String, Serves>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By node's name what its client is told, and when a pod used that last.
    pub clients: BTreeMap<String, BTreeMap<DatasetKey, Instant>>,
    /// Nodes with the driver that have no client, sorted.
    pub others: Vec<String>,
}

/// A node has a client when no policy has the node, when a pod on it uses a data set of another policy than the node's, and until such a client
/// has let go of everything. `last` is the plan before this one.
pub fn plan(seen: &Seen<'_>, last: &Plan, now: Instant) -> Plan {
    let mut plan = Plan::default();
    for node in seen.nodes.iter().filter(|node| seen.driver.fits(node)) {
        let name = node.name_any();
        let policy = owner(node, seen.policies).map(|policy| policy.uid().unwrap_or_default());
        let uses = seen.uses.get(&name);
        let serves = seen.serving.get(&name);
        let is_elsewhere = |key: &&DatasetKey| policy.is_none() || seen.wanted.get(*key) != policy.as_ref();
        let mut told: BTreeMap<DatasetKey, Instant> =
            uses.into_iter().flatten().filter(is_elsewhere).map(|key| (key.clone(), now)).collect();
        // Only what it was told: what it says of itself alone gets it nothing.
        for (key, used_at) in last.clients.get(&name).into_iter().flatten() {
            let used_at = if uses.is_some_and(|uses| uses.contains(key)) { now } else { *used_at };
            let is_mounted = serves.is_some_and(|serves| serves.mounted.contains(key));
            if is_mounted && now.saturating_duration_since(used_at) < UNMOUNTED_WITHIN {
                told.entry(key.clone()).or_insert(used_at);
            }
        }
        if policy.is_none() || !told.is_empty() || serves.is_some_and(|serves| !serves.is_idle) {
            plan.clients.insert(name, told);
        } else {
            plan.others.push(name);
        }
    }
    plan.others.sort();
    plan
}

impl Plan {
    pub fn told(&self) -> BTreeMap<String, BTreeSet<DatasetKey>> {
        self.clients.iter().map(|(node, told)| (node.clone(), told.keys().cloned().collect())).collect()
    }

    /// The clients' nodes as terms of a node selector; none: every node. By the shorter list, of a thousand nodes at most 500 names.
    pub fn terms(&self) -> Vec<Value> {
        // One name a requirement is all that the API server takes; terms are alternatives, requirements aren't.
        let by_name = |operator: &str, name: &String| json!({ "key": "metadata.name", "operator": operator, "values": [name] });
        if self.others.is_empty() {
            return Vec::new();
        }
        if self.clients.len() <= self.others.len() {
            return self.clients.keys().map(|name| json!({ "matchFields": [by_name("In", name)] })).collect();
        }
        let excluded: Vec<Value> = self.others.iter().map(|name| by_name("NotIn", name)).collect();
        vec![json!({ "matchFields": excluded })]
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn key(name: &str) -> DatasetKey {
        DatasetKey { namespace: "vision".to_owned(), name: name.to_owned() }
    }

    fn keys(names: &str) -> BTreeSet<DatasetKey> {
        names.split_whitespace().map(key).collect()
    }

    fn node(name: &str, pool: &str, taint: Option<&str>) -> Arc<Node> {
        let taints: Vec<Value> = taint.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
        let node = json!({ "metadata": { "name": name, "labels": { "pool": pool } }, "spec": { "taints": taints } });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    /// Selects a pool of its own name, and has a data set of its own name.
    fn policy(name: &str) -> CachePolicy {
        let term = json!({ "matchExpressions": [{ "key": "pool", "operator": "In", "values": [name] }] });
        serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy", "metadata": { "name": name, "uid": name },
            "spec": { "nodes": { "selector": { "nodeSelectorTerms": [term] } }, "tiers": [] }
        }))
        .unwrap()
    }

    fn everywhere() -> Driver {
        Driver::of([])
    }

    /// `uses` and `serves` are of the node `n`, which is in `pool`; there are the policies `cpu` and `gpu`, each with a data set of its name.
    /// `serves`: what its client has mounted; `None` where it has no client.
    fn step(pool: &str, uses: &str, serves: Option<&str>, last: &Plan, now: Instant) -> Plan {
        let serves = serves.map(|mounted| Serves { mounted: keys(mounted), is_idle: mounted.is_empty() });
        let seen = Seen {
            nodes: &[node("n", pool, None)],
            policies: &[policy("cpu"), policy("gpu")],
            driver: &everywhere(),
            uses: &BTreeMap::from([("n".to_owned(), keys(uses))]),
            wanted: &["cpu", "gpu"].map(|name| (key(name), name.to_owned())).into(),
            serving: &serves.map(|serves| ("n".to_owned(), serves)).into_iter().collect(),
        };
        plan(&seen, last, now)
    }

    /// What the client of `n` is told; `None` where it has none.
    fn told(plan: &Plan) -> Option<BTreeSet<DatasetKey>> {
        assert_eq!(plan.clients.is_empty(), plan.others == ["n"]);
        plan.told().remove("n")
    }

    #[test]
    fn a_client_is_where_pods_need_one_and_is_told_of_what_they_use() {
        let check = |pool: &str, uses: &str, expected: Option<&str>| {
            let plan = step(pool, uses, None, &Plan::default(), Instant::now());
            assert_eq!(told(&plan), expected.map(keys), "{pool} uses {uses}");
        };
        check("none", "", Some(""));
        check("none", "cpu gpu", Some("cpu gpu"));
        check("cpu", "", None);
        check("cpu", "cpu", None);
        check("cpu", "cpu gpu", Some("gpu"));
    }

    #[test]
    fn what_is_mounted_is_told_for_a_while_after_its_last_pod() {
        let start = Instant::now();
        let used = step("none", "gpu", Some("gpu"), &Plan::default(), start);
        let check = |mounted: &str, after: Duration, expected: &str| {
            assert_eq!(told(&step("none", "", Some(mounted), &used, start + after)), Some(keys(expected)), "{mounted:?} after {after:?}");
        };
        check("gpu", Duration::ZERO, "gpu");
        check("", Duration::ZERO, "");
        check("gpu", UNMOUNTED_WITHIN, "");
        check("gpu cpu", Duration::ZERO, "gpu");
        // Each look finds it mounted: it is its last use that counts.
        let between = step("none", "", Some("gpu"), &used, start + UNMOUNTED_WITHIN / 2);
        assert_eq!(told(&step("none", "", Some("gpu"), &between, start + UNMOUNTED_WITHIN)), Some(keys("")));
    }

    #[test]
    fn a_node_that_joins_a_policy_keeps_its_client_until_that_has_let_go() {
        let start = Instant::now();
        let outside = step("none", "cpu", Some("cpu"), &Plan::default(), start);
        let much_later = start + 2 * UNMOUNTED_WITHIN;
        let joined = step("cpu", "cpu", Some("cpu"), &outside, much_later);
        assert_eq!(told(&joined), Some(keys("cpu")), "its pod goes on to read");
        assert_eq!(told(&step("cpu", "cpu", None, &joined, much_later)), None, "a client that died has nothing to keep");
        let ended = step("cpu", "", Some("cpu"), &joined, much_later + UNMOUNTED_WITHIN);
        assert_eq!(told(&ended), Some(keys("")), "it frees first");
        assert_eq!(told(&step("cpu", "", Some(""), &ended, much_later)), None);
    }

    #[test]
    fn a_client_is_only_where_the_driver_is() {
        let set = json!({
            "metadata": { "name": "forebay-csi", "labels": { names::COMPONENT_LABEL: names::CSI_COMPONENT } },
            "spec": { "selector": {}, "template": { "spec": {
                "containers": [], "nodeSelector": { "pool": "a" }, "tolerations": [{ "key": "gpu", "operator": "Exists" }]
            } } }
        });
        let set: DaemonSet = serde_json::from_value(set).unwrap();
        let driver = Driver::of([&set]);
        let check = |node: &Node, expected: bool| assert_eq!((driver.fits(node), everywhere().fits(node)), (expected, true), "{node:?}");
        check(&node("n", "a", None), true);
        check(&node("n", "a", Some("gpu")), true);
        check(&node("n", "a", Some("other")), false);
        check(&node("n", "b", None), false);
    }

    #[test]
    fn nodes_are_named_by_the_shorter_list() {
        let check = |clients: &[&str], others: &[&str], expected: &[&[&str]]| {
            let plan = Plan {
                clients: clients.iter().map(|name| ((*name).to_owned(), BTreeMap::new())).collect(),
                others: others.iter().map(|name| (*name).to_owned()).collect(),
            };
            let field = |field: &Value| format!("{} {}", field["operator"].as_str().unwrap(), field["values"][0].as_str().unwrap());
            let fields = |term: &Value| term["matchFields"].as_array().unwrap().iter().map(field).collect::<Vec<_>>();
            assert_eq!(plan.terms().iter().map(fields).collect::<Vec<_>>(), expected, "{clients:?} {others:?}");
        };
        check(&["a", "b"], &[], &[]);
        check(&["a", "b"], &["c", "d"], &[&["In a"], &["In b"]]);
        check(&["a", "b", "c"], &["d", "e"], &[&["NotIn d", "NotIn e"]]);
    }
}
