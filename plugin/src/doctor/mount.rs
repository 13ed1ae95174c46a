//! Why a mount failed, or hasn't begun: the claim, its volume, the pods that use it with their events, the driver on their nodes.

use forebay_api::Dataset;
use forebay_wire::dataset_spec::file::ClaimMode;
use k8s_openapi::api::core::v1::{Event, Pod, Volume};
use kube::ResourceExt;

use super::parts::{self, is_component, is_ready};
use super::{Finding, Level, Observed, World};
use crate::live::node_of;
use crate::names;

/// How a pod names the volume.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Claim,
    Inline,
}

/// Pods that haven't ended and use the volume.
fn users(observed: &Observed) -> impl Iterator<Item = (&Pod, By)> {
    let ended = |pod: &Pod| matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    observed.pods.iter().filter(move |pod| !ended(pod)).filter_map(|pod| {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        Some((pod, volumes.iter().find_map(|volume| uses(volume, &observed.name))?))
    })
}

fn uses(volume: &Volume, name: &str) -> Option<By> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return (claim.claim_name == name).then_some(By::Claim);
    }
    let csi = volume.csi.as_ref().filter(|csi| csi.driver == names::DRIVER)?;
    let named = csi.volume_attributes.as_ref()?.get("dataset")?;
    (named == name).then_some(By::Inline)
}

/// There is no Dataset of the name: what pods that name it wait for.
pub(super) fn without_dataset(observed: &Observed) -> Vec<Finding> {
    let Observed { namespace, name, .. } = observed;
    let pods: Vec<String> = users(observed).map(|(pod, _)| pod.name_any()).collect();
    let means = match pods.as_slice() {
        [] => "there is nothing to mount".to_owned(),
        pods => format!("{} can't start: their volume names it", parts::listed(pods)),
    };
    let next = format!("make it, or mend its name: a pod uses only Datasets of its own namespace; kubectl -n {namespace} get datasets");
    vec![Finding::new(Level::Fail, format!("dataset/{name}"), format!("it isn't there in the namespace {namespace}"), means, next)]
}

pub(super) fn examine(world: &World, observed: &Observed, dataset: &Dataset) -> Vec<Finding> {
    let mut findings = claim(observed, dataset);
    for (pod, by) in users(observed).filter(|(pod, _)| !has_started(pod)) {
        findings.extend(user(world, observed, pod, by));
    }
    findings
}

