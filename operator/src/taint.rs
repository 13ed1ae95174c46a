//! The startup taint: taken off a new node when its driver is ready and its cache node answers, or its client where no policy selects it.
//! Knows nodes and pods. Does not know who puts the taint on.
//! Invariant: only this taint is removed, and it is never put on.

use std::sync::Arc;
use std::time::Duration;

use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::context::Context;
use crate::roll::is_ready;
use crate::{cache_policy, clients, names};

/// In memory only, unless a node is tainted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == names::STARTUP_TAINT)
}

/// Whether a ready pod of the driver is on `node`. `pods` are those of the operator's namespace, at least.
pub fn has_driver(node: &str, pods: &[Arc<Pod>]) -> bool {
    pods.iter().any(|pod| {
        pod.labels().get(names::COMPONENT_LABEL).is_some_and(|component| component == names::CSI_COMPONENT)
            && pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node))
            && is_ready(pod)
    })
}

/// Runs until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            _ = tick.tick() => {}
        }
        let nodes = ctx.stores.nodes.state();
        let tainted: Vec<&Arc<Node>> = nodes.iter().filter(|node| is_tainted(node)).collect();
        if tainted.is_empty() {
            continue;
        }
        let (pods, policies) = (ctx.stores.pods.state(), ctx.stores.policies());
        for node in tainted {
            let name = node.name_any();
            let served = match cache_policy::owner(node, &policies) {
                Some(policy) => ctx.hub.answers(&policy.uid().unwrap_or_default(), &name),
                None => !clients::is_expected(&ctx, node, &policies) || ctx.hub.answers(names::CLIENT, &name),
            };
            if !served || !has_driver(&name, &pods) {
                continue;
            }
            let api: Api<Node> = Api::all(ctx.client.clone());
            // The list is one whole to the API server: with the version that it was read at, so that nobody else's taint is lost.
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            let others: Vec<_> = taints.iter().filter(|taint| taint.key != names::STARTUP_TAINT).collect();
            let patch = json!({ "metadata": { "resourceVersion": node.resource_version() }, "spec": { "taints": others } });
            match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => tracing::info!(node = name, "a new node can mount: its startup taint is gone"),
                Err(error) => tracing::warn!(node = name, error = %chain(&error), "a startup taint can't be removed"),
            }
        }
    }
}
