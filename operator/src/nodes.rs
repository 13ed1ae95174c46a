//! What every cache node is told, and what it told last: in memory, filled by the Dataset controller and by the Sync calls.
//! Knows desired and observed, by policy; of clients, which serve what no policy does, by node. Does not know where either comes from.
//! Invariant: nothing is desired of a node before every Dataset was looked at once: a new leader never frees a cache by not knowing better.

pub mod call;
mod clients;
mod desired;
pub mod disks;
mod enrol;
pub mod follow;
pub mod generation;
mod observed;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_wire::control_service::{Desired, DesiredDataset, ObservedDataset, SyncReply};
use forebay_wire::dataset_spec::Eviction;
use forebay_wire::node_service::TierStatus;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::names;
use clients::Clients;
pub use clients::Serves;
use desired::PolicyDesired;
use observed::{NodeState, Observed};
pub use places::Members;

/// A node that didn't answer for so long isn't waited for: five missed calls.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);
/// All nodes are told of changes at most so often: what comes one by one, as nodes that join do, reaches them in a few calls.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

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
    observed: Observed,
    announced: Option<Instant>,
    /// Something changed since.
    is_pending: bool,
}

/// One node's view of one data set.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub name: String,
    /// Nodes of one zone are a cache of their own; empty where there are no zones.
    pub zone: String,
    /// `None`: it wasn't told of the data set yet, or doesn't say.
    pub dataset: Option<Arc<ObservedDataset>>,
    pub tiers: Arc<[TierStatus]>,
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
        let (uid, key) = (wanted.dataset.uid.clone(), wanted.key.clone());
        inner.seen.insert(uid.clone());
        let mut changed = inner.drop_elsewhere(&uid, Some(policy));
        if inner.policies.entry(policy.to_owned()).or_default().set(wanted) {
            inner.clients.outdate(&key);
            changed = true;
        }
        self.tell(inner, changed);
    }

    /// Has all nodes forget a data set, and free what they cached of it.
    pub fn remove(&self, uid: &str) {
        let mut inner = self.inner.lock();
        inner.seen.insert(uid.to_owned());
        let changed = inner.drop_elsewhere(uid, None);
        self.tell(inner, changed);
    }

    /// The nodes of `policy` are these: one cache, of those whose place is known.
    pub fn set_members(&self, policy: &str, members: Members) {
        let mut inner = self.inner.lock();
        let changed = inner.policies.entry(policy.to_owned()).or_default().places.set_members(members);
        self.tell(inner, changed);
    }

    /// Tells the client of each of these nodes of these data sets alone. Nobody else is a client.
    pub fn set_clients(&self, datasets: BTreeMap<String, BTreeSet<DatasetKey>>) {
        let mut inner = self.inner.lock();
        let changed = inner.clients.replace(datasets);
        self.tell(inner, changed);
    }

    /// Tells all nodes what is pending, if its time has come, and wakes the data sets whose time has come. To be called every now and then.
    pub fn tick(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let keys = inner.keys_due(now);
        let is_told = inner.announce(now);
        drop(inner);
        self.announce_if(is_told);
        keys.into_iter().for_each(|key| self.wake(key));
    }

    /// Tells all nodes of a change, at once or a little later.
    fn tell(&self, mut inner: parking_lot::MutexGuard<'_, Inner>, changed: bool) {
        inner.is_pending |= changed;
        let is_told = inner.announce(Instant::now());
        drop(inner);
        self.announce_if(is_told);
    }

    fn announce_if(&self, is_told: bool) {
        if is_told {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Every data set that nodes are told of, with its policy's UID.
    pub fn wanted(&self) -> BTreeMap<DatasetKey, String> {
        let inner = self.inner.lock();
        let of_policy =
            |(policy, desired): (&String, &PolicyDesired)| desired.keys().map(|key| (key.clone(), policy.clone())).collect::<Vec<_>>();
        inner.policies.iter().flat_map(of_policy).collect()
    }

    /// What the clients that answer serve, by node.
    pub fn serving_clients(&self) -> BTreeMap<String, Serves> {
        let inner = self.inner.lock();
        let serves = |state: &NodeState| Serves {
            mounted: state.datasets.values().filter(|one| one.mounted).filter_map(|one| inner.key(&one.uid).cloned()).collect(),
            is_idle: state.datasets.is_empty(),
        };
        inner.observed.of_policy(names::CLIENT).map(|(node, state)| (node.clone(), serves(state))).collect()
    }

    /// Clients that have a data set of `policy` mounted.
    pub fn clients_of(&self, policy: &str) -> usize {
        let inner = self.inner.lock();
        let Some(desired) = inner.policies.get(policy) else { return 0 };
        let serves = |state: &NodeState| state.datasets.values().any(|one| one.mounted && desired.get(&one.uid).is_some());
        inner.observed.of_policy(names::CLIENT).filter(|(_, state)| serves(state)).count()
    }

    /// Whether nodes are told of a data set.
    pub fn is_desired(&self, uid: &str) -> bool {
        self.inner.lock().policies.values().any(|desired| desired.get(uid).is_some())
    }

    /// Says that a data set was looked at, whatever came of it.
    pub fn mark_seen(&self, uid: &str) {
        self.inner.lock().seen.insert(uid.to_owned());
    }

    /// Says that a data set is no more.
    pub fn forget(&self, uid: &str) {
        let mut inner = self.inner.lock();
        inner.seen.remove(uid);
        inner.observed.forget(uid);
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
        let takes_changes = inner.observed.node(policy, node).is_some_and(|state| !state.cursor.is_empty());
        let desired = inner.policies.entry(policy.to_owned()).or_default();
        if shares && !desired.places.may_be_told(node) {
            return None;
        }
        let generation = desired.generation(policy);
        if generation == acknowledged {
            return Some((generation, None));
        }
        let changes = if takes_changes { desired.changes(policy, acknowledged) } else { None };
        let told = changes.unwrap_or_else(|| desired.whole(policy));
        Some((generation, Some(told)))
    }

    /// What `node` called all that it told last, for the next request; empty: it is to tell everything.
    pub fn cursor(&self, policy: &str, node: &str) -> String {
        self.inner.lock().observed.node(policy, node).map(|state| state.cursor.clone()).unwrap_or_default()
    }

    /// Keeps what a node answered, and wakes the data sets that are better or worse for it. `place` is where other nodes ask it for blocks.
    pub fn answered(&self, policy: &str, node: &str, place: Option<SocketAddr>, reply: SyncReply, now: Instant) {
        let mut inner = self.inner.lock();
        let moved = place.is_some_and(|place| {
            let places = &mut inner.policies.entry(policy.to_owned()).or_default().places;
            places.answered(node, &place.to_string(), &reply.tiers, &reply.peers)
        });
        inner.is_pending |= moved;
        let answered = inner.observed.answered(policy, node, reply, now);
        let mut keys: Vec<DatasetKey> = Vec::new();
        if policy == names::CLIENT {
            keys.extend(answered.problems.iter().filter_map(|uid| inner.key(uid).cloned()));
        } else if answered.is_new {
            inner.look_at_all(policy, now);
        }
        keys.extend(inner.keys_due(now));
        let is_told = inner.announce(now);
        drop(inner);
        self.announce_if(is_told);
        keys.into_iter().for_each(|key| self.wake(key));
    }

    /// Drops a node that left or fell silent, and wakes the data sets that it served.
    pub fn lost(&self, policy: &str, node: &str, now: Instant) {
        let mut inner = self.inner.lock();
        if !inner.observed.lost(policy, node, now) {
            return;
        }
        inner.look_at_all(policy, now);
        let keys = inner.keys_due(now);
        drop(inner);
        keys.into_iter().for_each(|key| self.wake(key));
    }

    /// What each node of `policy` (of the clients, for `CLIENT`) that answers has of the data set `uid`, by name.
    pub fn view(&self, policy: &str, uid: &str) -> Vec<NodeView> {
        let inner = self.inner.lock();
        let places = inner.policies.get(policy).map(|desired| &desired.places);
        let nodes = inner.observed.of_policy(policy);
        nodes
            .map(|(name, state)| NodeView {
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
        let datasets = inner.policies.get(policy).into_iter().flat_map(PolicyDesired::wanted);
        Eviction::shared(datasets.map(|wanted| wanted.eviction))
    }

    /// Whether the cache node of `policy` on `node` answers.
    pub fn answers(&self, policy: &str, node: &str) -> bool {
        self.inner.lock().observed.node(policy, node).is_some()
    }

    /// Nodes that answer and may still hold something of the data set `uid`.
    pub fn holders(&self, uid: &str) -> Vec<String> {
        let inner = self.inner.lock();
        let holds = |policy: &str, node: &str, state: &NodeState| {
            let is_current = match policy {
                names::CLIENT => inner.clients.generation(node) == Some(&state.generation),
                _ => inner.policies.get(policy).is_some_and(|desired| desired.is_current(&state.generation)),
            };
            state.datasets.contains_key(uid) || !is_current
        };
        inner.observed.all().filter(|(policy, node, state)| holds(policy, node, state)).map(|(_, node, _)| node.clone()).collect()
    }

    /// What the nodes of `policy` that answer have together; `own` are the nodes that it has. One that it had may answer for a while longer.
    pub fn totals(&self, policy: &str, own: &Members) -> PolicyTotals {
        let inner = self.inner.lock();
        let mut totals = PolicyTotals { datasets: inner.policies.get(policy).map_or(0, PolicyDesired::len), ..PolicyTotals::default() };
        for (_, state) in inner.observed.of_policy(policy).filter(|(node, _)| own.contains_key(*node)) {
            totals.nodes += 1;
            for tier in state.tiers.iter() {
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
                && let Some(wanted) = desired.remove(uid)
            {
                self.clients.outdate(&wanted.key);
                changed = true;
            }
        }
        changed
    }

    /// Lets lists of nodes come into force; whether all nodes are to be told of something.
    fn announce(&mut self, now: Instant) -> bool {
        if !self.is_pending || self.announced.is_some_and(|announced| now < announced + ANNOUNCE_EVERY) {
            return false;
        }
        for desired in self.policies.values_mut() {
            desired.places.publish();
        }
        self.announced = Some(now);
        self.is_pending = false;
        true
    }

    fn keys_due(&mut self, now: Instant) -> Vec<DatasetKey> {
        let due = self.observed.take_due(now);
        due.iter().filter_map(|uid| self.key(uid).cloned()).collect()
    }

    fn look_at_all(&mut self, policy: &str, now: Instant) {
        let Some(desired) = self.policies.get(policy) else { return };
        self.observed.look_at(desired.wanted().map(|wanted| wanted.dataset.uid.as_str()), now);
    }

    fn desired_of_client(&mut self, node: &str, acknowledged: &str) -> Option<(String, Option<Desired>)> {
        let told = self.clients.get_mut(node)?;
        let datasets = || -> Vec<DesiredDataset> {
            let all = self.policies.values().flat_map(PolicyDesired::wanted);
            all.filter(|wanted| told.datasets.contains(&wanted.key)).map(Wanted::for_clients).collect()
        };
        let generation = match &told.generation {
            Some(generation) if *generation == acknowledged => return Some((generation.clone(), None)),
            Some(generation) => generation.clone(),
            None => {
                let digests: Vec<_> = datasets().iter().map(generation::of_dataset).collect();
                generation::of(names::CLIENT, digests.iter(), std::iter::empty())
            }
        };
        let desired =
            (generation != acknowledged).then(|| Desired { policy: names::CLIENT.to_owned(), datasets: datasets(), ..Desired::default() });
        told.generation = Some(generation.clone());
        Some((generation, desired))
    }

    fn key(&self, uid: &str) -> Option<&DatasetKey> {
        self.policies.values().find_map(|desired| desired.get(uid)).map(|wanted| &wanted.key)
    }
}

#[cfg(test)]
mod tests;