/// All its containers were started: its volumes are mounted.
fn has_started(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn claim(observed: &Observed, dataset: &Dataset) -> Vec<Finding> {
    let wants = dataset.spec.volume.as_ref().and_then(|volume| volume.claim).unwrap_or_default() == ClaimMode::Create;
    let by_claim: Vec<String> = users(observed).filter(|(_, by)| *by == By::Claim).map(|(pod, _)| pod.name_any()).collect();
    let about = format!("pvc/{}", observed.name);
    let Some(claim) = &observed.claim else { return Vec::new() };
    let is_known = dataset.status.as_ref().is_some_and(|status| !status.conditions.is_empty());
    match claim {
        None if !wants && !by_claim.is_empty() => {
            let means = format!("{} wait for it", parts::listed(&by_claim));
            let next = "set spec.volume.claim to Create, or name the Dataset inline in the pods";
            vec![Finding::new(Level::Fail, about, "there is no claim: spec.volume.claim is None", means, next)]
        }
        None if wants && is_known && dataset.metadata.deletion_timestamp.is_none() => {
            let next = "see the events of the Dataset, and the operator's log";
            vec![Finding::new(Level::Warn, about, "the claim isn't there", "pods that name it wait", next)]
        }
        None => Vec::new(),
        Some(claim) => {
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
            let driver_of_volume = observed.volume.as_ref().is_some_and(Option::is_some);
            match phase {
                "Bound" => {
                    let expected = names::volume(&dataset.uid().unwrap_or_default());
                    let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
                    if bound == expected {
                        return Vec::new();
                    }
                    let next = "rename the Dataset or the claim: both are called the same";
                    let wrong = format!("it is bound to {bound}, which isn't this Dataset's");
                    vec![Finding::new(Level::Fail, about, wrong, "pods that name it get somebody else's volume", next)]
                }
                "Lost" => {
                    let next = "delete the claim when no pod uses it: the operator makes it again";
                    vec![Finding::new(Level::Fail, about, "its volume is gone", "pods that name it can't start", next)]
                }
                _ if driver_of_volume => {
                    let next =
                        "wait a moment; if it stays so, see `kubectl describe pvc`: a quota or a policy of the namespace may refuse it";
                    vec![Finding::new(Level::Warn, about, format!("it is {phase}"), "pods that name it are not scheduled yet", next)]
                }
                _ => {
                    let next = "see why the Dataset isn't ready, above, and the operator's log";
                    vec![Finding::new(
                        Level::Warn,
                        about,
                        format!("it is {phase}: there is no volume for it yet"),
                        "pods that name it are not scheduled yet",
                        next,
                    )]
                }
            }
        }
    }
}

/// A pod that uses the volume and hasn't started.
fn user(world: &World, observed: &Observed, pod: &Pod, by: By) -> Vec<Finding> {
    let about = parts::about(pod);
    let Some(node) = node_of(pod) else { return vec![waits(observed, pod, &about)] };
    let mut findings = Vec::new();
    let drivers: Vec<&Pod> =
        world.pods.iter().flatten().filter(|pod| is_component(pod, names::CSI_COMPONENT) && node_of(pod) == Some(node)).collect();
    if world.pods.is_some() && !drivers.iter().any(|pod| is_ready(pod)) {
        let wrong = match drivers.first() {
            None => format!("the CSI driver doesn't run on its node {node}"),
            Some(driver) => format!("the CSI driver on its node {node} isn't ready: {}", parts::trouble(driver)),
        };
        let next = "csi.nodeSelector and csi.tolerations of the chart decide where it runs; the taint forebay.dev/not-ready keeps pods away until it does";
        findings.push(Finding::new(Level::Fail, about.clone(), wrong, "its volume can't be mounted", next));
    }
    let cache = world.pods.iter().flatten().filter(|pod| is_component(pod, names::NODE_COMPONENT) && node_of(pod) == Some(node));
    if world.pods.is_some() && !cache.clone().any(is_ready) {
        let wrong = match cache.clone().next() {
            Some(cache) => format!("the cache node on {node} isn't ready: {}", parts::trouble(cache)),
            None => format!("no cache node, not even a client, runs on {node}"),
        };
        let next = "wait a moment: one is started where a pod needs it; else look at its pod, and at client.enabled of the chart";
        findings.push(Finding::new(Level::Fail, about.clone(), wrong, "nobody answers its mount", next));
    }
    if let Some(event) = newest(&observed.events, pod) {
        let text = event.message.as_deref().unwrap_or_default();
        let times = event.count.filter(|count| *count > 1).map(|count| format!(" ({count} times)")).unwrap_or_default();
        findings.push(Finding::new(
            Level::Fail,
            about.clone(),
            format!("{text}{times}"),
            "kubelet tries again by itself",
            of_event(text, by),
        ));
    }
    if findings.is_empty() {
        let wrong = format!("{} on {node}", parts::trouble(pod));
        let next = format!("kubectl -n {} describe pod {}", observed.namespace, pod.name_any());
        findings.push(Finding::new(Level::Note, about, wrong, "no mount of it failed", next));
    }
    findings
}

/// A pod without a node.
fn waits(observed: &Observed, pod: &Pod, about: &str) -> Finding {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default();
    if gates.iter().any(|gate| gate.name == names::WARM_GATE) {
        let next =
            "it starts when the data set is warm, or after its annotation forebay.dev/warm-timeout (30m); to start it now remove the gate";
        return Finding::new(
            Level::Note,
            about,
            format!("it waits at the gate {}", names::WARM_GATE),
            "it starts when its data sets are warm",
            next,
        );
    }
    if !gates.is_empty() {
        return Finding::new(
            Level::Note,
            about,
            "it waits at a gate of somebody else",
            "its volume has no part in it",
            "ask who set the gate",
        );
    }
    let next = format!("kubectl -n {} describe pod {}", observed.namespace, pod.name_any());
    Finding::new(Level::Warn, about, parts::trouble(pod), "it has no node, so nothing was mounted yet", next)
}

/// The newest event of the pod about a volume.
fn newest<'a>(events: &'a [Event], pod: &Pod) -> Option<&'a Event> {
    let of = |event: &&Event| event.involved_object.uid == pod.metadata.uid && event.involved_object.uid.is_some();
    let about = |event: &&Event| matches!(event.reason.as_deref(), Some("FailedMount" | "FailedAttachVolume" | "FailedMapVolume"));
    let at = |event: &&Event| (event.last_timestamp.as_ref().map(|time| time.0), event.event_time.as_ref().map(|time| time.0));
    events.iter().filter(of).filter(about).max_by_key(at)
}

fn of_event(text: &str, by: By) -> String {
    if text.contains("not found in the list of registered CSI drivers") {
        return "the driver on that node hasn't registered with kubelet: see its pod and log; csi.kubeletFolder of the chart must be kubelet's own".to_owned();
    }
    if text.contains("wasn't told of") {
        return "wait a moment; if it stays so, the Dataset isn't served on that node: see above, and the operator's log".to_owned();
    }
    if text.contains("is not allowed to use") || text.contains("inline") && by == By::Inline {
        return "use the Dataset's claim instead, or allow inline CSI volumes in the namespace".to_owned();
    }
    "do what the message says".to_owned()
}
