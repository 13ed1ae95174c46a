//! The end: runs after all others, in a run of its own.

use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{SYSTEM, get, helm_uninstall, kubectl, on_node, system_pods, wait_condition, wait_namespaces_gone};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::{http_get, wait_for};

use crate::{dataset, installed};

/// The keys that every other test read its bucket with: in the Secrets of their namespaces, and nowhere else.
#[test]
fn no_credential_is_seen_anywhere() {
    installed();
    wait_namespaces_gone(&[]).unwrap();
    let (_, secret) = forebay_e2e::bucket::CREDENTIALS;
    let bucket = Bucket::with_files(5).unwrap();
    let namespace = dataset("canary", &bucket, ", preload: { when: Once }");
    wait_condition(&namespace.0, "t", "Warm", "True", Duration::from_secs(60)).unwrap();
    let in_base64 = kubectl(&["-n", &namespace.0, "get", "secret", "s3", "-o", "jsonpath={.data.AWS_SECRET_ACCESS_KEY}"]).unwrap();
    let mut looked_at: Vec<(String, String)> = Vec::new();
    for kind in ["events", "datasets", "pods", "persistentvolumes", "persistentvolumeclaims", "configmaps", "jobs"] {
        looked_at.push((kind.to_owned(), kubectl(&["get", kind, "-A", "-o", "yaml"]).unwrap()));
    }
    looked_at.push(("cachepolicies".to_owned(), kubectl(&["get", "cachepolicies", "-o", "yaml"]).unwrap()));
    looked_at.push(("secrets of the release".to_owned(), kubectl(&["-n", SYSTEM, "get", "secrets", "-o", "yaml"]).unwrap()));
    for node in ["node1", "node2"] {
        let arguments = on_node(node, &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).unwrap();
        assert!(arguments.contains("forebay-csi"), "{arguments}");
        looked_at.push((format!("arguments on {node}"), arguments));
        // Of all containers since the node began, those that were killed among them.
        let logs = on_node(node, &["sh", "-c", "cat /var/log/pods/*forebay*/*/*.log"]).unwrap();
        assert!(logs.contains("ready"), "{logs}");
        looked_at.push((format!("logs on {node}"), logs));
    }
    for component in ["operator", "node", "csi"] {
        for pod in system_pods(component, None).unwrap() {
            // One that an upgrade or a drain has just ended has no address any more.
            let Some(address) = pod["status"]["podIP"].as_str().filter(|_| pod["metadata"]["deletionTimestamp"].is_null()) else {
                continue;
            };
            let metrics = http_get(&format!("{address}:9464"), "/metrics").unwrap();
            assert!(metrics.contains("forebay_"), "{component}: {metrics}");
            looked_at.push((format!("metrics of {component} at {address}"), metrics));
        }
        let title = format!("metrics of {component} at");
        assert!(looked_at.iter().any(|(what, _)| what.starts_with(&title)), "no {component} answered");
    }
    for (what, text) in &looked_at {
        for canary in [secret, in_base64.as_str()] {
            let at = text.find(canary).map(|at| text.get(at.saturating_sub(200)..at));
            assert_eq!(at, None, "{what}");
        }
    }
    println!("looked at {} texts of {} bytes", looked_at.len(), looked_at.iter().map(|(_, text)| text.len()).sum::<usize>());
}

#[test]
fn uninstalling_leaves_no_mount_and_nothing_that_hangs() {
    let bucket = Bucket::with_files(5).unwrap();
    let namespace = dataset("last", &bucket, "");
    let pod = Pod::sums(&namespace.0, "reader", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
    pod.delete().unwrap();
    helm_uninstall().unwrap();
    kubectl(&["-n", &namespace.0, "delete", "dataset", "t", "--wait=true", "--timeout=60s"]).unwrap();
    assert!(get(&namespace.0, "pvc", "t").unwrap().is_none_or(|claim| !claim["metadata"]["deletionTimestamp"].is_null()));
    wait_for("the mounts to be gone", Duration::from_secs(60), || {
        Ok((!on_node("node1", &["cat", "/proc/mounts"])?.contains("fuse.forebay")).then_some(()))
    })
    .unwrap();
}
