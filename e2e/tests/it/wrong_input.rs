//! Mistakes: each is told in a condition or an event with what to do, and is well when it is mended.

use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{Namespace, apply, condition, get, kubectl, patch, wait_condition};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;

use crate::{dataset, installed, spec};

const READY: Duration = Duration::from_secs(60);

/// Waits until some condition of the data set says `words`.
fn wait_told(namespace: &str, words: &[&str]) {
    let mut last = String::new();
    let told = wait_for(&format!("{words:?} in a condition"), READY, || {
        last = get(namespace, "dataset", "t")?.map(|object| object["status"]["conditions"].to_string()).unwrap_or_default();
        Ok(words.iter().all(|word| last.contains(word)).then_some(()))
    });
    told.unwrap_or_else(|error| panic!("{error:#}: {last}"));
}

#[test]
fn a_secret_that_is_missing_is_named_and_its_arrival_mends_it() {
    installed();
    let bucket = Bucket::with_files(3).unwrap();
    let namespace = Namespace::new("no-secret").unwrap();
    apply(&namespace.0, &spec("t", &bucket.source(), "")).unwrap();
    wait_told(&namespace.0, &["s3", "ecret"]);
    let (id, key) = forebay_e2e::bucket::CREDENTIALS;
    let wrong = "--from-literal=AWS_SECRET_ACCESS_KEY=wrong".to_owned();
    let (id, key) = (format!("--from-literal=AWS_ACCESS_KEY_ID={id}"), format!("--from-literal=AWS_SECRET_ACCESS_KEY={key}"));
    kubectl(&["-n", &namespace.0, "create", "secret", "generic", "s3", &id, &wrong]).unwrap();
    wait_told(&namespace.0, &["refused"]);
    kubectl(&["-n", &namespace.0, "delete", "secret", "s3"]).unwrap();
    kubectl(&["-n", &namespace.0, "create", "secret", "generic", "s3", &id, &key]).unwrap();
    wait_condition(&namespace.0, "t", "Ready", "True", Duration::from_secs(120)).unwrap();
}

#[test]
fn the_api_server_refuses_nonsense_itself() {
    installed();
    let namespace = Namespace::new("nonsense").unwrap();
    let cases = [
        ("source: \"s3://a-bucket/\", sources: [{ path: /a, uri: \"s3://b-bucket/\" }]", "sources"),
        ("rules: [{ path: /, cache: Pin }]", "source"),
        ("source: \"ftp://a-bucket/\"", "s3://"),
        ("source: \"s3://a-bucket/\", rules: [{ path: /, maxBytes: 1Gi }]", "Pin"),
        ("source: \"s3://a-bucket/\", sync: { interval: soon }", "interval"),
    ];
    for (fields, word) in cases {
        let refused = apply(&namespace.0, &spec("t", fields, "")).unwrap_err().to_string();
        assert!(refused.contains(word), "{fields}: {refused}");
    }
}

#[test]
fn a_source_that_no_policy_allows_is_refused() {
    installed();
    let namespace = Namespace::with_credentials("not-allowed").unwrap();
    for (name, fields) in [
        ("file", "source: \"file:///etc\"".to_owned()),
        ("metadata", "source: \"s3://data/\", s3: { endpoint: \"http://169.254.169.254\" }".to_owned()),
        ("loopback", "source: \"s3://data/\", s3: { endpoint: \"http://127.0.0.1:9000\" }".to_owned()),
    ] {
        apply(&namespace.0, &spec(name, &fields, "")).unwrap();
        let object = wait_condition(&namespace.0, name, "Ready", "False", READY).unwrap();
        let (_, reason, message) = condition(&object, "Ready").unwrap();
        println!("{name}: {reason}: {message}");
        assert!(message.contains("allow") || message.contains("refused"), "{name}: {reason}: {message}");
    }
}

