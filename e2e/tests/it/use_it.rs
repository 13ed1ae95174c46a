//! A Dataset becomes a volume, and its fields do what they say.

use std::time::{Duration, Instant};

use forebay_e2e::bucket::{Bucket, contents};
use forebay_e2e::cluster::{condition, get, kubectl, patch, wait_condition};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::wait_for;

use crate::dataset;

const FILES: usize = 60;
const READY: Duration = Duration::from_secs(60);

#[test]
fn a_dataset_is_a_claim_that_pods_of_two_nodes_read() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let begin = Instant::now();
    let namespace = dataset("first", &bucket, "");
    let name = &namespace.0;
    wait_condition(name, "t", "Ready", "True", READY).unwrap();
    wait_for("the claim", READY, || Ok(get(name, "pvc", "t")?.filter(|claim| claim["status"]["phase"] == "Bound"))).unwrap();
    println!("claim bound and data set ready after {:?}", begin.elapsed());
    let (sums, bytes) = bucket.sums().unwrap();
    let pods: Vec<Pod> =
        ["node1", "node2"].iter().map(|node| Pod::sums(name, &format!("on-{node}"), Some(node), &Volume::Claim("t")).unwrap()).collect();
    for pod in &pods {
        assert_eq!(pod.read().unwrap(), sums);
    }
    println!("read by two pods after {:?}", begin.elapsed());
    let object = get(name, "dataset", "t").unwrap().unwrap();
    assert_eq!(object["status"]["files"], FILES);
    assert_eq!(
        kubectl(&["-n", name, "get", "datasets", "--no-headers"]).unwrap().split_whitespace().nth(1),
        Some("60"),
        "the column FILES"
    );
    assert_eq!(bucket.bytes_given().unwrap(), bytes, "the nodes are one cache: each byte came from the source once");
}

#[test]
fn an_inline_volume_names_a_dataset_of_the_pods_namespace() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("inline", &bucket, ", volume: { claim: None }");
    let pod = Pod::sums(&namespace.0, "reader", Some("node1"), &Volume::Inline("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);
    assert!(get(&namespace.0, "pvc", "t").unwrap().is_none());
}

#[test]
fn preload_rules_and_syncs_take_effect_when_they_are_patched() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let (_, bytes) = bucket.sums().unwrap();
    let namespace = dataset("fields", &bucket, ", preload: { when: Once }, sync: { interval: 2s }");
    let name = &namespace.0;
    let warm = wait_condition(name, "t", "Warm", "True", READY).unwrap();
    println!("warm: {:?}", condition(&warm, "Warm"));
    let given = bucket.bytes_given().unwrap();
    let pod = Pod::load(name, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    pod.wait_running().unwrap();
    assert_eq!(bucket.bytes_given().unwrap(), given, "what is warm costs the source nothing");
    patch(name, "dataset", "t", r#"{"spec":{"rules":[{"path":"/","cache":"Never"}],"preload":{"when":"Never"}}}"#).unwrap();
    wait_for("the cache to be freed", READY, || {
        let object = get(name, "dataset", "t")?;
        Ok(object.filter(|object| object["status"]["cached"].as_str().is_none_or(|cached| cached == "0")))
    })
    .unwrap();
    pod.finish(FILES).unwrap();
    assert!(bucket.bytes_given().unwrap() > given + bytes / 2, "read through");
    // A change in the bucket shows within the interval.
    bucket.put("d0/added", &contents(1000, 5000)).unwrap();
    wait_for("the file that was added", READY, || Ok(get(name, "dataset", "t")?.filter(|object| object["status"]["files"] == FILES + 1)))
        .unwrap();
    let after = Pod::sums(name, "after", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(after.read().unwrap(), bucket.sums().unwrap().0);
}

#[test]
fn a_dataset_in_use_goes_when_its_pods_do() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = dataset("deleted", &bucket, "");
    let name = &namespace.0;
    let pod = Pod::load(name, "load", Some("node1"), &Volume::Claim("t")).unwrap();
    pod.wait_running().unwrap();
    kubectl(&["-n", name, "delete", "dataset", "t", "--wait=false"]).unwrap();
    wait_for("the reason why it waits", READY, || {
        let object = get(name, "dataset", "t")?;
        Ok(object.filter(|object| object["status"].to_string().contains("load")))
    })
    .unwrap();
    pod.finish(FILES).unwrap();
    pod.delete().unwrap();
    wait_for("its end", READY, || Ok(get(name, "dataset", "t")?.is_none().then_some(()))).unwrap();
    let volumes = kubectl(&["get", "pv", "-o", "jsonpath={.items[*].spec.claimRef.namespace}"]).unwrap();
    assert!(!volumes.split_whitespace().any(|of| of == name), "{volumes}");
}
