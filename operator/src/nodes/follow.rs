//! Keeps a task for each ready cache node's pod, which calls Sync every few seconds and at once on a change.
//! Knows pods and calls. Does not know what is in them.
//! Invariant: one task a pod, and none for a pod that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use forebay_wire::control_service::SyncRequest;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;
use tonic::Code;

use super::SILENT_AFTER;
use super::call::Node;
use super::enrol::{self, EnrolError};
use crate::context::{Context, now};
use crate::names;
use crate::run::watch;

/// How often pods are compared with tasks: in memory only.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Nodes that are told at the same time. All that is desired is some megabytes for each of them, where there are a thousand data sets.
const TOLD_AT_ONCE: usize = 16;

/// A pod to call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub pod_uid: String,
    pub policy_uid: String,
    pub node: String,
    pub address: SocketAddr,
    /// Where other nodes ask it for blocks; `None`: it shares with nobody.
    pub place: Option<SocketAddr>,
}

/// Where to call a pod, if it is a cache node that is running and can be called. It may not be ready yet: it gets ready by being told.
pub fn target(pod: &Pod) -> Option<Target> {
    let labels = pod.labels();
    if labels.get(names::COMPONENT_LABEL).map(String::as_str) != Some(names::NODE_COMPONENT) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    if status.phase.as_deref() != Some("Running") {
        return None;
    }
    let ip = status.pod_ip.as_ref()?.parse().ok()?;
    let at = |name: &str| {
        let mut ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let port = ports.find(|port| port.name.as_deref() == Some(name))?;
        Some(SocketAddr::new(ip, u16::try_from(port.container_port).ok()?))
    };
    Some(Target {
        pod_uid: pod.uid()?,
        policy_uid: labels.get(names::POLICY_LABEL)?.clone(),
        node: spec.node_name.clone()?,
        address: at(names::CONTROL_PORT_NAME)?,
        place: at(names::PEERS_PORT_NAME),
    })
}

/// Runs until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    let mut tasks: BTreeMap<Target, AbortHandle> = BTreeMap::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    let telling = Arc::new(Semaphore::new(TOLD_AT_ONCE));
    tokio::select! {
        () = shutdown.wait() => return,
        // Otherwise an empty store would look like a cluster without Datasets.
        () = watch::ready(&ctx.stores.datasets) => {}
    }
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            _ = tick.tick() => {}
        }
        ctx.hub.try_complete(ctx.stores.datasets.state().iter().filter_map(|dataset| dataset.meta_uid()));
        let pods = ctx.stores.pods.state();
        ctx.hub.tick(Instant::now());
        let targets: BTreeSet<Target> =
            pods.iter().filter(|pod| pod.namespace().as_deref() == Some(&ctx.settings.namespace)).filter_map(|pod| target(pod)).collect();
        tasks.retain(|target, task| {
            let stays = targets.contains(target);
            if !stays {
                task.abort();
                if !targets.iter().any(|other| other.node == target.node && other.policy_uid == target.policy_uid) {
                    ctx.hub.lost(&target.policy_uid, &target.node, Instant::now());
                }
            }
            stays
        });
        for target in targets {
            tasks.entry(target.clone()).or_insert_with(|| tokio::spawn(one(ctx.clone(), target, telling.clone())).abort_handle());
        }
    }
    for task in tasks.values() {
        task.abort();
    }
}

trait Uid {
    fn meta_uid(&self) -> Option<&str>;
}

impl<K: kube::Resource> Uid for K {
    fn meta_uid(&self) -> Option<&str> {
        self.meta().uid.as_deref()
    }
}

/// Tells once for each cause why a node has no certificate.
#[derive(Default)]
struct Certify(String);

impl Certify {
    /// Whether it has one.
    fn tell(&mut self, target: &Target, outcome: Result<(), EnrolError>) -> bool {
        let text = match outcome {
            Ok(()) => String::new(),
            // That it doesn't answer is told elsewhere.
            Err(EnrolError::Connect(_)) => return false,
            Err(error) => chain(&error).to_string(),
        };
        if !text.is_empty() && text != self.0 {
            tracing::warn!(node = target.node, address = %target.address, error = text, "a node can't be given a certificate");
        }
        self.0 = text;
        self.0.is_empty()
    }
}

