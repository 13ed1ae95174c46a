//! Joins the parts: only here are they built.
//! Knows the order: lead, trust, watch, reconcile, stop. Does not know what any part does.
//! Invariant: a replica that doesn't lead writes nothing but its wish to.

pub(crate) mod watch;

use std::sync::Arc;
use std::time::Duration;

use forebay_api::{CachePolicy, Dataset};
use forebay_daemon::exit::Exit;
use forebay_daemon::health::Health;
use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::authority::{Keeper, keep};
use crate::context::{Context, Settings, Stores, now};
use crate::dataset::account::Tokens;
use crate::error::{During, Error};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::nodes::{DatasetKey, Hub};
use crate::{cache_policy, clients, dataset, gate, lease, names, node_set, nodes, roll, taint};

/// Passes at once: enough to hide the API server's latency, few enough not to burden it.
const PASSES_MAX: u16 = 16;
/// Changes that come together are one pass.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often the authorities are looked at: somebody may ask for another one.
const AUTHORITY_EVERY: Duration = Duration::from_secs(300);

/// Waits for the Lease, then leads until told to stop or until the Lease is lost.
pub async fn run(client: Client, settings: Settings, metrics: Metrics, health: Arc<Health>, shutdown: Shutdown) -> Result<Exit, Error> {
    // A replica that waits is well: it is there to take over.
    health.set_ready();
    let Some(leading) = lease::acquire(&client, &settings.namespace, &settings.identity, &shutdown).await else {
        return Ok(Exit::Ok);
    };
    tracing::info!(identity = settings.identity, "this replica leads");
    metrics.leading.set(1);
    let lease_uid = leading.uid();
    let kept = leading.keep(&shutdown);
    let mut kept = std::pin::pin!(kept);
    let stopped = tokio::select! {
        stopped = &mut kept => stopped,
        // The Lease is given back last: until then nobody else may begin.
        result = lead(client.clone(), settings, metrics.clone(), lease_uid, shutdown.clone()) => {
            result?;
            kept.await
        }
    };
    Ok(if stopped { Exit::Ok } else { Exit::Temporary })
}

async fn lead(client: Client, settings: Settings, metrics: Metrics, lease_uid: String, shutdown: Shutdown) -> Result<(), Error> {
    let authorities = keep::load(&client, &settings.namespace, settings.lives, now()).await?;
    let authority = Arc::new(Keeper::new(authorities, settings.lives, now())?);
    if let Some(text) = &settings.default_policy {
        default_policy(&client, text).await?;
    }
    let (hub, woken) = Hub::new();
    let datasets = Controller::new(Api::<DeserializeGuard<Dataset>>::all(client.clone()), watcher::Config::default());
    let policies = Controller::new(Api::<DeserializeGuard<CachePolicy>>::all(client.clone()), watcher::Config::default());
    let namespace = settings.namespace.clone();
    let mut watched = tokio::task::JoinSet::new();
    let stores = Stores {
        datasets: datasets.store(),
        policies: policies.store(),
        nodes: watch::nodes(&client, &mut watched),
        pods: watch::pods(&client, &namespace, &mut watched),
        daemon_sets: watch::daemon_sets(&client, &namespace, &mut watched),
        config_maps: watch::config_maps(&client, &namespace, &mut watched),
    };
    let reporter = Reporter { controller: names::FIELD_MANAGER.to_owned(), instance: Some(settings.identity.clone()) };
    let ctx = Arc::new(Context {
        events: Recorder::new(client.clone(), reporter),
        client,
        settings,
        stores,
        hub: Arc::new(hub),
        authority,
        metrics,
        lease_uid,
        memory: Memory::default(),
        tokens: Tokens::default(),
    });
    let stop = shutdown.clone();
    tokio::select! {
        () = stop.wait() => {}
        () = dataset_controller(datasets, ctx.clone(), woken) => {}
        () = policy_controller(policies, ctx.clone()) => {}
        () = nodes::follow::run(ctx.clone(), shutdown.clone()) => {}
        () = clients::run(ctx.clone(), shutdown.clone()) => {}
        () = roll::run(ctx.clone(), shutdown.clone()) => {}
        () = gate::run(ctx.clone(), shutdown.clone()) => {}
        () = taint::run(ctx.clone(), shutdown.clone()) => {}
        () = renew_authority(ctx.clone()) => {}
    }
    Ok(())
}

