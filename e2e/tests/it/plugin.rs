//! `kubectl forebay`, as kubectl runs it: its figures are those of the cluster, its changes take effect, its doctor finds what is wrong.

use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{SYSTEM, apply, forebay, get, kubectl};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;
use serde_json::Value;

use crate::{dataset, spec};

const FILES: usize = 40;
const WITHIN: Duration = Duration::from_secs(60);

/// Sum of a figure over the rows of nodes.
fn sum(status: &Value, figure: &str) -> u64 {
    status["nodes"].as_array().into_iter().flatten().filter_map(|node| node[figure].as_u64()).sum()
}

fn status(namespace: &str) -> Value {
    let (code, text) = forebay(None, &["status", "t", "-n", namespace, "-o", "json", "--every", "1"]).unwrap();
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_plugin_tells_the_truth_and_sets_what_it_says() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let (sums, bytes) = bucket.sums().unwrap();
    let namespace = dataset("plugin", &bucket, "");
    let name = namespace.0.as_str();
    let pod = Pod::sums(name, "cold", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), sums);
    let cold = status(name);
    assert_eq!(cold["nodes"].as_array().map(Vec::len), Some(2), "{cold:#}");
    assert_eq!(sum(&cold, "sourceBytes"), bucket.bytes_given().unwrap(), "{cold:#}");
    let read = ["readStoreBytes", "readPeerBytes", "readSourceBytes"].map(|figure| sum(&cold, figure));
    assert!(read.iter().sum::<u64>() >= bytes && read[1] > 0, "each byte was read, some of the other node: {cold:#}");

    let (code, text) = forebay(None, &["preload", "t", "-n", name, "--wait"]).unwrap();
    assert_eq!(code, 0, "{text}");
    let warm = status(name);
    assert_eq!((sum(&warm, "wantedBytes"), sum(&warm, "heldBytes")), (bytes, bytes), "{warm:#}");
    assert!(warm["nodes"].as_array().unwrap().iter().all(|node| node["trouble"] == "" && node["listing"] == "complete"), "{warm:#}");
    let (code, text) = forebay(None, &["doctor", "t", "-n", name]).unwrap();
    assert!(code == 0 && !text.contains("not seen"), "{text}");
    assert!(forebay(None, &["status", "t", "-n", name]).unwrap().1.contains("FETCHED"));
    assert!(forebay(None, &["status", "-A"]).unwrap().1.contains("READ/s"));

    // How a mount is answered, by the word of the node that answers it.
    let load = Pod::load(name, "mode", Some("node1"), &Volume::Claim("t")).unwrap();
    load.wait_running().unwrap();
    let mounted = status(name);
    let of = |node: &str| mounted["nodes"].as_array().into_iter().flatten().find(|row| row["node"] == node).map(|row| row["mount"].clone());
    let mode = of("node1").unwrap();
    println!("mount on node1: {mode}");
    assert_eq!(mode["passthrough"] == true, mode["withoutPassthrough"] == "", "{mounted:#}");
    assert_eq!(of("node2"), Some(Value::Null), "no pod there uses it: {mounted:#}");
    let (code, text) = forebay(None, &["doctor", "t", "-n", name]).unwrap();
    assert!(code == 0 && text.contains("note mounts: ") && text.contains("on node1"), "{text}");
    load.finish(FILES).unwrap();

    // All but one folder leaves the cache.
    for line in ["pin t /d0", "free t /"] {
        let line: Vec<&str> = line.split(' ').chain(["-n", name]).collect();
        assert_eq!(forebay(None, &line).unwrap().0, 0);
    }
    let pinned: u64 = sums.iter().filter(|(path, _)| path.starts_with("d0/")).count().try_into().unwrap();
    assert!(pinned > 0);
    let held = wait_for("only the pinned folder to be cached", WITHIN, || {
        let status = status(name);
        let cached = sum(&status, "cachedBytes");
        Ok((cached > 0 && cached < bytes / 2).then_some(cached))
    })
    .unwrap();
    println!("{held} of {bytes} bytes are left");
    assert_eq!(forebay(None, &["free", "t", "/", "--undo", "-n", name]).unwrap().0, 0);
    let rules = &get(name, "dataset", "t").unwrap().unwrap()["spec"]["rules"];
    assert_eq!(*rules, serde_json::json!([{ "path": "/d0", "cache": "Pin" }]));
}

#[test]
fn the_doctor_finds_why_a_pod_does_not_start() {
    let bucket = Bucket::with_files(2).unwrap();
    let namespace = dataset("doctor", &bucket, "");
    let name = namespace.0.as_str();
    let source = bucket.source().replace("name: s3 }", "name: absent }");
    apply(name, &spec("broken", &source, "")).unwrap();
    let _pod = Pod::sums(name, "waits", Some("node1"), &Volume::Inline("nowhere")).unwrap();
    wait_for("the missing secret", WITHIN, || {
        let (code, text) = forebay(None, &["doctor", "broken", "-n", name])?;
        Ok((code == 1 && text.contains("FAIL dataset/broken") && text.contains("absent")).then_some(()))
    })
    .unwrap();
    let (code, text) = forebay(None, &["doctor", "nowhere", "-n", name]).unwrap();
    assert!(code == 1 && text.contains("waits can't start: their volume names it") || text.contains("waits can't start"), "{text}");
}

#[test]
fn who_may_not_ask_the_nodes_sees_the_status() {
    let bucket = Bucket::with_files(4).unwrap();
    let namespace = dataset("viewer", &bucket, "");
    let name = namespace.0.as_str();
    kubectl(&["-n", name, "create", "serviceaccount", "viewer"]).unwrap();
    kubectl(&["-n", name, "create", "role", "viewer", "--verb=get,list", "--resource=datasets.forebay.dev"]).unwrap();
    let account = format!("--serviceaccount={name}:viewer");
    kubectl(&["-n", name, "create", "rolebinding", "viewer", "--role=viewer", &account]).unwrap();
    kubectl(&["-n", SYSTEM, "create", "role", "viewer", "--verb=get,list", "--resource=pods"]).unwrap();
    kubectl(&["-n", SYSTEM, "create", "rolebinding", "viewer", "--role=viewer", &account]).unwrap();
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]).unwrap()).unwrap();
    let token = kubectl(&["-n", name, "create", "token", "viewer"]).unwrap();
    config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    let (code, text) = forebay(Some(file.path()), &["status", "t", "-n", name]).unwrap();
    kubectl(&["-n", SYSTEM, "delete", "role,rolebinding", "viewer"]).unwrap();
    assert!(code == 0 && text.contains("you may not run programs in the pods of forebay-system (pods/exec)"), "{text}");
}
