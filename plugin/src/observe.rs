//! Reads everything that a diagnosis needs.
//! Knows where it lies. Does not judge.
//! Invariant: what may not be read is told in `blind`, and never ends the diagnosis: it says less.

use forebay_api::{CachePolicy, Dataset};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::cluster::Cluster;
use crate::doctor::{Observed, World};
use crate::error::Error;
use crate::{live, names};

/// Of a namespace with more than that the newest can't be told apart anyway.
const EVENTS_MAX: u32 = 500;

/// What is the same for all Datasets.
pub async fn world(cluster: &Cluster, with_reports: bool) -> World {
    let mut blind = Vec::new();
    let client = &cluster.client;
    let system: Api<Pod> = Api::namespaced(client.clone(), &cluster.system);
    let nodes: Api<Node> = Api::all(client.clone());
    let drivers: Api<CSIDriver> = Api::all(client.clone());
    let everything = ListParams::default();
    let (policies, pods, nodes, driver) =
        tokio::join!(cluster.policies(), system.list(&everything), nodes.list(&everything), drivers.get_opt(names::DRIVER));
    let policies = seen(&mut blind, policies);
    let pods =
        seen(&mut blind, pods.map_err(|error| Error::of(format!("list the pods of {}", cluster.system), &error))).map(|list| list.items);
    let nodes = seen(&mut blind, nodes.map_err(|error| Error::of("list nodes", &error))).map(|list| list.items);
    let driver = seen(&mut blind, driver.map_err(|error| Error::of(format!("read the CSIDriver {}", names::DRIVER), &error)));
    let cache: Vec<Pod> = pods.iter().flatten().filter(|pod| is_cache_node(pod)).cloned().collect();
    let sample = match with_reports && !cache.is_empty() {
        true => Some(live::sample(client, &cluster.system, &cache).await),
        false => None,
    };
    if sample.as_ref().is_some_and(live::Sample::is_forbidden) {
        blind.push(format!("ask the cache nodes themselves: you may not run programs in the pods of {} (pods/exec)", cluster.system));
    }
    World {
        now: Timestamp::now(),
        system: cluster.system.clone(),
        policies,
        pods,
        nodes,
        has_driver: driver.map(|driver| driver.is_some()),
        reports: sample.filter(|sample| !sample.is_forbidden()).map(|sample| sample.nodes).unwrap_or_default(),
        blind,
    }
}

/// What belongs to one Dataset, which may not be there: pods may name it all the same.
pub async fn dataset(cluster: &Cluster, namespace: &str, name: &str, dataset: Option<Dataset>) -> Observed {
    let mut blind = Vec::new();
    let client = &cluster.client;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), &cluster.system);
    let uid = dataset.as_ref().and_then(ResourceExt::uid).unwrap_or_default();
    let warnings = ListParams::default().fields("type=Warning").limit(EVENTS_MAX);
    let of_this = ListParams::default().labels(&format!("{}={uid}", names::DATASET_LABEL));
    let volume = names::volume(&uid);
    let everything = ListParams::default();
    let (pods, claim, volume, events, jobs) =
        tokio::join!(pods.list(&everything), claims.get_opt(name), volumes.get_opt(&volume), events.list(&warnings), jobs.list(&of_this));
    let of = |op: String| move |error: kube::Error| Error::of(op, &error);
    let pods = seen(&mut blind, pods.map_err(of(format!("list the pods of {namespace}")))).map(|list| list.items);
    let claim = seen(&mut blind, claim.map_err(of(format!("read the claim {namespace}/{name}"))));
    let volume = seen(&mut blind, volume.map_err(of("read the PersistentVolume".to_owned())));
    let events = seen(&mut blind, events.map_err(of(format!("list the events of {namespace}")))).map(|list| list.items);
    let jobs = seen(&mut blind, jobs.map_err(of(format!("list the jobs of {}", cluster.system)))).map(|list| list.items);
    Observed {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        dataset,
        claim,
        volume,
        pods: pods.unwrap_or_default(),
        events: events.unwrap_or_default(),
        jobs: jobs.unwrap_or_default(),
        blind,
    }
}

fn is_cache_node(pod: &Pod) -> bool {
    pod.labels().contains_key(names::POLICY_LABEL)
        && pod.labels().get(names::COMPONENT_LABEL).is_some_and(|component| component == names::NODE_COMPONENT)
        && live::node_of(pod).is_some()
}

fn seen<T>(blind: &mut Vec<String>, found: Result<T, Error>) -> Option<T> {
    found.map_err(|error| blind.push(error.to_string())).ok()
}

/// Of all policies the one that the Dataset uses, or would.
pub fn policy_of<'a>(dataset: &Dataset, policies: &'a [CachePolicy]) -> Option<&'a CachePolicy> {
    let by_name = |name: &str| policies.iter().find(|policy| policy.name_any() == name);
    if let Some(reference) = &dataset.spec.policy_ref {
        return by_name(&reference.name);
    }
    if let Some(resolved) = dataset.status.as_ref().and_then(|status| status.policy.as_ref()) {
        return by_name(&resolved.name);
    }
    let defaults = policies.iter().filter(|policy| policy.spec.default);
    defaults.min_by_key(|policy| (policy.metadata.creation_timestamp.clone(), policy.name_any()))
}
