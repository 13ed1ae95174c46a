//! The node as an operator and a driver see it: the real program, real mutual TLS, a real mount that this process holds as the driver would.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use forebay_wire::control_service::control_client::ControlClient;
use forebay_wire::control_service::{
    CertificateOffer, CertificateRequest, Desired, DesiredDataset, ObservedDataset, Peer, Problem, SyncReply, SyncRequest,
};
use forebay_wire::node_service::{DatasetStatus, PreloadState};
use forebay_wire::volume_service::volumes_client::VolumesClient;
use forebay_wire::volume_service::{AttachRequest, ReportReply, VolumeRef};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::fuse::child::Mount;
use crate::laptop::{Metrics, wait_until};

pub(crate) const UID: &str = "0d9a4b1c-0000-4000-8000-000000000001";
const NODE: &str = "node.policy.forebay.dev";
const OPERATOR: &str = "operator.forebay.dev";
const BYTES: usize = 300_000;

/// An authority that signs certificates for names.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key, in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// One node process, its folders, and a bucket.
pub(crate) struct Node {
    folder: TempDir,
    authority: Arc<Authority>,
    pub(crate) runtime: Runtime,
    name: &'static str,
    address: String,
    /// Where other nodes of its cache ask it.
    peers: Option<String>,
    process: Option<Child>,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with("", "")
    }

    /// With more in its tier, and more in its file.
    pub(crate) fn start_with(tier: &str, rest: &str) -> Self {
        Self::start_as("node1", Arc::new(Authority::new()), None, tier, rest)
    }

    fn start_as(name: &'static str, authority: Arc<Authority>, peers: Option<String>, tier: &str, rest: &str) -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["bucket", "cache", "run", "run/identity", "identity", "mount"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // As if it had run before: what it was given then is good.
        let (certificate, key) = authority.sign(NODE);
        let files = [("run/identity/tls.crt", certificate), ("run/identity/tls.key", key), ("identity/ca.crt", authority.0.pem())];
        for (name, text) in files.into_iter().chain([("identity/token", "a token\n".to_owned())]) {
            fs::write(folder.path().join(name), text).unwrap();
        }
        for file in 1..=4_u8 {
            fs::write(folder.path().join("bucket").join(format!("f{file}")), vec![file; BYTES]).unwrap();
        }
        let cache = folder.path().join("cache");
        let config = format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: NodeConfig\ntiers: [{{ path: \"{}\", keepFreePercent: 0{tier} }}]\n{rest}",
            cache.display()
        );
        fs::write(folder.path().join("node.yaml"), config).unwrap();
        let runtime = Runtime::new().unwrap();
        let mut node = Self { folder, authority, runtime, name, address: free_address(), peers, process: None };
        node.run();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn run(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-node"));
        command.args(["cluster", "--node", self.name, "--listen", &self.address]);
        if let Some(peers) = &self.peers {
            command.args(["--peers", peers, "--cache", NODE]);
        }
        for (flag, name) in [("--config", "node.yaml"), ("--run", "run"), ("--identity", "identity")] {
            command.arg(flag).arg(self.path(name));
        }
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        wait_until("the node's socket", || std::os::unix::net::UnixStream::connect(self.path("run/node.sock")).is_ok());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn channel(&self, authority: &Authority, name: &str) -> Result<Channel, tonic::transport::Error> {
        let (certificate, key) = authority.sign(name);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.authority.0.pem()))
            .identity(Identity::from_pem(certificate, key))
            .domain_name(NODE);
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap().tls_config(tls).unwrap();
        self.runtime.block_on(endpoint.connect_timeout(Duration::from_secs(5)).connect())
    }

    /// What the operator says, and the answer.
    pub(crate) fn sync(&self, generation: &str, datasets: Option<Vec<DesiredDataset>>) -> SyncReply {
        self.sync_among(generation, datasets, Vec::new())
    }

    /// The same with the nodes of its cache.
    fn sync_among(&self, generation: &str, datasets: Option<Vec<DesiredDataset>>, peers: Vec<Peer>) -> SyncReply {
        let mut client = ControlClient::new(self.channel(&self.authority, OPERATOR).unwrap());
        let desired = datasets.map(|datasets| Desired { policy: "policy".to_owned(), datasets, peers, ..Desired::default() });
        let request = SyncRequest { generation: generation.to_owned(), desired, ..SyncRequest::default() };
        self.runtime.block_on(client.sync(request)).unwrap().into_inner()
    }

    pub(crate) fn dataset(&self, uid: &str, rest: &str) -> DesiredDataset {
        let source = self.path("bucket").display().to_string();
        let object = format!(
            r#"{{"apiVersion":"forebay.dev/v1alpha1","kind":"Dataset","metadata":{{"name":"t","namespace":"vision"}},"spec":{{"source":"file://{source}"{rest}}}}}"#
        );
        DesiredDataset { uid: uid.to_owned(), object, ..DesiredDataset::default() }
    }

    pub(crate) fn observed(&self) -> ObservedDataset {
        let mut reply = self.sync("", None);
        assert_eq!(reply.datasets.len(), 1, "{reply:?}");
        reply.datasets.remove(0)
    }

    pub(crate) fn volumes(&self) -> VolumesClient<Channel> {
        let socket = self.path("run/node.sock");
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        self.runtime.block_on(Endpoint::from_static("http://node").connect_with_connector(connect)).map(VolumesClient::new).unwrap()
    }

    /// What `forebay-node report` prints: the node's name, and of its one data set.
    fn report(&self) -> (String, DatasetStatus) {
        let output = Command::new(env!("CARGO_BIN_EXE_forebay-node")).arg("report").arg("--run").arg(self.path("run")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: ReportReply = serde_json::from_slice(&output.stdout).unwrap();
        let mut observed = report.observed.unwrap();
        (observed.node, observed.datasets.remove(0).status.unwrap())
    }

    fn mount(&self) -> Mount {
        let mount = Mount::new(&self.path("mount"), &self.path("holder.sock"));
        self.attach().unwrap();
        mount
    }

    fn attach(&self) -> Result<(), tonic::Status> {
        let holder = self.path("holder.sock").display().to_string();
        self.runtime.block_on(self.volumes().attach(AttachRequest { uid: UID.to_owned(), holder })).map(drop)
    }

    fn check(&self) {
        for file in 1..=4_u8 {
            assert_eq!(fs::read(self.path("mount").join(format!("f{file}"))).unwrap(), vec![file; BYTES]);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

pub(crate) fn skip() -> bool {
    !crate::fuse::can_mount()
}

#[test]
fn a_data_set_that_is_wanted_is_served_also_by_the_next_process_before_the_operator_speaks() {
    if skip() {
        return;
    }
    let mut node = Node::start();
    let by_name = VolumeRef { namespace: "vision".to_owned(), name: "t".to_owned(), ..VolumeRef::default() };
    let unknown = node.runtime.block_on(node.volumes().resolve(by_name.clone())).unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    assert_eq!(node.sync("1", Some(vec![node.dataset(UID, "")])).generation, "1");
    let volume = node.runtime.block_on(node.volumes().resolve(by_name)).unwrap().into_inner();
    assert_eq!((volume.uid.as_str(), volume.name.as_str()), (UID, "vision/t"));
    let mount = node.mount();
    node.check();
    let held = File::open(node.path("mount/f2")).unwrap();
    node.kill();
    node.run();
    node.attach().unwrap();
    node.attach().unwrap();
    node.check();
    let mut bytes = [0; 100];
    held.read_exact_at(&mut bytes, 1000).unwrap();
    assert_eq!(bytes, [2; 100], "a file that was open before");
    let observed = node.observed();
    assert!(observed.mounted);
    assert_eq!(observed.status.unwrap().files, 4);
    drop(held);
    drop(mount);
}

#[test]
fn rules_and_preload_take_effect_at_once_and_other_fields_without_a_failed_read() {
    if skip() {
        return;
    }
    let node = Node::start();
    node.sync("1", Some(vec![node.dataset(UID, r#","preload":{"when":"Once"}"#)]));
    wait_until("the preload", || {
        let observed = node.observed();
        let done = observed.status.and_then(|status| status.preload).is_some_and(|preload| preload.state() == PreloadState::Done);
        done && observed.wanted_held_bytes == 4 * BYTES as u64 && observed.wanted_bytes == observed.wanted_held_bytes
    });
    let mount = node.mount();
    let cached = || node.observed().status.unwrap().cached_bytes;
    wait_until("what is held", || cached() == 4 * BYTES as u64);
    node.sync("2", Some(vec![node.dataset(UID, r#","rules":[{"path":"/","cache":"Never"}]"#)]));
    wait_until("nothing held", || cached() == 0);
    node.check();

    let mode = |node: &Node| fs::metadata(node.path("mount/f1")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&node), 0o444);
    let reading = std::thread::spawn({
        let path = node.path("mount/f3");
        move || {
            for _ in 0..200 {
                let mut file = File::open(&path).unwrap();
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, vec![3; BYTES]);
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                std::thread::yield_now();
            }
        }
    });
    node.sync("3", Some(vec![node.dataset(UID, r#","permissions":{"fileMode":"0400"}"#)]));
    // The driver sees that nobody answers its mount, and attaches again.
    wait_until("the next process", || node.log().matches("ready").count() >= 2 && node.attach().is_ok());
    reading.join().unwrap();
    // What the kernel was told of a file it keeps for the sync's interval; a mount that knows nothing yet sees the new mode at once.
    drop(mount);
    let _mount = node.mount();
    assert_eq!(mode(&node), 0o400, "another spec");
}

#[test]
fn a_mount_that_follows_another_at_once_is_answered() {
    if skip() {
        return;
    }
    let node = Node::start();
    node.sync("1", Some(vec![node.dataset(UID, "")]));
    for _ in 0..40 {
        let mount = node.mount();
        // By a thread, since nothing ends a read that nobody answers but the end of the mount.
        let read = std::thread::spawn({
            let path = node.path("mount/f1");
            move || fs::read(path)
        });
        wait_until("the read", || read.is_finished());
        assert_eq!(read.join().unwrap().unwrap(), vec![1; BYTES]);
        drop(mount);
    }
}

#[test]
fn what_is_warm_is_so_only_as_long_as_every_wanted_block_is_here() {
    let node = Node::start();
    node.sync("1", Some(vec![node.dataset(UID, r#","preload":{"when":"Once"},"sync":{"interval":"1s"}"#)]));
    let wanted_and_held = || {
        let observed = node.observed();
        (observed.wanted_bytes, observed.wanted_held_bytes)
    };
    let all = 4 * BYTES as u64;
    wait_until("the preload", || wanted_and_held() == (all, all));
    // Loaded once, so this one isn't loaded, and what is wanted isn't all here.
    fs::write(node.path("bucket").join("f5"), [5; BYTES]).unwrap();
    wait_until("the file that was added", || wanted_and_held() == (all + BYTES as u64, all));
    fs::remove_file(node.path("bucket").join("f5")).unwrap();
    wait_until("the file to be gone", || wanted_and_held() == (all, all));
}

#[test]
fn nodes_that_are_told_of_each_other_are_one_cache_also_after_a_restart() {
    if skip() {
        return;
    }
    let authority = Arc::new(Authority::new());
    let start = |name| Node::start_as(name, authority.clone(), Some(free_address()), "", "");
    let (first, mut second) = (start("node1"), start("node2"));
    let peer =
        |node: &Node| Peer { name: node.name.to_owned(), address: node.peers.clone().unwrap(), weight_bytes: 1 << 30, ..Peer::default() };
    let peers = vec![peer(&first), peer(&second)];
    assert!(first.sync("", None).peers.is_empty(), "it was told of nobody yet");
    let dataset = first.dataset(UID, r#","rules":[{"path":"/","localCopy":"Never"}]"#);
    for node in [&first, &second] {
        node.sync_among("1", Some(vec![dataset.clone()]), peers.clone());
    }
    let (mount, other_mount) = (first.mount(), second.mount());
    let source_bytes = || [&first, &second].map(|node| node.observed().status.unwrap().source_bytes).iter().sum::<u64>();
    first.check();
    second.check();
    let all = 4 * BYTES as u64;
    assert_eq!(source_bytes(), all, "each byte came from the source once");
    let cached = |node: &Node| node.observed().status.unwrap().cached_bytes;
    wait_until("each to hold its share", || cached(&first) + cached(&second) == all);
    // What `kubectl forebay status` has of each.
    let reports = [&first, &second].map(Node::report);
    let read = |from: fn(&DatasetStatus) -> u64| reports.iter().map(|(_, status)| from(status)).sum::<u64>();
    assert!(read(|status| status.read_peer_bytes) > 0, "what is another's came from there: {reports:?}");
    let all_reads =
        read(|status| status.read_store_bytes) + read(|status| status.read_peer_bytes) + read(|status| status.read_source_bytes);
    assert!(all_reads >= all, "each byte that was read came from somewhere: {reports:?}");
    assert_eq!(reports.map(|(name, _)| name), ["node1", "node2"]);
    // A new operator has the list from the nodes; who knows the generation isn't told it again and again.
    assert_eq!(first.sync("", None).peers, peers);
    assert!(first.sync("1", None).peers.is_empty());

    second.kill();
    drop(mount);
    let mount = first.mount();
    first.check();
    second.run();
    second.attach().unwrap();
    second.check();
    assert_eq!(second.sync("", None).peers, peers, "by what it was told before");
    assert_eq!(second.observed().status.unwrap().source_bytes, 0, "its own is on its disk, the rest is the first one's");
    drop((mount, other_mount));
}

#[test]
fn a_data_set_that_nobody_wants_goes_when_its_mount_does() {
    if skip() {
        return;
    }
    let node = Node::start();
    node.sync("1", Some(vec![node.dataset(UID, "")]));
    let mount = node.mount();
    node.check();
    assert_eq!(node.sync("2", Some(Vec::new())).datasets.len(), 1, "still mounted");
    node.check();
    let refused = node.runtime.block_on(node.volumes().resolve(VolumeRef { uid: UID.to_owned(), ..VolumeRef::default() })).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    // Made again under its name while the old one is mounted.
    let successor = "0d9a4b1c-0000-4000-8000-000000000002";
    let told = node.sync("3", Some(vec![node.dataset(successor, "")]));
    let waits = told.datasets.iter().find(|dataset| dataset.uid == successor).unwrap();
    assert!(waits.problem.contains("use the old one"), "{}", waits.problem);
    assert!(node.path("cache/datasets/vision/t").exists());
    drop(mount);
    // Nothing is said any more: the end of the mount is enough.
    wait_until("the old one to be freed, and its successor served", || {
        let datasets = node.sync("3", None).datasets;
        datasets.len() == 1 && datasets[0].uid == successor && datasets[0].problem.is_empty() && datasets[0].status.is_some()
    });
    let ref_to_it = VolumeRef { uid: successor.to_owned(), ..VolumeRef::default() };
    wait_until("its list", || {
        node.runtime.block_on(node.volumes().resolve(ref_to_it.clone())).is_ok_and(|volume| volume.into_inner().ready)
    });
    node.sync("4", Some(Vec::new()));
    assert!(node.sync("4", None).datasets.is_empty());
    assert!(!node.path("cache/datasets/vision/t").exists());
}

#[test]
fn a_cache_evicts_as_its_data_sets_say_where_they_agree() {
    if skip() {
        return;
    }
    let metrics = Metrics::new();
    // Two of the four files fit.
    let node = Node::start_with(", capacity: 800Ki", &metrics.config());
    let evicted_by_reading = || {
        let before = metrics.read().evictions;
        for file in (1..=4_u8).cycle().take(40) {
            let mut open = File::open(node.path("mount").join(format!("f{file}"))).unwrap();
            let mut bytes = Vec::new();
            open.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, vec![file; BYTES]);
            rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        metrics.read().evictions - before
    };
    node.sync("1", Some(vec![node.dataset(UID, "")]));
    let mount = node.mount();
    assert!(evicted_by_reading() <= 4, "a stable subset stays");
    node.sync("2", Some(vec![node.dataset(UID, r#","eviction":"LRU""#)]));
    let evicted = evicted_by_reading();
    // Files of one age are chosen among at random, so some are read again in time. A subset that stays evicts at most its first occupants.
    assert!(evicted > 8, "who comes is let in: {evicted}");
    let mut other = node.dataset("0d9a4b1c-0000-4000-8000-000000000002", "");
    other.object = other.object.replace(r#""name":"t""#, r#""name":"other""#);
    node.sync("3", Some(vec![node.dataset(UID, r#","eviction":"LRU""#), other]));
    let evicted = evicted_by_reading();
    assert!(evicted <= 4, "another one didn't ask for it: {evicted}");
    assert_eq!(node.log().matches("ready").count(), 1, "in the same process");
    drop(mount);
}

#[test]
fn what_cant_be_understood_is_told_and_what_was_served_goes_on() {
    if skip() {
        return;
    }
    let node = Node::start();
    node.sync("1", Some(vec![node.dataset(UID, "")]));
    let mount = node.mount();
    let other = "0d9a4b1c-0000-4000-8000-000000000002";
    let wrong = |uid| DesiredDataset { object: node.dataset(uid, "").object.replace("file://", "ftp:/"), ..node.dataset(uid, "") };
    let reply = node.sync("2", Some(vec![wrong(UID), wrong(other)]));
    assert_eq!(reply.generation, "2");
    for observed in &reply.datasets {
        assert_eq!(observed.problem_kind(), Problem::Invalid);
        assert!(observed.problem.contains("source"), "{}", observed.problem);
    }
    node.check();
    drop(mount);
}

#[test]
fn only_the_operator_is_heard() {
    let node = Node::start();
    let strangers = Authority::new();
    let call = |channel: Result<Channel, tonic::transport::Error>| {
        let Ok(channel) = channel else { return false };
        node.runtime.block_on(ControlClient::new(channel).sync(SyncRequest::default())).is_ok()
    };
    assert!(call(node.channel(&node.authority, OPERATOR)));
    assert!(!call(node.channel(&strangers, OPERATOR)), "another authority");
    assert!(!call(node.channel(&node.authority, NODE)), "a node is no operator");
    let plain = Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    assert!(!call(node.runtime.block_on(plain.connect())), "without TLS");
    assert!(node.log().contains("a caller was refused"));
    // Replaced while the node runs: the old authority is no longer believed.
    let next = node.path("identity/ca.next");
    fs::write(&next, strangers.0.pem()).unwrap();
    fs::rename(&next, node.path("identity/ca.crt")).unwrap();
    wait_until("another authority", || !call(node.channel(&node.authority, OPERATOR)));
}

#[test]
fn a_certificate_is_asked_for_and_goes_on_after_a_restart() {
    let mut node = Node::start();
    let authority = node.authority.clone();
    let call = |node: &Node| ControlClient::new(node.channel(&authority, OPERATOR).unwrap());
    let due = |node: &Node| node.runtime.block_on(call(node).sync(SyncRequest::default())).unwrap().into_inner().certificate_due;
    assert!(!due(&node));
    let offer = |node: &Node, hours_ago: i64| {
        let asked = node.runtime.block_on(call(node).request_certificate(CertificateRequest {})).unwrap().into_inner();
        assert_eq!(asked.token, "a token");
        let mut request = CertificateSigningRequestParams::from_pem(&asked.request).unwrap();
        request.params = CertificateParams::new(vec![NODE.to_owned()]).unwrap();
        let since = OffsetDateTime::now_utc() - time::Duration::hours(hours_ago);
        (request.params.not_before, request.params.not_after) = (since, since + time::Duration::hours(24));
        let certificate = request.signed_by(&authority.0).unwrap().pem();
        node.runtime.block_on(call(node).take_certificate(CertificateOffer { certificate }))
    };
    offer(&node, 13).unwrap();
    assert!(due(&node), "half of its life is over");
    node.kill();
    node.run();
    assert!(due(&node), "what it was given is what it shows");
    offer(&node, 1).unwrap();
    assert!(!due(&node));
    let wrong = node.runtime.block_on(call(&node).take_certificate(CertificateOffer { certificate: authority.sign(NODE).0 }));
    assert!(wrong.unwrap_err().message().contains("no certificate was asked for"));
}
