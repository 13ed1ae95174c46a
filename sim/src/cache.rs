//! The nodes of one cache: real ones, over the simulated network and source, each with a store of its own on a disk of memory.
//! Knows how a node is started, killed and told who the others are. Does not know when, or what is read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_node::fill::FileObject;
use forebay_node::node::{Brought, Dataset, Node, Towards};
use forebay_placement::Shelf;
use forebay_wire::dataset_spec::{self, Eviction};
use forebay_wire::id::NodeName;
use forebay_wire::node_config::{NodeConfig, PeerNode, Peers, ServingMode, Tier};
use forebay_wire::unit::{ByteSize, Capacity, Percent};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::census::Census;
use crate::data::{BLOCK_BYTES, Data};
use crate::net::{Net, Seen};
use crate::origin::Origin;

/// What is left of a node that was killed has ended after so long, in the simulation's time.
const ENDED_WITHIN: Duration = Duration::from_secs(600);
/// The store's room of each node: all that a trial has.
const CAPACITY_BYTES: u64 = 4 << 30;

/// How the data set is to be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) copies_min: u32,
    pub(crate) copies_max: u32,
    pub(crate) local_copy: &'static str,
    pub(crate) preload: bool,
}

/// A node that runs.
#[derive(Clone)]
pub(crate) struct Alive {
    pub(crate) node: Arc<Node>,
    pub(crate) dataset: Arc<Dataset>,
    /// Cancelled when it is killed: what its readers wait for is of no interest then.
    pub(crate) killed: CancellationToken,
    is_dead: Arc<AtomicBool>,
}

struct Place {
    alive: Option<Alive>,
    folder: PathBuf,
    /// When something happened to it last that may cost others a request.
    troubled_until: Instant,
}

pub(crate) struct Cache {
    pub(crate) net: Arc<Net>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) data: Arc<Data>,
    shelf: Arc<Shelf>,
    folder: TempDir,
    terms: Terms,
    places: Mutex<Vec<Place>>,
    pub(crate) census: Census,
    begun: Instant,
    /// Who is to be in the cache, by number.
    pub(crate) members: Mutex<Vec<usize>>,
}

fn address(number: usize) -> String {
    format!("node-{number:04}:7000")
}

pub(crate) fn name(number: usize) -> NodeName {
    NodeName::new(&format!("node-{number:04}")).expect("a short name")
}

/// Memory, where the machine has a folder of it.
pub(crate) fn scratch() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("forebay-sim-").to_owned();
    match memory.is_dir() {
        true => builder().tempdir_in(memory),
        false => builder().tempdir(),
    }
    .context("make a folder for the nodes' stores")
}

impl Cache {
    pub(crate) fn new(seed: u64, files: u32, terms: Terms) -> Result<Arc<Self>> {
        let folder = scratch()?;
        let data = Arc::new(Data::new(seed, files, &folder.path().join("list"))?);
        Ok(Arc::new(Self {
            net: Net::new(seed),
            origin: Origin::new(seed, data.clone()),
            data,
            shelf: Arc::default(),
            folder,
            terms,
            places: Mutex::default(),
            census: Census::default(),
            begun: Instant::now(),
            members: Mutex::default(),
        }))
    }

    /// A node more, which isn't started yet; its number.
    pub(crate) fn add(&self) -> usize {
        let mut places = self.places.lock();
        let number = places.len();
        assert_eq!(self.net.add(&address(number)), number, "hosts are nodes");
        let folder = self.folder.path().join(format!("store-{number}"));
        places.push(Place { alive: None, folder, troubled_until: Instant::now() });
        number
    }

    pub(crate) fn alive(&self, number: usize) -> Option<Alive> {
        self.places.lock()[number].alive.clone()
    }
    /// Those that run and are to be in the cache.
    pub(crate) fn running(&self) -> Vec<usize> {
        let places = self.places.lock();
        self.members.lock().iter().copied().filter(|number| places[*number].alive.is_some()).collect()
    }

    /// The nodes that run, and the numbers of those that don't and have a disk.
    pub(crate) fn by_name(&self) -> (HashMap<String, (usize, Alive)>, Vec<usize>) {
        let places = self.places.lock();
        let (mut running, mut away) = (HashMap::new(), Vec::new());
        for (number, place) in places.iter().enumerate() {
            match &place.alive {
                Some(alive) => drop(running.insert(name(number).to_string(), (number, alive.clone()))),
                None => away.push(number),
            }
        }
        (running, away)
    }

    /// Of the simulation, since its begin.
    pub(crate) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub(crate) fn trouble(&self, number: usize, until: Instant) {
        let mut places = self.places.lock();
        places[number].troubled_until = places[number].troubled_until.max(until);
    }
    pub(crate) fn is_troubled(&self, number: usize) -> bool {
        self.places.lock()[number].troubled_until > Instant::now()
    }

