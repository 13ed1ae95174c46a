//! The cluster changes under a pod that reads: the API server is away, a node joins and leaves, a release brings other images. No read fails.

use std::process::Command;
use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{SYSTEM, get, harness, helm_upgrade_to, kill_on, kubectl, run, system_pods, top, wait_condition};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;
use serde_json::Value;

use crate::{VALUES, dataset};

const FILES: usize = 40;
const READY: Duration = Duration::from_secs(120);

#[test]
fn the_api_server_is_away_and_reads_go_on() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("no-api", &bucket, "");
    let pod = Pod::load(&namespace.0, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    pod.wait_running().unwrap();
    harness("control-plane.sh", &["stop", "kube-apiserver"]).unwrap();
    kill_on("node1", "forebay-node").unwrap();
    // Nobody can be asked meanwhile, and kubelet starts the cache node again by itself.
    std::thread::sleep(Duration::from_secs(60));
    harness("control-plane.sh", &["start", "kube-apiserver"]).unwrap();
    wait_for("the API server", READY, || kubectl(&["get", "--raw", "/readyz"]).map(Some)).unwrap();
    pod.finish(FILES).unwrap();
    let after = Pod::sums(&namespace.0, "after", Some("node2"), &Volume::Claim("t")).unwrap();
    assert_eq!(after.read().unwrap(), bucket.sums().unwrap().0);
}

#[test]
fn nodes_hold_their_shares_and_one_that_dies_costs_no_read() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let (sums, bytes) = bucket.sums().unwrap();
    let namespace = dataset("shares", &bucket, ", rules: [{ path: /, localCopy: Never }], preload: { when: Once }");
    let name = &namespace.0;
    wait_condition(name, "t", "Warm", "True", READY).unwrap();
    assert_eq!(bucket.bytes_given().unwrap(), bytes, "each node loaded its share");
    wait_for("the shares in the status", READY, || {
        let status = get(name, "dataset", "t")?.unwrap_or_default()["status"].clone();
        Ok((status["cached"] == status["size"] && status["nodes"]["count"] == 2).then_some(()))
    })
    .unwrap();
    let load = Pod::load(name, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    load.wait_running().unwrap();
    for _ in 0..3 {
        kill_on("node2", "forebay-node").unwrap();
        std::thread::sleep(Duration::from_secs(5));
    }
    load.finish(FILES).unwrap();
    // What node1 stood in for is read twice at most; what node2 has on its disk is found there again.
    let given = bucket.bytes_given().unwrap();
    assert!(given <= 2 * bytes, "{given} of {bytes}");
    let after = Pod::sums(name, "after", Some("node2"), &Volume::Claim("t")).unwrap();
    assert_eq!(after.read().unwrap(), sums);
    assert_eq!(bucket.bytes_given().unwrap(), given);
}

