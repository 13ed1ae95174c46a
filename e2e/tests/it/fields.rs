//! Fields of a Dataset that a user changes with kubectl, and what follows.

use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{apply, condition, get, kubectl, patch, wait_condition};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;

use crate::{dataset, spec};

const FILES: usize = 40;
const READY: Duration = Duration::from_secs(60);

#[test]
fn a_preload_is_suspended_and_resumed_and_a_gated_pod_waits_for_it() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("gated", &bucket, ", preload: { when: Once, suspend: true }");
    let name = &namespace.0;
    wait_condition(name, "t", "Ready", "True", READY).unwrap();
    let object = wait_condition(name, "t", "Warm", "False", READY).unwrap();
    println!("suspended: {:?}", condition(&object, "Warm"));
    apply(
        name,
        "apiVersion: v1
kind: Pod
metadata: { name: gated }
spec:
  schedulingGates: [{ name: forebay.dev/warm }]
  restartPolicy: Never
  containers: [{ name: reader, image: \"localhost/tools:e2e\", imagePullPolicy: Never, command: [ls, /data], volumeMounts: [{ name: data, mountPath: /data }] }]
  volumes: [{ name: data, persistentVolumeClaim: { claimName: t } }]
",
    )
    .unwrap();
    let gated = || {
        Ok::<_, anyhow::Error>(get(name, "pod", "gated")?.unwrap_or_default()["status"]["phase"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(gated().unwrap(), "Pending");
    patch(name, "dataset", "t", r#"{"spec":{"preload":{"suspend":false}}}"#).unwrap();
    wait_condition(name, "t", "Warm", "True", READY).unwrap();
    wait_for("the gate to open and the pod to end", READY, || Ok((gated()? == "Succeeded").then_some(()))).unwrap();
    wait_for("the preload's Job", READY, || {
        let jobs = kubectl(&[
            "-n",
            "forebay-system",
            "get",
            "jobs",
            "-o",
            "jsonpath={range .items[*]}{.metadata.annotations.forebay\\.dev/dataset-name} {.status.succeeded}{\"\\n\"}{end}",
        ])?;
        Ok(jobs.lines().any(|job| job == format!("{name}/t 1")).then_some(()))
    })
    .unwrap();
}

#[test]
fn several_sources_are_one_tree_and_credentials_rotate_under_load() {
    let (one, two) = (Bucket::with_files(FILES).unwrap(), Bucket::with_files(7).unwrap());
    let namespace = dataset("several", &one, "");
    let name = &namespace.0;
    let source = |path: &str, bucket: &Bucket| {
        format!(
            "{{ path: {path}, uri: \"s3://data/\", secretRef: {{ name: s3 }}, s3: {{ endpoint: \"{}\", region: us-east-1, addressing: Path }} }}",
            bucket.endpoint
        )
    };
    let sources = format!("sources: [{}, {}]", source("/a", &one), source("/b/c", &two));
    apply(name, &spec("both", &sources, ", sync: { interval: 2s }")).unwrap();
    wait_condition(name, "both", "Ready", "True", READY).unwrap();
    let mut sums: Vec<(String, u32)> = Vec::new();
    for (path, bucket) in [("a", &one), ("b/c", &two)] {
        sums.extend(bucket.sums().unwrap().0.into_iter().map(|(file, sum)| (format!("{path}/{file}"), sum)));
    }
    sums.sort();
    let pod = Pod::sums(name, "reader", Some("node2"), &Volume::Claim("both")).unwrap();
    assert_eq!(pod.read().unwrap(), sums);

    // Keys that the server refuses are named in the status; what is cached is read on.
    let load = Pod::load(name, "load", Some("node2"), &Volume::Claim("both")).unwrap();
    load.wait_running().unwrap();
    let key = |secret: &str| {
        let merge = format!(r#"{{"stringData":{{"AWS_SECRET_ACCESS_KEY":"{secret}"}}}}"#);
        kubectl(&["-n", name, "patch", "secret", "s3", "--type=merge", "-p", &merge]).unwrap();
    };
    key("revoked");
    let within = Duration::from_secs(120);
    let object = wait_condition(name, "both", "SourceReachable", "False", within).unwrap();
    println!("refused: {:?}", condition(&object, "SourceReachable"));
    key(forebay_e2e::bucket::CREDENTIALS.1);
    wait_condition(name, "both", "SourceReachable", "True", within).unwrap();
    load.finish(FILES + 7).unwrap();
}

#[test]
fn a_frozen_data_set_does_not_move() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("frozen", &bucket, ", sync: { mode: Never }");
    let name = &namespace.0;
    wait_condition(name, "t", "Ready", "True", READY).unwrap();
    let version = || get(name, "dataset", "t").unwrap().unwrap()["status"]["version"].clone();
    let first = version();
    bucket.put("d0/later", b"later").unwrap();
    let pod = Pod::sums(name, "reader", Some("node1"), &Volume::Claim("t")).unwrap();
    let read = pod.read().unwrap();
    assert_eq!(read.len(), FILES);
    assert!(!read.iter().any(|(file, _)| file == "d0/later"));
    assert_eq!(version(), first);
}
