#![expect(clippy::unwrap_used, reason = "tests")]
use serde_json::{Value, json};

use super::*;

fn dataset(spec: Value, metadata: Value) -> Dataset {
    let mut whole = json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": "imagenet", "namespace": "vision" },
        "spec": { "source": "s3://bucket/" }
    });
    whole["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    whole["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn path(text: &str) -> DatasetPath {
    DatasetPath::new(text).unwrap()
}

/// `expected` is the patch of the spec, `null` for none, and a piece of what is said; or a piece of why it is refused.
fn check(spec: Value, change: Change, expected: Result<(Value, &str), &str>) {
    let got = plan(&dataset(spec.clone(), json!({})), &change);
    match (&got, expected) {
        (Ok(planned), Ok((patch, words))) => {
            let wanted = if patch.is_null() { None } else { Some(json!({ "spec": patch })) };
            assert_eq!(planned.patch, wanted, "{spec} {change:?}");
            assert!(planned.says.join("\n").contains(words), "{:?}, expected {words}", planned.says);
        }
        (Err(why), Err(words)) => assert!(why.contains(words), "{why}, expected {words}"),
        _ => panic!("{spec} {change:?}: {got:?}"),
    }
}

fn preload(paths: &[&str], rate: Option<&str>) -> Change {
    Change::Preload { paths: paths.iter().map(|text| path(text)).collect(), max_bytes_per_second: rate.map(str::to_owned) }
}

#[test]
fn a_preload_runs_once_more_and_keeps_what_it_says_besides() {
    check(json!({}), preload(&[], None), Ok((json!({ "preload": { "when": "Once", "revision": 1 } }), "preload.when: Once")));
    check(
        json!({ "preload": { "when": "Once", "revision": 4, "maxBytesPerSecond": "1Gi", "paths": ["/a"] } }),
        preload(&["/b", "/c/"], None),
        Ok((json!({ "preload": { "paths": ["/b", "/c"], "revision": 5 } }), "/b, /c (was /a)")),
    );
    check(
        json!({ "preload": { "when": "Always", "suspend": true } }),
        preload(&[], Some("200Mi")),
        Ok((json!({ "preload": { "maxBytesPerSecond": "200Mi", "suspend": false, "revision": 1 } }), "suspend: false")),
    );
    check(
        json!({ "preload": { "when": "Once", "paths": ["/a"] } }),
        preload(&[], None),
        Ok((json!({ "preload": { "revision": 1 } }), "loads /a only")),
    );
    check(
        json!({ "rules": [{ "path": "/raw", "cache": "Never" }] }),
        preload(&["/raw/x"], None),
        Err("the rule `/raw` says `cache: Never`"),
    );
    check(
        json!({ "rules": [{ "path": "/raw", "cache": "Never" }, { "path": "/raw/x", "cache": "Auto" }] }),
        preload(&["/raw/x"], None),
        Ok((json!({ "preload": { "when": "Once", "paths": ["/raw/x"], "revision": 1 } }), "")),
    );
    check(json!({ "preload": { "when": "Once" } }), Change::PausePreload, Ok((json!({ "preload": { "suspend": true } }), "stays")));
    check(json!({ "preload": { "when": "Once", "suspend": true } }), Change::PausePreload, Ok((json!(null), "nothing was changed")));
    check(json!({}), Change::PausePreload, Err("nothing to pause"));
}

#[test]
fn a_pin_is_one_rule_and_leaves_the_others() {
    let pin = |text: &str, bytes: Option<&str>| Change::Pin { path: path(text), max_bytes: bytes.map(str::to_owned) };
    check(json!({}), pin("/a", None), Ok((json!({ "rules": [{ "path": "/a", "cache": "Pin" }] }), "everything below")));
    let others = json!([{ "path": "/", "ttl": "24h" }, { "path": "/a", "cache": "Never", "copies": { "min": 2 } }]);
    check(
        json!({ "rules": others }),
        pin("/a", Some("2Ti")),
        Ok((
            json!({ "rules": [
                { "path": "/", "ttl": "24h" }, { "path": "/a", "cache": "Pin", "maxBytes": "2Ti", "copies": { "min": 2 } }
            ] }),
            "cache: Pin (was Never)",
        )),
    );
    let pinned = json!({ "rules": [{ "path": "/a", "cache": "Pin", "maxBytes": "2Ti" }] });
    check(pinned.clone(), pin("/a/", Some("2Ti")), Ok((json!(null), "nothing was changed")));
    check(pinned, pin("/a", None), Ok((json!({ "rules": [{ "path": "/a", "cache": "Pin" }] }), "maxBytes: removed (was 2Ti)")));
    check(
        json!({ "rules": [{ "path": "/", "cache": "Pin" }] }),
        pin("/a", None),
        Ok((json!({ "rules": [{ "path": "/", "cache": "Pin" }, { "path": "/a", "cache": "Pin" }] }), "the rule `/` pins it already")),
    );
}

#[test]
fn an_unpin_takes_away_what_a_pin_set() {
    let unpin = |text: &str| Change::Unpin { path: path(text) };
    check(
        json!({ "rules": [{ "path": "/a", "cache": "Pin", "maxBytes": "1Gi", "ttl": "1h" }] }),
        unpin("/a"),
        Ok((json!({ "rules": [{ "path": "/a", "ttl": "1h" }] }), "the rest of the rule stays")),
    );
    check(
        json!({ "rules": [{ "path": "/", "cache": "Never" }, { "path": "/a", "cache": "Pin" }] }),
        unpin("/a"),
        Ok((json!({ "rules": [{ "path": "/", "cache": "Never" }] }), "the rule `/` decides, which says Never")),
    );
    check(json!({ "rules": [{ "path": "/a", "cache": "Pin" }] }), unpin("/a"), Ok((json!({ "rules": null }), "stays until its room")));
    check(json!({ "rules": [{ "path": "/", "cache": "Pin" }] }), unpin("/a"), Err("pinned by the rule `/`"));
    check(json!({}), unpin("/a"), Err("nothing to undo"));
}

#[test]
fn what_is_freed_is_not_cached_again_until_that_is_undone() {
    let free = |text: &str| Change::Free { path: path(text) };
    check(
        json!({ "rules": [{ "path": "/a", "cache": "Pin", "maxBytes": "1Gi" }, { "path": "/a/b", "cache": "Pin" }] }),
        free("/a"),
        Ok((json!({ "rules": [{ "path": "/a", "cache": "Never" }, { "path": "/a/b", "cache": "Pin" }] }), "stays: /a/b")),
    );
    check(json!({ "rules": [{ "path": "/a", "cache": "Never" }] }), free("/a"), Ok((json!(null), "nothing was changed")));
    let undo = |text: &str| Change::Unfree { path: path(text) };
    check(json!({ "rules": [{ "path": "/a", "cache": "Never" }] }), undo("/a"), Ok((json!({ "rules": null }), "cached when it is read")));
    check(json!({ "rules": [{ "path": "/a", "cache": "Pin" }] }), undo("/a"), Err("nothing to undo"));
}

#[test]
fn nothing_of_a_dataset_that_is_being_deleted_is_changed() {
    let dying = dataset(json!({}), json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }));
    assert!(plan(&dying, &preload(&[], None)).unwrap_err().contains("is being deleted"));
}

#[test]
fn who_applies_the_same_field_is_named() {
    let managed = |manager: &str, operation: &str, fields: Value| json!([{ "manager": manager, "operation": operation, "apiVersion": "forebay.dev/v1alpha1", "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": fields } }]);
    let check = |fields: Value, change: &Change, expected: bool| {
        let got = plan(&dataset(json!({}), json!({ "managedFields": fields })), change).unwrap();
        assert_eq!(got.says.iter().any(|line| line.contains("argocd")), expected, "{:?}", got.says);
    };
    let preloads = json!({ "f:preload": { "f:when": {} } });
    let rule = json!({ "f:rules": { "k:{\"path\":\"/a\"}": { "f:cache": {} } } });
    check(managed("argocd", "Apply", preloads.clone()), &preload(&[], None), true);
    check(managed("argocd", "Update", preloads.clone()), &preload(&[], None), false);
    check(managed("argocd", "Apply", rule.clone()), &preload(&[], None), false);
    check(managed("argocd", "Apply", rule), &Change::Free { path: path("/a") }, true);
    check(managed("argocd", "Apply", preloads), &Change::Free { path: path("/a") }, false);
}
