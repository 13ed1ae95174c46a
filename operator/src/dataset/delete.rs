//! The end of a Dataset: it waits for its pods, then nodes free their cache, then the volume goes, then the object.
//! Invariant: nothing in a source is touched; nothing goes while a pod uses it.

use std::time::Duration;

use forebay_api::Dataset;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::controller::Action;

use super::observe::observe;
use super::validate::validate;
use super::{apply, is_held, status, users};
use crate::context::Context;
use crate::error::{During, Error};
use crate::names;
use status::Outcome;

/// Pods and nodes are looked at in memory: this costs no call.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Being deleted, or given up by the pre-delete hook of this very installation.
pub fn is_given_up(dataset: &Dataset, lease_uid: &str) -> bool {
    dataset.metadata.deletion_timestamp.is_some() || is_uninstalled(dataset, lease_uid)
}

fn is_uninstalled(dataset: &Dataset, lease_uid: &str) -> bool {
    dataset.annotations().get(names::UNINSTALL_ANNOTATION).is_some_and(|value| value == lease_uid)
}

pub async fn run(ctx: &Context, dataset: &Dataset) -> Result<Action, Error> {
    let uid = dataset.uid().unwrap_or_default();
    let (namespace, name) = (dataset.namespace().unwrap_or_default(), dataset.name_any());
    if !is_held(dataset) {
        ctx.hub.remove(&uid);
        ctx.hub.forget(&uid);
        return Ok(Action::await_change());
    }
    let pods = ctx.stores.pods.state();
    let users = users::of(pods.iter().map(|pod| &**pod), &namespace, &name);
    if !users.is_empty() {
        keep_served(ctx, dataset, &uid).await?;
        status::write_ending(ctx, dataset, &Outcome::InUse(users)).await?;
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    ctx.hub.remove(&uid);
    let holders = ctx.hub.holders(&uid);
    if !holders.is_empty() {
        status::write_ending(ctx, dataset, &Outcome::Freeing(holders)).await?;
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &namespace);
    let claim = claims.get_opt(&name).await.during(|| format!("read the claim {name}"))?;
    let ours =
        claim.filter(|claim| claim.owner_references().iter().any(|owner| owner.uid == uid) && claim.metadata.deletion_timestamp.is_none());
    if ours.is_some() {
        apply::delete(&claims, &name).await?;
    }
    apply::delete_volume(ctx, dataset).await?;
    apply::delete_jobs(ctx, dataset).await?;
    apply::let_go(ctx, dataset).await?;
    ctx.hub.forget(&uid);
    ctx.memory.forget(&uid);
    tracing::info!(dataset = %format_args!("{namespace}/{name}"), "a Dataset is gone");
    Ok(Action::await_change())
}

/// A new leader knows nothing of it yet: its nodes go on serving it while pods use it.
async fn keep_served(ctx: &Context, dataset: &Dataset, uid: &str) -> Result<(), Error> {
    if ctx.hub.is_desired(uid) {
        return Ok(());
    }
    let observed = observe(ctx, dataset).await?;
    match validate(dataset, &observed, &ctx.settings.api_server) {
        Ok(valid) => ctx.hub.set(&valid.policy_uid, super::wanted(dataset, &valid, &observed, &ctx.settings)),
        Err(_) => ctx.hub.mark_seen(uid),
    }
    Ok(())
}
