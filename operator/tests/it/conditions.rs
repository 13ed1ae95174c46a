//! The conditions of a Dataset, as a table: what nodes say on the left, what people read on the right.

use std::sync::Arc;

use forebay_api::condition::{ConditionType, NewCondition};
use forebay_api::{CachePolicy, Dataset};
use forebay_operator::dataset::apply::Applied;
use forebay_operator::dataset::observe::Observed;
use forebay_operator::dataset::policy::PolicyProblem;
use forebay_operator::dataset::reference::Missing;
use forebay_operator::dataset::status::{Outcome, Summary, conditions, figures};
use forebay_operator::dataset::validate::Invalid;
use forebay_operator::nodes::NodeView;
use forebay_wire::control_service::{ObservedDataset, Problem};
use forebay_wire::dataset_spec::Eviction;
use forebay_wire::node_service::{DatasetStatus, FailedFile, ListingStatus, ManifestStatus, PreloadProgress, PreloadState, TierStatus};
use serde_json::{Value, json};

pub(crate) fn listed() -> ObservedDataset {
    let manifest = ManifestStatus { version: "v1".to_owned(), term: 1, sequence: 1, age_ms: Some(1000) };
    ObservedDataset {
        status: Some(DatasetStatus { files: 100, bytes: 1000, manifest: Some(manifest), ..Default::default() }),
        ..Default::default()
    }
}

/// Lists, preloads and holds so much.
pub(crate) fn holding(held: u64, wanted: u64, state: PreloadState) -> ObservedDataset {
    let mut observed = listed();
    (observed.wanted_bytes, observed.wanted_held_bytes) = (wanted, held);
    let preload = PreloadProgress { state: state.into(), bytes_done: held, bytes_total: wanted, ..Default::default() };
    observed.status.as_mut().unwrap().preload = Some(preload);
    observed
}

pub(crate) fn problem(kind: Problem, text: &str) -> ObservedDataset {
    ObservedDataset { problem: text.to_owned(), problem_kind: kind.into(), ..Default::default() }
}

fn listing(keys: u64, error: &str) -> ObservedDataset {
    let listing = ListingStatus { running: error.is_empty(), keys, requests: 1, error: error.to_owned() };
    ObservedDataset { status: Some(DatasetStatus { listing: Some(listing), ..Default::default() }), ..Default::default() }
}

fn dataset(spec: Value) -> Dataset {
    let mut full = json!({ "source": "s3://bucket/" });
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": "a", "namespace": "vision", "generation": 1 }, "spec": full
    }))
    .unwrap()
}

fn observed(matched: usize, nodes: Vec<Option<ObservedDataset>>) -> Observed {
    let policy: CachePolicy = serde_json::from_value(json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "CachePolicy", "metadata": { "name": "gpu-pool", "uid": "p" },
        "spec": { "tiers": [{ "type": "Disk", "paths": ["/a"], "capacity": "1Gi" }] }
    }))
    .unwrap();
    let tier = TierStatus { capacity_bytes: 5000, ..Default::default() };
    let view = |(at, dataset): (usize, Option<ObservedDataset>)| NodeView {
        name: format!("n{at}"),
        zone: String::new(),
        dataset: dataset.map(Arc::new),
        tiers: [tier.clone()].into(),
        refused: String::new(),
    };
    Observed {
        policy: Ok(policy),
        namespace_labels: None,
        references: Default::default(),
        missing: None,
        claim: None,
        volume: None,
        jobs: Vec::new(),
        matched,
        nodes: nodes.into_iter().enumerate().map(view).collect(),
        clients: Vec::new(),
        eviction: Eviction::Hold,
    }
}

fn preloading() -> Value {
    json!({ "preload": { "when": "Once" } })
}

/// `expected`: `Ready=True/Readable Warm=False/Filling`, any subset, and which must be absent as `-Stalled`.
fn check_with(spec: Value, observed: &Observed, outcome: &Outcome, expected: &str) -> Vec<NewCondition> {
    let summary = Summary::of(&dataset(spec), observed);
    let got = conditions::of(observed, &summary, outcome);
    for want in expected.split(' ') {
        if let Some(absent) = want.strip_prefix('-') {
            assert!(!got.iter().any(|one| one.condition_type.as_str() == absent), "{absent} is there: {got:#?}");
            continue;
        }
        let (kind, rest) = want.split_once('=').unwrap();
        let (status, reason) = rest.split_once('/').unwrap();
        let one = got.iter().find(|one| one.condition_type.as_str() == kind).unwrap_or_else(|| panic!("{kind} isn't there: {got:#?}"));
        assert_eq!((one.status.as_str(), one.reason), (status, reason), "{kind}: {got:#?}");
    }
    got
}

