//! What is watched, cut to what is looked at, so that the operator's memory grows with pods that matter and not with all their text.
//! Invariant: a watch that breaks is begun again, later and later; nothing here decides anything.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use forebay_daemon::logging::chain;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, NodeSpec, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::context::Stores;
use crate::dataset::users;
use crate::names;

pub(super) fn nodes(client: &Client, tasks: &mut JoinSet<()>) -> Store<Node> {
    reflect(Api::all(client.clone()), watcher::Config::default(), tasks, |node: &mut Node| {
        node.metadata = ObjectMeta { labels: node.metadata.labels.take(), ..named(&mut node.metadata) };
        node.spec = node.spec.take().map(|spec| NodeSpec { taints: spec.taints, ..NodeSpec::default() });
        node.status = None;
    })
}

/// All pods of the cluster: whose volumes are ours isn't something a selector can say.
pub(super) fn pods(client: &Client, namespace: &str, tasks: &mut JoinSet<()>) -> Store<Pod> {
    let own = namespace.to_owned();
    reflect(Api::all(client.clone()), watcher::Config::default(), tasks, move |pod: &mut Pod| cut_pod(pod, &own))
}

pub(super) fn daemon_sets(client: &Client, namespace: &str, tasks: &mut JoinSet<()>) -> Store<DaemonSet> {
    let config = watcher::Config::default().labels(&format!("{}=forebay", names::NAME_LABEL));
    reflect(Api::namespaced(client.clone(), namespace), config, tasks, |set: &mut DaemonSet| set.metadata.managed_fields = None)
}

pub(super) fn config_maps(client: &Client, namespace: &str, tasks: &mut JoinSet<()>) -> Store<ConfigMap> {
    let config = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::FIELD_MANAGER));
    reflect(Api::namespaced(client.clone(), namespace), config, tasks, |map: &mut ConfigMap| map.metadata.managed_fields = None)
}

fn reflect<K>(api: Api<K>, config: watcher::Config, tasks: &mut JoinSet<()>, mut cut: impl FnMut(&mut K) + Send + 'static) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let events = watcher(api, config).default_backoff().modify(move |object| cut(object)).reflect(writer);
    tasks.spawn(events.for_each(|event| async move {
        if let Err(error) = event {
            tracing::warn!(kind = %K::kind(&()), error = %chain(&error), "a watch broke and is begun again");
        }
    }));
    reader
}

fn named(metadata: &mut ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name.take(),
        namespace: metadata.namespace.take(),
        uid: metadata.uid.take(),
        resource_version: metadata.resource_version.take(),
        creation_timestamp: metadata.creation_timestamp.take(),
        deletion_timestamp: metadata.deletion_timestamp.take(),
        ..ObjectMeta::default()
    }
}

/// Keeps volumes, gates and the node of every pod; labels, ports and readiness of our own.
pub(super) fn cut_pod(pod: &mut Pod, own: &str) {
    let ours = pod.metadata.namespace.as_deref() == Some(own);
    let only = |map: Option<BTreeMap<String, String>>, keep: &[&str]| {
        map.map(|map| map.into_iter().filter(|(key, _)| keep.contains(&key.as_str())).collect::<BTreeMap<_, _>>())
            .filter(|map| !map.is_empty())
    };
    let mut metadata = named(&mut pod.metadata);
    let annotations = [names::WARM_TIMEOUT_ANNOTATION, names::TEMPLATE_ANNOTATION, names::MIRROR_ANNOTATION];
    metadata.annotations = only(pod.metadata.annotations.take(), &annotations);
    if ours {
        metadata.labels = only(pod.metadata.labels.take(), &[names::COMPONENT_LABEL, names::POLICY_LABEL]);
        metadata.owner_references = pod.metadata.owner_references.take();
    }
    pod.metadata = metadata;
    pod.spec = pod.spec.take().map(|mut spec| {
        let containers = if ours { std::mem::take(&mut spec.containers) } else { Vec::new() };
        let containers = containers.into_iter().map(|container| k8s_openapi::api::core::v1::Container {
            name: container.name,
            ports: container.ports,
            ..Default::default()
        });
        PodSpec {
            node_name: spec.node_name,
            scheduling_gates: spec.scheduling_gates,
            volumes: spec
                .volumes
                .map(|volumes| volumes.into_iter().filter(|volume| users::dataset_of(volume).is_some()).collect::<Vec<_>>())
                .filter(|volumes| !volumes.is_empty()),
            containers: containers.collect(),
            ..PodSpec::default()
        }
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip.filter(|_| ours),
        conditions: status.conditions.filter(|_| ours).map(|conditions| {
            let ready = conditions.into_iter().filter(|condition| condition.type_ == "Ready");
            ready.map(|found| PodCondition { type_: found.type_, status: found.status, ..PodCondition::default() }).collect()
        }),
        ..PodStatus::default()
    });
}

