//! A Dataset's life against a real API server, with a fake node.

use std::time::Duration;

use forebay_api::CachePolicy;
use forebay_api::condition::ConditionType::{Ready, Synced, Warm};
use forebay_api::condition::find;
use forebay_operator::{gate, lease, names};
use forebay_wire::node_service::PreloadState;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::api_server::{EARLY, LIMIT, World, node_object, until};
use crate::conditions::{holding, listed};
use crate::fake_node::{FakeNode, Proof};

const CANARY: &str = "canary-7c1f";

async fn with_keys(world: &World, value: &str) {
    world.secret("s3", json!({ "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": value })).await;
}

fn nine_lines() -> Value {
    json!({ "source": "s3://imagenet/train/", "secretRef": { "name": "s3" }, "preload": { "when": "Once" } })
}

#[tokio::test]
async fn a_dataset_becomes_a_volume_and_gets_ready_and_warm() {
    let Some(world) = World::new("life").await else { return };
    with_keys(&world, CANARY).await;
    let dataset = world.dataset("imagenet", nine_lines()).await;
    let uid = dataset.uid().unwrap();
    world.condition("imagenet", Ready, "False", "NodesStarting").await;

    let node = FakeNode::start(&world).await;
    let told = node.told("the data set", |desired| !desired.datasets.is_empty()).await;
    assert_eq!(told.policy, world.api_policy().await.uid().unwrap());
    let wanted = &told.datasets[0];
    assert_eq!(wanted.uid, uid);
    assert!(!wanted.object.contains(CANARY) && !wanted.ambient_credentials, "{}", wanted.object);
    assert_eq!(wanted.references["s3"].entries["AWS_SECRET_ACCESS_KEY"], CANARY.as_bytes());
    let read = forebay_wire::dataset_spec::Dataset::parse("object", &wanted.object).unwrap();
    assert_eq!(read.name.to_string(), "life/imagenet", "a node can read it");

    node.says(holding(1, 10, PreloadState::Running));
    world.condition("imagenet", Ready, "True", "Readable").await;
    world.condition("imagenet", Warm, "False", "Filling").await;
    node.says(holding(10, 10, PreloadState::Done));
    world.condition("imagenet", Warm, "True", "Held").await;
    world.condition("imagenet", Synced, "True", "Listed").await;
    let status = world.datasets().get("imagenet").await.unwrap().status.unwrap();
    assert_eq!((status.files, status.warm.as_deref(), status.claim.as_deref()), (Some(100), Some("100%"), Some("imagenet")));
    assert_eq!(status.policy.unwrap().name, world.policy);
    assert_eq!(status.observed_generation, Some(1));

    let claim = world.api::<PersistentVolumeClaim>().get("imagenet").await.unwrap();
    let volume = Api::<PersistentVolume>::all(world.client.clone()).get(&names::volume(&uid)).await.unwrap().spec.unwrap();
    assert_eq!(volume.claim_ref.unwrap().uid, claim.uid());
    assert_eq!(volume.csi.unwrap().volume_handle, uid);
    assert_eq!(claim.spec.unwrap().volume_name, Some(names::volume(&uid)));
    assert!(world.own::<Job>().get_opt(&names::job(&uid, 0)).await.unwrap().is_some());

    // Nothing that anybody can read holds the secret.
    let events: Api<Event> = Api::all(world.client.clone());
    let reasons = until("the events", || async {
        let events = events.list(&ListParams::default()).await.unwrap().items;
        let about = |event: &&Event| event.regarding.as_ref().is_some_and(|object| object.uid.as_deref() == Some(uid.as_str()));
        let reasons: Vec<String> = events.iter().filter(about).filter_map(|event| event.reason.clone()).collect();
        assert!(!format!("{events:?}").contains(CANARY));
        ["Readable", "Held"].iter().all(|reason| reasons.iter().any(|found| found == reason)).then_some(reasons)
    })
    .await;
    assert!(!reasons.is_empty());
    assert!(!serde_json::to_string(&world.datasets().get("imagenet").await.unwrap()).unwrap().contains(CANARY));
    node.stop().await;
}