fn check(spec: Value, matched: usize, nodes: Vec<Option<ObservedDataset>>, expected: &str) {
    check_with(spec, &observed(matched, nodes), &Outcome::Applied(Applied::default()), expected);
}

#[test]
fn ready_says_why_it_is_not() {
    check(json!({}), 0, vec![], "Ready=False/NoNodes Warm=False/NotReady Reconciling=True/NoNodes -Stalled");
    check(json!({}), 2, vec![], "Ready=False/NodesStarting SourceReachable=Unknown/NotAsked Synced=False/Listing");
    check(json!({}), 1, vec![None], "Ready=False/NodesStarting");
    check(json!({}), 1, vec![Some(listing(0, ""))], "Ready=False/Listing Reconciling=True/Listing");
    check(json!({}), 1, vec![Some(listing(5, ""))], "Ready=True/Readable Warm=False/Listing Synced=False/Listing -Reconciling");
    check(json!({}), 1, vec![Some(listing(0, "timeout"))], "Ready=False/ListingFailed SourceReachable=False/ListingFailed");
    check(
        json!({}),
        1,
        vec![Some(listed())],
        "Ready=True/Readable SourceReachable=True/Reachable Synced=True/Listed Degraded=False/AsExpected -Reconciling -Stalled",
    );
}

#[test]
fn a_nodes_problem_is_told_and_stalls_where_a_person_must_act() {
    let denied = || Some(problem(Problem::Denied, "s3:ListBucket is missing"));
    check(
        json!({}),
        1,
        vec![denied()],
        "Ready=False/CredentialsRefused SourceReachable=False/CredentialsRefused Stalled=True/CredentialsRefused -Reconciling",
    );
    check(json!({}), 1, vec![Some(problem(Problem::Invalid, "x"))], "Ready=False/InvalidSpec Stalled=True/InvalidSpec");
    check(
        json!({}),
        1,
        vec![Some(problem(Problem::Unreachable, "x"))],
        "Ready=False/SourceUnreachable Reconciling=True/SourceUnreachable -Stalled",
    );
    check(json!({}), 1, vec![Some(problem(Problem::Node, "x"))], "Ready=False/NodeProblem SourceReachable=Unknown/NotAsked");
    check(
        json!({}),
        2,
        vec![Some(listed()), denied()],
        "Ready=True/Readable SourceReachable=False/CredentialsRefused Degraded=True/CredentialsRefused -Stalled",
    );
}

#[test]
fn a_source_that_fails_takes_no_listed_file_away() {
    let mut listed_before = listed();
    (listed_before.problem, listed_before.problem_kind) = ("timeout".to_owned(), Problem::Unreachable.into());
    let expected = "Ready=True/Readable SourceReachable=False/SourceUnreachable Degraded=True/SourceUnreachable -Stalled -Reconciling";
    check(json!({}), 1, vec![Some(listed_before)], expected);
}

#[test]
fn warm_means_that_every_node_holds_what_is_wanted() {
    use PreloadState::{Done, Failed, Running, Waiting};
    check(json!({}), 1, vec![Some(listed())], "Warm=True/NothingWanted");
    check(preloading(), 1, vec![Some(holding(1, 9, Running))], "Ready=True/Readable Warm=False/Filling");
    check(preloading(), 1, vec![Some(holding(0, 0, Waiting))], "Warm=False/Filling");
    check(preloading(), 2, vec![Some(holding(9, 9, Done)), Some(holding(8, 9, Running))], "Warm=False/Filling");
    check(preloading(), 2, vec![Some(holding(9, 9, Done)), Some(holding(9, 9, Done))], "Warm=True/Held");
    check(preloading(), 2, vec![Some(holding(9, 9, Done)), Some(listing(3, ""))], "Warm=False/Listing");
    check(json!({ "preload": { "when": "Once", "suspend": true } }), 1, vec![Some(holding(1, 9, Running))], "Warm=False/PreloadPaused");
    let mut failed = holding(8, 9, Failed);
    failed.status.as_mut().unwrap().preload.as_mut().unwrap().files_failed = 1;
    check(preloading(), 1, vec![Some(failed)], "Warm=False/FilesFailed");
    let mut over = holding(9, 9, Done);
    over.status.as_mut().unwrap().preload.as_mut().unwrap().bytes_over_quota = 5;
    over.status.as_mut().unwrap().stored_bytes = 10;
    let with_quota = json!({ "quota": "9", "preload": { "when": "Once" } });
    check(with_quota.clone(), 1, vec![Some(over.clone())], "Warm=False/OverQuota Degraded=False/AsExpected");
    check(preloading(), 1, vec![Some(over.clone())], "Warm=True/Held");
    check(with_quota.clone(), 1, vec![Some(holding(9, 9, Done))], "Warm=True/Held");
    let with_quota = dataset(with_quota);
    let figures = figures::of(&with_quota, &Summary::of(&with_quota, &observed(2, vec![Some(over.clone()), Some(over)])));
    let quota = figures.quota.unwrap();
    assert_eq!((quota.used.as_str(), quota.excess.as_deref()), ("20", Some("10")));
    check(json!({ "rules": [{ "path": "/", "cache": "Pin" }] }), 1, vec![Some(holding(1, 9, Waiting))], "Warm=False/Filling");
    check(json!({ "rules": [{ "path": "/", "cache": "Pin" }] }), 1, vec![Some(listed())], "Warm=False/Filling");
}

