//! Reads everything that a decision about a Dataset needs.
//! Knows where it lies. Does not decide.

use std::collections::BTreeMap;

use forebay_api::{CachePolicy, Dataset};
use forebay_wire::dataset_spec::Eviction;
use forebay_wire::secret::account_reference;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::account;
use super::policy::{self, PolicyProblem};
use super::reference::{self, Entries, Missing};
use crate::context::Context;
use crate::error::{During, Error};
use crate::names;
use crate::nodes::NodeView;
use crate::selector;
use forebay_api::cache_policy::NamespacesFrom;

/// What there is, at one moment. Not `Debug`: it holds secrets.
pub struct Observed {
    pub policy: Result<CachePolicy, PolicyProblem>,
    /// Only where the policy asks for them.
    pub namespace_labels: Option<BTreeMap<String, String>>,
    pub references: BTreeMap<String, Entries>,
    /// The first reference that can't be used.
    pub missing: Option<Missing>,
    pub claim: Option<PersistentVolumeClaim>,
    pub volume: Option<PersistentVolume>,
    pub jobs: Vec<Job>,
    /// Nodes that the policy selects.
    pub matched: usize,
    /// What each of them that answers has of it.
    pub nodes: Vec<NodeView>,
    /// How the caches of the policy evict, all that is served from them considered.
    pub eviction: Eviction,
    /// Clients that know it: they count for nothing, and their problems are told.
    pub clients: Vec<NodeView>,
}

pub async fn observe(ctx: &Context, dataset: &Dataset) -> Result<Observed, Error> {
    let namespace = dataset.namespace().unwrap_or_default();
    let uid = dataset.uid().unwrap_or_default();
    let policies = ctx.stores.policies();
    let policy = policy::find(dataset, &policies).cloned();
    let namespace_labels = match &policy {
        Ok(policy) if policy.spec.allowed_namespaces.from == NamespacesFrom::Selector => {
            let api: Api<Namespace> = Api::all(ctx.client.clone());
            let found = api.get_opt(&namespace).await.during(|| format!("read the namespace {namespace}"))?;
            found.map(|found| found.metadata.labels.unwrap_or_default())
        }
        Ok(_) | Err(_) => None,
    };
    let wanted = reference::of(&dataset.spec);
    let mut references = BTreeMap::new();
    for (name, reference) in &wanted {
        if let Some(entries) = entries(ctx, &namespace, name, reference.is_secret).await? {
            references.insert(name.clone(), entries);
        }
    }
    let mut missing = reference::check(&wanted, &references, &namespace);
    for name in account::of(&dataset.spec) {
        match account::entries(ctx, &namespace, name).await? {
            Ok(entries) => drop(references.insert(account_reference(name), entries)),
            Err(problem) => missing = missing.or(Some(problem)),
        }
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &namespace);
    let claim = claims.get_opt(&dataset.name_any()).await.during(|| format!("read the claim {}", dataset.name_any()))?;
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let volume = volumes.get_opt(&names::volume(&uid)).await.during(|| format!("read the volume {}", names::volume(&uid)))?;
    let jobs = match &dataset.spec.preload {
        Some(_) => {
            let api: Api<Job> = Api::namespaced(ctx.client.clone(), &ctx.settings.namespace);
            let params = ListParams::default().labels(&format!("{}={uid}", names::DATASET_LABEL));
            api.list(&params).await.during(|| "list preload jobs".to_owned())?.items
        }
        None => Vec::new(),
    };
    let (nodes, clients, eviction) = (Vec::new(), Vec::new(), Eviction::Hold);
    let observed = Observed { policy, namespace_labels, references, missing, claim, volume, jobs, matched: 0, nodes, clients, eviction };
    Ok(observed.refreshed(ctx, &uid))
}

/// What the ConfigMap and the Secret of that name hold; of a secretRef, the Secret alone.
async fn entries(ctx: &Context, namespace: &str, name: &str, is_secret: bool) -> Result<Option<Entries>, Error> {
    let mut found: Option<Entries> = None;
    if !is_secret {
        let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
        if let Some(map) = api.get_opt(name).await.during(|| format!("read the ConfigMap {name}"))? {
            let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
            let binary = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
            found.get_or_insert_default().extend(text.chain(binary));
        }
    }
    if found.is_none() {
        let api: Api<Secret> = Api::namespaced(ctx.client.clone(), namespace);
        if let Some(secret) = api.get_opt(name).await.during(|| format!("read the Secret {name}"))? {
            found.get_or_insert_default().extend(secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)));
        }
    }
    Ok(found)
}

impl Observed {
    /// The same with what is in memory read again.
    pub fn refreshed(mut self, ctx: &Context, uid: &str) -> Self {
        if let Ok(policy) = &self.policy {
            self.matched = ctx
                .stores
                .nodes
                .state()
                .iter()
                .filter(|node| selector::fits(node, policy.spec.nodes.selector.as_ref(), &policy.spec.nodes.tolerations))
                .count();
            let policy = policy.uid().unwrap_or_default();
            self.nodes = ctx.hub.view(&policy, uid);
            self.eviction = ctx.hub.eviction(&policy);
            self.clients = ctx.hub.view(names::CLIENT, uid).into_iter().filter(|client| client.dataset.is_some()).collect();
        }
        self
    }
}
