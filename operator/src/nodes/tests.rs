#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;
use forebay_wire::control_service::References;

const POLICY: &str = "p";

fn wanted(uid: &str, secret: &str) -> Wanted {
    Wanted {
        key: key(uid),
        dataset: DesiredDataset { ambient_credentials: true, ..dataset(uid, secret) },
        object_for_clients: format!("{uid} for clients"),
        eviction: Eviction::Hold,
        ambient_for_clients: false,
    }
}

fn dataset(uid: &str, secret: &str) -> DesiredDataset {
    let entries = (0..20).map(|at| (format!("key-{at}"), secret.as_bytes().to_vec())).collect();
    DesiredDataset {
        uid: uid.to_owned(),
        object: "{}".to_owned(),
        references: [("s3".to_owned(), References { entries })].into(),
        ..DesiredDataset::default()
    }
}

fn key(name: &str) -> DatasetKey {
    DatasetKey { namespace: "vision".to_owned(), name: name.to_owned() }
}

fn hub() -> (Hub, mpsc::UnboundedReceiver<DatasetKey>) {
    let (hub, woken) = Hub::new();
    assert!(hub.try_complete([]));
    (hub, woken)
}

fn reply(hub: &Hub, uids: &[&str]) -> SyncReply {
    let observed = |uid: &&str| ObservedDataset { uid: (*uid).to_owned(), ..ObservedDataset::default() };
    SyncReply {
        generation: hub.desired(POLICY, "n1", false, "").unwrap().0,
        datasets: uids.iter().map(observed).collect(),
        ..SyncReply::default()
    }
}

#[test]
fn nothing_is_desired_before_every_dataset_was_looked_at() {
    let (hub, _woken) = Hub::new();
    hub.set(POLICY, wanted("a", "x"));
    assert!(!hub.try_complete(["a", "b"]));
    assert_eq!((hub.desired(POLICY, "n1", false, ""), hub.is_complete()), (None, false));
    hub.mark_seen("b");
    assert!(hub.try_complete(["a", "b"]));
    assert!(hub.is_complete());
    // One that is made later holds nobody up.
    assert!(hub.try_complete(["a", "b", "c"]));
    assert_eq!(hub.desired(POLICY, "n1", false, "").unwrap().1.unwrap().datasets.len(), 1);
}

#[test]
fn desired_travels_only_when_the_generation_differs() {
    let (hub, _woken) = hub();
    let changes = hub.changes();
    hub.set(POLICY, wanted("a", "x"));
    assert!(changes.has_changed().unwrap());
    let (first, desired) = hub.desired(POLICY, "n1", false, "").unwrap();
    assert_eq!(desired.unwrap().datasets, [wanted("a", "x").dataset]);
    assert_eq!(hub.desired(POLICY, "n1", false, &first).unwrap(), (first.clone(), None));
    // The same again, with its map in another order, is the same.
    hub.set(POLICY, wanted("a", "x"));
    assert_eq!(hub.desired(POLICY, "n1", false, &first).unwrap().0, first);
    hub.set(POLICY, wanted("a", "rotated"));
    let (second, desired) = hub.desired(POLICY, "n1", false, &first).unwrap();
    assert_ne!(first, second);
    assert!(desired.is_some());
    hub.set("other", wanted("a", "rotated"));
    assert!(hub.desired(POLICY, "n1", false, &second).unwrap().1.unwrap().datasets.is_empty(), "a data set belongs to one policy");
}

#[test]
fn a_removed_dataset_is_held_until_every_node_that_answers_has_let_it_go() {
    let (hub, _woken) = hub();
    hub.set(POLICY, wanted("a", "x"));
    let now = Instant::now();
    for node in ["n1", "n2"] {
        hub.answered(POLICY, node, None, reply(&hub, &["a"]), now);
    }
    hub.remove("a");
    assert_eq!(hub.holders("a"), ["n1", "n2"]);
    hub.answered(POLICY, "n1", None, reply(&hub, &[]), now);
    assert_eq!(hub.holders("a"), ["n2"]);
    hub.lost(POLICY, "n2", Instant::now());
    assert!(hub.holders("a").is_empty());
}

