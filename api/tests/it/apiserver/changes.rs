//! What becomes of an object that is there: which changes are refused, how two writers' lists merge, what `kubectl get` shows.

use serde_json::{Value, json};

use super::{Server, object};

/// Makes `name` with `before`; then each of `after` as its next spec is refused with its sentence, or taken where that is empty.
fn check(name: &str, before: &Value, after: &[(Value, &str)]) {
    let Some(server) = Server::get() else { return };
    let answer = server.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &object("Dataset", name, before).to_string());
    assert!(answer.good, "{}", answer.err);
    for (spec, message) in after {
        let refusals = server.refusals("replace", &[object("Dataset", name, spec)]);
        match (refusals.get(name), message.is_empty()) {
            (None, true) => {}
            (Some(refusal), false) => assert!(refusal.contains(message), "{spec}: {refusal}"),
            (refusal, _) => panic!("{spec}: {refusal:?}, expected: {message}"),
        }
    }
}

#[test]
fn a_source_keeps_its_uri() {
    let keep = "the source of a Dataset can't change";
    check(
        "one-source",
        &json!({ "source": "s3://abc/a/" }),
        &[
            (json!({ "source": "s3://abc/a/", "eviction": "LRU", "secretRef": { "name": "a" } }), ""),
            (json!({ "source": "s3://abc/b/" }), keep),
            (json!({ "sources": [{ "path": "/", "uri": "s3://abc/a/" }] }), ""),
            (json!({ "sources": [{ "path": "/", "uri": "s3://abc/b/" }] }), keep),
            (json!({ "sources": [{ "path": "/x", "uri": "s3://abc/a/" }] }), keep),
        ],
    );
}

#[test]
fn a_uri_keeps_its_path() {
    let keep = "a source's uri can't change under its path";
    check(
        "many-sources",
        &json!({ "sources": [{ "path": "/a", "uri": "s3://abc" }, { "path": "/b", "uri": "s3://abd" }] }),
        &[
            (json!({ "sources": [{ "path": "/b", "uri": "s3://abd" }, { "path": "/a", "uri": "s3://abc" }] }), ""),
            (json!({ "sources": [{ "path": "/b", "uri": "s3://abd" }] }), ""),
            (json!({ "sources": [{ "path": "/c", "uri": "s3://other" }, { "path": "/a", "uri": "s3://abc" }] }), ""),
            (json!({ "sources": [{ "path": "/b", "uri": "s3://other" }, { "path": "/a", "uri": "s3://abc" }] }), keep),
            (json!({ "source": "s3://abc" }), "the sources of a Dataset can't change into another one"),
        ],
    );
}

#[test]
fn the_only_entry_of_the_root_may_become_source() {
    check("root-source", &json!({ "sources": [{ "path": "/", "uri": "s3://abc" }] }), &[(json!({ "source": "s3://abc" }), "")]);
}

#[test]
fn rules_of_two_writers_merge() {
    let Some(server) = Server::get() else { return };
    let apply = |manager: &str, spec: Value| {
        let answer = server
            .kubectl(&["apply", "--server-side", "--field-manager", manager, "-f", "-"], &object("Dataset", "merged", &spec).to_string());
        assert!(answer.good, "{}", answer.err);
    };
    apply("owner", json!({ "source": "s3://abc", "rules": [{ "path": "/a", "cache": "Pin" }] }));
    apply("plugin", json!({ "rules": [{ "path": "/b", "cache": "Never" }, { "path": "/a", "ttl": "1h" }] }));
    let answer = server.kubectl(&["get", "dset", "merged", "-o", "json"], "");
    let mut rules = serde_json::from_str::<Value>(&answer.out).unwrap()["spec"]["rules"].as_array().unwrap().clone();
    // Their order means nothing: the longest path wins.
    rules.sort_by_key(|rule| rule["path"].to_string());
    assert_eq!(Value::from(rules), json!([{ "path": "/a", "cache": "Pin", "ttl": "1h" }, { "path": "/b", "cache": "Never" }]));
}

#[test]
fn kubectl_shows_what_the_status_says() {
    let Some(server) = Server::get() else { return };
    let new = |kind: &str, name: &str, spec: Value| {
        let answer = server.kubectl(&["apply", "--server-side", "-f", "-"], &object(kind, name, &spec).to_string());
        assert!(answer.good, "{}", answer.err);
    };
    let status = |resource: &str, status: Value| {
        let patch = json!({ "status": status }).to_string();
        let answer = server.kubectl(&["patch", resource, "--subresource=status", "--type=merge", "-p", &patch], "");
        assert!(answer.good, "{}", answer.err);
    };
    let row = |resource: &str| {
        let answer = server.kubectl(&["get", resource], "");
        let line = |at: usize| answer.out.lines().nth(at).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        (line(0), line(1))
    };
    let mut conditions = Vec::new();
    let ready = forebay_api::condition::NewCondition::new(forebay_api::condition::ConditionType::Ready, true, "Readable", "it can be read");
    forebay_api::condition::set(&mut conditions, &ready, Some(1), k8s_openapi::jiff::Timestamp::now());

    new("Dataset", "shown", json!({ "source": "s3://abc" }));
    let dataset = forebay_api::DatasetStatus {
        files: Some(1_281_167),
        size: Some(forebay_api::quantity::bytes(148_000_000_000)),
        cached: Some(forebay_api::quantity::bytes(74_000_000_000)),
        warm: Some("50%".to_owned()),
        hit: Some("98%".to_owned()),
        conditions: conditions.clone(),
        ..Default::default()
    };
    status("dataset/shown", serde_json::to_value(&dataset).unwrap());
    let (head, cells) = row("dset/shown");
    assert_eq!(head, ["NAME", "FILES", "SIZE", "CACHED", "WARM", "HIT", "STATUS", "AGE"]);
    assert_eq!(cells[..7], ["shown", "1281167", "138Gi", "68.9Gi", "50%", "98%", "Readable"]);

    new("CachePolicy", "shown", json!({ "tiers": [{ "type": "Memory", "capacity": "1Gi" }] }));
    let policy = forebay_api::CachePolicyStatus {
        nodes: Some(forebay_api::cache_policy::PolicyNodes { matched: 3, ready: 2 }),
        datasets: Some(4),
        capacity: Some("3Gi".to_owned()),
        conditions,
        ..Default::default()
    };
    status("cachepolicy/shown", serde_json::to_value(&policy).unwrap());
    let (head, cells) = row("cpol/shown");
    assert_eq!(head, ["NAME", "NODES", "READY", "CAPACITY", "DATASETS", "DEFAULT", "AGE"]);
    assert_eq!(cells[..6], ["shown", "3", "2", "3Gi", "4", "false"]);
    // It selects every node: the operator's tests, on the same server, would find their nodes taken by an older policy.
    let gone = server.kubectl(&["delete", "cachepolicy/shown", "dataset/shown"], "");
    assert!(gone.good, "{}", gone.err);
}
