//! What is told about a CachePolicy.
//! The conditions are pure. Written when one changes, else at most every 30 s.

use forebay_api::cache_policy::{CachePolicyStatus, PolicyNodes};
use forebay_api::condition::ConditionType::{Degraded, Ready, Reconciling};
use forebay_api::condition::NewCondition;
use forebay_api::{CachePolicy, quantity};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::Observed;
use crate::context::Context;
use crate::dataset::status::merged;
use crate::error::{During, Error};
use crate::nodes::disks::{Disks, Trouble};
use crate::{event, names};

/// How a pass went.
#[derive(Clone, Debug)]
pub enum Outcome {
    Applied,
    Failed { message: String, times: u32 },
}

/// From this many failures in a row on a transient error is worth looking at.
const FAILURES_SHOWN_FROM: u32 = 3;

/// What the nodes say.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Of the matched nodes, how many answer.
    pub serving: usize,
    /// Nodes outside of the policy that serve data sets of it.
    pub clients: usize,
    pub disks: Disks,
}

/// Pure.
pub fn conditions(observed: &Observed, told: &Told, outcome: &Outcome) -> Vec<NewCondition> {
    let Told { serving, clients, disks } = told;
    let (serving, clients) = (*serving, *clients);
    let matched = observed.nodes.len();
    let ready = if matched == 0 && clients > 0 {
        let message = format!("it has no node, so nothing is cached: {clients} nodes outside of it read its data sets for their own pods");
        NewCondition::new(Ready, true, "WithoutCache", message)
    } else if matched == 0 && observed.taken.is_empty() {
        NewCondition::new(
            Ready,
            false,
            "NoNodes",
            "no node matches nodes.selector and nodes.tolerations: add one that does, or change them",
        )
    } else if matched == 0 {
        let message = format!(
            "every node that it selects belongs to an older CachePolicy, `{}` among them: change nodes.selector",
            observed.taken[0].1
        );
        NewCondition::new(Ready, false, "NodesTaken", message)
    } else if serving == 0 {
        NewCondition::new(Ready, false, "NodesStarting", format!("none of {matched} nodes answers yet"))
    } else {
        NewCondition::new(Ready, true, "Serving", format!("{serving} of {matched} nodes answer"))
    };
    let mut conditions = vec![degraded(observed, serving, disks, outcome)];
    match outcome {
        Outcome::Failed { message, .. } => conditions.push(NewCondition::new(Reconciling, true, "Retrying", message.clone())),
        Outcome::Applied if serving < matched => {
            conditions.push(NewCondition::new(Reconciling, true, "NodesStarting", format!("{serving} of {matched} nodes answer")));
        }
        Outcome::Applied => {}
    }
    conditions.insert(0, ready);
    conditions
}

fn degraded(observed: &Observed, serving: usize, disks: &Disks, outcome: &Outcome) -> NewCondition {
    if let Outcome::Failed { message, times } = outcome
        && *times >= FAILURES_SHOWN_FROM
    {
        return NewCondition::new(Degraded, true, "ApplyFailed", message.clone());
    }
    if let Some((node, older)) = observed.taken.first() {
        let message = format!(
            "{} nodes that it selects belong to an older CachePolicy, as {node} does to `{older}`: change nodes.selector of one",
            observed.taken.len()
        );
        return NewCondition::new(Degraded, true, "NodesTaken", message);
    }
    if let Some(older) = &observed.other_default {
        let message = format!("the CachePolicy `{older}` is older and the default: set `spec.default: false` in one of them");
        return NewCondition::new(Degraded, true, "NotTheDefault", message);
    }
    if let Some(message) = of_disks(&disks.degraded) {
        return NewCondition::new(Degraded, true, "DiskProblem", message);
    }
    if let Some(message) = of_disks(&disks.too_small) {
        return NewCondition::new(Degraded, true, "DiskTooSmall", message);
    }
    if serving > 0 && serving < observed.nodes.len() {
        return NewCondition::new(
            Degraded,
            true,
            "NodesMissing",
            format!("{} of {} nodes don't answer", observed.nodes.len() - serving, observed.nodes.len()),
        );
    }
    NewCondition::new(Degraded, false, "AsExpected", "it works as it should")
}

