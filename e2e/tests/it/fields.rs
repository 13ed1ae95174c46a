//! Fields of a Dataset that a user changes with kubectl, and what follows.

use std::time::Duration;

use forebay_e2e::bucket::{Bucket, MACHINE};
use forebay_e2e::cluster::{Namespace, apply, condition, get, kubectl, patch, wait_condition};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::tls::Tls;
use forebay_e2e::wait_for;

use crate::{dataset, installed, spec};

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

#[test]
fn pin_free_and_ttl_take_effect_when_they_are_patched() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let (_, bytes) = bucket.sums().unwrap();
    let namespace = dataset("patched", &bucket, "");
    let name = &namespace.0;
    wait_condition(name, "t", "Ready", "True", READY).unwrap();
    let rules = |rules: &str| patch(name, "dataset", "t", &format!(r#"{{"spec":{{"rules":{rules}}}}}"#)).unwrap();
    let wait_freed = |what: &str| {
        wait_for(what, READY, || {
            let status = get(name, "dataset", "t")?.unwrap_or_default()["status"]["cached"].clone();
            Ok((status == "0").then_some(()))
        })
        .unwrap();
    };
    let read_on_node2 = |pod: &str| {
        let before = bucket.bytes_given().unwrap();
        let pod = Pod::sums(name, pod, Some("node2"), &Volume::Claim("t")).unwrap();
        assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
        // With its mount goes what the kernel keeps of the files.
        pod.delete().unwrap();
        bucket.bytes_given().unwrap() - before
    };
    rules(r#"[{"path":"/","cache":"Pin"}]"#);
    wait_for("what is pinned to be held", READY, || {
        let object = get(name, "dataset", "t")?.unwrap_or_default();
        Ok(condition(&object, "Warm").filter(|(status, reason, _)| status == "True" && reason == "Held").map(drop))
    })
    .unwrap();
    assert_eq!(read_on_node2("pinned"), 0, "no byte of the source");
    rules(r#"[{"path":"/","cache":"Never"}]"#);
    wait_freed("it to be freed");
    assert_eq!(read_on_node2("freed"), bytes);
    assert_eq!(read_on_node2("freed-again"), bytes, "nothing is kept");
    // Kept for some seconds from when it is filled.
    rules(r#"[{"path":"/","ttl":"20s"}]"#);
    read_on_node2("kept");
    assert_eq!(read_on_node2("kept-again"), 0);
    let mut turn = 0;
    wait_for("it to expire", READY, || {
        turn += 1;
        Ok((read_on_node2(&format!("expired-{turn}")) == bytes).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_server_that_only_a_private_authority_vouches_for_is_read_once_it_is_named() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let tls = Tls::in_front_of(MACHINE, bucket.address().unwrap()).unwrap();
    let endpoint = format!("https://{}", tls.address);
    installed();
    let namespace = Namespace::with_credentials("private-ca").unwrap();
    let name = &namespace.0;
    apply(name, &spec("t", &Bucket::source_at(&endpoint, ""), "")).unwrap();
    let object = wait_condition(name, "t", "SourceReachable", "False", READY * 2).unwrap();
    println!("not believed: {:?}", condition(&object, "SourceReachable"));
    kubectl(&["-n", name, "create", "configmap", "corp-ca", &format!("--from-literal=ca.crt={}", tls.authority)]).unwrap();
    patch(name, "dataset", "t", r#"{"spec":{"s3":{"caBundleRef":{"name":"corp-ca"}}}}"#).unwrap();
    wait_condition(name, "t", "Ready", "True", READY * 2).unwrap();
    let pod = Pod::sums(name, "reader", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
}
