//! Clients: cache nodes without a disk, for pods on nodes that no policy serves, so that every pod can mount every Dataset of its namespace.
//! Knows nodes, policies and pods. Does not know data sets beyond their keys.
//! Invariant: a client is told of a data set only while a pod on its node uses it, and until it is unmounted there: secrets go nowhere else.

mod build;
pub mod plan;

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_api::CachePolicy;
use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::runtime::reflector::ObjectRef;

use crate::cache_policy;
use crate::context::{ClientSettings, Context};
use crate::dataset::users;
use crate::error::{Error, backoff};
use crate::names;
use crate::node_set;
use crate::run::watch;
pub use build::build;
use plan::{Driver, Plan, Seen, plan};

/// In memory; the API server is called on a change only.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.wait() => return,
        // Otherwise every node would look like one without a policy, and every client like one without pods.
        () = watch::until_ready(&ctx.stores) => {}
    }
    let mut tick = tokio::time::interval(LOOK_EVERY);
    let mut last = Plan::default();
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            _ = tick.tick() => {}
        }
        // Otherwise a new leader would take clients from pods whose data sets it hasn't looked at yet.
        if !ctx.hub.is_complete() {
            continue;
        }
        let now = Instant::now();
        let driver = driver(&ctx);
        let next = look(&ctx, &driver, &last, now);
        if next.clients.len() != last.clients.len() {
            tracing::info!(nodes = next.clients.len(), "nodes with a client");
        }
        ctx.hub.set_clients(next.told());
        last = next;
        if now < not_before {
            continue;
        }
        match reach(&ctx, &driver, &last).await {
            Ok(()) => ctx.memory.succeeded(names::CLIENT),
            Err(error) => {
                let failures = ctx.memory.failed(names::CLIENT);
                not_before = now + backoff(failures);
                tracing::warn!(failures, error = %chain(&error), "clients can't be as they should");
            }
        }
    }
}

/// Whether a client has to be on a node that no policy has, if the node is one.
pub fn is_expected(ctx: &Context, node: &Node, policies: &[CachePolicy]) -> bool {
    ctx.settings.clients.is_some() && !policies.is_empty() && driver(ctx).fits(node)
}

/// Where the driver is.
fn driver(ctx: &Context) -> Driver {
    let sets = ctx.stores.daemon_sets.state();
    Driver::of(sets.iter().map(|set| &**set))
}

fn look(ctx: &Context, driver: &Driver, last: &Plan, now: Instant) -> Plan {
    let policies = ctx.stores.policies();
    // Without policies nothing is served anywhere; and what is being uninstalled gets no new nodes.
    if ctx.settings.clients.is_none()
        || policies.is_empty()
        || policies.iter().any(|policy| cache_policy::is_given_up(policy, &ctx.lease_uid))
    {
        return Plan::default();
    }
    let (nodes, pods) = (ctx.stores.nodes.state(), ctx.stores.pods.state());
    let wanted = ctx.hub.wanted();
    let mut uses = users::by_node(pods.iter().map(|pod| &**pod));
    for keys in uses.values_mut() {
        // Claims that are nobody's Dataset.
        keys.retain(|key| wanted.contains_key(key));
    }
    let seen = Seen { nodes: &nodes, policies: &policies, driver, uses: &uses, wanted: &wanted, serving: &ctx.hub.serving_clients() };
    plan(&seen, last, now)
}

/// Brings the API server to the plan.
async fn reach(ctx: &Context, driver: &Driver, plan: &Plan) -> Result<(), Error> {
    let (name, namespace) = (names::CLIENT_OBJECT, &ctx.settings.namespace);
    match &ctx.settings.clients {
        Some(settings) if !plan.clients.is_empty() => {
            node_set::apply::apply(ctx, &build(settings, driver, plan.terms(), &ctx.lease_uid, &ctx.settings)).await
        }
        Some(_) | None => {
            let set = ctx.stores.daemon_sets.get(&ObjectRef::<DaemonSet>::new(name).within(namespace));
            let map = ctx.stores.config_maps.get(&ObjectRef::<ConfigMap>::new(name).within(namespace));
            if set.is_some() || map.is_some() {
                node_set::apply::remove(ctx, name, names::CLIENT).await?;
                tracing::info!("no node needs a client: they are removed");
            }
            Ok(())
        }
    }
}
