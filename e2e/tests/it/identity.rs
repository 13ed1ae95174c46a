//! Who is who: the authority behind the nodes' certificates is replaced, and a source is read as a service account.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forebay_e2e::authority::{Authority, listens};
use forebay_e2e::bucket::Bucket;
use forebay_e2e::cluster::{SYSTEM, apply, condition, get, helm_install, kubectl, system_pods, wait_condition};
use forebay_e2e::pod::{Pod, Volume};
use forebay_e2e::sts::{ROLE, Sts};
use forebay_e2e::wait_for;

use crate::{VALUES, dataset, installed, spec};

const FILES: usize = 40;
const READY: Duration = Duration::from_secs(120);
/// Days otherwise: two minutes are what kubelet may take to bring a changed ConfigMap to a pod.
const SHORT: &[&str] = &["certificates.lifeSeconds=120", "certificates.authoritySettleSeconds=120"];
/// From the request for another authority until the old one is gone, and kubelet has brought that to the pods.
const ROTATED: Duration = Duration::from_secs(480);

/// The release with more values, as long as it lives.
struct Release;

impl Release {
    fn with(values: &[&str]) -> Self {
        helm_install(&[VALUES, values].concat()).unwrap();
        Self
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // Fails the next test if it fails.
        drop(helm_install(VALUES));
    }
}

/// Control and peers of the cache node on node1, each with its protocol and the name that its callers have.
fn doors() -> [(SocketAddr, &'static [u8], String, String); 2] {
    let policy = get("", "cachepolicy", "default").unwrap().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let host = format!("node.{policy}.forebay.dev");
    let pods = system_pods("node", Some("node1")).unwrap();
    let ip = pods[0]["status"]["podIP"].as_str().unwrap();
    let at = |port: u16| format!("{ip}:{port}").parse().unwrap();
    [(at(7070), b"h2", host.clone(), "operator.forebay.dev".to_owned()), (at(7071), b"forebay-peer", host.clone(), host)]
}

/// Whether both doors of the node open to certificates of `authority`; `None` while they don't agree.
fn believes(authority: &Authority, trusted: &[Authority]) -> Option<bool> {
    let heard = doors().map(|(address, protocol, host, caller)| {
        listens(address, &host, protocol, trusted, Some(&authority.certify(&caller, 0).unwrap())).unwrap()
    });
    (heard[0] == heard[1]).then_some(heard[0])
}

#[test]
fn another_authority_takes_over_under_load_and_the_old_one_is_believed_no_more() {
    let bucket = Bucket::with_files(FILES).unwrap();
    let (sums, bytes) = bucket.sums().unwrap();
    let namespace = dataset("rotated", &bucket, ", rules: [{ path: /, localCopy: Never }], preload: { when: Once }");
    let name = &namespace.0;
    let _short = Release::with(SHORT);
    wait_condition(name, "t", "Warm", "True", READY).unwrap();
    assert_eq!(bucket.bytes_given().unwrap(), bytes, "each node has its share, and reads the rest of the other");
    let loads: Vec<Pod> =
        ["node1", "node2"].iter().map(|node| Pod::load(name, &format!("on-{node}"), Some(node), &Volume::Claim("t")).unwrap()).collect();
    loads.iter().for_each(|pod| pod.wait_running().unwrap());

    let old = Authority::of_the_cluster().unwrap();
    assert_eq!(old.len(), 1);
    assert_eq!(believes(&old[0], &old), Some(true));
    kubectl(&["-n", SYSTEM, "annotate", "secret", "forebay-authority", "forebay.dev/rotate=now"]).unwrap();
    let begin = Instant::now();
    let both = wait_for("another authority", READY, || Ok(Some(Authority::of_the_cluster()?).filter(|found| found.len() == 2))).unwrap();
    println!("after {:?} there are two authorities", begin.elapsed());
    wait_for("a node that believes both", READY, || {
        Ok((believes(&both[1], &both) == Some(true) && believes(&both[0], &both) == Some(true)).then_some(()))
    })
    .unwrap();
    println!("after {:?} node1 believes both", begin.elapsed());
    wait_for("the old one to go", ROTATED, || Ok((Authority::of_the_cluster()?.len() == 1).then_some(()))).unwrap();
    println!("after {:?} the old one is gone", begin.elapsed());
    // The nodes' own certificates are of the new one by now: else this fails.
    let new = &both[1..];
    wait_for("a node that doesn't believe the old one", ROTATED, || Ok((believes(&both[0], new) == Some(false)).then_some(()))).unwrap();
    println!("after {:?} node1 doesn't believe it", begin.elapsed());
    assert_eq!(believes(&both[1], new), Some(true));

    for load in loads {
        let (rounds, longest) = load.finish(FILES).unwrap();
        println!("rotation: {rounds} rounds, longest read {longest:.2} s");
    }
    assert_eq!(bucket.bytes_given().unwrap(), bytes, "the nodes believed each other all the time: nobody went to the source");
    let after = Pod::sums(name, "after", Some("node2"), &Volume::Inline("t")).unwrap();
    assert_eq!(after.read().unwrap(), sums);
}

#[test]
fn a_source_is_read_as_a_service_account_where_the_chart_and_its_role_let_it() {
    installed();
    let bucket = Bucket::with_files(FILES).unwrap();
    let namespace = forebay_e2e::cluster::Namespace::new("as-account").unwrap();
    let name = &namespace.0;
    let sts = Sts::in_front_of(bucket.address().unwrap(), name, "reader").unwrap();
    let source = Bucket::source_at(&sts.endpoint, "").replace("secretRef: { name: s3 }", "serviceAccountName: reader");
    apply(name, &spec("t", &source, "")).unwrap();
    let told = |what: &str| {
        let mut last = String::new();
        wait_for(&format!("`{what}` in a condition"), READY, || {
            last = get(name, "dataset", "t")?.map(|object| object["status"]["conditions"].to_string()).unwrap_or_default();
            Ok(last.contains(what).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {last}"));
    };
    told("ServiceAccountDenied");
    let _accounts = Release::with(&["serviceAccounts.enabled=true"]);
    told("ServiceAccountMissing");
    kubectl(&["-n", name, "create", "serviceaccount", "reader"]).unwrap();
    // STS gives nothing to who names no role.
    told("CredentialsRefused");
    told("no role is named");
    let object = get(name, "dataset", "t").unwrap().unwrap();
    println!("without a role: {:?}", condition(&object, "SourceReachable"));
    kubectl(&["-n", name, "annotate", "serviceaccount", "reader", &format!("eks.amazonaws.com/role-arn={ROLE}")]).unwrap();
    wait_condition(name, "t", "Ready", "True", READY).unwrap();
    let pod = Pod::sums(name, "as-reader", Some("node1"), &Volume::Claim("t")).unwrap();
    assert_eq!(pod.read().unwrap(), bucket.sums().unwrap().0);

    let asked = sts.asked();
    println!("the scripted STS was asked {} times, and gave keys {} times", asked.len(), asked.iter().filter(|one| one.given).count());
    assert!(asked.iter().any(|one| one.given) && asked.iter().any(|one| !one.given));
    let mut seen = kubectl(&["-n", name, "get", "datasets,events,pv,pvc", "-o", "yaml"]).unwrap();
    for component in ["operator", "node", "csi"] {
        let of = format!("app.kubernetes.io/component={component}");
        seen.push_str(&kubectl(&["-n", SYSTEM, "logs", "-l", &of, "--tail=-1", "--all-containers"]).unwrap());
    }
    assert!(asked.iter().all(|one| !one.token.is_empty() && !seen.contains(&one.token)), "a token is in a log or an object");
}
