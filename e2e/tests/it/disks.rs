//! What a policy asks of its nodes' disks: more than they have, and folders that each node looks up by itself.

use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{condition, get, kill_on, on_node, patch, system_pods};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;
use serde_json::{Value, json};

use crate::{dataset, installed};

const FILES: usize = 40;
/// Two nodes roll one after the other.
const ROLLED: Duration = Duration::from_secs(240);
const NODES: [&str; 2] = ["node1", "node2"];

/// The default policy with another tier, as long as it lives.
struct Tier;

impl Tier {
    fn set(path: &str, capacity: &str) {
        let tier = json!({ "type": "Disk", "paths": [path], "capacity": capacity, "keepFreePercent": 0 });
        patch("", "cachepolicy", "default", &json!({ "spec": { "tiers": [tier] } }).to_string()).unwrap();
    }

    fn with(path: &str, capacity: &str) -> Self {
        installed();
        Self::set(path, capacity);
        Self
    }

    /// As the suite installs it, and everything as before.
    fn mend(&self) {
        Self::set("/var/lib/forebay", "1Gi");
        wait_policy("the policy as it was", |policy| is_well(policy) && policy["status"]["capacity"] == "2Gi");
        wait_all_have("/var/lib/forebay/");
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        // Of a test that fails; the next one sees it if this fails too.
        drop(std::panic::catch_unwind(|| Self::set("/var/lib/forebay", "1Gi")));
    }
}

fn wait_policy(what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = wait_for(what, ROLLED, || {
        last = get("", "cachepolicy", "default")?.unwrap_or_default();
        Ok(is(&last).then(|| last.clone()))
    });
    found.unwrap_or_else(|error| panic!("{error:#}: {:#}", last["status"]))
}

fn is_well(policy: &Value) -> bool {
    let as_expected = condition(policy, "Degraded").is_some_and(|(status, ..)| status == "False");
    as_expected && policy["status"]["nodes"] == json!({ "matched": 2, "ready": 2 })
}

/// Waits until every cache node runs with a folder below `prefix`.
fn wait_all_have(prefix: &str) {
    wait_for(&format!("cache nodes in {prefix}"), ROLLED, || {
        let pods = system_pods("node", None)?;
        let has = |pod: &Value| {
            let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
            let path = |volume: &Value| volume["hostPath"]["path"].as_str().map(|path| format!("{path}/"));
            let is_ready = pod["status"]["containerStatuses"][0]["ready"] == true && pod["metadata"]["deletionTimestamp"].is_null();
            is_ready && volumes.iter().filter_map(path).any(|path| path.starts_with(prefix))
        };
        Ok((pods.len() == 2 && pods.iter().all(has)).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_tier_that_no_disk_can_hold_is_told_and_mended() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("small-disk", &bucket, "");
    let tier = Tier::with("/var/lib/forebay", "1000Ti");
    let policy = wait_policy("the policy to say that its disks are too small", |policy| {
        condition(policy, "Degraded").is_some_and(|(status, reason, _)| status == "True" && reason == "DiskTooSmall")
    });
    let (_, _, message) = condition(&policy, "Degraded").unwrap();
    println!("too small: {message}");
    assert!(message.contains("node") && message.contains("1000Ti") && message.contains("lower the tier's capacity"), "{message}");
    // Worse than asked for, and it works.
    assert_eq!(condition(&policy, "Ready").unwrap().0, "True");
    let pod = Pod::sums(&namespace.0, "reader", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
    tier.mend();
}

/// Where the test's disks are on a node.
const DISKS: &str = "/mnt/forebay-e2e";

/// Two filesystems on each node, and a place where a third one isn't mounted, as long as it lives.
struct Disks;

impl Disks {
    fn new() -> Self {
        for node in NODES {
            let make = format!(
                "set -e; for disk in 0 1 2; do mkdir -p {DISKS}/nvme$disk; done; for disk in 0 1; do mount -t tmpfs -o size=96m disk$disk {DISKS}/nvme$disk; done"
            );
            on_node(node, &["sh", "-c", &make]).unwrap();
        }
        Self
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for node in NODES {
            drop(on_node(node, &["sh", "-c", &format!("umount -l {DISKS}/nvme0 {DISKS}/nvme1; rm -rf {DISKS}")]));
        }
    }
}

/// Bytes below a folder of a node; `None` where it isn't there.
fn bytes_in(node: &str, folder: &str) -> Option<u64> {
    let told = on_node(node, &["sh", "-c", &format!("du -s -B1 {folder} 2>/dev/null || true")]).unwrap();
    told.split_whitespace().next().map(|bytes| bytes.parse().unwrap())
}

#[test]
fn a_pattern_of_folders_takes_each_disk_that_a_node_has_and_no_other_place() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let (sums, bytes) = bucket.sums().unwrap();
    let disks = Disks::new();
    let tier = Tier::with(&format!("{DISKS}/nvme*/cache"), "64Mi");
    // Two disks on each of two nodes.
    wait_policy("the capacity of four disks", |policy| is_well(policy) && policy["status"]["capacity"] == "256Mi");
    wait_all_have(DISKS);
    let namespace = dataset("pattern", &bucket, ", rules: [{ path: /, localCopy: Never }]");
    let name = &namespace.0;
    let pod = Pod::sums(name, "first", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), sums);
    for node in NODES {
        let held: Vec<Option<u64>> = (0..3).map(|disk| bytes_in(node, &format!("{DISKS}/nvme{disk}/cache"))).collect();
        println!("{node} holds {held:?} of {bytes}");
        assert!(held[0] > Some(bytes / 20) && held[1] > Some(bytes / 20), "{node}: {held:?}");
        assert_eq!(held[2], None, "{node}: there is no disk");
    }
    // What is there is found again.
    let given = bucket.bytes_given().unwrap();
    for node in NODES {
        kill_on(node, "forebay-node").unwrap();
    }
    let again = Pod::sums(name, "again", Some("node2"), &Volume::Claim("t")).unwrap();
    assert_eq!(again.read().unwrap(), sums);
    assert_eq!(bucket.bytes_given().unwrap(), given);
    pod.delete().unwrap();
    again.delete().unwrap();
    tier.mend();
    drop(disks);
}
