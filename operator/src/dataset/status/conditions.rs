//! The conditions of a Dataset.
//! Pure: a full match on how the pass went, then on what nodes say.
//! Invariant: each condition has a reason from a closed set and a sentence that says what to do where something is to be done.

use forebay_api::condition::ConditionType::{Degraded, Ready, Reconciling, SourceReachable, Stalled, Synced, Warm};
use forebay_api::condition::{ConditionStatus, NewCondition};
use forebay_api::quantity;
use forebay_wire::control_service::{ObservedDataset, Problem};
use forebay_wire::node_service::PreloadState;
use kube::ResourceExt;

use super::super::observe::Observed;
use super::Outcome;
use super::summary::{NodeSays, Summary};

/// From this many failures in a row on a transient error is worth looking at.
const FAILURES_SHOWN_FROM: u32 = 3;
/// A list of files that is this many intervals old is late.
const INTERVALS_LATE: u64 = 3;

const UNKNOWN: ConditionStatus = ConditionStatus::Unknown;

pub fn of(observed: &Observed, summary: &Summary, outcome: &Outcome) -> Vec<NewCondition> {
    match outcome {
        Outcome::Refused(invalid) => refused(invalid.reason, &invalid.message),
        Outcome::InUse(_) | Outcome::Freeing(_) => ending(outcome),
        Outcome::Applied(_) => served(observed, summary, None),
        Outcome::Failed { message, times } => served(observed, summary, Some((message, *times))),
    }
}

/// Nothing is served: no node is asked, so nothing is known of the source.
fn refused(reason: &'static str, message: &str) -> Vec<NewCondition> {
    vec![
        NewCondition::new(Ready, false, reason, message),
        NewCondition::new(Warm, false, reason, message),
        NewCondition::new(SourceReachable, UNKNOWN, "NotAsked", "no node reads this Dataset"),
        NewCondition::new(Synced, UNKNOWN, "NotAsked", "no node reads this Dataset"),
        NewCondition::new(Degraded, false, "AsExpected", "nothing is served that could be worse than it should"),
        NewCondition::new(Stalled, true, reason, message),
    ]
}

/// It is being deleted.
pub fn ending(outcome: &Outcome) -> Vec<NewCondition> {
    let (reason, message) = match outcome {
        Outcome::InUse(pods) => {
            let shown = pods.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
            let more = if pods.len() > 10 { format!(" and {} more", pods.len() - 10) } else { String::new() };
            ("InUse", format!("it is deleted once no pod uses it: {shown}{more} still does; delete the pods, or wait for their end"))
        }
        Outcome::Freeing(nodes) => ("Freeing", format!("{} nodes free what they cached of it, {} among them", nodes.len(), nodes[0])),
        Outcome::Applied(_) | Outcome::Refused(_) | Outcome::Failed { .. } => ("Deleting", "it is being deleted".to_owned()),
    };
    vec![NewCondition::new(Ready, false, reason, message.clone()), NewCondition::new(Reconciling, true, reason, message)]
}

fn served(observed: &Observed, summary: &Summary, failure: Option<(&String, u32)>) -> Vec<NewCondition> {
    let ready = ready(observed, summary);
    let warm = warm(summary, &ready);
    let mut conditions = vec![source_reachable(observed, summary), synced(summary), degraded(observed, summary, failure)];
    let on_its_way = ready.status != ConditionStatus::True || failure.is_some();
    // What somebody has to mend is no way to anywhere.
    if let Some((reason, message)) = stalled(observed, summary) {
        conditions.push(NewCondition::new(Stalled, true, reason, message));
    } else if on_its_way {
        let (reason, message) = match failure {
            Some((message, _)) => ("Retrying", message.clone()),
            None => (ready.reason, ready.message.clone()),
        };
        conditions.push(NewCondition::new(Reconciling, true, reason, message));
    }
    conditions.insert(0, warm);
    conditions.insert(0, ready);
    conditions
}

