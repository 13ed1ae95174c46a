//! Forebay's own parts: operator, driver, cache nodes, and the machines below them.

use forebay_api::CachePolicy;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::{Finding, Level, World};
use crate::live::{node_of, policy_of};
use crate::names;

/// RESEND and passthrough exist since then.
const KERNEL_FULL: (u32, u32) = (6, 9);
/// More would hide everything else.
const NAMED_MAX: usize = 5;

pub(super) fn examine(world: &World) -> Vec<Finding> {
    let mut findings = Vec::new();
    if world.has_driver == Some(false) {
        let means = "no pod can mount a volume of Forebay";
        let next = "install the chart, or find out who deleted the CSIDriver: helm upgrade puts it back";
        findings.push(Finding::new(Level::Fail, format!("csidriver/{}", names::DRIVER), "it isn't there", means, next));
    }
    if let Some(pods) = &world.pods {
        findings.extend(operator(world, pods));
        findings.extend(drivers(world, pods));
    }
    if world.policies.as_ref().is_some_and(Vec::is_empty) {
        let next = "make one, or install the chart with `defaultPolicy.create: true`";
        findings.push(Finding::new(Level::Fail, "cachepolicies", "there is none", "no Dataset can be cached", next));
    }
    for policy in world.policies.iter().flatten() {
        findings.extend(policy_conditions(policy));
    }
    findings.extend(kernels(world));
    findings
}

fn operator(world: &World, pods: &[Pod]) -> Option<Finding> {
    let own: Vec<&Pod> = pods.iter().filter(|pod| is_component(pod, names::OPERATOR_COMPONENT)).collect();
    if own.iter().any(|pod| is_ready(pod)) {
        return None;
    }
    let means = "what is cached is served on, but no change is followed: new Datasets, new nodes, renewed secrets";
    Some(match own.first() {
        None => {
            let next =
                format!("install the chart there, or name its namespace by --forebay-namespace (it was looked for in {})", world.system);
            Finding::new(Level::Fail, "the operator", format!("there is no pod of it in {}", world.system), means, next)
        }
        Some(pod) => Finding::new(Level::Fail, about(pod), trouble(pod), means, cure(world, pod)),
    })
}

/// Nodes on which pods can't mount.
fn drivers(world: &World, pods: &[Pod]) -> Vec<Finding> {
    let own: Vec<&Pod> = pods.iter().filter(|pod| is_component(pod, names::CSI_COMPONENT)).collect();
    let mut findings = Vec::new();
    for pod in own.iter().filter(|pod| !is_ready(pod)).take(NAMED_MAX) {
        let node = node_of(pod).unwrap_or("a node that is not chosen yet");
        findings.push(Finding::new(
            Level::Warn,
            about(pod),
            trouble(pod),
            format!("pods on {node} can't mount until it runs"),
            cure(world, pod),
        ));
    }
    let without: Vec<String> = world
        .nodes
        .iter()
        .flatten()
        .filter(|node| is_node_ready(node) && !own.iter().any(|pod| node_of(pod) == Some(&node.name_any())))
        .map(ResourceExt::name_any)
        .collect();
    if !without.is_empty() {
        let next = "csi.nodeSelector and csi.tolerations of the chart decide where it runs";
        findings.push(Finding::new(
            Level::Note,
            "the CSI driver",
            format!("it doesn't run on {}", listed(&without)),
            "pods there can't mount",
            next,
        ));
    }
    findings
}

fn policy_conditions(policy: &CachePolicy) -> Vec<Finding> {
    let about = format!("cachepolicy/{}", policy.name_any());
    let conditions = policy.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let next = "see `kubectl describe cachepolicy` and the labels and taints of the nodes";
    // A pool of nodes that is at zero, and that nobody asks for, is nobody's trouble.
    let used = policy.status.as_ref().and_then(|status| status.datasets) != Some(0);
    let level = if used { Level::Warn } else { Level::Note };
    let mut findings = Vec::new();
    for condition in conditions {
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Ready", "False") => {
                findings.push(Finding::new(level, about.clone(), &condition.message, "its Datasets are not cached", next));
            }
            ("Degraded", "True") if condition.reason == "NotTheDefault" => {
                findings.push(Finding::new(
                    Level::Note,
                    about.clone(),
                    &condition.message,
                    "Datasets without policyRef use the other",
                    next,
                ));
            }
            ("Degraded", "True") if condition.reason == "DiskTooSmall" => {
                let next = "lower `capacity` in spec.tiers or `keepFreePercent`, or give these nodes larger disks";
                findings.push(Finding::new(level, about.clone(), &condition.message, "its cache is smaller than it should be", next));
            }
            ("Degraded", "True") => {
                findings.push(Finding::new(level, about.clone(), &condition.message, "its cache is smaller than it should be", next));
            }
            _ => {}
        }
    }
    findings
}

