//! What every cache node is told, and what it told last: in memory, filled by the Dataset controller and by the Sync calls.
//! Knows desired and observed, by policy; of clients, which serve what no policy does, by node. Does not know where either comes from.
//! Invariant: nothing is desired of a node before every Dataset was looked at once: a new leader never frees a cache by not knowing better.

pub mod call;
mod clients;
mod enrol;
pub mod follow;
pub mod generation;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use forebay_wire::control_service::{Desired, DesiredDataset, ObservedDataset, SyncReply};
use forebay_wire::dataset_spec::Eviction;
use forebay_wire::node_service::TierStatus;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::names;
use clients::Clients;
pub use clients::Serves;
pub use places::Members;
use places::Places;

/// A node that didn't answer for so long isn't waited for: five missed calls.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);
/// Figures that change all the time are looked at so often.
const FIGURES_EVERY: Duration = Duration::from_secs(30);

/// Names a Dataset, for the controller's queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatasetKey {
    pub namespace: String,
    pub name: String,
}

/// What nodes are told of one data set. Not `Debug`: it holds secrets.
#[derive(Clone, PartialEq)]
pub struct Wanted {
    pub key: DatasetKey,
    /// For the nodes of its policy.
    pub dataset: DesiredDataset,
    /// The object as a client is told it: nothing to be loaded ahead of use, nothing pinned.
    pub object_for_clients: String,
    /// What it says of the cache that it shares with others.
    pub eviction: Eviction,
    /// Whether a client may read it with its node's cloud role.
    pub ambient_for_clients: bool,
}

impl Wanted {
    fn for_clients(&self) -> DesiredDataset {
        DesiredDataset { object: self.object_for_clients.clone(), ambient_credentials: self.ambient_for_clients, ..self.dataset.clone() }
    }
}

/// Shared by the controllers and the calls. Guards one table; never held across `.await`. Not `Debug`: it holds secrets.
pub struct Hub {
    inner: Mutex<Inner>,
    /// Counts changes of what is desired.
    changed: watch::Sender<u64>,
    /// Datasets that should be looked at again. Unbounded, yet at most one entry a data set and answer.
    wake: mpsc::UnboundedSender<DatasetKey>,
}

#[derive(Default)]
struct Inner {
    policies: BTreeMap<String, PolicyDesired>,
    clients: Clients,
    /// Datasets by UID that were looked at since the start.
    seen: BTreeSet<String>,
    complete: bool,
    /// By policy's UID, or `CLIENT`, and node's name.
    nodes: BTreeMap<(String, String), NodeState>,
    woken: BTreeMap<String, Woken>,
}

#[derive(Default)]
struct PolicyDesired {
    /// By UID.
    datasets: BTreeMap<String, Wanted>,
    places: Places,
    generation: Option<String>,
}

#[derive(Debug)]
struct NodeState {
    generation: String,
    refused: String,
    datasets: BTreeMap<String, ObservedDataset>,
    tiers: Vec<TierStatus>,
}

#[derive(Debug)]
struct Woken {
    verdict: u64,
    figures: u64,
    at: Instant,
}

/// One node's view of one data set.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub name: String,
    /// Nodes of one zone are a cache of their own; empty where there are no zones.
    pub zone: String,
    /// `None`: it wasn't told of the data set yet, or doesn't say.
    pub dataset: Option<ObservedDataset>,
    pub tiers: Vec<TierStatus>,
    /// Why it refused what it was told last.
    pub refused: String,
}

/// What the nodes of a policy have of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyTotals {
    pub nodes: usize,
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    pub datasets: usize,
}

