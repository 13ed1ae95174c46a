//! What somebody in the cluster's network, or with rights over one namespace, may try. Each is refused, and shows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use forebay_e2e::authority::{Authority, Pair, listens};
use forebay_e2e::bucket::{Bucket, MACHINE};
use forebay_e2e::cluster::{SYSTEM, condition, get, kubectl, system_pods, wait_condition};
use forebay_e2e::wait_for;

use crate::{dataset, installed, spec};

const READY: Duration = Duration::from_secs(60);
#[test]
fn who_has_no_certificate_of_the_cache_is_not_heard() {
    installed();
    let policy = get("", "cachepolicy", "default").unwrap().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let host = format!("node.{policy}.forebay.dev");
    let (pod, ip) = wait_for("a cache node", READY, || {
        let pods = system_pods("node", Some("node1"))?;
        let found = pods.first().map(|pod| (pod["metadata"]["name"].clone(), pod["status"]["podIP"].clone()));
        Ok(found.and_then(|(name, ip)| Some((name.as_str()?.to_owned(), ip.as_str()?.to_owned()))))
    })
    .unwrap();
    let believed = Authority::of_the_cluster().unwrap();
    let ours = believed.last().unwrap();
    let foreign = Authority::new().unwrap();
    let (now, past) = (0, 30 * 24);
    for (port, protocol) in [(7070, &b"h2"[..]), (7071, b"forebay-peer")] {
        let address: SocketAddr = format!("{ip}:{port}").parse().unwrap();
        let check = |pair: Option<&Pair>, expected: bool, what: &str| {
            assert_eq!(listens(address, &host, protocol, &believed, pair).unwrap(), expected, "{what} at port {port}");
        };
        let wanted = if port == 7070 { "operator.forebay.dev" } else { &host };
        check(None, false, "no certificate");
        check(Some(&foreign.certify(wanted, now).unwrap()), false, "a foreign authority's");
        check(Some(&ours.certify(wanted, past).unwrap()), false, "one that expired");
        check(Some(&ours.certify("node.another.forebay.dev", now).unwrap()), false, "another cache's");
        // Else the others were refused for nothing that they are.
        check(Some(&ours.certify(wanted, now).unwrap()), true, "a good one");
    }
    let log = kubectl(&["-n", SYSTEM, "logs", &pod]).unwrap();
    assert!(log.contains("a caller was refused"), "it shows in the log of {pod}");
}

/// Answers every request with the way to somewhere else.
struct Redirects {
    endpoint: String,
    asked: Arc<AtomicUsize>,
}

impl Redirects {
    fn to(location: &'static str) -> Self {
        let listener = TcpListener::bind((MACHINE, 0)).unwrap();
        let (endpoint, asked) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        std::thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let count = count.clone();
                std::thread::spawn(move || {
                    while connection.read(&mut [0; 16 << 10]).is_ok_and(|read| read > 0) {
                        count.fetch_add(1, Relaxed);
                        let answer = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
                        if connection.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { endpoint, asked }
    }
}

#[test]
fn a_server_that_sends_elsewhere_is_not_followed() {
    let metadata = Redirects::to("http://169.254.169.254/latest/meta-data/");
    let bucket = Bucket::with_files(1).unwrap();
    let namespace = dataset("redirects", &bucket, "");
    let source = bucket.source().replace(&bucket.endpoint, &metadata.endpoint);
    forebay_e2e::cluster::apply(&namespace.0, &spec("elsewhere", &source, "")).unwrap();
    let mut told = String::new();
    wait_for("the refusal", READY, || {
        let object = get(&namespace.0, "dataset", "elsewhere")?.unwrap_or_default();
        told = condition(&object, "SourceReachable").map(|(_, _, message)| message).unwrap_or_default();
        Ok((told.contains("not followed")).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {told}"));
    assert!(metadata.asked.load(Relaxed) > 0);
}

#[test]
fn without_a_secret_nobody_is_read_as_the_node() {
    let bucket = Bucket::with_files(2).unwrap();
    let namespace = dataset("ambient", &bucket, "");
    // The server knows the suite's own keys alone; a node's role, had it one, would be tried here.
    let source = bucket.source().replace("secretRef: { name: s3 }, ", "");
    assert_ne!(source, bucket.source());
    forebay_e2e::cluster::apply(&namespace.0, &spec("anonymous", &source, "")).unwrap();
    let object = wait_condition(&namespace.0, "anonymous", "SourceReachable", "False", READY).unwrap();
    let (_, _, message) = condition(&object, "SourceReachable").unwrap();
    println!("without a secret: {message}");
    // A secret of another namespace can't even be named: the field takes a name.
    let other = source.replace("source: \"", "secretRef: { name: ambient/s3 }, source: \"");
    assert_ne!(other, source);
    let refused = forebay_e2e::cluster::apply(&namespace.0, &spec("other", &other, "")).unwrap_err().to_string();
    assert!(refused.contains("secretRef"), "{refused}");
}