#[tokio::test]
async fn what_is_desired_travels_once_and_a_rotated_secret_follows() {
    let Some(world) = World::new("rotate").await else { return };
    with_keys(&world, "old").await;
    world.dataset("imagenet", nine_lines()).await;
    let node = FakeNode::start(&world).await;
    node.says(listed());
    node.told("the data set", |desired| desired.datasets.len() == 1).await;
    let before = node.state();
    until("five more calls", || async { (node.state().calls >= before.calls + 5).then_some(()) }).await;
    assert!(node.state().told <= before.told + 1, "desired travels on a change only: {} times", node.state().told);
    with_keys(&world, "new").await;
    let secret =
        |desired: &forebay_wire::control_service::Desired| desired.datasets[0].references["s3"].entries["AWS_SECRET_ACCESS_KEY"].clone();
    node.told("the new secret", |desired| secret(desired) == b"new").await;
    node.stop().await;
}

#[tokio::test]
async fn a_deleted_dataset_waits_for_its_pods_then_for_the_nodes() {
    let Some(world) = World::new("ending").await else { return };
    let dataset = world.dataset("imagenet", json!({ "source": "s3://imagenet/train/" })).await;
    let node = FakeNode::start(&world).await;
    node.says(listed());
    world.condition("imagenet", Ready, "True", "Readable").await;
    let pods: Api<Pod> = world.api();
    let inline =
        json!({ "name": "data", "csi": { "driver": names::DRIVER, "readOnly": true, "volumeAttributes": { "dataset": "imagenet" } } });
    let pod = json!({ "metadata": { "name": "train" }, "spec": { "nodeName": world.node, "containers": [{ "name": "a", "image": "a" }], "volumes": [inline] } });
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    world.datasets().delete("imagenet", &DeleteParams::default()).await.unwrap();
    let message = world.condition("imagenet", Ready, "False", "InUse").await;
    assert!(message.contains("train"), "{message}");
    assert_eq!(node.state().desired.unwrap().datasets.len(), 1, "nothing is freed while a pod uses it");

    pods.delete("train", &DeleteParams::default().grace_period(0)).await.unwrap();
    node.told("that the data set is gone", |desired| desired.datasets.is_empty()).await;
    let uid = dataset.uid().unwrap();
    tokio::time::timeout(LIMIT, await_condition(world.datasets(), "imagenet", conditions::is_deleted(&uid))).await.unwrap().unwrap();
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let volume = volumes.get_opt(&names::volume(&uid)).await.unwrap();
    assert!(volume.is_none_or(|volume| volume.metadata.deletion_timestamp.is_some()));
    node.stop().await;
}

