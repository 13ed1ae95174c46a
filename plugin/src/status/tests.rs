#![expect(clippy::unwrap_used, reason = "tests")]
use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::live::Silent;

const UID: &str = "u1";

fn dataset() -> Dataset {
    serde_json::from_value(json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset",
        "metadata": { "name": "imagenet", "namespace": "vision", "uid": UID, "generation": 3 },
        "spec": { "source": "s3://bucket/", "preload": { "when": "Once" } },
        "status": {
            "observedGeneration": 3, "files": 100, "size": "1Gi", "cached": "512Mi", "warm": "50%", "hit": "98%",
            "policy": { "name": "gpu", "uid": "p1" },
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Readable", "message": "2 of 2 nodes serve it", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
            "preload": { "state": "Running", "bytes": "512Mi", "bytesTotal": "1Gi", "files": 50, "filesTotal": 100 },
            "nodes": { "count": 2, "min": 40, "median": 40, "max": 60, "least": [{ "name": "n1", "percent": 40 }] }
        }
    }))
    .unwrap()
}

/// A node that has read so many bytes from its store, loads `rate` bytes a second, and has `left` to load.
fn report(store: u64, left: u64, rate: u64, more: Value) -> Result<ReportReply, Silent> {
    let mut dataset = json!({
        "uid": UID, "wantedBytes": 1000, "wantedHeldBytes": 1000 - left, "mounted": true,
        "status": {
            "hits": 9, "misses": 1, "cachedBytes": 600, "readStoreBytes": store, "readPeerBytes": 10, "sourceBytes": 50,
            "manifest": { "version": "abc" },
            "preload": { "state": if left > 0 { 1 } else { 3 }, "bytesDone": 1000 - left, "bytesTotal": 1000, "bytesPerSecond": rate, "filesTotal": 7 }
        }
    });
    dataset.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ok(serde_json::from_value(json!({ "version": "1", "observed": { "datasets": [dataset] } })).unwrap())
}

fn sample(at: Instant, nodes: Vec<(&str, Result<ReportReply, Silent>)>) -> Sample {
    Sample { at, nodes: nodes.into_iter().map(|(name, report)| (name.to_owned(), report)).collect::<BTreeMap<_, _>>() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn rates_are_those_between_two_samples_of_nodes_that_went_on() {
    let begin = Instant::now();
    let before = sample(begin, vec![("n1", report(1000, 600, 100, json!({}))), ("n2", report(5000, 0, 0, json!({})))]);
    // The second one began again: its counters are smaller.
    let away = Err(Silent::Other("its pod doesn't run".to_owned()));
    let after = begin + Duration::from_secs(2);
    let mounted = json!({ "status": {
        "hits": 9, "misses": 1, "readStoreBytes": 3000, "readPeerBytes": 10, "sourceBytes": 50, "mount": { "passthrough": true, "resend": true },
        "preload": { "state": 1, "bytesDone": 600, "bytesTotal": 1000, "bytesPerSecond": 100, "filesTotal": 7 }
    } });
    let now = sample(after, vec![("n1", report(3000, 400, 100, mounted)), ("n2", report(7, 0, 0, json!({}))), ("n3", away)]);
    let (members, clients) = (names(&["n1", "n2", "n3"]), names(&[]));
    let view = view(&dataset(), Some(Live { before: Some(&before), now: &now, clients: &clients, members: &members }), Vec::new());
    let rates = Rates { store: 1000, peer: 0, source: 0, fetched: 0 };
    assert_eq!(view.nodes.iter().map(|node| node.rates).collect::<Vec<_>>(), [Some(rates), None, None]);
    assert_eq!(view.rates, Some(rates));
    assert_eq!(view.nodes[2].trouble, "its pod doesn't run");
    assert_eq!((view.nodes[0].hit_percent, view.nodes[0].held_bytes), (Some(90), 600));
    let preload = view.preload.clone().unwrap();
    assert_eq!(
        (preload.bytes, preload.bytes_total, preload.bytes_per_second, preload.seconds_left),
        (Some(1600), Some(2000), Some(100), Some(4))
    );
    let text = text::detail(&view);
    for words in
        ["vision/imagenet, cached by gpu", "Readable", "100/s, 4s left", "trouble   n3: its pod doesn't run", "FETCHED", "passthrough"]
    {
        assert!(text.contains(words), "{words} in\n{text}");
    }
}

#[test]
fn clients_count_only_where_they_serve_and_trouble_is_told_by_the_worst() {
    let now = sample(
        Instant::now(),
        vec![
            ("c1", report(1, 0, 0, json!({}))),
            ("c2", Ok(ReportReply::default())),
            ("n1", report(1, 0, 0, json!({ "problem": "credentials refused" }))),
            ("n2", Ok(ReportReply::default())),
            ("other", report(1, 0, 0, json!({}))),
        ],
    );
    let (members, clients) = (names(&["n1", "n2"]), names(&["c1", "c2"]));
    let view = view(&dataset(), Some(Live { before: None, now: &now, clients: &clients, members: &members }), Vec::new());
    let rows: Vec<(&str, bool, &str)> = view.nodes.iter().map(|node| (node.node.as_str(), node.is_client, node.trouble.as_str())).collect();
    assert_eq!(rows, [("n1", false, "credentials refused"), ("n2", false, "it was not told of this data set yet"), ("c1", true, "")]);
}

#[test]
fn without_the_nodes_the_status_is_shown_and_said_to_be_old() {
    let mut old = dataset();
    old.metadata.generation = Some(4);
    let view = view(&old, None, vec!["you may not".to_owned()]);
    assert_eq!((view.nodes.len(), view.least.len(), view.notes.len()), (0, 1, 2));
    let text = text::detail(&view);
    assert!(text.contains("n1     40%") && text.contains("note: you may not") && text.contains("has not followed"), "{text}");
    assert!(text.contains("Running (revision 0): 50 of 100 files, 512Mi of 1Gi\n"), "{text}");
    let table = text::table(&[view], true);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.starts_with("NAMESPACE   NAME"), "{table}");
}

#[test]
fn a_time_is_told_in_two_units_at_most() {
    let check = |seconds, expected: &str| assert_eq!(text::duration(seconds), expected);
    check(0, "0s");
    check(59, "59s");
    check(200, "3m20s");
    check(7500, "2h05m");
}

#[test]
fn nothing_that_a_terminal_would_obey_is_shown() {
    let mut odd = dataset();
    odd.status.as_mut().unwrap().failed_files = vec![FailedFile { path: "/a\x1b[2J\r".to_owned(), reason: "gone".to_owned() }];
    let text = text::plain(&text::detail(&view(&odd, None, Vec::new())));
    assert!(text.contains("failed    /a\\u{1b}[2J\\r: gone\n"), "{text}");
}
