//! What a Dataset's conditions mean for who uses it. The operator's sentence says what is wrong; here stands what follows from it.

use forebay_api::Dataset;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;

use super::{Finding, Level, World};

/// A spec that the operator hasn't followed for so long it doesn't follow at all.
const FOLLOWED_WITHIN: SignedDuration = SignedDuration::from_secs(60);

pub(super) fn examine(world: &World, dataset: &Dataset) -> Vec<Finding> {
    let about = format!("dataset/{}", dataset.name_any());
    let mut findings = Vec::new();
    let Some(status) = dataset.status.as_ref().filter(|status| !status.conditions.is_empty()) else {
        let old = dataset.metadata.creation_timestamp.as_ref().is_none_or(|at| world.now.duration_since(at.0) > FOLLOWED_WITHIN);
        let (level, next) = match old {
            true => (Level::Fail, follow_operator(world)),
            false => (Level::Note, "wait a moment and ask again".to_owned()),
        };
        return vec![Finding::new(level, about, "it has no status", "no operator has looked at it yet", next)];
    };
    if status.observed_generation < dataset.metadata.generation {
        let since = dataset
            .metadata
            .managed_fields
            .iter()
            .flatten()
            .filter(|entry| entry.subresource.is_none())
            .filter_map(|entry| entry.time.as_ref());
        let late = since.map(|time| time.0).max().is_none_or(|at| world.now.duration_since(at) > FOLLOWED_WITHIN);
        let level = if late { Level::Warn } else { Level::Note };
        let means = "its status is that of an older spec: what is told below may be out of date";
        findings.push(Finding::new(
            level,
            about.clone(),
            "the operator has not followed the last change of the spec",
            means,
            follow_operator(world),
        ));
    }
    let find = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
    let deleting = dataset.metadata.deletion_timestamp.is_some();
    if let Some(ready) = find("Ready") {
        if ready.status != "True" {
            findings.push(not_ready(&about, ready, deleting));
        } else if ready.reason == "WithoutCache" {
            let next = "have a CachePolicy select nodes: nodes.selector, and nodes.tolerations for their taints";
            findings.push(Finding::new(
                Level::Warn,
                about.clone(),
                &ready.message,
                "each pod reads the source at the source's speed",
                next,
            ));
        }
    }
    // What made it not ready is told already.
    let is_told = |condition: &Condition| find("Ready").is_some_and(|ready| ready.status != "True" && ready.message == condition.message);
    if let Some(source) = find("SourceReachable").filter(|source| source.status == "False" && !is_told(source)) {
        let means = "what is listed and cached is served on; everything else fails or waits";
        findings.push(Finding::new(Level::Warn, about.clone(), &source.message, means, next(&source.reason)));
    }
    if let Some(synced) = find("Synced").filter(|synced| synced.status == "False" && synced.reason == "Late") {
        let means = "files that were added or changed since are not seen yet";
        let next = "look at the source's own figures, and at the log of the node that lists; a larger `sync.interval` asks less of it";
        findings.push(Finding::new(Level::Warn, about.clone(), &synced.message, means, next));
    }
    let told: Vec<String> = findings.iter().map(|finding| finding.wrong.clone()).collect();
    if let Some(degraded) = find("Degraded").filter(|degraded| degraded.status == "True" && !told.contains(&degraded.message)) {
        let (level, means) = match degraded.reason.as_str() {
            "FieldsIgnored" | "EvictionDiffers" | "PriorityLimited" => (Level::Note, "the spec says more than is done"),
            "DoesNotFit" => (Level::Warn, "it can't be warm as a whole: what doesn't fit is read from the source"),
            _ => (Level::Warn, "it works, worse than it should"),
        };
        findings.push(Finding::new(level, about, &degraded.message, means, next(&degraded.reason)));
    }
    findings
}

fn not_ready(about: &str, ready: &Condition, deleting: bool) -> Finding {
    let means = match ready.reason.as_str() {
        "Listing" | "NodesStarting" => "pods that mount it wait until it is readable; nothing is wrong while this goes on",
        "InUse" | "Freeing" => "it is being deleted",
        _ if deleting => "it is being deleted",
        _ => "pods that mount it wait, or fail",
    };
    let level = match ready.reason.as_str() {
        "Listing" | "Freeing" | "InUse" => Level::Note,
        "NodesStarting" => Level::Warn,
        _ => Level::Fail,
    };
    Finding::new(level, about, &ready.message, means, next(&ready.reason))
}

/// What to do about a condition's reason, where its message doesn't say so itself.
fn next(reason: &str) -> &'static str {
    match reason {
        "Listing" => "wait; `kubectl forebay status` shows how many keys it has so far",
        "NodesStarting" => "look at the pods of the cache nodes, named below where they have trouble",
        "NoNodes" | "NodesTaken" => "see `kubectl get cachepolicies`, and the labels and taints of the nodes",
        "PolicyMissing" | "NoDefaultPolicy" => "make the CachePolicy, or name one that is there in spec.policyRef",
        "NamespaceNotAllowed" | "SourceNotAllowed" => {
            "ask who looks after the CachePolicy: its allowedNamespaces and allowedSources decide"
        }
        "SecretMissing" | "SecretKeyMissing" | "CABundleMissing" | "CABundleKeyMissing" | "ServiceAccountMissing" | "ReferenceProblem" => {
            "make what is missing in the Dataset's own namespace; it is read again within a minute"
        }
        "CredentialsRefused" => "mend the credentials in the secret, or the rights behind them; they are read again within a minute",
        "SourceUnreachable" | "ListingFailed" => {
            "check the bucket's name and the endpoint from a pod of the cluster; it is tried again by itself"
        }
        "ServiceAccountDenied" => "ask who looks after the installation: serviceAccounts.enabled of the chart decides",
        "ClaimTaken" => "rename the Dataset, or delete the claim of its name that is somebody else's",
        "InvalidSpec" => "mend the spec by `kubectl edit dataset`",
        "InUse" => "delete the pods that use it, or wait for their end",
        "Freeing" => "wait; a node that never comes back has to leave the cluster first",
        "DoesNotFit" => "ask for less: preload.paths, rules with maxBytes; or give the policy's tiers more",
        "DiskProblem" => "look at that node's disk; what it held is read from elsewhere meanwhile",
        "NodesMissing" => "look at the pods of the cache nodes, named below where they have trouble",
        "ApplyFailed" => "see what the message says; the operator's log has each attempt",
        "FieldsIgnored" => "leave the field out, or expect nothing of it",
        "EvictionDiffers" => "say the same in all Datasets of the policy, or give this one a policy of its own",
        "PriorityLimited" => "ask who looks after the CachePolicy: its maxPriority decides; or ask for no more than that",
        _ => "do what the message says; `kubectl describe dataset` has its history",
    }
}

fn follow_operator(world: &World) -> String {
    format!("see whether the operator runs: kubectl -n {} get pods -l app.kubernetes.io/component=operator, and its log", world.system)
}