/// Starts after everything else is known, so that no Dataset is told that its policy is missing.
async fn dataset_controller(controller: Controller<DeserializeGuard<Dataset>>, ctx: Arc<Context>, woken: UnboundedReceiver<DatasetKey>) {
    let ours = || watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::FIELD_MANAGER));
    let of_dataset = watcher::Config::default().labels(names::DATASET_LABEL);
    let client = &ctx.client;
    let reference = |key: DatasetKey| ObjectRef::<DeserializeGuard<Dataset>>::new(&key.name).within(&key.namespace);
    let woken = futures::stream::unfold(woken, |mut woken| async move { woken.recv().await.map(|key| (key, woken)) }).map(reference);
    let ready = ctx.clone();
    let passes = controller
        .with_config(controller::Config::default().concurrency(PASSES_MAX).debounce(DEBOUNCE))
        .owns(Api::<PersistentVolumeClaim>::all(client.clone()), ours())
        .watches(Api::<PersistentVolume>::all(client.clone()), ours(), |volume| {
            let claim = volume.spec.and_then(|spec| spec.claim_ref)?;
            Some(ObjectRef::new(&claim.name?).within(&claim.namespace?))
        })
        .watches(Api::<Job>::namespaced(client.clone(), &ctx.settings.namespace), of_dataset, |job| {
            let (namespace, name) = job.annotations().get(names::DATASET_NAME_ANNOTATION)?.split_once('/')?;
            Some(ObjectRef::new(name).within(namespace))
        })
        .reconcile_on(woken)
        .run(
            move |object, ctx| {
                let ready = ready.clone();
                async move {
                    watch::until_ready(&ready.stores).await;
                    dataset::reconcile(object, ctx).await
                }
            },
            dataset::on_error,
            ctx.clone(),
        );
    passes.for_each(|pass| async move { watch::told("Dataset", pass.err()) }).await;
}

async fn policy_controller(controller: Controller<DeserializeGuard<CachePolicy>>, ctx: Arc<Context>) {
    let ready = ctx.clone();
    let passes = controller.with_config(controller::Config::default().concurrency(PASSES_MAX).debounce(DEBOUNCE)).run(
        move |object, ctx| {
            let ready = ready.clone();
            async move {
                watch::until_ready(&ready.stores).await;
                cache_policy::reconcile(object, ctx).await
            }
        },
        cache_policy::on_error,
        ctx.clone(),
    );
    passes.for_each(|pass| async move { watch::told("CachePolicy", pass.err()) }).await;
}

async fn renew_authority(ctx: Arc<Context>) {
    let lives = ctx.settings.lives;
    // So that no step comes late by more than a small part of what it waits for.
    let every = AUTHORITY_EVERY.min(lives.settle.min(lives.certificate) / 10);
    loop {
        tokio::time::sleep(every).await;
        let renewed = match keep::load(&ctx.client, &ctx.settings.namespace, lives, now()).await {
            Ok(authorities) => ctx.authority.renew(authorities, now()),
            Err(error) => Err(error),
        };
        let renewed = match renewed {
            Ok(()) => node_set::apply::publish_trusted(&ctx).await,
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            tracing::warn!(error = %chain(&error), "certificates can't be renewed");
        }
    }
}

async fn default_policy(client: &Client, text: &str) -> Result<(), Error> {
    let object: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| Error::Unreadable(format!("the default CachePolicy: {error}")))?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let api: Api<CachePolicy> = Api::all(client.clone());
    let params = kube::api::PatchParams::apply("forebay-chart").force();
    api.patch(&name, &params, &kube::api::Patch::Apply(&object))
        .await
        .map(drop)
        .during(|| format!("apply the default CachePolicy `{name}`"))
}