/// The first in full: those of a pool are alike.
fn of_disks(troubles: &[Trouble]) -> Option<String> {
    let first = troubles.first()?;
    let nodes = std::collections::BTreeSet::from_iter(troubles.iter().map(|trouble| &trouble.node)).len();
    let more = if nodes > 1 { format!(" (the same or alike on {} more nodes)", nodes - 1) } else { String::new() };
    Some(format!("{}{more}: {}", first.node, first.what))
}

pub async fn write(ctx: &Context, policy: &CachePolicy, observed: &Observed, outcome: &Outcome) -> Result<(), Error> {
    let uid = policy.uid().unwrap_or_default();
    let totals = ctx.hub.totals(&uid, &observed.nodes);
    let told = Told { serving: totals.nodes, clients: ctx.hub.clients_of(&uid), disks: ctx.hub.disks(&uid, &observed.nodes) };
    let new = conditions(observed, &told, outcome);
    let old = policy.status.clone().unwrap_or_default();
    let (conditions, changed) = merged(&old.conditions, &new, policy.metadata.generation, Timestamp::now());
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let status = CachePolicyStatus {
        observed_generation: policy.metadata.generation,
        conditions,
        nodes: Some(PolicyNodes { matched: count(observed.nodes.len()), ready: count(totals.nodes) }),
        datasets: Some(count(totals.datasets)),
        capacity: (totals.nodes > 0).then(|| quantity::bytes(totals.capacity_bytes)),
        used: (totals.nodes > 0).then(|| quantity::bytes(totals.used_bytes)),
    };
    let same_nodes = (&old.nodes, old.observed_generation) == (&status.nodes, status.observed_generation);
    if status == old || (!changed && same_nodes && !ctx.memory.may_write_figures(&uid)) {
        return Ok(());
    }
    let api: Api<CachePolicy> = Api::all(ctx.client.clone());
    let patch = json!({
        "apiVersion": CachePolicy::api_version(&()),
        "kind": CachePolicy::kind(&()),
        "metadata": { "name": policy.name_any(), "uid": policy.uid() },
        "status": status,
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch_status(&policy.name_any(), &params, &Patch::Apply(&patch)).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
        result => result.map(drop).during(|| "write the status of the CachePolicy".to_owned())?,
    }
    ctx.memory.wrote_status(&uid);
    ctx.metrics.status_writes.inc();
    for (kind, reason, note) in event::transitions(&old.conditions, &new) {
        event::publish(&ctx.events, &policy.object_ref(&()), kind, reason, &note).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(observed: &Observed, serving: usize, expected: &str) {
        check_told(observed, &Told { serving, ..Told::default() }, expected);
    }

    fn check_told(observed: &Observed, told: &Told, expected: &str) {
        let got = conditions(observed, told, &Outcome::Applied);
        let told: Vec<String> =
            got.iter().map(|one| format!("{}={}/{}", one.condition_type.as_str(), one.status.as_str(), one.reason)).collect();
        assert_eq!(told.join(" "), expected, "{observed:?}");
    }

    #[test]
    fn a_policy_tells_what_is_worse_than_it_should_be_the_worst_first() {
        let all = Observed { nodes: ["n1", "n2"].map(|name| (name.to_owned(), String::new())).into(), ..Observed::default() };
        check(&all, 2, "Ready=True/Serving Degraded=False/AsExpected");
        check(&all, 1, "Ready=True/Serving Degraded=True/NodesMissing Reconciling=True/NodesStarting");
        check(&Observed::default(), 0, "Ready=False/NoNodes Degraded=False/AsExpected");
        let outside = Told { clients: 2, ..Told::default() };
        check_told(&Observed::default(), &outside, "Ready=True/WithoutCache Degraded=False/AsExpected");
        let trouble = |node: &str| Trouble { node: node.to_owned(), what: "/a: no".to_owned() };
        let small = Disks { too_small: vec![trouble("n1"), trouble("n1"), trouble("n2")], degraded: Vec::new() };
        let told = Told { serving: 2, disks: small.clone(), ..Told::default() };
        check_told(&all, &told, "Ready=True/Serving Degraded=True/DiskTooSmall");
        let message = &conditions(&all, &told, &Outcome::Applied)[1].message;
        assert_eq!(message, "n1 (the same or alike on 1 more nodes): /a: no");
        let worse = Told { disks: Disks { degraded: vec![trouble("n2")], ..small }, ..told };
        check_told(&all, &worse, "Ready=True/Serving Degraded=True/DiskProblem");
    }
}