fn ready(observed: &Observed, summary: &Summary) -> NewCondition {
    let is_not = |reason, message: String| NewCondition::new(Ready, false, reason, message);
    let readable = summary.readable();
    if readable > 0 {
        let files = summary.newest().map(|node| node.status.files);
        let what = match files {
            Some(files) => format!("{files} files"),
            None => "folders are listed on demand until the list of files is complete".to_owned(),
        };
        return NewCondition::new(
            Ready,
            true,
            "Readable",
            format!("{readable} of {} nodes serve it: {what}", observed.matched.max(readable)),
        );
    }
    let policy = observed.policy.as_ref().map(ResourceExt::name_any).unwrap_or_default();
    if observed.matched == 0
        && let Some(client) = observed.clients.iter().find(|client| NodeSays::of(client).is_some_and(|says| says.is_readable()))
    {
        let message = format!(
            "no node matches the CachePolicy `{policy}`, so nothing is cached: {} and others that its pods run on read the source",
            client.name
        );
        return NewCondition::new(Ready, true, "WithoutCache", message);
    }
    if observed.matched == 0 {
        let message = format!(
            "no node matches the CachePolicy `{policy}`: add a node that does, or change the policy's nodes.selector or nodes.tolerations"
        );
        return is_not("NoNodes", message);
    }
    if let Some(missing) = &observed.missing {
        return is_not(missing.reason, missing.message.clone());
    }
    if let Some(node) = summary.with_problem().next() {
        return is_not(reason(node.problem_kind), of_node(summary, node));
    }
    if summary.answering == 0 {
        return is_not("NodesStarting", format!("none of the {} nodes of the CachePolicy `{policy}` answers yet", observed.matched));
    }
    if let Some((node, why)) = &summary.refusing {
        return is_not("NodeProblem", format!("{node}: {why}"));
    }
    match summary.says.iter().max_by_key(|node| node.status.listing.as_ref().map_or(0, |listing| listing.keys)) {
        Some(node) => match &node.status.listing {
            Some(listing) if !listing.error.is_empty() => is_not("ListingFailed", format!("{}: {}", node.name, listing.error)),
            Some(listing) => is_not("Listing", format!("{} lists the source: {} keys so far", node.name, listing.keys)),
            None => is_not("Listing", format!("{} begins to list the source", node.name)),
        },
        None => is_not("NodesStarting", format!("{} nodes are being told of it", summary.answering)),
    }
}

/// A node's kind of problem as a reason.
fn reason(kind: Problem) -> &'static str {
    match kind {
        Problem::None | Problem::Node => "NodeProblem",
        Problem::Invalid => "InvalidSpec",
        Problem::Reference => "ReferenceProblem",
        Problem::Denied => "CredentialsRefused",
        Problem::Unreachable => "SourceUnreachable",
    }
}

fn of_node(summary: &Summary, node: &NodeSays) -> String {
    let others = summary.with_problem().count() - 1;
    let more = if others > 0 { format!(" ({others} more nodes have problems)") } else { String::new() };
    format!("{}: {}{more}", node.name, node.problem)
}

/// What waits for a person, and for whom.
fn stalled(observed: &Observed, summary: &Summary) -> Option<(&'static str, String)> {
    if let Some(missing) = &observed.missing {
        return Some((missing.reason, missing.message.clone()));
    }
    if summary.readable() > 0 {
        return None;
    }
    let node = summary.with_problem().next()?;
    match node.problem_kind {
        Problem::Invalid | Problem::Reference | Problem::Denied => Some((reason(node.problem_kind), of_node(summary, node))),
        Problem::None | Problem::Unreachable | Problem::Node => None,
    }
}

fn warm(summary: &Summary, ready: &NewCondition) -> NewCondition {
    let is_not = |reason, message: String| NewCondition::new(Warm, false, reason, message);
    if ready.status != ConditionStatus::True {
        return is_not("NotReady", ready.message.clone());
    }
    if let Some(node) = summary.says.iter().find(|node| node.version().is_empty() && node.problem.is_empty()) {
        return is_not("Listing", format!("the list of files isn't complete on {}", node.name));
    }
    let (held, wanted) = (summary.held(), summary.wanted());
    let failed: u64 = summary.says.iter().filter_map(|node| node.status.preload.as_ref()).map(|preload| preload.files_failed).sum();
    if summary.says.iter().any(|node| node.held < node.wanted) {
        let so_far = format!("{} of {} are held", quantity::bytes(held), quantity::bytes(wanted));
        if summary.suspended {
            return is_not("PreloadPaused", format!("{so_far}; preload.suspend is set"));
        }
        if failed > 0 && summary.says.iter().all(|node| matches!(node.preload(), PreloadState::Failed | PreloadState::Done)) {
            return is_not("FilesFailed", format!("{so_far}; {failed} files could not be loaded, see status.failedFiles"));
        }
        return is_not("Filling", so_far);
    }
    let unfinished = |node: &&NodeSays| match node.preload() {
        PreloadState::Running | PreloadState::Paused => true,
        PreloadState::Waiting => !summary.asks_for_nothing && node.wanted == 0 && node.status.files > 0,
        PreloadState::Done | PreloadState::Failed => false,
    };
    if let Some(node) = summary.says.iter().find(unfinished) {
        if summary.suspended {
            return is_not("PreloadPaused", format!("the preload is paused on {}; preload.suspend is set", node.name));
        }
        return is_not("Filling", format!("the preload isn't done on {}", node.name));
    }
    if let (Some(quota), over @ 1..) = (&summary.quota, summary.over_quota()) {
        let message = format!(
            "{} are held, {} more that rules and preload ask for are read from the source: the quota of {quota} keeps them out; raise spec.quota, \
             or ask for less by preload.paths or rules",
            quantity::bytes(held),
            quantity::bytes(over)
        );
        return is_not("OverQuota", message);
    }
    if summary.asks_for_nothing {
        return NewCondition::new(Warm, true, "NothingWanted", "neither rules nor preload ask for files ahead of use");
    }
    NewCondition::new(Warm, true, "Held", format!("all {} that rules and preload ask for are held", quantity::bytes(wanted)))
}

