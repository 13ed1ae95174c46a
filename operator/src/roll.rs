//! Replaces old pods of cache nodes and of the CSI driver: one pod at a time in the whole cluster.
//! Knows pods and their templates' digests. Does not know what changed.
//! Invariant: a pod goes only while every other pod of the two is ready, so that on its node the other process holds the mounts.

use std::sync::Arc;
use std::time::Duration;

use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Preconditions};

use crate::context::Context;
use crate::names;

/// In memory only, unless there is something to replace.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is known of one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The DaemonSet's name: sets are rolled one after the other.
    pub set: String,
    pub pod: String,
    pub uid: String,
    pub is_old: bool,
    pub is_ready: bool,
    pub is_ending: bool,
}

/// The pod to replace now, if there is one. An old pod that isn't ready comes first: to replace it is its cure.
pub fn next(members: &[Member]) -> Option<&Member> {
    if members.iter().any(|member| member.is_ending || (!member.is_ready && !member.is_old)) {
        return None;
    }
    let old = || members.iter().filter(|member| member.is_old);
    match old().filter(|member| !member.is_ready).count() {
        0 => old().min(),
        _ => old().filter(|member| !member.is_ready).min(),
    }
}

/// Pods of the DaemonSets that say which template is theirs.
pub fn members<'a>(sets: impl Iterator<Item = &'a DaemonSet>, pods: &[Arc<Pod>]) -> Vec<Member> {
    let mut members = Vec::new();
    for set in sets {
        let template =
            set.spec.template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref()?.get(names::TEMPLATE_ANNOTATION));
        let (Some(template), Some(uid)) = (template, set.uid()) else { continue };
        for pod in pods.iter().filter(|pod| pod.owner_references().iter().any(|owner| owner.uid == uid)) {
            members.push(Member {
                set: set.name_any(),
                pod: pod.name_any(),
                uid: pod.uid().unwrap_or_default(),
                is_old: pod.annotations().get(names::TEMPLATE_ANNOTATION) != Some(template),
                is_ready: is_ready(pod),
                is_ending: pod.metadata.deletion_timestamp.is_some(),
            });
        }
    }
    members
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Runs until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            _ = tick.tick() => {}
        }
        let (sets, pods) = (ctx.stores.daemon_sets.state(), ctx.stores.pods.state());
        let members = members(sets.iter().map(|set| &**set), &pods);
        let Some(member) = next(&members) else { continue };
        let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &ctx.settings.namespace);
        let same = Preconditions { uid: Some(member.uid.clone()), ..Preconditions::default() };
        match api.delete(&member.pod, &DeleteParams::default().preconditions(same)).await {
            Ok(_) => tracing::info!(pod = member.pod, set = member.set, "an old pod is replaced"),
            Err(error) => tracing::warn!(pod = member.pod, error = %chain(&error), "an old pod can't be replaced"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pods: &[(&str, &str)], expected: Option<&str>) {
        let members: Vec<Member> = pods
            .iter()
            .map(|(name, is)| Member {
                set: name[..1].to_owned(),
                pod: (*name).to_owned(),
                uid: String::new(),
                is_old: is.contains("old"),
                is_ready: is.contains("ready"),
                is_ending: is.contains("ending"),
            })
            .collect();
        assert_eq!(next(&members).map(|member| member.pod.as_str()), expected, "{pods:?}");
    }

    #[test]
    fn one_pod_is_replaced_at_a_time_and_only_while_all_others_are_ready() {
        check(&[], None);
        check(&[("a1", "new ready"), ("b1", "new ready")], None);
        check(&[("b1", "old ready"), ("a2", "old ready"), ("a1", "new ready")], Some("a2"));
        check(&[("a1", "old ready"), ("b1", "new")], None);
        check(&[("a1", "old ready"), ("b1", "old ready ending")], None);
        check(&[("a1", "old ready"), ("a2", "old")], Some("a2"));
    }
}
