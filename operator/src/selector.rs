//! Which nodes and namespaces a CachePolicy means: Kubernetes' own rules for selectors, taints and tolerations.
//! Pure. Does not know how labels come about.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::names;

type Labels = BTreeMap<String, String>;

/// Whether a DaemonSet's pod with this selector and these tolerations would be put on `node`.
pub fn fits(node: &Node, selector: Option<&NodeSelector>, tolerations: &[Toleration]) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    selector.is_none_or(|selector| node_selector(node, selector)) && taints.iter().all(|taint| is_tolerated(taint, tolerations))
}

/// An empty selector, as a policy's default has it, means every node.
fn node_selector(node: &Node, selector: &NodeSelector) -> bool {
    selector.node_selector_terms.is_empty() || selector.node_selector_terms.iter().any(|term| node_term(node, term))
}

fn node_term(node: &Node, term: &NodeSelectorTerm) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    let name = node.metadata.name.as_deref();
    // A term without any requirement fits nothing: Kubernetes' rule.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|want| requirement(want, labels.and_then(|labels| labels.get(&want.key)).map(String::as_str)))
        && fields.iter().all(|want| requirement(want, name.filter(|_| want.key == "metadata.name")))
}

fn requirement(want: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = want.values.as_deref().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = |than: fn(i64, i64) -> bool| match (value.and_then(number), values.first().and_then(|bound| number(bound))) {
        (Some(value), Some(bound)) => than(value, bound),
        _ => false,
    };
    operator(&want.operator, values, value).unwrap_or_else(|| match want.operator.as_str() {
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        _ => false,
    })
}

/// The four operators that labels of all objects share; `None` for another one.
fn operator(operator: &str, values: &[String], value: Option<&str>) -> Option<bool> {
    let listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    match operator {
        "In" => Some(listed),
        "NotIn" => Some(!listed),
        "Exists" => Some(value.is_some()),
        "DoesNotExist" => Some(value.is_none()),
        _ => None,
    }
}

/// DaemonSets tolerate by themselves what Kubernetes puts on nodes in trouble, and cordoned ones; ours tolerate the startup taint, too.
fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    const OWN: [&str; 6] = ["not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"];
    let own = taint.key.strip_prefix("node.kubernetes.io/").is_some_and(|rest| OWN.contains(&rest));
    own || taint.key == names::STARTUP_TAINT
        || taint.effect == "PreferNoSchedule"
        || tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    let same_value = toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect) && ((key.is_empty() && exists) || (key == taint.key && (exists || same_value)))
}

/// Whether an object with `labels` is selected; an empty selector selects everything.
pub fn labels(selector: &LabelSelector, labels: &Labels) -> bool {
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|want| {
        let values = want.values.as_deref().unwrap_or_default();
        operator(&want.operator, values, labels.get(&want.key).map(String::as_str)).unwrap_or(false)
    });
    exact && expressions
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn check(node: Value, selector: Value, tolerations: Value, expected: bool) {
        let what = format!("{node} {selector} {tolerations}");
        let node: Node = serde_json::from_value(node).unwrap();
        let selector: Option<NodeSelector> = serde_json::from_value(selector).unwrap();
        let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
        assert_eq!(fits(&node, selector.as_ref(), &tolerations), expected, "{what}");
    }

    #[test]
    fn nodes_are_selected_as_kubernetes_does() {
        let node = || json!({ "metadata": { "name": "a", "labels": { "pool": "gpu", "disks": "4" } } });
        let terms = |expressions: Value| json!({ "nodeSelectorTerms": [{ "matchExpressions": expressions }] });
        check(node(), Value::Null, json!([]), true);
        check(node(), json!({ "nodeSelectorTerms": [] }), json!([]), true);
        check(node(), json!({ "nodeSelectorTerms": [{}] }), json!([]), false);
        check(node(), terms(json!([{ "key": "pool", "operator": "In", "values": ["gpu"] }])), json!([]), true);
        check(node(), terms(json!([{ "key": "pool", "operator": "In", "values": ["cpu"] }])), json!([]), false);
        check(node(), terms(json!([{ "key": "pool", "operator": "NotIn", "values": ["cpu"] }])), json!([]), true);
        check(node(), terms(json!([{ "key": "zone", "operator": "NotIn", "values": ["b"] }])), json!([]), true);
        check(node(), terms(json!([{ "key": "zone", "operator": "DoesNotExist" }])), json!([]), true);
        check(node(), terms(json!([{ "key": "disks", "operator": "Gt", "values": ["3"] }])), json!([]), true);
        check(node(), terms(json!([{ "key": "disks", "operator": "Lt", "values": ["4"] }])), json!([]), false);
        check(node(), terms(json!([{ "key": "pool", "operator": "Exists" }, { "key": "zone", "operator": "Exists" }])), json!([]), false);
        let field = json!({ "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "NotIn", "values": ["a"] }] }] });
        check(node(), field, json!([]), false);
    }

    #[test]
    fn a_taint_keeps_the_cache_away_unless_it_is_tolerated() {
        let node = |key: &str, effect: &str| json!({ "metadata": { "name": "a" }, "spec": { "taints": [{ "key": key, "value": "yes", "effect": effect }] } });
        check(node("gpu", "NoSchedule"), Value::Null, json!([]), false);
        check(node("gpu", "PreferNoSchedule"), Value::Null, json!([]), true);
        check(node("gpu", "NoSchedule"), Value::Null, json!([{ "operator": "Exists" }]), true);
        check(node("gpu", "NoSchedule"), Value::Null, json!([{ "key": "gpu", "operator": "Exists", "effect": "NoExecute" }]), false);
        check(node("gpu", "NoSchedule"), Value::Null, json!([{ "key": "gpu", "value": "yes" }]), true);
        check(node("gpu", "NoSchedule"), Value::Null, json!([{ "key": "gpu", "value": "no" }]), false);
        check(node("node.kubernetes.io/unschedulable", "NoSchedule"), Value::Null, json!([]), true);
    }

    #[test]
    fn namespaces_are_selected_by_labels() {
        let found = Labels::from([("team".to_owned(), "vision".to_owned())]);
        let check = |selector: Value, expected: bool| {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(labels(&selector, &found), expected, "{selector:?}");
        };
        check(json!({}), true);
        check(json!({ "matchLabels": { "team": "vision" } }), true);
        check(json!({ "matchLabels": { "team": "speech" } }), false);
        check(json!({ "matchExpressions": [{ "key": "team", "operator": "In", "values": ["vision", "speech"] }] }), true);
        check(json!({ "matchExpressions": [{ "key": "team", "operator": "Sideways" }] }), false);
    }
}
