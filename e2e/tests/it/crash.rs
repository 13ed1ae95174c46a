//! Processes die while pods read. No read may fail or see other bytes.

use std::time::{Duration, Instant};

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{SYSTEM, kill_on, kubectl, system_pods};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;

use crate::dataset;

const FILES: usize = 60;
/// From the kill of both processes until a new pod runs, whose volume is mounted then. Kubelet starts the two again, and the driver makes itself known to it.
const BOTH_AGAIN: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(120);

/// 20; `FOREBAY_TORTURE=1` 100.
fn kills() -> u32 {
    if std::env::var_os("FOREBAY_TORTURE").is_some() { 100 } else { 20 }
}

/// Waits until the container of `component` on `node` was started again and is ready.
fn wait_restarted(component: &str, node: &str, restarts: u64) {
    wait_for(&format!("{component} on {node} again"), AGAIN, || {
        let pods = system_pods(component, Some(node))?;
        let status = pods.first().map(|pod| pod["status"]["containerStatuses"][0].clone()).unwrap_or_default();
        Ok((status["ready"] == true && status["restartCount"].as_u64() > Some(restarts)).then_some(()))
    })
    .unwrap();
}

fn restarts(component: &str, node: &str) -> u64 {
    system_pods(component, Some(node)).unwrap()[0]["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap()
}

/// A kubelet that isn't the harness' waits longer with each restart; a pod that is made again has no past.
fn forget_restarts(component: &str, node: &str) {
    let pods = system_pods(component, Some(node)).unwrap();
    let pod = pods[0]["metadata"]["name"].as_str().unwrap();
    kubectl(&["-n", SYSTEM, "delete", "pod", pod, "--wait=true"]).unwrap();
    wait_for(&format!("another {component} on {node}"), AGAIN, || {
        let pods = system_pods(component, Some(node))?;
        Ok(pods.first().filter(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).map(drop))
    })
    .unwrap();
}

fn kill_under_load(namespace: &str, component: &str, program: &str) {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset(namespace, &bucket, "");
    let pod = Pod::load(&namespace.0, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    pod.wait_running().unwrap();
    for kill in 0..kills() {
        if kill % 5 == 4 {
            forget_restarts(component, "node1");
        }
        let before = restarts(component, "node1");
        kill_on("node1", program).unwrap();
        wait_restarted(component, "node1", before);
    }
    let (rounds, longest) = pod.finish(FILES).unwrap();
    println!("{} kills of {program}: {rounds} rounds over {FILES} files, longest read {longest:.2} s", kills());
    // Who comes now mounts as ever.
    let after = Pod::sums(&namespace.0, "after", Some("node1"), &Volume::Inline("t")).unwrap();
    assert_eq!(after.read().unwrap(), bucket.sums().unwrap().0);
}

#[test]
fn the_cache_node_dies_under_load() {
    kill_under_load("kill-node", "node", "forebay-node");
}

#[test]
fn the_driver_dies_under_load() {
    kill_under_load("kill-csi", "csi", "forebay-csi");
}

/// What nobody can be spared: the mount itself is gone. Reads fail, and who comes next is served.
#[test]
fn both_die_at_once_and_the_next_pod_reads() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("kill-both", &bucket, "");
    let pod = Pod::load(&namespace.0, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    pod.wait_running().unwrap();
    let before = [restarts("node", "node1"), restarts("csi", "node1")];
    kill_on("node1", "forebay-node|forebay-csi").unwrap();
    let begin = Instant::now();
    let next = Pod::load(&namespace.0, "next", Some("node1"), &Volume::Claim("t")).unwrap();
    next.wait_running().unwrap();
    let mounted = begin.elapsed();
    println!("both killed: the next pod had its volume after {mounted:?}");
    let after = Pod::sums(&namespace.0, "after", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(after.read().unwrap(), bucket.sums().unwrap().0);
    println!("and another one had read everything after {:?}", begin.elapsed());
    next.finish(FILES).unwrap();
    wait_restarted("node", "node1", before[0]);
    wait_restarted("csi", "node1", before[1]);
    let failed = pod.finish_failed().unwrap();
    println!("reads of the first that failed: {failed:?}");
    assert!(mounted < BOTH_AGAIN, "{mounted:?}; events of the pod: {}", next.events());
    assert!(!failed.is_empty(), "its mount was gone");
}

#[test]
fn the_operator_is_away_and_pods_go_on() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("no-operator", &bucket, "");
    let pod = Pod::load(&namespace.0, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    pod.wait_running().unwrap();
    kubectl(&["-n", SYSTEM, "scale", "deployment/forebay-operator", "--replicas=0"]).unwrap();
    let before = restarts("node", "node1");
    kill_on("node1", "forebay-node").unwrap();
    wait_restarted("node", "node1", before);
    let second = Pod::sums(&namespace.0, "second", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(second.read().unwrap(), bucket.sums().unwrap().0);
    pod.finish(FILES).unwrap();
    kubectl(&["-n", SYSTEM, "scale", "deployment/forebay-operator", "--replicas=2"]).unwrap();
    kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/forebay-operator", "--timeout=120s"]).unwrap();
}
