//! Brings the API server to what was built: server-side apply with one field manager, so that drift is repaired and what others own stays.
//! Knows order. Does not decide what there should be.
//! Invariant: a claim that isn't ours is never written to or deleted.

use forebay_api::Dataset;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::build::{self, Built};
use super::is_held;
use super::observe::Observed;
use crate::context::Context;
use crate::error::{During, Error};
use crate::names;

/// What the API server has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub claim: Option<String>,
}

#[derive(Debug)]
pub enum ApplyError {
    /// A claim of this name is somebody else's.
    Taken(String),
    Kube(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Kube(error)
    }
}

/// First the finalizer, so that nothing is made which nobody would remove.
pub async fn apply(ctx: &Context, dataset: &Dataset, built: &Built, observed: &Observed) -> Result<Applied, ApplyError> {
    let namespace = dataset.namespace().unwrap_or_default();
    let name = dataset.name_any();
    if !is_held(dataset) {
        hold(ctx, dataset).await?;
    }
    jobs(ctx, built.job.as_ref(), observed).await?;
    let ours = observed.claim.as_ref().is_none_or(|claim| is_ours(dataset, claim));
    let (Some(claim), Some(volume)) = (&built.claim, &built.volume) else {
        if ours {
            delete_claim(ctx, dataset, observed).await?;
        }
        delete_volume(ctx, dataset).await?;
        return Ok(Applied::default());
    };
    if !ours {
        return Err(ApplyError::Taken(name));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &namespace);
    let applied = put(&claims, &name, claim, &format!("apply the claim {name}")).await?;
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let volume = volume.bound_to(&applied.uid().unwrap_or_default());
    let volume_name = names::volume(&dataset.uid().unwrap_or_default());
    put(&volumes, &volume_name, &volume, &format!("apply the volume {volume_name}")).await?;
    Ok(Applied { claim: Some(name) })
}

/// Server-side apply of one object, with force: what we make is ours alone.
pub async fn put<K>(api: &Api<K>, name: &str, object: &Value, action: &str) -> Result<K, Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    api.patch(name, &params, &Patch::Apply(object)).await.during(|| action.to_owned())
}

/// Made by this very Dataset, not by one of the same name before it.
fn is_ours(dataset: &Dataset, claim: &PersistentVolumeClaim) -> bool {
    let uid = dataset.uid();
    claim.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
}

async fn hold(ctx: &Context, dataset: &Dataset) -> Result<(), Error> {
    let mut finalizers = dataset.finalizers().to_vec();
    finalizers.push(names::FINALIZER.to_owned());
    finalizers_to(ctx, dataset, &finalizers).await
}

/// Takes our finalizer off; what is gone already is well.
pub async fn let_go(ctx: &Context, dataset: &Dataset) -> Result<(), Error> {
    let finalizers: Vec<String> = dataset.finalizers().iter().filter(|name| *name != names::FINALIZER).cloned().collect();
    match finalizers_to(ctx, dataset, &finalizers).await {
        Err(Error::Kube { cause, .. }) if matches!(&*cause, kube::Error::Api(status) if status.code == 404) => Ok(()),
        result => result,
    }
}

/// With the resource version that was read, so that nobody else's finalizer is lost.
async fn finalizers_to(ctx: &Context, dataset: &Dataset, finalizers: &[String]) -> Result<(), Error> {
    let api: Api<Dataset> = Api::namespaced(ctx.client.clone(), &dataset.namespace().unwrap_or_default());
    let patch = json!({ "metadata": { "resourceVersion": dataset.resource_version(), "finalizers": finalizers } });
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_metadata(&dataset.name_any(), &params, &Patch::Merge(&patch))
        .await
        .map(drop)
        .during(|| "change the finalizers of the Dataset".to_owned())
}

/// Makes the current revision's Job, pauses it or lets it go on, and removes those of former revisions.
async fn jobs(ctx: &Context, wanted: Option<&build::Job>, observed: &Observed) -> Result<(), Error> {
    let api: Api<Job> = Api::namespaced(ctx.client.clone(), &ctx.settings.namespace);
    let mut found = false;
    for job in &observed.jobs {
        match wanted.filter(|wanted| wanted.name == job.name_any()) {
            Some(wanted) => {
                found = true;
                let ended = job.status.as_ref().is_some_and(|status| status.completion_time.is_some());
                let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false);
                if suspended != wanted.suspend && !ended {
                    let patch = json!({ "spec": { "suspend": wanted.suspend } });
                    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
                    api.patch(&wanted.name, &params, &Patch::Merge(&patch)).await.during(|| format!("change the Job {}", wanted.name))?;
                }
            }
            None => delete(&api, &job.name_any()).await?,
        }
    }
    if let Some(wanted) = wanted.filter(|_| !found) {
        let job: Job = serde_json::from_value(wanted.object.clone()).map_err(|error| Error::Json("a Job", error))?;
        let params = PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match api.create(&params, &job).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            result => drop(result.during(|| format!("create the Job {}", wanted.name))?),
        }
    }
    Ok(())
}

pub async fn delete_jobs(ctx: &Context, dataset: &Dataset) -> Result<(), Error> {
    let api: Api<Job> = Api::namespaced(ctx.client.clone(), &ctx.settings.namespace);
    let selector = format!("{}={}", names::DATASET_LABEL, dataset.uid().unwrap_or_default());
    let jobs = api.list_metadata(&kube::api::ListParams::default().labels(&selector)).await.during(|| "list preload jobs".to_owned())?;
    for job in jobs.items {
        delete(&api, &job.name_any()).await?;
    }
    Ok(())
}

/// Only one of ours, and only that very object.
pub async fn delete_claim(ctx: &Context, dataset: &Dataset, observed: &Observed) -> Result<(), Error> {
    let Some(claim) = observed.claim.as_ref().filter(|claim| is_ours(dataset, claim) && claim.metadata.deletion_timestamp.is_none()) else {
        return Ok(());
    };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &dataset.namespace().unwrap_or_default());
    delete(&api, &claim.name_any()).await
}

pub async fn delete_volume(ctx: &Context, dataset: &Dataset) -> Result<(), Error> {
    let api: Api<PersistentVolume> = Api::all(ctx.client.clone());
    delete(&api, &names::volume(&dataset.uid().unwrap_or_default())).await
}

/// What isn't there is deleted.
pub async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    match api.delete(name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop).during(|| format!("delete {name}")),
    }
}