#[test]
fn an_answer_wakes_a_dataset_when_its_verdict_changes_and_not_when_a_figure_does() {
    let (hub, mut woken) = hub();
    hub.set(POLICY, wanted("a", "x"));
    let start = Instant::now();
    let answer = |wanted: u64, held: u64, after: u64| {
        let mut reply = reply(&hub, &["a"]);
        (reply.datasets[0].wanted_bytes, reply.datasets[0].wanted_held_bytes) = (wanted, held);
        hub.answered(POLICY, "n1", None, reply, start + Duration::from_secs(after));
    };
    let mut check = |wakes: bool| assert_eq!(woken.try_recv().ok(), wakes.then(|| key("a")));
    answer(10, 1, 0);
    check(true);
    answer(10, 2, 3);
    check(false);
    answer(10, 3, 31);
    check(true);
    answer(10, 10, 34);
    check(true);
    answer(10, 10, 90);
    check(false);
    hub.lost(POLICY, "n1", start + Duration::from_secs(91));
    check(true);
}

fn told(nodes: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<DatasetKey>> {
    nodes.iter().map(|(node, uids)| ((*node).to_owned(), uids.iter().map(|uid| key(uid)).collect())).collect()
}

#[test]
fn a_client_is_told_of_what_is_used_on_its_node_and_of_nothing_else() {
    let (hub, _woken) = hub();
    for uid in ["a", "b"] {
        hub.set(POLICY, wanted(uid, "x"));
    }
    assert_eq!(hub.desired(names::CLIENT, "n1", false, ""), None, "nobody said that it is one");
    hub.set_clients(told(&[("n1", &["a"]), ("n2", &["b", "unknown"]), ("n3", &[])]));
    assert_eq!(hub.desired(names::CLIENT, "n4", false, ""), None);
    let of = |node: &str, acknowledged: &str| hub.desired(names::CLIENT, node, false, acknowledged).unwrap();
    let (generation, desired) = of("n1", "");
    let desired = desired.unwrap();
    let object = "a for clients".to_owned();
    let datasets = vec![DesiredDataset { object, ..dataset("a", "x") }];
    assert_eq!(desired, Desired { policy: names::CLIENT.to_owned(), datasets, ..Desired::default() });
    assert_eq!(of("n1", &generation), (generation.clone(), None));
    assert_eq!(of("n2", "").1.unwrap().datasets.len(), 1);
    assert_eq!(of("n3", "").1.unwrap().datasets, []);

    let changes = hub.changes();
    hub.set_clients(told(&[("n1", &["a"]), ("n2", &["b", "unknown"]), ("n3", &[])]));
    assert!(!changes.has_changed().unwrap(), "the same again is no change");
    hub.set(POLICY, wanted("b", "rotated"));
    assert_eq!(of("n1", &generation).1, None, "another data set's secret is nothing to it");
    hub.set(POLICY, wanted("a", "rotated"));
    assert!(of("n1", &generation).1.unwrap().datasets[0].references["s3"].entries.values().all(|value| value == b"rotated"));
    hub.set_clients(told(&[("n1", &[])]));
    assert_eq!(of("n1", &generation).1.unwrap().datasets, []);
    assert_eq!(hub.desired(names::CLIENT, "n2", false, ""), None, "it is none any more");
}

#[test]
fn a_client_holds_a_removed_dataset_until_it_let_it_go() {
    let (hub, mut woken) = hub();
    hub.set(POLICY, wanted("a", "x"));
    hub.set_clients(told(&[("n9", &["a"])]));
    let answer = |mounted: bool, problem: &str| {
        let (generation, desired) = hub.desired(names::CLIENT, "n9", false, "").unwrap();
        let observed =
            |dataset: DesiredDataset| ObservedDataset { uid: dataset.uid, mounted, problem: problem.to_owned(), ..Default::default() };
        let datasets = desired.unwrap().datasets.into_iter().map(observed).collect();
        hub.answered(names::CLIENT, "n9", None, SyncReply { generation, datasets, ..SyncReply::default() }, Instant::now());
    };
    answer(true, "");
    assert_eq!(woken.try_recv().ok(), None, "it counts for nothing in a status");
    assert_eq!(hub.serving_clients()["n9"], Serves { mounted: BTreeSet::from([key("a")]), is_idle: false });
    assert_eq!(hub.view(names::CLIENT, "a").len(), 1);
    assert!(hub.view(POLICY, "a").is_empty());
    answer(true, "refused");
    assert_eq!(woken.try_recv().ok(), Some(key("a")), "unless it has a problem");
    hub.remove("a");
    assert_eq!(hub.holders("a"), ["n9"]);
    answer(false, "");
    assert!(hub.holders("a").is_empty());
    assert!(hub.serving_clients()["n9"].is_idle);
}

#[test]
fn a_cache_follows_its_data_sets_where_they_agree() {
    let (hub, _woken) = hub();
    let set = |uid: &str, eviction| hub.set(POLICY, Wanted { eviction, ..wanted(uid, "") });
    assert_eq!(hub.eviction(POLICY), Eviction::Hold);
    set("a", Eviction::Lru);
    set("b", Eviction::Lru);
    assert_eq!(hub.eviction(POLICY), Eviction::Lru);
    set("b", Eviction::S3Fifo);
    assert_eq!(hub.eviction(POLICY), Eviction::Hold);
    hub.remove("a");
    assert_eq!(hub.eviction(POLICY), Eviction::S3Fifo);
    assert_eq!(hub.eviction("another"), Eviction::Hold);
}

#[test]
fn a_policys_totals_are_of_its_own_nodes() {
    let (hub, _woken) = hub();
    hub.set(POLICY, wanted("a", ""));
    let tier = TierStatus { capacity_bytes: 100, used_bytes: 7, ..TierStatus::default() };
    let mounted = ObservedDataset { uid: "a".to_owned(), mounted: true, ..ObservedDataset::default() };
    let reply = SyncReply { datasets: vec![mounted], tiers: vec![tier], ..SyncReply::default() };
    for node in ["n1", "n2"] {
        hub.answered(POLICY, node, None, reply.clone(), Instant::now());
    }
    assert_eq!(
        hub.totals(POLICY, &Members::from([("n1".to_owned(), String::new())])),
        PolicyTotals { nodes: 1, capacity_bytes: 100, used_bytes: 7, datasets: 1 }
    );
    assert_eq!(hub.totals(POLICY, &Members::new()).nodes, 0);
    assert_eq!(hub.clients_of(POLICY), 0);
    hub.answered(names::CLIENT, "n3", None, reply, Instant::now());
    assert_eq!((hub.clients_of(POLICY), hub.clients_of("another")), (1, 0));
}

#[test]
fn the_nodes_of_a_policy_are_one_cache() {
    let (hub, _woken) = hub();
    hub.set(POLICY, wanted("a", "x"));
    let start = Instant::now();
    let tick = |seconds: u64| hub.tick(start + Duration::from_secs(seconds));
    let place = |ip: &str| Some(format!("{ip}:7071").parse().unwrap());
    let answer = |node: &str, ip: &str| {
        let tier = TierStatus { capacity_bytes: 1 << 30, ..TierStatus::default() };
        hub.answered(POLICY, node, place(ip), SyncReply { tiers: vec![tier], ..SyncReply::default() }, start);
    };
    assert_eq!(hub.desired(POLICY, "n1", true, ""), None, "nobody knows yet whose nodes there are");
    assert!(hub.desired(POLICY, "old", false, "").is_some(), "an older release shares nothing, and is told as ever");
    hub.set_members(POLICY, [("n1".to_owned(), String::new()), ("n2".to_owned(), String::new())].into());
    assert_eq!(hub.desired(POLICY, "n1", true, ""), None, "nor what it holds");
    answer("n1", "10.0.0.1");
    tick(2);
    let (first, alone) = hub.desired(POLICY, "n1", true, "").unwrap();
    let peers = |desired: Option<Desired>| desired.unwrap().peers.into_iter().map(|peer| (peer.name, peer.address)).collect::<Vec<_>>();
    let listed = |name: &str, ip: &str| (name.to_owned(), format!("{ip}:7071"));
    assert_eq!(peers(alone), [listed("n1", "10.0.0.1")]);
    let mut changes = hub.changes();
    changes.mark_unchanged();
    answer("n2", "10.0.0.2");
    assert!(!changes.has_changed().unwrap(), "within a second of the last time the others are not disturbed");
    assert_eq!(hub.desired(POLICY, "n2", true, ""), None, "its place is not in force yet");
    tick(4);
    assert!(changes.has_changed().unwrap());
    let both = [listed("n1", "10.0.0.1"), listed("n2", "10.0.0.2")];
    let (second, desired) = hub.desired(POLICY, "n1", true, &first).unwrap();
    assert_eq!(peers(desired), both);
    assert_eq!(hub.desired(POLICY, "n2", true, &second).unwrap(), (second.clone(), None));
    hub.lost(POLICY, "n2", start);
    tick(6);
    assert_eq!(hub.desired(POLICY, "n1", true, &second).unwrap().1, None, "one that is silent keeps its blocks");
    hub.set_members(POLICY, [("n1".to_owned(), "eu-1a".to_owned())].into());
    tick(8);
    let (_, desired) = hub.desired(POLICY, "n1", true, &second).unwrap();
    assert_eq!(desired.unwrap().peers.iter().map(|peer| peer.zone.as_str()).collect::<Vec<_>>(), ["eu-1a"]);
}

#[test]
fn a_node_that_can_take_them_is_told_changes_only() {
    let (hub, _woken) = hub();
    for uid in ["a", "b", "c"] {
        hub.set(POLICY, wanted(uid, "x"));
    }
    let (first, whole) = hub.desired(POLICY, "n1", false, "").unwrap();
    let whole = whole.unwrap();
    assert_eq!((whole.since.as_str(), whole.datasets.len()), ("", 3));
    hub.set(POLICY, wanted("b", "rotated"));
    hub.remove("c");
    let told = || hub.desired(POLICY, "n1", false, &first).unwrap().1.unwrap();
    assert_eq!(told().since, "", "one of an older release takes changes for the whole");
    let answered = |observed: &str| {
        let reply = SyncReply { generation: first.clone(), observed: observed.to_owned(), ..SyncReply::default() };
        hub.answered(POLICY, "n1", None, reply, Instant::now());
    };
    answered("life.1");
    let changes = told();
    assert_eq!(changes.since, first);
    assert_eq!(
        (changes.datasets.as_slice(), changes.datasets_gone.as_slice()),
        (&[wanted("b", "rotated").dataset][..], &["c".to_owned()][..])
    );
    assert_eq!(changes.onto(&whole), hub.desired(POLICY, "other", false, "").unwrap().1.unwrap());
    assert_eq!(hub.desired(POLICY, "n1", false, "of another operator").unwrap().1.unwrap().since, "");
    answered("");
    assert_eq!(told().since, "");
}

#[test]
fn an_answer_of_changes_completes_the_one_before() {
    let (hub, mut woken) = hub();
    for uid in ["a", "b"] {
        hub.set(POLICY, wanted(uid, "x"));
    }
    let start = Instant::now();
    let answer = |observed: (&str, &str), held: &[(&str, u64)], gone: &[&str], after: u64| {
        let of =
            |(uid, held): &(&str, u64)| ObservedDataset { uid: (*uid).to_owned(), wanted_held_bytes: *held, ..ObservedDataset::default() };
        let reply = SyncReply {
            datasets: held.iter().map(of).collect(),
            observed_since: observed.0.to_owned(),
            observed: observed.1.to_owned(),
            datasets_gone: gone.iter().map(|uid| (*uid).to_owned()).collect(),
            ..SyncReply::default()
        };
        hub.answered(POLICY, "n1", None, reply, start + Duration::from_secs(after));
    };
    let held = |uid: &str| hub.view(POLICY, uid)[0].dataset.as_ref().map(|dataset| dataset.wanted_held_bytes);
    answer(("", "l.1"), &[("a", 1), ("b", 1)], &[], 0);
    assert_eq!((held("a"), held("b"), hub.cursor(POLICY, "n1")), (Some(1), Some(1), "l.1".to_owned()));
    while woken.try_recv().is_ok() {}
    answer(("l.1", "l.2"), &[("a", 2)], &[], 3);
    assert_eq!((held("a"), held("b")), (Some(2), Some(1)));
    // Nothing more is said, and yet the figure is looked at.
    assert!(woken.try_recv().is_err());
    hub.tick(start + Duration::from_secs(31));
    assert_eq!((woken.try_recv().ok(), woken.try_recv().ok()), (Some(key("a")), None));
    answer(("l.2", "l.3"), &[], &["b"], 40);
    assert_eq!((held("a"), held("b")), (Some(2), None));
    // Changes of what isn't known here are nothing to go by.
    answer(("l.7", "l.8"), &[("a", 9)], &[], 43);
    assert_eq!((held("a"), hub.cursor(POLICY, "n1")), (Some(2), String::new()));
    answer(("", "l.9"), &[("b", 5)], &[], 46);
    assert_eq!((held("a"), held("b")), (None, Some(5)));
}