impl Hub {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<DatasetKey>) {
        let (wake, woken) = mpsc::unbounded_channel();
        (Self { inner: Mutex::default(), changed: watch::channel(0).0, wake }, woken)
    }

    /// Told of each change of what is desired.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Has `key` looked at again.
    pub fn wake(&self, key: DatasetKey) {
        // Without a receiver the process is stopping.
        drop(self.wake.send(key));
    }

    /// Tells the nodes of `policy` of a data set; nodes of any other policy forget it. Clients are told where `set_clients` says so.
    pub fn set(&self, policy: &str, wanted: Wanted) {
        let mut inner = self.inner.lock();
        let uid = wanted.dataset.uid.clone();
        inner.seen.insert(uid.clone());
        let mut changed = inner.drop_elsewhere(&uid, Some(policy));
        let desired = inner.policies.entry(policy.to_owned()).or_default();
        if desired.datasets.get(&uid) != Some(&wanted) {
            desired.generation = None;
            let key = wanted.key.clone();
            desired.datasets.insert(uid, wanted);
            inner.clients.outdate(&key);
            changed = true;
        }
        drop(inner);
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Has all nodes forget a data set, and free what they cached of it.
    pub fn remove(&self, uid: &str) {
        let mut inner = self.inner.lock();
        inner.seen.insert(uid.to_owned());
        let changed = inner.drop_elsewhere(uid, None);
        drop(inner);
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// The nodes of `policy` are these: one cache, of those whose place is known.
    pub fn set_members(&self, policy: &str, members: Members) {
        let mut inner = self.inner.lock();
        let entry = inner.policies.entry(policy.to_owned()).or_default();
        let changed = entry.places.set_members(members);
        if changed {
            entry.generation = None;
        }
        drop(inner);
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Tells the client of each of these nodes of these data sets alone. Nobody else is a client.
    pub fn set_clients(&self, datasets: BTreeMap<String, BTreeSet<DatasetKey>>) {
        if self.inner.lock().clients.replace(datasets) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Every data set that nodes are told of, with its policy's UID.
    pub fn wanted(&self) -> BTreeMap<DatasetKey, String> {
        let inner = self.inner.lock();
        let of_policy = |(policy, desired): (&String, &PolicyDesired)| {
            desired.datasets.values().map(|wanted| (wanted.key.clone(), policy.clone())).collect::<Vec<_>>()
        };
        inner.policies.iter().flat_map(of_policy).collect()
    }

    /// What the clients that answer serve, by node.
    pub fn serving_clients(&self) -> BTreeMap<String, Serves> {
        let inner = self.inner.lock();
        let of = inner.nodes.iter().filter(|((of, _), _)| of == names::CLIENT);
        let serves = |state: &NodeState| Serves {
            mounted: state.datasets.values().filter(|one| one.mounted).filter_map(|one| inner.key(&one.uid).cloned()).collect(),
            is_idle: state.datasets.is_empty(),
        };
        of.map(|((_, node), state)| (node.clone(), serves(state))).collect()
    }

    /// Clients that have a data set of `policy` mounted.
    pub fn clients_of(&self, policy: &str) -> usize {
        let inner = self.inner.lock();
        let Some(desired) = inner.policies.get(policy) else { return 0 };
        let serves = |state: &NodeState| state.datasets.values().any(|one| one.mounted && desired.datasets.contains_key(&one.uid));
        inner.nodes.iter().filter(|((of, _), state)| of == names::CLIENT && serves(state)).count()
    }

    /// Whether nodes are told of a data set.
    pub fn is_desired(&self, uid: &str) -> bool {
        self.inner.lock().policies.values().any(|desired| desired.datasets.contains_key(uid))
    }

    /// Says that a data set was looked at, whatever came of it.
    pub fn mark_seen(&self, uid: &str) {
        self.inner.lock().seen.insert(uid.to_owned());
    }

    /// Says that a data set is no more.
    pub fn forget(&self, uid: &str) {
        let mut inner = self.inner.lock();
        inner.seen.remove(uid);
        inner.woken.remove(uid);
    }

    /// From now on nodes may be told, if all of `existing` were looked at. Once true it stays so.
    pub fn try_complete<'a>(&self, existing: impl IntoIterator<Item = &'a str>) -> bool {
        let mut inner = self.inner.lock();
        if !inner.complete {
            inner.complete = existing.into_iter().all(|uid| inner.seen.contains(uid));
            if inner.complete {
                self.changed.send_modify(|count| *count += 1);
            }
        }
        inner.complete
    }

    /// Whether every Dataset was looked at, so that what nobody wants is wanted by nobody.
    pub fn is_complete(&self) -> bool {
        self.inner.lock().complete
    }

    /// What to ask `node` of `policy` that acknowledged `acknowledged`; `None` while not everything is known, its own place among the others too, and
    /// of a client that shouldn't be one. Without `desired` where the node has it already. One that doesn't share (an older release) has no place.
    pub fn desired(&self, policy: &str, node: &str, shares: bool, acknowledged: &str) -> Option<(String, Option<Desired>)> {
        let mut inner = self.inner.lock();
        if !inner.complete {
            return None;
        }
        if policy == names::CLIENT {
            return inner.desired_of_client(node, acknowledged);
        }
        let PolicyDesired { datasets, places, generation } = inner.policies.entry(policy.to_owned()).or_default();
        if shares && !places.may_be_told(node) {
            return None;
        }
        let datasets = || datasets.values().map(|wanted| &wanted.dataset);
        let generation = generation.get_or_insert_with(|| generation::of(policy, datasets(), &places.list())).clone();
        let desired = || Desired { policy: policy.to_owned(), datasets: datasets().cloned().collect(), peers: places.list() };
        let desired = (generation != acknowledged).then(desired);
        Some((generation, desired))
    }

    /// Keeps what a node answered, and wakes the data sets that are better or worse for it. `place` is where other nodes ask it for blocks.
    pub fn answered(&self, policy: &str, node: &str, place: Option<SocketAddr>, reply: SyncReply, now: Instant) {
        let mut inner = self.inner.lock();
        let SyncReply { generation, node: _, datasets, tiers, refused, peers, certificate_due: _ } = reply;
        let moved = place.is_some_and(|place| {
            let entry = inner.policies.entry(policy.to_owned()).or_default();
            let moved = entry.places.answered(node, &place.to_string(), &tiers, &peers);
            if moved {
                entry.generation = None;
            }
            moved
        });
        let datasets: BTreeMap<String, ObservedDataset> = datasets.into_iter().map(|dataset| (dataset.uid.clone(), dataset)).collect();
        let state = NodeState { generation, refused, datasets, tiers };
        let before = inner.nodes.insert((policy.to_owned(), node.to_owned()), state);
        let keys = match policy {
            names::CLIENT => inner.keys_of_other_problems(node, before.as_ref()),
            _ => inner.keys_to_wake(policy, before.is_none(), now),
        };
        drop(inner);
        if moved {
            self.changed.send_modify(|count| *count += 1);
        }
        for key in keys {
            self.wake(key);
        }
    }

    /// Drops a node that left or fell silent, and wakes the data sets that it served.
    pub fn lost(&self, policy: &str, node: &str) {
        let mut inner = self.inner.lock();
        if inner.nodes.remove(&(policy.to_owned(), node.to_owned())).is_none() {
            return;
        }
        let keys: Vec<DatasetKey> =
            inner.policies.get(policy).into_iter().flat_map(|desired| desired.datasets.values().map(|wanted| wanted.key.clone())).collect();
        drop(inner);
        for key in keys {
            self.wake(key);
        }
    }

    /// What each node of `policy` (of the clients, for `CLIENT`) that answers has of the data set `uid`, by name.
    pub fn view(&self, policy: &str, uid: &str) -> Vec<NodeView> {
        let inner = self.inner.lock();
        let nodes = inner.nodes.iter().filter(|((of, _), _)| of == policy);
        let places = inner.policies.get(policy).map(|desired| &desired.places);
        nodes
            .map(|((_, name), state)| NodeView {
                name: name.clone(),
                zone: places.map_or_else(String::new, |places| places.zone(name).to_owned()),
                dataset: state.datasets.get(uid).cloned(),
                tiers: state.tiers.clone(),
                refused: state.refused.clone(),
            })
            .collect()
    }

    /// How the caches of `policy` evict: what its nodes make of all that they are told.
    pub fn eviction(&self, policy: &str) -> Eviction {
        let inner = self.inner.lock();
        let datasets = inner.policies.get(policy).into_iter().flat_map(|desired| desired.datasets.values());
        Eviction::shared(datasets.map(|wanted| wanted.eviction))
    }

    /// Whether the cache node of `policy` on `node` answers.
    pub fn answers(&self, policy: &str, node: &str) -> bool {
        self.inner.lock().nodes.contains_key(&(policy.to_owned(), node.to_owned()))
    }

    /// Nodes that answer and may still hold something of the data set `uid`.
    pub fn holders(&self, uid: &str) -> Vec<String> {
        let inner = self.inner.lock();
        let holds = |policy: &str, node: &str, state: &NodeState| {
            let current = match policy {
                names::CLIENT => inner.clients.generation(node),
                _ => inner.policies.get(policy).and_then(|desired| desired.generation.as_ref()),
            };
            state.datasets.contains_key(uid) || current.is_none_or(|current| *current != state.generation)
        };
        inner.nodes.iter().filter(|((policy, node), state)| holds(policy, node, state)).map(|((_, name), _)| name.clone()).collect()
    }

    /// What the nodes of `policy` that answer have together; `own` are the nodes that it has. One that it had may answer for a while longer.
    pub fn totals(&self, policy: &str, own: &Members) -> PolicyTotals {
        let inner = self.inner.lock();
        let mut totals =
            PolicyTotals { datasets: inner.policies.get(policy).map_or(0, |desired| desired.datasets.len()), ..PolicyTotals::default() };
        for (_, state) in inner.nodes.iter().filter(|((of, node), _)| of == policy && own.contains_key(node)) {
            totals.nodes += 1;
            for tier in &state.tiers {
                totals.capacity_bytes += tier.capacity_bytes;
                totals.used_bytes += tier.used_bytes;
            }
        }
        totals
    }
}

impl Inner {
    fn drop_elsewhere(&mut self, uid: &str, keep: Option<&str>) -> bool {
        let mut changed = false;
        for (policy, desired) in &mut self.policies {
            if Some(policy.as_str()) != keep
                && let Some(wanted) = desired.datasets.remove(uid)
            {
                desired.generation = None;
                self.clients.outdate(&wanted.key);
                changed = true;
            }
        }
        changed
    }

    fn keys_to_wake(&mut self, policy: &str, all: bool, now: Instant) -> Vec<DatasetKey> {
        let Some(desired) = self.policies.get(policy) else { return Vec::new() };
        let mut keys = Vec::new();
        for (uid, wanted) in &desired.datasets {
            let of_nodes = self.nodes.iter().filter(|((of, _), _)| of == policy).map(|(_, state)| state.datasets.get(uid));
            let (verdict, figures) = generation::of_observed(of_nodes);
            let wakes = self.woken.get(uid).is_none_or(|old| {
                old.verdict != verdict || (old.figures != figures && now.saturating_duration_since(old.at) >= FIGURES_EVERY)
            });
            if wakes || all {
                self.woken.insert(uid.clone(), Woken { verdict, figures, at: now });
                keys.push(wanted.key.clone());
            }
        }
        keys
    }

    fn desired_of_client(&mut self, node: &str, acknowledged: &str) -> Option<(String, Option<Desired>)> {
        let told = self.clients.get_mut(node)?;
        let datasets = || -> Vec<DesiredDataset> {
            let all = self.policies.values().flat_map(|desired| desired.datasets.values());
            all.filter(|wanted| told.datasets.contains(&wanted.key)).map(Wanted::for_clients).collect()
        };
        let generation = match &told.generation {
            Some(generation) if *generation == acknowledged => return Some((generation.clone(), None)),
            Some(generation) => generation.clone(),
            None => generation::of(names::CLIENT, datasets().iter(), &[]),
        };
        let desired =
            (generation != acknowledged).then(|| Desired { policy: names::CLIENT.to_owned(), datasets: datasets(), peers: Vec::new() });
        told.generation = Some(generation.clone());
        Some((generation, desired))
    }

    fn key(&self, uid: &str) -> Option<&DatasetKey> {
        self.policies.values().find_map(|desired| desired.datasets.get(uid)).map(|wanted| &wanted.key)
    }

    /// Of a client's data sets those that have another problem than `before`: nothing else that it says is told of a data set.
    fn keys_of_other_problems(&self, node: &str, before: Option<&NodeState>) -> Vec<DatasetKey> {
        let problem = |state: Option<&NodeState>, uid: &str| {
            let dataset = state.and_then(|state| state.datasets.get(uid));
            dataset.map(|dataset| (dataset.problem_kind, dataset.problem.clone())).unwrap_or_default()
        };
        let now = self.nodes.get(&(names::CLIENT.to_owned(), node.to_owned()));
        let uids: BTreeSet<&String> = [now, before].into_iter().flatten().flat_map(|state| state.datasets.keys()).collect();
        let others = uids.into_iter().filter(|uid| problem(now, uid) != problem(before, uid));
        others.filter_map(|uid| self.key(uid).cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
