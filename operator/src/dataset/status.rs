//! What is told about a Dataset: conditions and figures from what was observed and how the pass went.
//! Knows Kubernetes' rules for a status. Does not decide what is served.
//! Invariant: written when a condition changes, else at most every 30 s; with one call, by one field manager.

pub mod conditions;
pub mod figures;
mod summary;

use forebay_api::Dataset;
use forebay_api::condition::{self, ConditionType, NewCondition};
use forebay_api::dataset::{DatasetStatus, ResolvedPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::apply::Applied;
use super::observe::Observed;
use super::validate::Invalid;
use crate::context::Context;
use crate::error::{During, Error};
use crate::{event, names};

pub use summary::Summary;

/// How a pass went.
#[derive(Clone, Debug)]
pub enum Outcome {
    Applied(Applied),
    /// Until somebody changes something.
    Refused(Invalid),
    /// It will be tried again.
    Failed {
        message: String,
        times: u32,
    },
    /// Being deleted, and these pods use it.
    InUse(Vec<String>),
    /// Being deleted, and these nodes still hold something of it.
    Freeing(Vec<String>),
}

/// Writes the status if it says something else than before.
pub async fn write(ctx: &Context, dataset: &Dataset, observed: &Observed, outcome: &Outcome) -> Result<(), Error> {
    let summary = Summary::of(dataset, observed);
    let mut status = figures::of(dataset, &summary);
    if let Outcome::Applied(applied) = outcome {
        status.claim.clone_from(&applied.claim);
    } else if let Some(old) = &dataset.status {
        status.claim.clone_from(&old.claim);
    }
    status.policy =
        observed.policy.as_ref().ok().map(|policy| ResolvedPolicy { name: policy.name_any(), uid: policy.uid().unwrap_or_default() });
    put(ctx, dataset, status, &conditions::of(observed, &summary, outcome)).await
}

/// The status of one that ends: what was known stays, `Ready` says why it is still there.
pub async fn write_ending(ctx: &Context, dataset: &Dataset, outcome: &Outcome) -> Result<(), Error> {
    let status = dataset.status.clone().unwrap_or_default();
    put(ctx, dataset, status, &conditions::ending(outcome)).await
}

async fn put(ctx: &Context, dataset: &Dataset, mut status: DatasetStatus, new: &[NewCondition]) -> Result<(), Error> {
    let old = dataset.status.clone().unwrap_or_default();
    let (conditions, changed) = merged(&old.conditions, new, dataset.metadata.generation, Timestamp::now());
    status.conditions = conditions;
    status.observed_generation = dataset.metadata.generation;
    if status == old {
        return Ok(());
    }
    let uid = dataset.uid().unwrap_or_default();
    if !changed && old.observed_generation == status.observed_generation && !ctx.memory.may_write_figures(&uid) {
        return Ok(());
    }
    let api: Api<Dataset> = Api::namespaced(ctx.client.clone(), &dataset.namespace().unwrap_or_default());
    let patch = patch(dataset, &status);
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch_status(&dataset.name_any(), &params, &Patch::Apply(&patch)).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
        result => result.map(drop).during(|| "write the status of the Dataset".to_owned())?,
    }
    ctx.memory.wrote_status(&uid);
    ctx.metrics.status_writes.inc();
    for (kind, reason, note) in event::transitions(&old.conditions, new) {
        event::publish(&ctx.events, &dataset.object_ref(&()), kind, reason, &note).await;
    }
    Ok(())
}

fn patch(dataset: &Dataset, status: &DatasetStatus) -> Value {
    json!({
        "apiVersion": Dataset::api_version(&()),
        "kind": Dataset::kind(&()),
        // With the UID, so that a Dataset of the same name which was made meanwhile isn't told what its predecessor was.
        "metadata": { "name": dataset.name_any(), "namespace": dataset.namespace(), "uid": dataset.uid() },
        "status": status,
    })
}

/// `old` with `new` in it, and whether that changed anything but generations. kstatus' two are absent rather than false.
pub(crate) fn merged(old: &[Condition], new: &[NewCondition], generation: Option<i64>, now: Timestamp) -> (Vec<Condition>, bool) {
    let mut conditions = old.to_vec();
    let mut changed = false;
    for absent in [ConditionType::Reconciling, ConditionType::Stalled] {
        if !new.iter().any(|one| one.condition_type == absent) {
            changed |= condition::remove(&mut conditions, absent);
        }
    }
    for one in new {
        changed |= condition::set(&mut conditions, one, generation, now);
    }
    (conditions, changed)
}