/// Calls one node for ever.
async fn one(ctx: Arc<Context>, target: Target, telling: Arc<Semaphore>) {
    let mut tick = tokio::time::interval(ctx.settings.sync_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = ctx.hub.changes();
    let mut connection: Option<(u64, Node)> = None;
    // `None`: it is asked first. What it was told by another operator needn't travel again.
    let mut acknowledged: Option<String> = None;
    let mut answered = Instant::now();
    let mut failing = false;
    let mut certify = Certify::default();
    // Forgotten with the leader: half of a certificate's life is a limit all the same.
    let mut signer = ctx.authority.signer(now());
    loop {
        let is_due = tokio::select! {
            _ = tick.tick() => true,
            // The hub lives as long as the context that this task holds.
            Ok(()) = changes.changed() => false,
        };
        let known = acknowledged.clone().unwrap_or_default();
        let Ok(turn) = telling.acquire().await else { return };
        let (generation, desired) = match ctx.hub.desired(&target.policy_uid, &target.node, target.place.is_some(), &known) {
            Some((generation, desired)) => (generation, desired.filter(|_| acknowledged.is_some())),
            // Not everything is known yet: only ask. The node's own generation comes back.
            None => (known, None),
        };
        let request = SyncRequest { generation, desired, observed: ctx.hub.cursor(&target.policy_uid, &target.node) };
        let turn = request.desired.is_some().then_some(turn);
        // Something changed for other nodes only.
        if !is_due && request.desired.is_none() {
            continue;
        }
        let (version, credentials) = ctx.authority.credentials();
        let mut node = match connection.take().filter(|(made_with, _)| *made_with == version) {
            Some((_, node)) => node,
            None => match Node::new(target.address, &target.policy_uid, &credentials) {
                Ok(node) => node,
                Err(error) => {
                    tracing::warn!(node = target.node, error = %chain(&error), "a node can't be called");
                    continue;
                }
            },
        };
        let (sent, generation) = (request.desired.is_some(), request.generation.clone());
        let answer = node.sync(request).await;
        drop(turn);
        match answer {
            Ok(reply) => {
                let signs = ctx.authority.signer(now());
                if (reply.certificate_due || signs != signer) && certify.tell(&target, enrol::renew(&ctx, &target, &mut node).await) {
                    signer = signs;
                }
                if failing || (sent && acknowledged.as_ref() != Some(&reply.generation)) {
                    tracing::info!(node = target.node, generation = reply.generation, "a node knows what is desired");
                }
                if sent && !reply.refused.is_empty() {
                    tracing::warn!(node = target.node, reason = reply.refused, "a node refused what is desired");
                }
                failing = false;
                answered = Instant::now();
                ctx.metrics.syncs_ok.inc();
                // It was only asked, or it didn't go by the state that it was told changes of: now it can be told.
                if reply.generation != generation && acknowledged.as_ref() != Some(&reply.generation) {
                    tick.reset_immediately();
                }
                acknowledged = Some(reply.generation.clone());
                ctx.hub.answered(&target.policy_uid, &target.node, target.place, reply, answered);
                connection = Some((version, node));
            }
            Err(status) => {
                ctx.metrics.syncs_failed.inc();
                if !failing {
                    tracing::warn!(node = target.node, address = %target.address, error = %chain(&status), "a node doesn't answer");
                }
                failing = true;
                // Whoever answers there may only lack a certificate that we believe.
                if status.code() == Code::Unavailable {
                    let enrolled = enrol::enrol(&ctx, &target, &credentials).await;
                    if certify.tell(&target, enrolled) {
                        tick.reset_immediately();
                    }
                }
                if answered.elapsed() >= SILENT_AFTER {
                    ctx.hub.lost(&target.policy_uid, &target.node, Instant::now());
                }
                connection = None;
            }
        }
    }
}