    /// Also one that doesn't run: who was killed a moment ago is still asked.
    pub(crate) fn is_anyone_troubled(&self) -> bool {
        let now = Instant::now();
        self.places.lock().iter().any(|place| place.troubled_until > now)
    }

    /// It is over at `until`.
    pub(crate) fn settle_trouble(&self, number: usize, until: Instant) {
        self.places.lock()[number].troubled_until = until;
    }
    pub(crate) fn copies_min(&self) -> u32 {
        self.terms.copies_min
    }

    fn list(&self) -> Vec<PeerNode> {
        let row = |number: &usize| PeerNode { name: name(*number), address: address(*number), weight: None, zone: None, rack: None };
        self.members.lock().iter().map(row).collect()
    }

    pub(crate) fn start(&self, number: usize) -> Result<()> {
        let folder = self.places.lock()[number].folder.clone();
        let manifests = folder.join("datasets/sim/data/manifests");
        std::fs::create_dir_all(&manifests)?;
        let manifest = manifests.join(self.data.manifest.file_name().context("the list has a name")?);
        if !manifest.exists() {
            std::fs::hard_link(&self.data.manifest, &manifest)?;
        }
        let peers = Peers {
            name: name(number),
            listen: "127.0.0.1:0".parse()?,
            cache: "sim.example".to_owned(),
            certificates: PathBuf::from("/nowhere"),
            nodes: self.list(),
        };
        let capacity = Capacity::Bytes(ByteSize::new(CAPACITY_BYTES).context("not 0")?);
        let config = NodeConfig {
            tiers: vec![Tier { path: folder, capacity, keep_free: Percent::new(0).context("0 is a percentage")? }],
            block_size: ByteSize::kibibytes(BLOCK_BYTES >> 10),
            serving: ServingMode::Open,
            passthrough: false,
            peers: Some(peers),
            ..NodeConfig::default()
        };
        let network = Arc::new(Seen { net: self.net.clone(), host: number });
        let brought = Brought { network, arrivals: self.net.listen(number), shelf: self.shelf.clone() };
        let towards = Towards { brought: Some(brought), ..Towards::default() };
        let node = Node::start_towards(config, Eviction::Hold, Handle::current(), towards)?;
        let is_dead = Arc::new(AtomicBool::new(false));
        let handle = self.origin.handle(number, is_dead.clone());
        let dataset = node.add_with(self.spec()?, Path::new("/nowhere"), vec![handle])?;
        ensure!(dataset.fs.manifest().is_some(), "the list of files is there at once");
        self.places.lock()[number].alive = Some(Alive { node, dataset, killed: CancellationToken::new(), is_dead });
        Ok(())
    }

    fn spec(&self) -> Result<dataset_spec::Dataset> {
        let Terms { copies_min, copies_max, local_copy, preload } = self.terms;
        let when = if preload { "Once" } else { "Never" };
        let text = format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: data, namespace: sim }}\nspec:\n  source: s3://simulated/\n  \
             sync: {{ mode: Never }}\n  preload: {{ when: {when} }}\n  rules: [{{ path: /, localCopy: {local_copy}, copies: {{ min: {copies_min}, max: {copies_max} }} }}]\n"
        );
        Ok(dataset_spec::Dataset::parse("sim.yaml", &text)?)
    }

    /// Ends a node as a signal that can't be caught does, as far as others see; `silently` as when its machine is gone. Waits until nothing is left of it.
    pub(crate) async fn kill(&self, number: usize, silently: bool) -> Result<()> {
        // What it has is looked at for the last time.
        self.census.take(self);
        let Some(alive) = self.places.lock()[number].alive.take() else { return Ok(()) };
        self.net.kill(number, silently);
        alive.is_dead.store(true, Relaxed);
        alive.killed.cancel();
        let Alive { node, dataset, .. } = alive;
        node.stop().await;
        let store = Arc::downgrade(node.store());
        drop((node, dataset));
        let ended = async {
            while store.strong_count() > 0 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(ENDED_WITHIN, ended).await.with_context(|| format!("node {number} was killed, and something of it is still there"))
    }

    /// Empties the disk of a node that doesn't run.
    pub(crate) fn wipe(&self, number: usize) -> Result<()> {
        self.census.take(self);
        self.census.forget(number);
        let folder = self.places.lock()[number].folder.clone();
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("empty the disk of node {number}"))?;
        }
        Ok(())
    }

    /// Tells one node who is in the cache now.
    pub(crate) fn tell(&self, number: usize) -> Result<()> {
        if let Some(alive) = self.alive(number) {
            alive.node.set_peers(&self.list())?;
        }
        Ok(())
    }

    /// The file as a node sees it.
    pub(crate) fn file(&self, alive: &Alive, file: u32) -> Result<Arc<FileObject>> {
        let manifest = alive.dataset.fs.manifest().context("there is a list")?;
        Ok(alive.dataset.fs.file_of_entry(&manifest, self.data.entries[file as usize])?.0)
    }
}