#[test]
fn a_pod_that_names_what_isnt_there_says_so_in_its_events_and_starts_when_it_is() {
    installed();
    let bucket = Bucket::with_files(5).unwrap();
    let namespace = Namespace::with_credentials("early").unwrap();
    let pod = Pod::sums(&namespace.0, "early", Some("node1"), &Volume::Inline("t")).unwrap();
    wait_for("an event", READY, || Ok(pod.events().contains("early/t").then_some(()))).unwrap();
    println!("{}", pod.events());
    apply(&namespace.0, &spec("t", &bucket.source(), "")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
}

#[test]
fn a_policy_without_nodes_and_one_that_goes_are_told_and_mended() {
    installed();
    let bucket = Bucket::with_files(3).unwrap();
    let namespace = Namespace::with_credentials("no-policy").unwrap();
    let name = &namespace.0;
    let policy = || {
        let term = "{ matchExpressions: [{ key: kubernetes.io/hostname, operator: In, values: [nowhere] }] }";
        let tiers = "[{ type: Disk, paths: [/var/lib/forebay], capacity: 1Gi }]";
        let spec = format!("{{ nodes: {{ selector: {{ nodeSelectorTerms: [{term}] }} }}, tiers: {tiers}, allowedSources: [\"s3://*\"] }}");
        apply(name, &format!("apiVersion: forebay.dev/v1alpha1\nkind: CachePolicy\nmetadata: {{ name: nowhere }}\nspec: {spec}\n"))
            .unwrap();
    };
    apply(name, &spec("t", &bucket.source(), ", policyRef: { name: nowhere }")).unwrap();
    wait_told(name, &["PolicyMissing", "create it"]);
    policy();
    wait_told(name, &["NoNodes"]);
    kubectl(&["delete", "cachepolicy", "nowhere", "--wait=true", "--timeout=60s"]).unwrap();
    wait_told(name, &["PolicyMissing"]);
    policy();
    wait_told(name, &["NoNodes"]);
    patch(name, "dataset", "t", r#"{"spec":{"policyRef":{"name":"default"}}}"#).unwrap();
    wait_condition(name, "t", "Ready", "True", READY).unwrap();
    kubectl(&["delete", "cachepolicy", "nowhere"]).unwrap();
}

#[test]
fn a_claim_that_isnt_ours_is_left_alone() {
    installed();
    let bucket = Bucket::with_files(3).unwrap();
    let namespace = Namespace::with_credentials("taken").unwrap();
    apply(
        &namespace.0,
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: t }\nspec: { accessModes: [ReadOnlyMany], storageClassName: none, resources: { requests: { storage: 1Gi } } }\n",
    )
    .unwrap();
    apply(&namespace.0, &spec("t", &bucket.source(), "")).unwrap();
    wait_told(&namespace.0, &["claim"]);
    let claim = get(&namespace.0, "pvc", "t").unwrap().unwrap();
    assert_eq!(claim["spec"]["storageClassName"], "none");
}

#[test]
fn two_tenants_dont_see_each_other() {
    let bucket = Bucket::with_files(3).unwrap();
    let owner = dataset("owner", &bucket, "");
    wait_condition(&owner.0, "t", "Ready", "True", READY).unwrap();
    let stranger = Namespace::new("stranger").unwrap();
    for attributes in ["dataset: owner/t", "dataset: t, namespace: owner", "dataset: ../owner/t"] {
        let name = format!("attack-{}", attributes.len());
        apply(
            &stranger.0,
            &format!(
                "apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  nodeName: node1
  restartPolicy: Never
  containers: [{{ name: reader, image: \"localhost/tools:e2e\", imagePullPolicy: Never, command: [ls, /data], volumeMounts: [{{ name: data, mountPath: /data }}] }}]
  volumes: [{{ name: data, csi: {{ driver: csi.forebay.dev, volumeAttributes: {{ {attributes} }} }} }}]
"
            ),
        )
        .unwrap();
        let of = format!("involvedObject.name={name}");
        wait_for(&format!("the refusal of {attributes}"), READY, || {
            let events = kubectl(&["-n", &stranger.0, "get", "events", "--field-selector", &of, "-o", "jsonpath={.items[*].message}"])?;
            Ok(events.contains("FailedMount").then_some(()).or(events.contains("rpc error").then_some(())))
        })
        .unwrap();
        let phase = get(&stranger.0, "pod", &name).unwrap().unwrap()["status"]["phase"].clone();
        assert_eq!(phase, "Pending", "{attributes}");
    }
}