/// Cache nodes of one policy that don't run, and what the machines say of themselves.
pub(super) fn of_policy(world: &World, policy: Option<&CachePolicy>) -> Vec<Finding> {
    let Some(uid) = policy.and_then(|policy| policy.metadata.uid.as_deref()) else { return Vec::new() };
    let mut findings = Vec::new();
    let means = "what it held is read from other nodes or the source meanwhile, and pods on its node wait";
    let own = world.pods.iter().flatten().filter(|pod| is_component(pod, names::NODE_COMPONENT) && policy_of(pod) == uid);
    for pod in own.filter(|pod| !is_ready(pod)).take(NAMED_MAX) {
        findings.push(Finding::new(Level::Warn, about(pod), trouble(pod), means, cure(world, pod)));
    }
    findings
}

/// What a kernel gives, where it isn't all.
fn kernels(world: &World) -> Option<Finding> {
    let old: Vec<String> = world
        .nodes
        .iter()
        .flatten()
        .filter_map(|node| {
            let kernel = &node.status.as_ref()?.node_info.as_ref()?.kernel_version;
            (version(kernel) < KERNEL_FULL).then(|| format!("{} ({kernel})", node.name_any()))
        })
        .collect();
    (!old.is_empty()).then(|| {
        let means =
            "without passthrough large files are read through the cache node, and when it dies reads fail until the pod is started again";
        let next = "nothing has to be done; Linux 6.9 and later has both";
        Finding::new(Level::Note, "kernels", format!("older than 6.9: {}", listed(&old)), means, next)
    })
}

fn version(kernel: &str) -> (u32, u32) {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub(super) fn is_component(pod: &Pod, component: &str) -> bool {
    pod.labels().get(names::COMPONENT_LABEL).is_some_and(|found| found == component)
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(super) fn about(pod: &Pod) -> String {
    format!("pod/{}", pod.name_any())
}

/// Why a pod isn't ready, as kubelet or the scheduler has it.
pub(super) fn trouble(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "it is being replaced".to_owned();
    }
    let Some(status) = &pod.status else { return "it isn't started".to_owned() };
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in containers.filter(|container| !container.ready) {
        let Some(state) = &container.state else { continue };
        let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        if let Some(waiting) = state.waiting.as_ref().filter(|waiting| waiting.reason.as_deref() != Some("PodInitializing")) {
            let reason = waiting.reason.as_deref().unwrap_or("waiting");
            let ended =
                last.map(|last| format!("; it ended with {} before", exit(last.exit_code, last.reason.as_deref()))).unwrap_or_default();
            let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
            return format!("{} is {reason}{message}{ended}", container.name);
        }
        if let Some(ended) = state.terminated.as_ref().filter(|ended| ended.exit_code != 0) {
            return format!("{} ended with {}", container.name, exit(ended.exit_code, ended.reason.as_deref()));
        }
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let unscheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(message) = unscheduled.and_then(|condition| condition.message.as_deref()) {
        return format!("it is not scheduled: {message}");
    }
    match status.phase.as_deref() {
        Some("Running") => "it runs and isn't ready".to_owned(),
        Some(phase) => format!("it is {phase}"),
        None => "it isn't started".to_owned(),
    }
}

fn exit(code: i32, reason: Option<&str>) -> String {
    match reason {
        Some("OOMKilled") => "OOMKilled: its memory limit is too small".to_owned(),
        _ => match code {
            64 => "64: its command line or a file is wrong".to_owned(),
            73 => "73: a folder of a tier can't be used".to_owned(),
            74 => "74: a disk failed".to_owned(),
            75 => "75: another process has its folders".to_owned(),
            code => code.to_string(),
        },
    }
}

fn cure(world: &World, pod: &Pod) -> String {
    let what = if trouble(pod).starts_with("it is not scheduled") { "describe pod" } else { "logs --all-containers" };
    format!("kubectl -n {} {what} {}", world.system, pod.name_any())
}

pub(super) fn listed(names: &[String]) -> String {
    let more = if names.len() > NAMED_MAX { format!(" and {} more", names.len() - NAMED_MAX) } else { String::new() };
    format!("{}{more}", names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", "))
}
