//! The cluster changes under a pod that reads: the API server is away, a node joins and leaves, a release brings other images. No read fails.

use std::process::Command;
use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{SYSTEM, helm_upgrade_to, kill_on, kubectl, run, system_pods, top};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;
use serde_json::Value;

use crate::{VALUES, dataset};

const FILES: usize = 40;
const READY: Duration = Duration::from_secs(120);

fn harness(script: &str, arguments: &[&str]) {
    let mut command = Command::new(top().join("e2e/cluster").join(script));
    command.args(arguments);
    run(command).unwrap();
}

#[test]
fn the_api_server_is_away_and_reads_go_on() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("no-api", &bucket, "");
    let pod = Pod::load(&namespace.0, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    pod.wait_running().unwrap();
    harness("control-plane.sh", &["stop", "kube-apiserver"]);
    kill_on("node1", "forebay-node").unwrap();
    // As long as it takes the kubelet to start the cache node again, and then some: nobody can be asked meanwhile.
    std::thread::sleep(Duration::from_secs(20));
    harness("control-plane.sh", &["start", "kube-apiserver"]);
    wait_for("the API server", READY, || kubectl(&["get", "--raw", "/readyz"]).map(Some)).unwrap();
    pod.finish(FILES).unwrap();
    let after = Pod::sums(&namespace.0, "after", Some("node2"), &Volume::Claim("t")).unwrap();
    assert_eq!(after.read().unwrap(), bucket.sums().unwrap().0);
}

#[test]
fn a_node_joins_serves_and_leaves() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("joins", &bucket, "");
    let load = Pod::load(&namespace.0, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    load.wait_running().unwrap();
    harness("node.sh", &["up", "3"]);
    let pod = Pod::sums(&namespace.0, "newcomer", Some("node3"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
    harness("node.sh", &["down", "3"]);
    kubectl(&["delete", "node", "node3", "--wait=true"]).unwrap();
    kubectl(&["-n", &namespace.0, "delete", "pod", "newcomer", "--force", "--grace-period=0"]).unwrap();
    load.finish(FILES).unwrap();
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
    harness("load.sh", &archives.split_whitespace().collect::<Vec<_>>());
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
