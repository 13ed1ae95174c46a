//! `clean`: the chart's pre-delete hook. Has the operator, which still runs, give everything up, and waits for it.
//! Knows what the operator leaves behind. Does not free anything itself while the operator can.
//! Invariant: Datasets and CachePolicies stay: they are the user's. After it no finalizer of ours holds anything.

use std::time::{Duration, Instant};

use forebay_api::{CachePolicy, Dataset};
use forebay_daemon::exit::Exit;
use forebay_daemon::logging::chain;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::dataset::apply::delete;
use crate::error::{During, Error};
use crate::names;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Gives the operator `within`; what it didn't manage until then is forced.
pub async fn run(client: &Client, namespace: &str, within: Duration) -> Exit {
    match clean(client, namespace, within).await {
        Ok(0) => Exit::Ok,
        Ok(forced) => {
            tracing::warn!(forced, "some Datasets were let go by force: pods still use them, or nodes still hold their cache");
            Exit::Ok
        }
        Err(error) => {
            tracing::error!(error = %chain(&error), "the cluster can't be cleaned");
            Exit::Unavailable
        }
    }
}

/// How many Datasets had to be let go by force.
async fn clean(client: &Client, namespace: &str, within: Duration) -> Result<usize, Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = leases.get_opt(names::LEASE).await.during(|| "read the Lease".to_owned())?;
    let mark = lease.and_then(|lease| lease.uid()).unwrap_or_default();
    let deadline = Instant::now() + within;
    let datasets: Api<Dataset> = Api::all(client.clone());
    let mut left = held(&datasets).await?;
    for dataset in &left {
        let api: Api<Dataset> = Api::namespaced(client.clone(), &dataset.namespace().unwrap_or_default());
        annotate(&api, &dataset.name_any(), &mark).await?;
    }
    while !left.is_empty() && Instant::now() < deadline {
        tracing::info!(left = left.len(), "waiting for Datasets to be let go");
        tokio::time::sleep(LOOK_EVERY).await;
        left = held(&datasets).await?;
    }
    for dataset in &left {
        force(client, dataset).await?;
    }
    let policies: Api<CachePolicy> = Api::all(client.clone());
    for policy in policies.list_metadata(&ListParams::default()).await.during(|| "list CachePolicies".to_owned())?.items {
        annotate(&policies, &policy.name_any(), &mark).await?;
    }
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    // Those of policies, and the clients': without policies there are none.
    let of_nodes = ListParams::default().labels(&format!("{}={}", names::COMPONENT_LABEL, names::NODE_COMPONENT));
    loop {
        let sets_left = sets.list_metadata(&of_nodes).await.during(|| "list DaemonSets".to_owned())?.items;
        if sets_left.is_empty() {
            return Ok(left.len());
        }
        if Instant::now() >= deadline {
            for set in sets_left {
                delete(&sets, &set.name_any()).await?;
            }
            return Ok(left.len());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn held(api: &Api<Dataset>) -> Result<Vec<kube::core::PartialObjectMeta<Dataset>>, Error> {
    let all = api.list_metadata(&ListParams::default()).await.during(|| "list Datasets".to_owned())?.items;
    Ok(all.into_iter().filter(|dataset| dataset.finalizers().iter().any(|name| name == names::FINALIZER)).collect())
}

async fn annotate<K>(api: &Api<K>, name: &str, mark: &str) -> Result<(), Error>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = json!({ "metadata": { "annotations": { names::UNINSTALL_ANNOTATION: mark } } });
    match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).during(|| format!("mark {name} as given up")),
    }
}

/// The volume goes, the finalizer goes; whatever a node still holds goes when the node's folder does.
async fn force(client: &Client, dataset: &kube::core::PartialObjectMeta<Dataset>) -> Result<(), Error> {
    let name = dataset.name_any();
    let api: Api<Dataset> = Api::namespaced(client.clone(), &dataset.namespace().unwrap_or_default());
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    delete(&volumes, &names::volume(&dataset.uid().unwrap_or_default())).await?;
    let finalizers: Vec<&String> = dataset.finalizers().iter().filter(|finalizer| *finalizer != names::FINALIZER).collect();
    let patch = json!({ "metadata": { "finalizers": finalizers } });
    match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).during(|| format!("let the Dataset {name} go")),
    }
}
