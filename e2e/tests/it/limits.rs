//! What a cache node may take: the suite installs it with 256 MiB of memory, and nothing here fits into that.

use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::system_pods;
use forebay_e2e::pod::{Pod, Volume};

use crate::dataset;

const FILES: usize = 24;
/// More than a block, so that each is filled in several pieces.
const BYTES: usize = 17 << 20;

#[test]
fn more_is_read_than_the_memory_of_a_cache_node_holds() {
    // 408 MiB, of which two passes are read.
    let bucket = Bucket::with_sizes((0..FILES).map(|_| BYTES)).unwrap();
    let namespace = dataset("memory", &bucket, "");
    let name = &namespace.0;
    let nodes = system_pods("node", Some("node1")).unwrap();
    let limit = &nodes[0]["spec"]["containers"][0]["resources"]["limits"]["memory"];
    assert_eq!(limit, "256Mi");
    let pod = Pod::load(name, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    let second = Pod::sums(name, "second", Some("node1"), &Volume::Inline("t")).unwrap();
    assert_eq!(second.read().unwrap(), bucket.sums().unwrap().0);
    let (rounds, longest) = pod.finish(FILES).unwrap();
    println!("{} MiB: {rounds} rounds, longest read of a file {longest:.2} s", (FILES * BYTES) >> 20);
    let after = system_pods("node", Some("node1")).unwrap();
    let state = |pods: &[serde_json::Value]| {
        let status = &pods[0]["status"]["containerStatuses"][0];
        (pods[0]["metadata"]["name"].clone(), status["restartCount"].clone())
    };
    assert_eq!(state(&after), state(&nodes), "it was neither killed nor started again: {:#}", after[0]["status"]);
}
