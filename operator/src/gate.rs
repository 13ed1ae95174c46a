//! The warm gate: a pod with the scheduling gate `forebay.dev/warm` is let go when its data sets are warm, or after its time.
//! Knows pods and conditions. Does not know how a data set gets warm.
//! Invariant: only this gate is removed, and nothing else of a pod is touched.

use std::sync::Arc;
use std::time::Duration;

use forebay_api::Dataset;
use forebay_api::condition::{ConditionType, find, is_true};
use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use forebay_wire::unit;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::context::Context;
use crate::dataset::users;
use crate::{event, names};

/// Pods and Datasets are in memory: this costs no call.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a pod waits unless its annotation says otherwise.
const WAIT_MAX: Duration = Duration::from_secs(30 * 60);

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has no gate of ours.
    NotGated,
    Waits(String),
    Warm(String),
    TimedOut(String),
}

/// Pure. `datasets` are those of the pod's namespace, at least.
pub fn judge(pod: &Pod, datasets: &[Dataset], now: Timestamp) -> Verdict {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default();
    if !gates.iter().any(|gate| gate.name == names::WARM_GATE) || pod.metadata.deletion_timestamp.is_some() {
        return Verdict::NotGated;
    }
    let namespace = pod.namespace();
    let mut waits = None;
    let mut warm = Vec::new();
    for volume in users::volumes(pod) {
        let Some(name) = users::dataset_of(volume) else { continue };
        let dataset = datasets.iter().find(|dataset| dataset.namespace() == namespace && dataset.name_any() == name);
        // A claim may be anybody's: one without a Dataset of its name isn't waited for. An inline volume of ours is.
        match dataset {
            None if volume.csi.is_none() => {}
            None => waits = Some(format!("the Dataset `{name}` isn't there")),
            Some(dataset) => match why_cold(dataset) {
                Some(why) => waits = Some(format!("the Dataset `{name}` isn't warm: {why}")),
                None => warm.push(name.to_owned()),
            },
        }
    }
    let Some(why) = waits else {
        let what = if warm.is_empty() { "it uses no Dataset".to_owned() } else { format!("warm: {}", warm.join(", ")) };
        return Verdict::Warm(what);
    };
    let limit = pod.annotations().get(names::WARM_TIMEOUT_ANNOTATION).and_then(|text| unit::parse_duration(text).ok()).unwrap_or(WAIT_MAX);
    let age = pod.creation_timestamp().map_or(0, |created| now.as_second() - created.0.as_second());
    if u64::try_from(age).unwrap_or(0) >= limit.as_secs() { Verdict::TimedOut(why) } else { Verdict::Waits(why) }
}

/// `None`: it is warm for the spec as it is now.
fn why_cold(dataset: &Dataset) -> Option<String> {
    let conditions = dataset.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let current = |kind| find(conditions, kind).is_some_and(|found| found.observed_generation == dataset.metadata.generation);
    if is_true(conditions, ConditionType::Warm) && current(ConditionType::Warm) {
        return None;
    }
    Some(find(conditions, ConditionType::Warm).map_or_else(|| "nothing is known of it yet".to_owned(), |found| found.message.clone()))
}

/// Runs until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            _ = tick.tick() => {}
        }
        let pods = ctx.stores.pods.state();
        let gated: Vec<&Arc<Pod>> = pods.iter().filter(|pod| judge(pod, &[], Timestamp::now()) != Verdict::NotGated).collect();
        if gated.is_empty() {
            continue;
        }
        let datasets = ctx.stores.datasets();
        for pod in gated {
            let (kind, reason, why) = match judge(pod, &datasets, Timestamp::now()) {
                Verdict::NotGated | Verdict::Waits(_) => continue,
                Verdict::Warm(why) => (EventType::Normal, "Warm", format!("the gate {} is open: {why}", names::WARM_GATE)),
                Verdict::TimedOut(why) => {
                    (EventType::Warning, "WarmTimeout", format!("the gate {} is open after its time; {why}", names::WARM_GATE))
                }
            };
            match open(&ctx, pod).await {
                Ok(()) => {
                    ctx.metrics.gates_released.inc();
                    event::publish(&ctx.events, &pod.object_ref(&()), kind, reason, &why).await;
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => tracing::warn!(pod = %pod.name_any(), error = %chain(&error), "a gate can't be opened"),
            }
        }
    }
}

/// Removes our gate alone, from this very pod.
async fn open(ctx: &Context, pod: &Pod) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &pod.namespace().unwrap_or_default());
    let patch = json!({
        "metadata": { "uid": pod.uid() },
        "spec": { "schedulingGates": [{ "$patch": "delete", "name": names::WARM_GATE }] },
    });
    let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(&pod.name_any(), &params, &Patch::Strategic(&patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::Value;

    fn check(volumes: Value, timeout: Option<&str>, age_s: i64, expected: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "train", "namespace": "vision", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": timeout.map(|text| json!({ names::WARM_TIMEOUT_ANNOTATION: text })),
            },
            "spec": { "containers": [], "schedulingGates": [{ "name": "other" }, { "name": names::WARM_GATE }], "volumes": volumes }
        }))
        .unwrap();
        let dataset = |name: &str, warm: &str, seen: i64| -> Dataset {
            let condition = json!({ "type": "Warm", "status": warm, "reason": "R", "message": "half", "observedGeneration": seen, "lastTransitionTime": "2026-01-01T00:00:00Z" });
            serde_json::from_value(json!({
                "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset",
                "metadata": { "name": name, "namespace": "vision", "generation": 2 },
                "spec": { "source": "s3://bucket/" }, "status": { "conditions": [condition] }
            }))
            .unwrap()
        };
        let datasets = [dataset("warm", "True", 2), dataset("cold", "False", 2), dataset("stale", "True", 1)];
        let now = pod.creation_timestamp().unwrap().0.as_second() + age_s;
        let verdict = judge(&pod, &datasets, Timestamp::from_second(now).unwrap());
        assert!(format!("{verdict:?}").starts_with(expected), "{verdict:?} instead of {expected}");
    }

    #[test]
    fn a_pod_waits_until_its_datasets_are_warm_or_its_time_is_over() {
        let claim = |name: &str| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } });
        let inline = |name: &str| json!({ "name": name, "csi": { "driver": names::DRIVER, "volumeAttributes": { "dataset": name } } });
        check(json!([claim("warm")]), None, 0, "Warm(\"warm: warm\")");
        check(json!([claim("warm"), claim("cold")]), None, 0, "Waits(\"the Dataset `cold` isn't warm: half\")");
        check(json!([inline("cold")]), None, 1799, "Waits");
        check(json!([inline("cold")]), None, 1800, "TimedOut");
        check(json!([inline("cold")]), Some("1m"), 60, "TimedOut");
        check(json!([inline("cold")]), Some("soon"), 60, "Waits");
        check(json!([claim("stale")]), None, 0, "Waits");
        check(json!([claim("somebody-elses")]), None, 0, "Warm(\"it uses no Dataset\")");
        check(json!([inline("missing")]), None, 0, "Waits(\"the Dataset `missing` isn't there\")");
    }
}
