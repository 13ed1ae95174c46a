//! Several nodes with one cache, all on this machine: what they ask the source for, and what a read from another node costs.

use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::super::node::{Node, Setup};
use super::super::side::pass;
use super::super::{Figures, Suite};
use crate::compare::{Comparison, compare};
use crate::report::Goal;
use crate::serve;
use crate::workload::{self, Order, Workload, files_below};

/// In the certificates of all nodes.
const NAME: &str = "cache.bench.example";
/// Readers of each node of the cold epoch.
const READERS: usize = 2;
const FILES_8: Workload = Workload::Files { threads: 8, order: Order::Shuffled };

/// What the nodes of one cache share.
pub(super) struct Cache {
    certificates: PathBuf,
    addresses: Vec<String>,
    /// How much of the cache each node holds, beside the others.
    weights: Vec<&'static str>,
}

impl Cache {
    pub(super) fn new(suite: &Suite, weights: Vec<&'static str>) -> Result<Self> {
        let certificates = suite.options.folder.join("nodes").join("certificates");
        std::fs::create_dir_all(&certificates)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &authority)?;
        for (name, text) in [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", authority.pem())] {
            std::fs::write(certificates.join(name), text)?;
        }
        // All at once, so that no two are the same.
        let free = weights.iter().map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
        let addresses = free.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect::<Result<_>>()?;
        Ok(Self { certificates, addresses, weights })
    }

    /// The same data set on the node of this number; not mounted yet.
    pub(super) fn node(&self, suite: &Suite, number: usize, setup: &Setup) -> Result<Node> {
        let nodes = self.addresses.iter().zip(&self.weights).enumerate();
        let nodes: Vec<String> =
            nodes.map(|(other, (address, weight))| format!("{{ name: n{other}, address: \"{address}\", weight: {weight} }}")).collect();
        let peers = format!(
            "peers: {{ name: n{number}, listen: \"{}\", cache: {NAME}, certificates: \"{}\", nodes: [{}] }}\n",
            self.addresses[number],
            self.certificates.display(),
            nodes.join(", ")
        );
        let below = suite.options.folder.join("nodes").join(format!("{}-{number}", setup.name));
        Node::new(
            &suite.options.node_binary,
            &below,
            suite.endpoint()?,
            super::super::BUCKET,
            &Setup { node_lines: peers, ..setup.clone() },
        )
    }
}

/// Four nodes read everything at once, each in an order of its own, and nothing of it is cached.
pub(super) fn source_bytes(suite: &mut Suite) -> Result<()> {
    let cache = Cache::new(suite, vec!["1Gi"; 4])?;
    let setup = suite.setup("peers", &["small"]);
    let mut nodes = (0..4).map(|number| cache.node(suite, number, &setup)).collect::<Result<Vec<_>>>()?;
    for node in &mut nodes {
        node.remount_empty()?;
    }
    let listed = nodes.iter().map(|node| files_below(&node.mount_point())).collect::<Result<Vec<_>>>()?;
    let bytes: u64 = listed[0].iter().map(|(_, size)| size).sum();
    let workload = Workload::Files { threads: READERS, order: Order::Shuffled };
    let before = serve::counted(suite.endpoint()?)?;
    let mounts: Vec<PathBuf> = nodes.iter().map(Node::mount_point).collect();
    let passes = std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (number, (folder, files)) in mounts.iter().zip(&listed).enumerate() {
            let workload = &workload;
            running.push(scope.spawn(move || workload::run(workload, folder, files, number as u64)));
        }
        running.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?).collect::<Result<Vec<_>>>()
    })?;
    let fetched = (serve::counted(suite.endpoint()?)?.body_bytes - before.body_bytes) as f64;
    let figures = Figures::quotient(bytes as f64, fetched);
    let slowest = passes.iter().map(workload::Pass::units_per_second).fold(f64::INFINITY, f64::min);
    let note = format!("4 nodes at once, cold, {READERS} readers each, {slowest:.0} files/s on the slowest; the control is the data set");
    suite.push("peers-source-bytes", "bytes", Goal::AtMost(1.01), figures, nodes[0].memory(), note);
    nodes.iter_mut().try_for_each(Node::unmount)
}

/// Two nodes with one data set, all of it on the second one; the first reads it there and keeps nothing.
struct Pair {
    reader: Node,
    owner: Node,
    read: Vec<(PathBuf, u64)>,
    owned: Vec<(PathBuf, u64)>,
}

impl Pair {
    fn new(suite: &Suite, prefix: &str) -> Result<Self> {
        let cache = Cache::new(suite, vec!["1Mi", "1Ti"])?;
        let mut setup = suite.setup(&format!("peers-{prefix}"), &[prefix]);
        setup.dataset_lines = "  rules: [{ path: /, localCopy: Never }]\n".to_owned();
        let (mut reader, mut owner) = (cache.node(suite, 0, &setup)?, cache.node(suite, 1, &setup)?);
        owner.mount()?;
        reader.mount()?;
        let (owned, read) = (files_below(&owner.mount_point())?, files_below(&reader.mount_point())?);
        workload::run(&FILES_8, &owner.mount_point(), &owned, 0)?;
        Ok(Self { reader, owner, read, owned })
    }

    /// Reads of the first node against the same ones of the second, which are its own; the mounts' pages are of use to neither.
    fn compare(&self, suite: &Suite, workload: &Workload) -> Result<Comparison> {
        let Self { reader, owner, read, owned } = self;
        compare(
            suite.scale.pairs,
            |epoch| {
                workload::drop_pages(owned)?;
                pass(workload, &owner.mount_point(), owned, epoch, &owner.pids())
            },
            |epoch| {
                workload::drop_pages(read)?;
                pass(workload, &reader.mount_point(), read, epoch, &[reader.pids(), owner.pids()].concat())
            },
        )
    }

    fn unmount(mut self) -> Result<()> {
        self.reader.unmount()?;
        self.owner.unmount()
    }
}

pub(super) fn small(suite: &mut Suite) -> Result<()> {
    let pair = Pair::new(suite, "small")?;
    let compared = pair.compare(suite, &FILES_8)?;
    let memory = pair.reader.memory();
    let note = "from another node's store; the control reads its own".to_owned();
    suite.row("peers-small", "files/s", Goal::Reported, &compared, memory, note);
    let note = "client and both daemons, over TLS".to_owned();
    suite.push("peers-small-cpu", "us/file", Goal::AtMost(2.0), Figures::cpu_of(&compared), memory, note);
    pair.unmount()
}

pub(super) fn random(suite: &mut Suite) -> Result<()> {
    let pair = Pair::new(suite, "large")?;
    for threads in [1, 8] {
        let compared = pair.compare(suite, &Workload::Random { block: 128 << 10, threads, reads: suite.scale.random_reads / 20 })?;
        let Comparison { p50_us, p99_us, control_p50_us, control_p99_us, .. } = compared;
        let note =
            format!("p50 {p50_us:.0} us (own store {control_p50_us:.0}), p99 {p99_us:.0} us (own store {control_p99_us:.0}), over TLS");
        suite.row(&format!("peers-random-128k-threads-{threads}"), "reads/s", Goal::Reported, &compared, pair.reader.memory(), note);
    }
    pair.unmount()
}