#[test]
fn degraded_says_what_is_worse_than_it_should() {
    check(preloading(), 1, vec![Some(holding(0, 9000, PreloadState::Running))], "Degraded=True/DoesNotFit");
    check(json!({}), 2, vec![Some(listed())], "Ready=True/Readable Degraded=True/NodesMissing");
    let mut slower = listed();
    slower.status.as_mut().unwrap().degraded = vec!["no passthrough".to_owned()];
    check(json!({}), 1, vec![Some(slower)], "Degraded=True/ServedSlower");
    check(json!({ "priority": 1 }), 1, vec![Some(listed())], "Ready=True/Readable Degraded=True/PriorityLimited");
    check(json!({ "priority": -1 }), 1, vec![Some(listed())], "Degraded=False/AsExpected");
    let mut higher = observed(1, vec![Some(listed())]);
    higher.policy.as_mut().unwrap().spec.max_priority = 5;
    check_with(json!({ "priority": 5 }), &higher, &Outcome::Applied(Applied::default()), "Degraded=False/AsExpected");
    check(json!({ "eviction": "LRU" }), 1, vec![Some(listed())], "Ready=True/Readable Degraded=True/EvictionDiffers");
    let mut agreed = observed(1, vec![Some(listed())]);
    agreed.eviction = Eviction::Lru;
    check_with(
        json!({ "eviction": "LRU" }),
        &agreed,
        &Outcome::Applied(Applied::default()),
        "Ready=True/Readable Degraded=False/AsExpected",
    );
    let copies = json!({ "rules": [{ "path": "/", "copies": { "min": 2, "max": 4 } }] });
    check(copies, 1, vec![Some(listed())], "Ready=True/Readable Degraded=False/AsExpected");
    let mut tier = observed(1, vec![Some(listed())]);
    Arc::make_mut(&mut tier.nodes[0].tiers)[0].degraded = "read-only".to_owned();
    check_with(json!({}), &tier, &Outcome::Applied(Applied::default()), "Degraded=True/DiskProblem");
    let failed = |times| Outcome::Failed { message: "apply the claim a: forbidden".to_owned(), times };
    let fine = observed(1, vec![Some(listed())]);
    check_with(json!({}), &fine, &failed(2), "Ready=True/Readable Degraded=False/AsExpected Reconciling=True/Retrying");
    check_with(json!({}), &fine, &failed(3), "Ready=True/Readable Degraded=True/ApplyFailed");
}

#[test]
fn a_client_counts_for_nothing_and_its_problem_is_told() {
    let client =
        |name: &str, dataset: ObservedDataset| NodeView { name: name.to_owned(), dataset: Some(Arc::new(dataset)), ..NodeView::default() };
    let mut with_clients = observed(1, vec![Some(holding(9, 9, PreloadState::Done))]);
    with_clients.clients = vec![client("c1", listed())];
    let applied = Outcome::Applied(Applied::default());
    check_with(preloading(), &with_clients, &applied, "Ready=True/Readable Warm=True/Held Degraded=False/AsExpected -Reconciling");
    assert_eq!(figures::of(&dataset(preloading()), &Summary::of(&dataset(preloading()), &with_clients)).nodes.unwrap().count, 1);
    let mut alone = observed(0, vec![]);
    alone.clients = vec![client("c1", ObservedDataset::default())];
    check_with(json!({}), &alone, &applied, "Ready=False/NoNodes");
    alone.clients.push(client("c2", listed()));
    check_with(json!({}), &alone, &applied, "Ready=True/WithoutCache Warm=True/NothingWanted -Reconciling");
    with_clients.clients.push(client("c2", problem(Problem::Denied, "s3:ListBucket is missing")));
    let got = check_with(
        preloading(),
        &with_clients,
        &applied,
        "Ready=True/Readable Warm=True/Held SourceReachable=True/Reachable Degraded=True/CredentialsRefused -Stalled",
    );
    let degraded = got.iter().find(|one| one.condition_type == ConditionType::Degraded).unwrap();
    assert!(degraded.message.starts_with("c2, ") && degraded.message.ends_with("s3:ListBucket is missing"), "{}", degraded.message);
}

