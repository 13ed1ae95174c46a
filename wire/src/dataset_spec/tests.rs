#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::rule::CacheMode;

fn file(spec: &str) -> String {
    format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: imagenet, namespace: vision }}\nspec:\n{spec}")
}

#[test]
fn the_shortest_file_takes_the_defaults() {
    let dataset = Dataset::parse("d.yaml", &file("  source: s3://imagenet/train\n")).unwrap();
    assert_eq!(dataset.name.to_string(), "vision/imagenet");
    assert_eq!(dataset.sources[0].to_string(), "s3://imagenet/train/");
    assert_eq!(dataset.eviction, Eviction::Hold);
    assert_eq!(dataset.sync, Sync::Interval(Duration::from_secs(600)));
    assert_eq!(dataset.permissions, Permissions { uid: 0, gid: 0, file_mode: 0o444, directory_mode: 0o555 });
    assert_eq!(dataset.preload.when, PreloadWhen::Never);
    assert!(dataset.notes.is_empty());
}

#[test]
fn the_whole_vocabulary_is_read() {
    let text = r#"
  sources:
    - path: /images
      uri: s3://laion/images/
      secretRef: { name: s3 }
      s3: { endpoint: "https://minio.corp:9000/", region: us-east-1, addressing: Path, caBundleRef: { name: corp-ca, key: ca.crt }, requesterPays: true, roleARN: "arn:aws:iam::123456789012:role/reader" }
    - { path: /labels, uri: "file:///mnt/nfs/labels" }
  policyRef: { name: gpu-pool }
  rules:
    - { path: /images/train, cache: Pin, maxBytes: 120Ti, copies: { min: 1, max: 3 } }
    - { path: /images/raw, cache: Never }
    - { path: /labels, ttl: 24h, localCopy: Always }
  eviction: S3FIFO
  quota: 10Ti
  priority: -1000
  preload: { when: Once, paths: [/images/train], maxBytesPerSecond: 20Gi, revision: 1, suspend: false }
  sync: { mode: Interval, interval: 10m }
  permissions: { uid: 1000, gid: 1000, fileMode: 0440, directoryMode: "0550" }
  volume: { claim: Create }
  verify: Strict
"#;
    let dataset = Dataset::parse("d.yaml", &file(text)).unwrap();
    let Location::S3(s3) = &dataset.sources[0].location else { panic!("{dataset:?}") };
    assert_eq!(s3.endpoint.as_deref(), Some("https://minio.corp:9000"));
    assert_eq!((s3.addressing, s3.requester_pays, s3.anonymous), (Addressing::Path, true, false));
    assert_eq!(dataset.sources[0].secret.as_deref(), Some("s3"));
    assert_eq!(dataset.sources[1].location, Location::File("/mnt/nfs/labels".into()));
    let paths: Vec<_> = dataset.rules.iter().map(|rule| rule.path.as_str()).collect();
    assert_eq!(paths, ["/images/raw", "/images/train", "/labels"]);
    assert_eq!(dataset.rules[1].cache, Some(CacheMode::Pin));
    assert_eq!(dataset.rules[1].max_bytes, Some("120Ti".parse().unwrap()));
    assert_eq!(dataset.permissions.file_mode, 0o440);
    assert_eq!((dataset.quota, dataset.priority.get()), (Some("10Ti".parse().unwrap()), -1000));
    assert_eq!((dataset.verify, dataset.eviction), (Verify::Strict, Eviction::S3Fifo));
    let notes = dataset.notes.join("\n");
    assert!(notes.contains("policyRef") && notes.contains("volume") && notes.contains("copies") && notes.contains("priority"), "{notes}");
}

#[test]
fn what_kubectl_prints_is_read() {
    let text = "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: { name: a, uid: 12-34, resourceVersion: \"5\", generation: 2, managedFields: [{ manager: x }], labels: { app.kubernetes.io/name: x } }\nspec: { source: \"s3://abc\" }\nstatus: { conditions: [] }\n";
    assert_eq!(Dataset::parse("d.yaml", text).unwrap().name.namespace(), "default");
}

