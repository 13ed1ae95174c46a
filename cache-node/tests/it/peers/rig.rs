//! What the tests of several nodes share: certificates, folders, nodes in one process, and what is asked of all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_node::node::{Node, Towards};
use forebay_peer::PeerLimits;
use forebay_wire::block::{BlockId, BlockIndex, ObjectRef};
use forebay_wire::dataset_spec::Eviction;
use forebay_wire::id::NodeName;
use forebay_wire::node_config::{NodeConfig, PeerNode, Peers};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::memory_source::{MemorySource, pattern};
use crate::semantics::{Rig, config, settle, spec};

pub(crate) const CACHE: &str = "node.cache.example";
pub(crate) const BLOCK: u64 = 64 << 10;

/// What several nodes share: certificates and folders.
pub(crate) struct Cache {
    pub(crate) folder: TempDir,
    pub(crate) list: Vec<PeerNode>,
}

impl Cache {
    pub(crate) fn new(nodes: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let tls = folder.path().join("tls");
        std::fs::create_dir(&tls).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![CACHE.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        for (name, text) in [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", authority.pem())] {
            std::fs::write(tls.join(name), text).unwrap();
        }
        // All at once, so that no two are the same.
        let free: Vec<_> = (0..nodes).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let list = free.iter().enumerate().map(|(number, listener)| PeerNode {
            name: name(number),
            address: listener.local_addr().unwrap().to_string(),
            weight: None,
            zone: None,
            rack: None,
        });
        Self { list: list.collect(), folder }
    }

    pub(crate) fn config(&self, number: usize, capacity_bytes: u64) -> NodeConfig {
        let peers = Peers {
            name: name(number),
            listen: self.list[number].address.parse::<SocketAddr>().unwrap(),
            cache: CACHE.to_owned(),
            certificates: self.folder.path().join("tls"),
            nodes: self.list.clone(),
        };
        let folder = self.folder.path().join(format!("store-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        NodeConfig { peers: Some(peers), ..config(&folder, capacity_bytes) }
    }

    /// Starts a node without a data set.
    pub(crate) fn start(&self, number: usize, capacity_bytes: u64) -> Arc<Node> {
        start(self.config(number, capacity_bytes))
    }

    pub(crate) fn serve(&self, number: usize, source: &Arc<MemorySource>, rest: &str) -> Rig {
        let node = self.start(number, 1 << 30);
        let dataset = node.add_with(spec(rest), Path::new("/nowhere"), vec![source.handle()]).unwrap();
        Rig { node, dataset }
    }

    pub(crate) async fn serve_all(&self, source: &Arc<MemorySource>, rest: &str) -> Vec<Arc<Rig>> {
        let rigs: Vec<_> = (0..self.list.len()).map(|number| Arc::new(self.serve(number, source, rest))).collect();
        for rig in &rigs {
            rig.listed().await;
        }
        rigs
    }
}

/// Serves from these nodes only.
pub(crate) async fn serve_all_of(cache: &Cache, numbers: &[usize], source: &Arc<MemorySource>, rest: &str) -> Vec<Arc<Rig>> {
    let rigs: Vec<_> = numbers.iter().map(|number| Arc::new(cache.serve(*number, source, rest))).collect();
    for rig in &rigs {
        rig.listed().await;
    }
    rigs
}

/// Starts a patient node: on a busy machine silence means little.
pub(crate) fn start(config: NodeConfig) -> Arc<Node> {
    let seconds = Duration::from_secs;
    let limits = PeerLimits { connect: seconds(20), silence: seconds(20), hedge_min: seconds(20), ..PeerLimits::default() };
    Node::start_towards(
        config,
        Eviction::Hold,
        tokio::runtime::Handle::current(),
        Towards { limits, take_over: Duration::from_millis(300), ..Towards::default() },
    )
    .unwrap()
}

pub(crate) async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < limit, "{what} within 30 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn name(number: usize) -> NodeName {
    NodeName::new(&format!("node-{number}")).unwrap()
}

/// Small files and files of several blocks, by path.
pub(crate) fn fill(source: &MemorySource, count: usize) -> BTreeMap<String, usize> {
    let files = (0..count).map(|number| (format!("d{}/f{number}", number % 5), [700, 9_000, 65_536, 200_001][number % 4] + number));
    let files: BTreeMap<String, usize> = files.collect();
    for (path, len) in &files {
        source.put(path.as_bytes(), pattern(*len as u64, *len));
    }
    files
}

pub(crate) fn bytes_of(files: &BTreeMap<String, usize>) -> u64 {
    files.values().map(|len| *len as u64).sum()
}

/// Reads every file on every node, all at once, each node in an order of its own, and compares every byte.
pub(crate) async fn read_all(rigs: &[Arc<Rig>], files: &BTreeMap<String, usize>) {
    let mut readers = Vec::new();
    for (number, rig) in rigs.iter().enumerate() {
        let mut files: Vec<(String, usize)> = files.clone().into_iter().collect();
        let (rotation, turn) = (files.len() * number / rigs.len(), number % 2 == 1);
        files.rotate_left(rotation);
        if turn {
            files.reverse();
        }
        for part in files.chunks(files.len().div_ceil(8)) {
            let (rig, part) = (rig.clone(), part.to_vec());
            readers.push(tokio::spawn(async move {
                for (path, len) in part {
                    let bytes = rig.read_path(&path).await.unwrap_or_else(|error| panic!("{path} on node {number}: {error:?}"));
                    assert!(bytes == pattern(len as u64, len), "{path} on node {number} has other bytes");
                }
            }));
        }
    }
    futures::future::try_join_all(readers).await.unwrap();
}

pub(crate) async fn settle_all(rigs: &[Arc<Rig>]) {
    for rig in rigs {
        settle(rig).await;
    }
}

pub(crate) async fn stop_all(rigs: Vec<Arc<Rig>>) {
    for rig in rigs {
        rig.node.stop().await;
    }
}

/// How many of the nodes have each block of the files.
pub(crate) fn holders(rigs: &[Arc<Rig>], files: &BTreeMap<String, usize>) -> Vec<usize> {
    let has = |rig: &&Arc<Rig>, block: BlockId, object: &ObjectRef| rig.node.store().contains(object, block.index);
    of_each_block(rigs, files, |block, object| rigs.iter().filter(|rig| has(rig, block, object)).count())
}

/// How many blocks one of these nodes is to have, as one of the first `copies`, and hasn't.
pub(crate) fn missing(rigs: &[Arc<Rig>], files: &BTreeMap<String, usize>, copies: u32) -> usize {
    let lacks = |rig: &&Arc<Rig>, block: BlockId, object: &ObjectRef| {
        rig.node.shared().unwrap().0.holds(block, copies) && !rig.node.store().contains(object, block.index)
    };
    of_each_block(rigs, files, |block, object| rigs.iter().filter(|rig| lacks(rig, block, object)).count()).iter().sum()
}

fn of_each_block(rigs: &[Arc<Rig>], files: &BTreeMap<String, usize>, figure: impl Fn(BlockId, &ObjectRef) -> usize) -> Vec<usize> {
    let manifest = rigs[0].fs().manifest().unwrap();
    let mut figures = Vec::new();
    forebay_node::fs::for_each_below(&manifest, b"/", &mut |entry, size| {
        let (file, path) = rigs[0].fs().file_of_entry(&manifest, entry).unwrap();
        if !files.contains_key(String::from_utf8(path).unwrap().trim_start_matches('/')) {
            return;
        }
        for index in 0..size.div_ceil(BLOCK) {
            let block = BlockId { object: file.object.id, index: BlockIndex(index as u32) };
            figures.push(figure(block, &file.object));
        }
    })
    .unwrap();
    assert_eq!(figures.len() as u64, files.values().map(|len| (*len as u64).div_ceil(BLOCK)).sum::<u64>());
    figures
}

pub(crate) fn owner_of(rigs: &[Arc<Rig>], block: BlockId) -> usize {
    rigs.iter().position(|rig| rig.node.fill().owns(block)).unwrap()
}