#[test]
fn a_list_that_is_old_is_late_unless_it_is_frozen() {
    let mut old = listed();
    old.status.as_mut().unwrap().manifest.as_mut().unwrap().age_ms = Some(190_000);
    check(json!({ "sync": { "interval": "1m" } }), 1, vec![Some(old.clone())], "Synced=False/Late");
    check(json!({ "sync": { "interval": "2m" } }), 1, vec![Some(old.clone())], "Synced=True/Listed");
    check(json!({ "sync": { "mode": "Never" } }), 1, vec![Some(old)], "Synced=True/Frozen");
}

#[test]
fn what_is_missing_or_refused_stalls() {
    let mut missing = observed(1, vec![None]);
    missing.missing = Some(Missing { reason: "SecretMissing", message: "create it".to_owned() });
    let applied = Outcome::Applied(Applied::default());
    check_with(
        json!({}),
        &missing,
        &applied,
        "Ready=False/SecretMissing SourceReachable=False/SecretMissing Stalled=True/SecretMissing -Reconciling",
    );
    let mut still_read = observed(1, vec![Some(listed())]);
    still_read.missing = missing.missing;
    check_with(json!({}), &still_read, &applied, "Ready=True/Readable SourceReachable=False/SecretMissing Stalled=True/SecretMissing");
    let mut refused = observed(0, vec![]);
    let problem = PolicyProblem::Missing { name: "gone".to_owned() };
    refused.policy = Err(problem.clone());
    let outcome = Outcome::Refused(Invalid { reason: problem.reason(), message: problem.message() });
    check_with(json!({}), &refused, &outcome, "Ready=False/PolicyMissing Stalled=True/PolicyMissing -Reconciling");
}

#[test]
fn one_that_ends_says_who_holds_it() {
    let users = Outcome::InUse((0..12).map(|at| format!("train-{at}")).collect());
    let got = check_with(json!({}), &observed(1, vec![]), &users, "Ready=False/InUse Reconciling=True/InUse -Stalled");
    let message = &got.iter().find(|one| one.condition_type == ConditionType::Ready).unwrap().message;
    assert!(message.contains("train-0, train-1") && message.contains("and 2 more") && !message.contains("train-11"), "{message}");
    check_with(json!({}), &observed(1, vec![]), &Outcome::Freeing(vec!["n1".to_owned()]), "Ready=False/Freeing");
}

#[test]
fn figures_are_of_all_nodes_and_stay_small() {
    let mut node = holding(500, 1000, PreloadState::Running);
    let status = node.status.as_mut().unwrap();
    (status.hits, status.misses, status.unreachable_keys) = (3, 1, 40);
    status.failed_files = (0..40).map(|at| FailedFile { path: format!("/{at}{}", "x".repeat(5000)), cause: "y".repeat(5000) }).collect();
    node.unreachable_samples = (0..40).map(|at| format!("a//{at}{}", "z".repeat(5000))).collect();
    let mut nodes: Vec<_> = (0..1000).map(|_| Some(node.clone())).collect();
    // Each tells of the blocks that are its own.
    for (node, bytes) in nodes.iter_mut().flatten().zip([300, 212]) {
        node.status.as_mut().unwrap().cached_bytes = bytes;
    }
    let dataset = dataset(json!({ "preload": { "when": "Once", "revision": 4 } }));
    let mut observed = observed(1000, nodes);
    let status = figures::of(&dataset, &Summary::of(&dataset, &observed));
    assert!(serde_json::to_string(&status).unwrap().len() < 16 << 10);
    let text = |value: &Option<String>| value.clone().unwrap();
    assert_eq!(
        (text(&status.size), text(&status.cached), text(&status.warm), text(&status.hit)),
        ("1000".into(), "512".into(), "50%".into(), "75%".into())
    );
    let preload = status.preload.unwrap();
    assert_eq!((preload.revision, preload.state), (4, forebay_api::dataset::PreloadState::Running));
    let coverage = status.nodes.unwrap();
    assert_eq!((coverage.count, coverage.min, coverage.max, coverage.least.len()), (1000, 50, 50, 10));
    assert_eq!(status.problem_keys.unwrap().count, 40);
    // Its 300 bytes are all that this zone has, and the other has 212.
    observed.nodes[0].zone = "eu-1b".to_owned();
    assert_eq!(text(&figures::of(&dataset, &Summary::of(&dataset, &observed)).cached), "212");
}