#[test]
fn a_node_joins_serves_and_leaves() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("joins", &bucket, "");
    let load = Pod::load(&namespace.0, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    load.wait_running().unwrap();
    harness("node.sh", &["up", "3"]).unwrap();
    let pod = Pod::sums(&namespace.0, "newcomer", Some("node3"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
    harness("node.sh", &["down", "3"]).unwrap();
    kubectl(&["delete", "node", "node3", "--wait=true"]).unwrap();
    kubectl(&["-n", &namespace.0, "delete", "pod", "newcomer", "--force", "--grace-period=0"]).unwrap();
    load.finish(FILES).unwrap();
}

#[test]
fn a_node_is_drained_and_comes_back() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("drained", &bucket, "");
    let name = &namespace.0;
    let drained = Pod::load(name, "drained", Some("node1"), &Volume::Claim("t")).unwrap();
    let other = Pod::load(name, "other", Some("node2"), &Volume::Claim("t")).unwrap();
    drained.wait_running().unwrap();
    other.wait_running().unwrap();
    // Nothing of Forebay's may hold it up: pods of the DaemonSets stay, the operator's other replica takes over, volumes are unmounted.
    kubectl(&["drain", "node1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=100s"]).unwrap();
    assert!(get(name, "pod", "drained").unwrap().is_none());
    other.finish(FILES).unwrap();
    kubectl(&["uncordon", "node1"]).unwrap();
    let after = Pod::sums(name, "after", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(after.read().unwrap(), bucket.sums().unwrap().0);
    kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/forebay-operator", "--timeout=120s"]).unwrap();
}

/// A taint that the policy doesn't tolerate, as long as it lives.
struct Outside(&'static str);

impl Outside {
    fn new(node: &'static str) -> Self {
        kubectl(&["taint", "node", node, "e2e.forebay.dev/outside=:NoSchedule"]).unwrap();
        Self(node)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Fails the next test if it fails.
        drop(kubectl(&["taint", "node", self.0, "e2e.forebay.dev/outside-"]));
    }
}

#[test]
fn a_pod_on_a_node_outside_every_policy_reads_by_a_client() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("outside", &bucket, "");
    let name = &namespace.0;
    let inside = Pod::sums(name, "inside", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(inside.read().unwrap(), bucket.sums().unwrap().0);
    let outside = Outside::new("node2");
    let is_client = |pod: &Value| pod["metadata"]["labels"]["forebay.dev/policy"] == "client";
    // A taint lets pods that are there go on, the policy's cache node among them: it would serve this node still, from the cache.
    wait_for("the policy's cache node to be gone", READY, || {
        let pods = system_pods("node", Some("node2"))?;
        for pod in pods.iter().filter(|pod| !is_client(pod) && pod["metadata"]["deletionTimestamp"].is_null()) {
            kubectl(&["-n", SYSTEM, "delete", "pod", pod["metadata"]["name"].as_str().unwrap_or_default(), "--wait=false"])?;
        }
        Ok((!pods.is_empty() && pods.iter().all(is_client)).then_some(()))
    })
    .unwrap();
    let given = bucket.bytes_given().unwrap();
    let pod = Pod::sums(name, "outside", Some("node2"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
    let read = bucket.bytes_given().unwrap() - given;
    assert_eq!(read, bucket.sums().unwrap().1, "what it read came from the source");
    wait_for("the policy to count its own node alone", READY, || {
        let status = get("", "cachepolicy", "default")?.unwrap_or_default()["status"]["nodes"].clone();
        Ok((status["matched"] == 1 && status["ready"] == 1).then_some(()))
    })
    .unwrap();
    drop(outside);
    pod.delete().unwrap();
    wait_for("the node to be the policy's again", READY, || {
        let pods = system_pods("node", Some("node2"))?;
        let is_ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        Ok((pods.len() == 1 && pods.iter().all(is_ready) && !is_client(&pods[0])).then_some(()))
    })
    .unwrap();
    let again = Pod::sums(name, "again", Some("node2"), &Volume::Claim("t")).unwrap();
    assert_eq!(again.read().unwrap(), bucket.sums().unwrap().0);
}

/// Images of all pods of the release, without the operator's.
fn images() -> Vec<String> {
    let of = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    ["node", "csi"].iter().flat_map(|component| system_pods(component, None).unwrap()).map(|pod| of(&pod)).collect()
}

fn all_ready() -> bool {
    let is_ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true && pod["metadata"]["deletionTimestamp"].is_null();
    ["node", "csi"].iter().flat_map(|component| system_pods(component, None).unwrap()).all(|pod| is_ready(&pod))
}

#[test]
fn an_upgrade_of_all_images_fails_no_read() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("upgrade", &bucket, "");
    let loads: Vec<Pod> = ["node1", "node2"]
        .iter()
        .map(|node| Pod::load(&namespace.0, &format!("on-{node}"), Some(node), &Volume::Claim("t")).unwrap())
        .collect();
    loads.iter().for_each(|pod| pod.wait_running().unwrap());
    let mut build = Command::new(top().join("e2e/images/build.sh"));
    build.args(["forebay-operator=next", "forebay-node=next", "forebay-csi=next"]);
    let archives = run(build).unwrap();
    harness("load.sh", &archives.split_whitespace().collect::<Vec<_>>()).unwrap();
    helm_upgrade_to("next", VALUES).unwrap();
    wait_for("all pods to be of the new release", READY * 2, || {
        Ok((images().iter().all(|image| image.ends_with(":next")) && all_ready()).then_some(()))
    })
    .unwrap();
    for pod in loads {
        let (rounds, longest) = pod.finish(FILES).unwrap();
        println!("upgrade: {rounds} rounds, longest read {longest:.2} s");
    }
    let after = Pod::sums(&namespace.0, "after", Some("node1"), &Volume::Inline("t")).unwrap();
    assert_eq!(after.read().unwrap(), bucket.sums().unwrap().0);
    kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/forebay-operator", "--timeout=120s"]).unwrap();
}