#[tokio::test]
async fn a_policy_becomes_nodes_and_drift_is_repaired() {
    let Some(world) = World::new("drift").await else { return };
    let name = node_object(&world);
    let (sets, maps): (Api<DaemonSet>, Api<ConfigMap>) = (world.own(), world.own());
    let image = |set: &DaemonSet| set.spec.template.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    until("the DaemonSet", || async { sets.get_opt(&name).await.unwrap() }).await;
    let patch = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "node", "image": "evil" }] } } } });
    let set = sets.patch(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
    assert_eq!(image(&set), "evil");
    maps.delete(&name, &DeleteParams::default()).await.unwrap();
    until("the repair", || async {
        let repaired = image(&sets.get(&name).await.unwrap()) == "forebay-node:test";
        (repaired && maps.get_opt(&name).await.unwrap().is_some()).then_some(())
    })
    .await;

    let policies: Api<CachePolicy> = Api::all(world.client.clone());
    let node = FakeNode::start(&world).await;
    until("the policy's status", || async {
        let status = policies.get(&world.policy).await.unwrap().status?;
        let ready = find(&status.conditions, Ready)?.reason == "Serving";
        (ready && status.nodes.as_ref()?.ready == 1 && status.capacity.as_deref() == Some("10Gi")).then_some(())
    })
    .await;
    node.stop().await;
    until("the node to be missed", || async {
        let status = policies.get(&world.policy).await.unwrap().status?;
        (find(&status.conditions, Ready)?.reason == "NodesStarting").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_was_there_first_is_seen_as_well() {
    let Some(world) = World::without_node("early-world").await else { return };
    let sets: Api<DaemonSet> = world.own();
    until("its DaemonSet", || async { sets.get_opt(&names::node(EARLY)).await.unwrap() }).await;
}

#[tokio::test]
async fn a_stranger_that_poses_as_a_node_is_told_nothing() {
    let Some(world) = World::new("stranger").await else { return };
    world.dataset("imagenet", json!({ "source": "s3://imagenet/train/" })).await;
    // Another policy's, which is told what is its own.
    let Some(other) = World::new("stranger-2").await else { return };
    let honest = FakeNode::start(&other).await;
    honest.told("its own policy", |_| true).await;
    for proof in [Proof::MadeUp, Proof::ForOthers, Proof::OfPod("forebay-node-stranger-2-policy-0")] {
        let stranger = FakeNode::start_with(&world, proof).await;
        until("the question who it is", || async { (stranger.state().asked > 2).then_some(()) }).await;
        let state = stranger.state();
        assert_eq!((state.certificates, state.calls), (0, 0), "{state:?}");
        assert_eq!(world.api_policy().await.status.and_then(|status| status.nodes).map_or(0, |nodes| nodes.ready), 0);
        stranger.stop().await;
    }
    honest.stop().await;
}

#[tokio::test]
async fn a_node_gets_a_certificate_and_another_when_it_is_due() {
    let Some(world) = World::new("certificate").await else { return };
    let node = FakeNode::start(&world).await;
    node.told("its policy", |_| true).await;
    assert_eq!(node.state().certificates, 1);
    node.wants_certificate();
    until("another one", || async { (node.state().certificates == 2).then_some(()) }).await;
    let calls = node.state().calls;
    until("calls with it", || async { (node.state().calls > calls + 2).then_some(()) }).await;
    assert_eq!(node.state().certificates, 2, "one that is good is left alone");
    node.stop().await;
}

#[tokio::test]
async fn a_gated_pod_is_let_go_when_its_dataset_is_warm() {
    let Some(world) = World::new("gate").await else { return };
    world.dataset("imagenet", json!({ "source": "s3://imagenet/train/", "preload": { "when": "Once" } })).await;
    let node = FakeNode::start(&world).await;
    node.says(holding(1, 10, PreloadState::Running));
    let pods: Api<Pod> = world.api();
    let pod = |name: &str, timeout: Option<&str>| {
        json!({
            "metadata": { "name": name, "annotations": timeout.map(|text| json!({ names::WARM_TIMEOUT_ANNOTATION: text })) },
            "spec": {
                "containers": [{ "name": "a", "image": "a" }],
                "schedulingGates": [{ "name": "example.com/other" }, { "name": names::WARM_GATE }],
                "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "imagenet" } }]
            }
        })
    };
    let gates = |pod: &Pod| {
        pod.spec.as_ref().unwrap().scheduling_gates.clone().unwrap_or_default().into_iter().map(|gate| gate.name).collect::<Vec<_>>()
    };
    for (name, timeout) in [("waits", None), ("impatient", Some("1s"))] {
        pods.create(&PostParams::default(), &serde_json::from_value(pod(name, timeout)).unwrap()).await.unwrap();
    }
    let only_other = |pod: &Pod| (gates(pod) == ["example.com/other"]).then_some(());
    until("the impatient pod", || async { only_other(&pods.get("impatient").await.unwrap()) }).await;
    assert_eq!(gates(&pods.get("waits").await.unwrap()).len(), 2, "a cold data set holds its pod");
    node.says(holding(10, 10, PreloadState::Done));
    until("the pod that waits", || async { only_other(&pods.get("waits").await.unwrap()) }).await;
    assert_eq!(gate::judge(&pods.get("waits").await.unwrap(), &[], k8s_openapi::jiff::Timestamp::now()), gate::Verdict::NotGated);
    node.stop().await;
}

#[tokio::test]
async fn a_startup_taint_goes_when_the_driver_is_ready_and_the_cache_node_answers() {
    let Some(world) = World::new("taint").await else { return };
    let nodes: Api<Node> = Api::all(world.client.clone());
    // The other one keeps no policy away.
    let other = json!({ "key": "example.com/other", "effect": "PreferNoSchedule" });
    let taints = json!([{ "key": names::STARTUP_TAINT, "effect": "NoSchedule" }, other]);
    nodes.patch(&world.node, &PatchParams::default(), &Patch::Merge(json!({ "spec": { "taints": taints } }))).await.unwrap();
    let keys = |node: Node| node.spec.unwrap().taints.unwrap_or_default().into_iter().map(|taint| taint.key).collect::<Vec<_>>();
    let node = FakeNode::start(&world).await;
    node.told("its policy", |_| true).await;
    assert_eq!(keys(nodes.get(&world.node).await.unwrap()).len(), 2, "there is no driver yet");
    world.make_driver().await;
    until("the taint to go", || async { (keys(nodes.get(&world.node).await.unwrap()) == ["example.com/other"]).then_some(()) }).await;
    node.stop().await;
}

#[tokio::test]
async fn one_replica_leads_and_the_next_takes_over() {
    let Some(world) = World::without_node("lease").await else { return };
    let (first_stop, first_trigger) = forebay_daemon::shutdown::Shutdown::new();
    let (second_stop, _second_trigger) = forebay_daemon::shutdown::Shutdown::new();
    let first = lease::acquire(&world.client, &world.namespace, "first", &first_stop).await.unwrap();
    let second = lease::acquire(&world.client, &world.namespace, "second", &second_stop);
    let mut second = std::pin::pin!(second);
    assert!(tokio::time::timeout(Duration::from_secs(4), &mut second).await.is_err(), "two lead");
    first_trigger.stop();
    assert!(first.keep(&first_stop).await, "it was told to stop, and lost nothing");
    assert!(tokio::time::timeout(LIMIT, second).await.unwrap().is_some());
}

#[tokio::test]
async fn suspended_and_new_revisions_change_the_job() {
    let Some(world) = World::new("jobs").await else { return };
    let dataset = world.dataset("imagenet", json!({ "source": "s3://imagenet/", "preload": { "when": "Once" } })).await;
    let uid = dataset.uid().unwrap();
    let jobs: Api<Job> = world.own();
    let preload = |change: Value| {
        let datasets = world.datasets();
        async move {
            let patch = json!({ "spec": { "preload": change } });
            datasets.patch("imagenet", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        }
    };
    let suspended = |job: &Job| job.spec.as_ref().unwrap().suspend.unwrap_or(false);
    until("the Job", || async { jobs.get_opt(&names::job(&uid, 0)).await.unwrap() }).await;
    preload(json!({ "suspend": true })).await;
    until("the pause", || async { suspended(&jobs.get(&names::job(&uid, 0)).await.unwrap()).then_some(()) }).await;
    preload(json!({ "suspend": false, "revision": 2 })).await;
    until("the next revision", || async { jobs.get_opt(&names::job(&uid, 2)).await.unwrap() }).await;
    until("the end of the former", || async {
        let former = jobs.get_opt(&names::job(&uid, 0)).await.unwrap();
        former.is_none_or(|job| job.metadata.deletion_timestamp.is_some()).then_some(())
    })
    .await;
}

impl World {
    async fn api_policy(&self) -> CachePolicy {
        Api::<CachePolicy>::all(self.client.clone()).get(&self.policy).await.unwrap()
    }
}