fn source_reachable(observed: &Observed, summary: &Summary) -> NewCondition {
    if let Some(missing) = &observed.missing {
        return NewCondition::new(SourceReachable, false, missing.reason, missing.message.clone());
    }
    let about_source = |node: &&NodeSays| matches!(node.problem_kind, Problem::Denied | Problem::Unreachable | Problem::Reference);
    if let Some(node) = summary.with_problem().find(about_source) {
        return NewCondition::new(SourceReachable, false, reason(node.problem_kind), of_node(summary, node));
    }
    let failing = summary.says.iter().find_map(|node| {
        let listing = node.status.listing.as_ref().filter(|listing| !listing.error.is_empty())?;
        Some((&node.name, &listing.error))
    });
    if let Some((name, error)) = failing {
        return NewCondition::new(SourceReachable, false, "ListingFailed", format!("{name}: {error}"));
    }
    if summary.readable() > 0 {
        return NewCondition::new(SourceReachable, true, "Reachable", "the sources answer and let us read");
    }
    NewCondition::new(SourceReachable, UNKNOWN, "NotAsked", "no node has asked the sources yet")
}

fn synced(summary: &Summary) -> NewCondition {
    let listing = summary.says.iter().filter_map(|node| Some((node, node.status.listing.as_ref()?)));
    if let Some((node, listing)) = listing.into_iter().find(|(_, listing)| !listing.error.is_empty()) {
        return NewCondition::new(Synced, false, "ListingFailed", format!("{}: {}", node.name, listing.error));
    }
    let Some(newest) = summary.newest() else {
        return NewCondition::new(Synced, false, "Listing", "no list of files is complete yet");
    };
    if summary.frozen {
        return NewCondition::new(Synced, true, "Frozen", "sync.mode is Never: the list of files stays as it is");
    }
    let age = newest.status.manifest.as_ref().and_then(|manifest| manifest.age_ms).unwrap_or(0);
    if age > summary.interval_ms.saturating_mul(INTERVALS_LATE) {
        return NewCondition::new(
            Synced,
            false,
            "Late",
            "the list of files is older than three sync intervals: the source is slow, or a node is",
        );
    }
    NewCondition::new(Synced, true, "Listed", "the list of files is complete and no older than the interval allows")
}

fn degraded(observed: &Observed, summary: &Summary, failure: Option<(&String, u32)>) -> NewCondition {
    let is = |reason, message: String| NewCondition::new(Degraded, true, reason, message);
    if let Some((message, _)) = failure.filter(|(_, times)| *times >= FAILURES_SHOWN_FROM) {
        return is("ApplyFailed", message.clone());
    }
    if let Some(node) = summary.with_problem().next().filter(|_| summary.readable() > 0) {
        return is(reason(node.problem_kind), of_node(summary, node));
    }
    if let Some((node, why)) = &summary.refusing {
        return is("NodeProblem", format!("{node}: {why}"));
    }
    let troubled = |dataset: &&ObservedDataset| !dataset.problem.is_empty();
    let client = observed.clients.iter().find_map(|client| Some((&client.name, client.dataset.as_deref().filter(troubled)?)));
    if let Some((name, dataset)) = client {
        let message = format!("{name}, a node that the CachePolicy doesn't select: {}", dataset.problem);
        return is(reason(dataset.problem_kind()), message);
    }
    if let (Some((node, capacity)), Some(wanted)) = (&summary.capacity_min, summary.says.iter().map(|node| node.wanted).max())
        && wanted > *capacity
    {
        let message = format!(
            "rules and preload ask for {}, and {node} has room for {}: ask for less by preload.paths or rules, or give the policy's tiers more",
            quantity::bytes(wanted),
            quantity::bytes(*capacity)
        );
        return is("DoesNotFit", message);
    }
    if let Some((node, why)) = &summary.tier_degraded {
        return is("DiskProblem", format!("{node}: {why}"));
    }
    let worse = summary.says.iter().find_map(|node| node.status.degraded.first().map(|why| format!("{}: {why}", node.name)));
    if let Some(message) = worse {
        return is("ServedSlower", message);
    }
    if summary.readable() > 0 && summary.answering < observed.matched {
        let missing = observed.matched - summary.answering;
        return is("NodesMissing", format!("{missing} of {} nodes don't answer", observed.matched));
    }
    if summary.eviction_differs {
        let policy = observed.policy.as_ref().map(ResourceExt::name_any).unwrap_or_default();
        let message = format!(
            "spec.eviction: the data sets of the CachePolicy `{policy}` share one cache and don't all say the same, so it holds a stable subset: \
             say the same in all of them, or give this one a policy of its own"
        );
        return is("EvictionDiffers", message);
    }
    if let Some(max) = summary.priority_limited {
        let policy = observed.policy.as_ref().map(ResourceExt::name_any).unwrap_or_default();
        let message = format!(
            "spec.priority: the CachePolicy `{policy}` lets no Dataset have more than {max}, so it is counted with that: ask for no more, or raise the \
             policy's maxPriority"
        );
        return is("PriorityLimited", message);
    }
    NewCondition::new(Degraded, false, "AsExpected", "it works as it should")
}
