#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;
use forebay_wire::control_service::References;

const POLICY: &str = "p";

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
    SyncReply { generation: hub.desired(POLICY, "").unwrap().0, datasets: uids.iter().map(observed).collect(), ..SyncReply::default() }
}

#[test]
fn nothing_is_desired_before_every_dataset_was_looked_at() {
    let (hub, _woken) = Hub::new();
    hub.set(POLICY, key("a"), dataset("a", "x"));
    assert!(!hub.try_complete(["a", "b"]));
    assert_eq!(hub.desired(POLICY, ""), None);
    hub.mark_seen("b");
    assert!(hub.try_complete(["a", "b"]));
    // One that is made later holds nobody up.
    assert!(hub.try_complete(["a", "b", "c"]));
    assert_eq!(hub.desired(POLICY, "").unwrap().1.unwrap().datasets.len(), 1);
}

#[test]
fn desired_travels_only_when_the_generation_differs() {
    let (hub, _woken) = hub();
    let changes = hub.changes();
    hub.set(POLICY, key("a"), dataset("a", "x"));
    assert!(changes.has_changed().unwrap());
    let (first, desired) = hub.desired(POLICY, "").unwrap();
    assert_eq!(desired.unwrap().datasets, [dataset("a", "x")]);
    assert_eq!(hub.desired(POLICY, &first).unwrap(), (first.clone(), None));
    // The same again, with its map in another order, is the same.
    hub.set(POLICY, key("a"), dataset("a", "x"));
    assert_eq!(hub.desired(POLICY, &first).unwrap().0, first);
    hub.set(POLICY, key("a"), dataset("a", "rotated"));
    let (second, desired) = hub.desired(POLICY, &first).unwrap();
    assert_ne!(first, second);
    assert!(desired.is_some());
    hub.set("other", key("a"), dataset("a", "rotated"));
    assert!(hub.desired(POLICY, &second).unwrap().1.unwrap().datasets.is_empty(), "a data set belongs to one policy");
}

#[test]
fn a_removed_dataset_is_held_until_every_node_that_answers_has_let_it_go() {
    let (hub, _woken) = hub();
    hub.set(POLICY, key("a"), dataset("a", "x"));
    let now = Instant::now();
    for node in ["n1", "n2"] {
        hub.answered(POLICY, node, reply(&hub, &["a"]), now);
    }
    hub.remove("a");
    assert_eq!(hub.holders("a"), ["n1", "n2"]);
    hub.answered(POLICY, "n1", reply(&hub, &[]), now);
    assert_eq!(hub.holders("a"), ["n2"]);
    hub.lost(POLICY, "n2");
    assert!(hub.holders("a").is_empty());
}

#[test]
fn an_answer_wakes_a_dataset_when_its_verdict_changes_and_not_when_a_figure_does() {
    let (hub, mut woken) = hub();
    hub.set(POLICY, key("a"), dataset("a", "x"));
    let start = Instant::now();
    let answer = |wanted: u64, held: u64, after: u64| {
        let mut reply = reply(&hub, &["a"]);
        (reply.datasets[0].wanted_bytes, reply.datasets[0].wanted_held_bytes) = (wanted, held);
        hub.answered(POLICY, "n1", reply, start + Duration::from_secs(after));
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
    hub.lost(POLICY, "n1");
    check(true);
}
