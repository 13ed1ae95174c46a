//! The end: runs after all others, in a run of its own.

use std::process::Command;
use std::time::Duration;

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{get, helm_uninstall, kubectl, run, top};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;

use crate::dataset;

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
    let mut command = Command::new(top().join("e2e/cluster/node.sh"));
    command.args(["exec", "1", "cat", "/proc/mounts"]);
    wait_for("the mounts to be gone", Duration::from_secs(60), || {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        Ok((!run(again)?.contains("fuse.forebay")).then_some(()))
    })
    .unwrap();
}
