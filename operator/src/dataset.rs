//! One pass over a Dataset: observe, validate, build, apply, and tell how it went.
//! Knows the order of the steps. Does not know what any of them decides.
//! Invariant: the status is written after every pass, above all after one that failed.

pub mod account;
pub mod allowed;
pub mod apply;
pub mod build;
pub mod delete;
pub mod observe;
pub mod policy;
pub mod reference;
pub mod status;
pub mod users;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use forebay_api::Dataset;
use forebay_daemon::logging::chain;
use forebay_wire::control_service::{DesiredDataset, Problem, References};
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;

use crate::context::{Context, Settings};
use crate::error::{Error, backoff};
use crate::names;
use crate::nodes::{DatasetKey, NodeView, Wanted};
use observe::{Observed, observe};
use status::Outcome;
use validate::{Valid, validate};

/// Somebody is waiting for what is missing or refused to be mended.
const MISSING_EVERY: Duration = Duration::from_secs(10);
/// How long nothing at all may happen to a Dataset before it is looked at once more, for whatever no watch tells.
const QUIET_MAX: Duration = Duration::from_secs(600);

/// Errors come back as well, after they were told in the status: the controller logs nothing of its own.
pub async fn reconcile(object: Arc<DeserializeGuard<Dataset>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let dataset = match &object.0 {
        Ok(dataset) => dataset,
        Err(invalid) => {
            ctx.hub.mark_seen(invalid.metadata.uid.as_deref().unwrap_or_default());
            return Err(Error::Unreadable(invalid.error.clone()));
        }
    };
    ctx.metrics.reconciles.inc();
    let uid = dataset.uid().unwrap_or_default();
    if delete::is_given_up(dataset, &ctx.lease_uid) {
        return delete::run(&ctx, dataset).await;
    }
    let observed = observe(&ctx, dataset).await?;
    let (outcome, error) = match validate(dataset, &observed, &ctx.settings.api_server) {
        Ok(valid) => {
            ctx.hub.set(&valid.policy_uid, wanted(dataset, &valid, &observed, &ctx.settings));
            match apply::apply(&ctx, dataset, &build::build(dataset, &valid, &ctx.settings), &observed).await {
                Ok(applied) => (Outcome::Applied(applied), None),
                Err(apply::ApplyError::Taken(claim)) => (Outcome::Refused(build::taken(&claim)), None),
                Err(apply::ApplyError::Kube(error)) => {
                    (Outcome::Failed { message: error.sentence(), times: ctx.memory.failures(&uid) + 1 }, Some(error))
                }
            }
        }
        Err(invalid) => {
            ctx.hub.remove(&uid);
            (Outcome::Refused(invalid), None)
        }
    };
    // What nodes said may have changed while this went on.
    let observed = observed.refreshed(&ctx, &uid);
    let written = status::write(&ctx, dataset, &observed, &outcome).await;
    let Some(error) = error else {
        written?;
        ctx.memory.succeeded(&uid);
        return Ok(Action::requeue(next_look(dataset, &observed, ctx.settings.references_every)));
    };
    if let Err(error) = written {
        tracing::warn!(dataset = %dataset.name_any(), error = %chain(&error), "a status can't be written");
    }
    Err(error)
}

/// After an error: later and later.
pub fn on_error(object: Arc<DeserializeGuard<Dataset>>, error: &Error, ctx: Arc<Context>) -> Action {
    let metadata = kube::Resource::meta(&*object);
    let uid = metadata.uid.clone().unwrap_or_default();
    let failures = ctx.memory.failed(&uid);
    ctx.metrics.reconciles_failed.inc();
    tracing::warn!(
        dataset = %format_args!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default()),
        failures,
        error = %chain(error),
        "a Dataset can't be reconciled"
    );
    Action::requeue(backoff(failures))
}

pub fn key(dataset: &Dataset) -> DatasetKey {
    DatasetKey { namespace: dataset.namespace().unwrap_or_default(), name: dataset.name_any() }
}

fn wanted(dataset: &Dataset, valid: &Valid<'_>, observed: &Observed, settings: &Settings) -> Wanted {
    let references = observed
        .references
        .iter()
        .map(|(name, entries)| (name.clone(), References { entries: entries.clone().into_iter().collect() }))
        .collect();
    let ambient = valid.policy.spec.ambient_credentials == forebay_api::cache_policy::AmbientCredentials::Allow;
    Wanted {
        key: key(dataset),
        dataset: DesiredDataset {
            uid: dataset.uid().unwrap_or_default(),
            object: valid.object.clone(),
            references,
            ambient_credentials: ambient,
            // One cache a node: each lists for itself.
            lister: None,
            api_server: settings.api_server.clone(),
            trusted_endpoints: allowed::trusted(&dataset.spec, &valid.policy.spec.allowed_sources),
        },
        object_for_clients: valid.object_for_clients.clone(),
        eviction: dataset.spec.eviction.unwrap_or_default(),
        // The policy speaks of the roles of its own nodes.
        ambient_for_clients: ambient && settings.clients.as_ref().is_some_and(|clients| clients.ambient_credentials),
    }
}

fn next_look(dataset: &Dataset, observed: &Observed, references_every: Duration) -> Duration {
    let refused = |node: &NodeView| node.dataset.as_ref().is_some_and(|dataset| dataset.problem_kind() == Problem::Denied);
    if observed.missing.is_some() || observed.nodes.iter().any(refused) {
        return references_every.min(MISSING_EVERY);
    }
    if reference::of(&dataset.spec).is_empty() && account::of(&dataset.spec).is_empty() { QUIET_MAX } else { references_every }
}

/// Whether an object carries the finalizer.
pub(crate) fn is_held(dataset: &Dataset) -> bool {
    dataset.finalizers().iter().any(|name| name == names::FINALIZER)
}