#[test]
fn a_subset_may_inherit_its_pin() {
    let dataset = file("  source: s3://abc\n  rules: [{ path: /a/b, maxBytes: 1Gi }, { path: /a, cache: Pin }]\n");
    assert!(Dataset::parse("d.yaml", &dataset).is_ok());
}

/// `spec` begins on line 5.
fn check(spec: &str, expected: &str) -> Option<String> {
    let text = Dataset::parse("d.yaml", &file(spec)).map_or_else(|problems| problems.to_string(), |_| "it was accepted".to_owned());
    (!text.starts_with(&format!("d.yaml: {expected}"))).then(|| format!("for {spec:?}\n  got:      {text}\n  expected: {expected}\n"))
}

#[test]
fn every_wrong_field_is_named_with_its_line_and_a_cure() {
    let wrong: Vec<String> = include!("tests/wrong.rs").into_iter().filter_map(|(spec, expected)| check(spec, expected)).collect();
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn the_head_of_the_file_is_checked() {
    let check = |text: &str, expected: &str| {
        let problems = Dataset::parse("d.yaml", text).unwrap_err().to_string();
        assert!(problems.contains(expected), "{problems}");
    };
    let rest = "metadata: { name: a }\nspec: { source: \"s3://abc\" }\n";
    check(&format!("apiVersion: v1\nkind: Dataset\n{rest}"), "apiVersion (line 1): this program reads `forebay.dev/v1alpha1` only");
    check(&format!("apiVersion: forebay.dev/v1alpha1\nkind: Pod\n{rest}"), "kind (line 2): a file of kind `Dataset` is expected");
    check("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nspec: { source: \"s3://abc\" }\n", "the field `metadata` is missing here");
    check(
        "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: { name: A_b }\nspec: { source: \"s3://abc\" }\n",
        "metadata.name (line 3): `A_b` is no name",
    );
    check(
        "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: { name: a, namespace: .. }\nspec: { source: \"s3://abc\" }\n",
        "metadata.namespace (line 3): `..` is no name",
    );
    check("", "the file is empty");
    check("a: [", "line");
    check("just text", "a map of fields is expected");
    check(&format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\n{rest}---\n{rest}"), "more than one document");
    check(&"#".repeat(2 << 20), "is it the right file?");
}

#[test]
fn every_mistake_is_named_at_once() {
    let problems =
        Dataset::parse("d.yaml", &file("  source: gs://x\n  sync: { interval: soon }\n  preload: { paths: [a] }\n")).unwrap_err();
    let fields: Vec<_> = problems.problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["spec.source", "spec.sync.interval", "spec.preload.paths[0]"]);
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let canary = "AKIACANARY0123456789";
    let specs = [
        format!("  source: s3://{canary}:{canary}@abc/\n"),
        format!("  source: s3://abc/\n  accessKey: {canary}\n"),
        format!("  source: s3://abc/\n  secretRef: {canary}\n"),
        format!("  source: s3://abc/\n  secretRef: [{canary}]\n"),
        format!("  source: s3://abc/\n  secretRef: {{ name: {canary} }}\n"),
        format!("  source: s3://abc/\n  s3: {{ endpoint: \"https://{canary}:{canary}@host\" }}\n"),
        format!("  source: s3://abc/\n  s3: {{ anonymous: {canary} }}\n"),
        format!("  source: s3://abc/\n  s3: {{ addressing: {canary} }}\n"),
        format!("  source: s3://abc/\n  s3: {{ region: \"{canary}!\" }}\n"),
        format!("  source: s3://abc/\n  preload: {{ revision: {canary} }}\n"),
        format!("  source: s3://abc/\n  {canary}\n"),
        format!("  source: \"s3://abc/{canary}\n"),
        format!("  source: s3://abc/\n  permissions: {{ uid: {canary} }}\n"),
    ];
    for spec in specs {
        let problems = Dataset::parse("d.yaml", &file(&spec)).unwrap_err();
        assert!(!format!("{problems} {problems:?}").contains("CANARY"), "{problems}");
    }
}
