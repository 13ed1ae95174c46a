//! preload, pin, unpin and free set what they say, and leave what others wrote.

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api_server::World;

const MANIFEST: &str =
    r#"{ "sync": { "interval": "1m" }, "rules": [{ "path": "/daily", "ttl": "24h" }], "preload": { "maxBytesPerSecond": "1Gi" } }"#;

fn manifest() -> Value {
    serde_json::from_str(MANIFEST).unwrap()
}

#[tokio::test]
async fn what_others_wrote_stays_theirs() {
    let Some(world) = World::new("plugin-others").await else { return };
    world.apply("gitops", manifest()).await;
    for line in ["pin t /train --max-bytes 2Ti", "preload t --path /train", "free t /raw", "pin t /daily"] {
        let ran = world.run(line).await;
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
    }
    let all = json!({
        "source": "s3://bucket/",
        "sync": { "interval": "1m" },
        "preload": { "when": "Once", "paths": ["/train"], "maxBytesPerSecond": "1Gi", "revision": 1 },
        "rules": [
            { "path": "/daily", "cache": "Pin", "ttl": "24h" },
            { "path": "/train", "cache": "Pin", "maxBytes": "2Ti" },
            { "path": "/raw", "cache": "Never" }
        ]
    });
    assert_eq!(world.spec().await, all);
    let dataset = world.datasets().get("t").await.unwrap();
    let owned = |manager: &str, rule: &str, field: &str| {
        let of = |entry: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| entry.manager.as_deref() == Some(manager);
        let fields = |entry: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
            let fields = &entry.fields_v1.as_ref().unwrap().0["f:spec"];
            match rule {
                "" => fields["f:preload"][format!("f:{field}")].is_object(),
                rule => fields["f:rules"][format!("k:{}", json!({ "path": rule }))][format!("f:{field}")].is_object(),
            }
        };
        dataset.managed_fields().iter().filter(of).any(fields)
    };
    for (manager, rule, field, expected) in [
        ("gitops", "/daily", "ttl", true),
        ("gitops", "/daily", "cache", false),
        ("kubectl-forebay", "/daily", "ttl", false),
        ("kubectl-forebay", "/daily", "cache", true),
        ("kubectl-forebay", "/train", "maxBytes", true),
        ("gitops", "", "maxBytesPerSecond", true),
        ("kubectl-forebay", "", "maxBytesPerSecond", false),
        ("kubectl-forebay", "", "revision", true),
    ] {
        assert_eq!(owned(manager, rule, field), expected, "{manager} {rule} {field}: {:#?}", dataset.managed_fields());
    }
    // The same manifest again takes nothing of it back, and nobody is in conflict.
    world.apply("gitops", manifest()).await;
    assert_eq!(world.spec().await, all);
    for line in ["unpin t /train", "unpin t /daily", "free t /raw --undo"] {
        let ran = world.run(line).await;
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
    }
    assert_eq!(world.spec().await["rules"], manifest()["rules"]);
}

#[tokio::test]
async fn many_who_change_rules_at_once_lose_none() {
    let Some(world) = World::new("plugin-at-once").await else { return };
    world.apply("gitops", manifest()).await;
    let lines = ["pin t /a", "pin t /b", "free t /c", "preload t --max-bytes-per-second 5Mi"];
    let (a, b, c, d) = tokio::join!(world.run(lines[0]), world.run(lines[1]), world.run(lines[2]), world.run(lines[3]));
    for (line, ran) in lines.iter().zip([a, b, c, d]) {
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
    }
    let spec = world.spec().await;
    let mut paths: Vec<&str> = spec["rules"].as_array().unwrap().iter().map(|rule| rule["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/a", "/b", "/c", "/daily"]);
    assert_eq!(spec["preload"]["maxBytesPerSecond"], "5Mi");
}

#[tokio::test]
async fn nonsense_is_refused_with_a_reason_and_changes_nothing() {
    let Some(world) = World::new("plugin-nonsense").await else { return };
    let rules = json!([{ "path": "/raw", "cache": "Never" }, { "path": "/a", "cache": "Pin" }, { "path": "/a/b", "maxBytes": "1Gi" }]);
    world.apply("gitops", json!({ "rules": rules })).await;
    let before = world.spec().await;
    for (line, code, words) in [
        ("preload t --path /raw/x", 64, "`cache: Never`"),
        ("unpin t /b", 64, "nothing to undo"),
        ("unpin t /a/b", 64, "pinned by the rule `/a`"),
        // Only the API server knows: maxBytes of /a/b needs the pin of /a.
        ("unpin t /a", 64, "maxBytes says how much to pin"),
        ("preload t --pause", 64, "nothing to pause"),
        ("pin other /a", 66, "there is no Dataset `other` in the namespace plugin-nonsense"),
        ("pin t a", 64, "begins with `/`"),
    ] {
        let ran = world.run(line).await;
        assert!(ran.code == code && ran.err.contains(words), "{line}: {ran:?}");
    }
    assert_eq!(world.spec().await, before);
    let again = world.run("pin t /a").await;
    assert!(again.code == 0 && again.out.contains("nothing was changed"), "{again:?}");
}
