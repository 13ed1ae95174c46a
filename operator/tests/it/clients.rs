//! Nodes that no policy selects, against a real API server, with a fake client.

use forebay_operator::{names, taint};
use forebay_wire::control_service::Desired;
use forebay_wire::dataset_spec::{Dataset, PreloadWhen};
use forebay_wire::rule::CacheMode;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_server::{World, until};
use crate::fake_node::FakeNode;

/// Whether the clients' DaemonSet selects the node of `world`, as Kubernetes' own controller would decide; `None`: there is no such DaemonSet.
async fn is_selected(world: &World) -> Option<bool> {
    let set = world.own::<DaemonSet>().get_opt(names::CLIENT_OBJECT).await.unwrap()?;
    let affinity = set.spec.template.spec.unwrap().affinity.and_then(|affinity| affinity.node_affinity);
    let Some(required) = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution) else {
        return Some(true);
    };
    let fits = |term: &NodeSelectorTerm| {
        term.match_fields
            .iter()
            .flatten()
            .all(|field| (field.operator == "In") == (field.values.as_deref() == Some(std::slice::from_ref(&world.node))))
    };
    Some(required.node_selector_terms.iter().any(fits))
}

/// Names of the data sets that it holds.
fn names_of(desired: &Desired) -> Vec<String> {
    let name = |object: &String| Dataset::parse("object", object).unwrap().name.to_string();
    desired.datasets.iter().map(|dataset| name(&dataset.object)).collect()
}

#[tokio::test]
async fn a_node_outside_all_policies_gets_a_client_that_is_told_of_what_its_pods_use() {
    // Its policy selects no node that is there.
    let Some(world) = World::without_node("outside").await else { return };
    let nodes: Api<Node> = Api::all(world.client.clone());
    let node = json!({ "metadata": { "name": world.node } });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    world.secret("s3", json!({ "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "value" })).await;
    let spec = |name: &str| {
        json!({
            "source": format!("s3://{name}/"), "secretRef": { "name": "s3" }, "preload": { "when": "Always" },
            "rules": [{ "path": "/train", "cache": "Pin", "maxBytes": "5Gi" }]
        })
    };
    for name in ["imagenet", "laion"] {
        world.dataset(name, spec(name)).await;
    }
    until("the DaemonSet", || async { is_selected(&world).await.filter(|selected| *selected) }).await;
    let client = FakeNode::start_client(&world).await;
    let told = client.told("that it is a client", |_| true).await;
    assert_eq!((told.policy.as_str(), told.datasets.len()), (names::CLIENT, 0));

    let pods: Api<Pod> = world.api();
    let pod = |name: &str, node: Option<&str>, dataset: &str| {
        json!({
            "metadata": { "name": name },
            "spec": {
                "nodeName": node, "containers": [{ "name": "a", "image": "a" }],
                "volumes": [{ "name": "data", "csi": { "driver": names::DRIVER, "readOnly": true, "volumeAttributes": { "dataset": dataset } } }]
            }
        })
    };
    for pod in [pod("train", Some(&world.node), "imagenet"), pod("waits", None, "laion"), pod("elsewhere", Some("nowhere"), "laion")] {
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    let told = client.told("what its pod uses", |desired| !desired.datasets.is_empty()).await;
    assert_eq!(names_of(&told), ["outside/imagenet"]);
    let wanted = &told.datasets[0];
    let spec = Dataset::parse("object", &wanted.object).unwrap();
    assert_eq!((spec.preload.when, spec.rules[0].cache, spec.rules[0].max_bytes), (PreloadWhen::Never, Some(CacheMode::Auto), None));
    assert_eq!(wanted.references["s3"].entries["AWS_SECRET_ACCESS_KEY"], b"value");

    pods.delete("train", &DeleteParams::default().grace_period(0)).await.unwrap();
    client.told("that nothing is used there", |desired| desired.datasets.is_empty()).await;

    // It joins the policy.
    let labels = json!({ "metadata": { "labels": { "test": world.namespace } } });
    nodes.patch(&world.node, &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
    until("the DaemonSet to leave it", || async { (is_selected(&world).await != Some(true)).then_some(()) }).await;
    client.stop().await;
}

#[tokio::test]
async fn a_pod_on_a_node_of_another_policy_gets_a_client_too() {
    let (Some(world), Some(other)) = (World::new("guest").await, World::new("host").await) else { return };
    world.dataset("imagenet", json!({ "source": "s3://imagenet/" })).await;
    let pods: Api<Pod> = world.api();
    let claim = |name: &str| json!({ "name": "data", "persistentVolumeClaim": { "claimName": name } });
    let pod = json!({
        "metadata": { "name": "train" },
        "spec": { "nodeName": other.node, "containers": [{ "name": "a", "image": "a" }], "volumes": [claim("imagenet")] }
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    until("the DaemonSet", || async { is_selected(&other).await.filter(|selected| *selected) }).await;
    assert_ne!(is_selected(&world).await, Some(true), "nobody needs one there");
    pods.delete("train", &DeleteParams::default().grace_period(0)).await.unwrap();
    until("the DaemonSet to leave it", || async { (is_selected(&other).await != Some(true)).then_some(()) }).await;
}

#[tokio::test]
async fn a_startup_taint_of_a_node_outside_all_policies_waits_for_its_client() {
    let (Some(world), Some(selected)) = (World::without_node("late").await, World::new("late-selected").await) else { return };
    let nodes: Api<Node> = Api::all(world.client.clone());
    let startup = json!({ "key": names::STARTUP_TAINT, "effect": "NoSchedule" });
    let node = json!({ "metadata": { "name": world.node }, "spec": { "taints": [startup, { "key": "gpu", "effect": "NoSchedule" }] } });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    world.make_driver().await;
    let waits = async |node: &str| taint::is_tainted(&nodes.get(node).await.unwrap());

    // One that came later and has all that it needs: when it is let in, the operator has looked at both.
    let of_policy = FakeNode::start(&selected).await;
    of_policy.told("its policy", |_| true).await;
    selected.make_driver().await;
    let tainted = json!({ "spec": { "taints": [startup] } });
    nodes.patch(&selected.node, &PatchParams::default(), &Patch::Merge(&tainted)).await.unwrap();
    until("the other's taint to go", || async { (!waits(&selected.node).await).then_some(()) }).await;
    assert!(waits(&world.node).await, "its client doesn't answer yet");

    let client = FakeNode::start_client(&world).await;
    until("the taint to go", || async { (!waits(&world.node).await).then_some(()) }).await;
    let left = nodes.get(&world.node).await.unwrap().spec.unwrap().taints.unwrap_or_default();
    assert!(left.iter().any(|taint| taint.key == "gpu"), "{left:?}");
    client.stop().await;
    of_policy.stop().await;
}