/// How often a store that isn't ready is asked again.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Returns when everything that passes look at was read once.
pub(crate) async fn until_ready(stores: &Stores) {
    ready(&stores.policies).await;
    ready(&stores.datasets).await;
    ready(&stores.nodes).await;
    ready(&stores.pods).await;
    ready(&stores.daemon_sets).await;
    ready(&stores.config_maps).await;
}

/// Returns when `store` was filled once. A store wakes only the last of those who wait for it (kube-runtime 5.0), so each asks again by itself.
pub(crate) async fn ready<K>(store: &Store<K>)
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    // A store whose writer is gone belongs to a process that stops.
    while tokio::time::timeout(ASK_EVERY, store.wait_until_ready()).await.is_err() {}
}

/// What a pass failed with was told where it failed; what is left are watches that broke.
pub(super) fn told<R, Q>(kind: &str, error: Option<kube::runtime::controller::Error<R, Q>>)
where
    R: std::error::Error + 'static,
    Q: std::error::Error + 'static,
{
    if let Some(kube::runtime::controller::Error::QueueError(error)) = error {
        tracing::warn!(kind, error = %chain(&error), "a watch broke and is begun again");
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_cut_to_what_is_looked_at() {
        let pod = |namespace: &str| -> Pod {
            let mut pod = serde_json::from_value(json!({
                "metadata": {
                    "name": "train", "namespace": namespace, "labels": { names::COMPONENT_LABEL: "node", "app": "x" },
                    "annotations": { names::WARM_TIMEOUT_ANNOTATION: "1m", "note": "long" }
                },
                "spec": {
                    "containers": [{ "name": "main", "env": [{ "name": "A" }], "ports": [{ "containerPort": 1 }] }],
                    "schedulingGates": [{ "name": names::WARM_GATE }],
                    "volumes": [{ "name": "a", "emptyDir": {} }, { "name": "b", "persistentVolumeClaim": { "claimName": "b" } }]
                },
                "status": { "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Other", "status": "True" }] }
            }))
            .unwrap();
            cut_pod(&mut pod, "forebay");
            pod
        };
        let theirs = serde_json::to_value(pod("vision")).unwrap();
        assert_eq!(
            theirs["metadata"],
            json!({ "name": "train", "namespace": "vision", "annotations": { names::WARM_TIMEOUT_ANNOTATION: "1m" } })
        );
        assert_eq!(theirs["spec"]["volumes"], json!([{ "name": "b", "persistentVolumeClaim": { "claimName": "b" } }]));
        assert_eq!(theirs["spec"]["schedulingGates"], json!([{ "name": names::WARM_GATE }]));
        assert_eq!(theirs["status"], json!({ "phase": "Running" }));
        let ours = serde_json::to_value(pod("forebay")).unwrap();
        assert_eq!(ours["metadata"]["labels"], json!({ names::COMPONENT_LABEL: "node" }));
        assert_eq!(ours["spec"]["containers"], json!([{ "name": "main", "ports": [{ "containerPort": 1 }] }]));
        assert_eq!(ours["status"]["conditions"], json!([{ "type": "Ready", "status": "True" }]));
    }
}
