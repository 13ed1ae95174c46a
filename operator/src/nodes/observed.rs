//! What nodes said last, and which data sets are to be looked at again for it.
//! Pure: a table. Does not know what is desired.
//! Invariant: an answer costs what changed in it, not what there is: a thousand nodes with a thousand data sets each answer every few seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_wire::control_service::{ObservedDataset, SyncReply};
use forebay_wire::node_service::TierStatus;

use super::generation;
use crate::names;

/// Figures that change all the time are looked at so often.
const FIGURES_EVERY: Duration = Duration::from_secs(30);
/// And what a person would ask about no sooner than so after the last time, more where there are many data sets: 200 a second together.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(1);
const LOOKS_A_SECOND: u32 = 200;

/// One node.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    pub(super) generation: String,
    pub(super) refused: String,
    /// By UID.
    pub(super) datasets: BTreeMap<Arc<str>, Arc<ObservedDataset>>,
    pub(super) tiers: Arc<[TierStatus]>,
    /// What it calls all that it told; empty where it tells everything each time.
    pub(super) cursor: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// By policy's UID, or `CLIENT`, and node's name.
    nodes: BTreeMap<String, BTreeMap<String, NodeState>>,
    /// By UID, of nodes of policies.
    sums: BTreeMap<Arc<str>, Sum>,
    /// Whom to wake when.
    due: BTreeSet<(Instant, Arc<str>)>,
}

/// Of one data set over all nodes.
#[derive(Debug, Default)]
struct Sum {
    verdict: u64,
    figures: u64,
    /// When it was woken last, and for which of both.
    woken: Option<(Instant, u64, u64)>,
    due: Option<Instant>,
    /// Nodes that say something of it.
    nodes: usize,
    /// What a node said last: most say the same.
    common: Option<Arc<ObservedDataset>>,
}

/// What an answer changed.
pub(super) struct Answered {
    pub(super) is_new: bool,
    /// Data sets with another problem than before.
    pub(super) problems: Vec<Arc<str>>,
}

impl Observed {
    pub(super) fn of_policy(&self, policy: &str) -> impl Iterator<Item = (&String, &NodeState)> {
        self.nodes.get(policy).into_iter().flatten()
    }

    pub(super) fn node(&self, policy: &str, node: &str) -> Option<&NodeState> {
        self.nodes.get(policy)?.get(node)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&String, &String, &NodeState)> {
        self.nodes.iter().flat_map(|(policy, nodes)| nodes.iter().map(move |(node, state)| (policy, node, state)))
    }

    /// Keeps an answer.
    pub(super) fn answered(&mut self, policy: &str, node: &str, reply: SyncReply, now: Instant) -> Answered {
        let SyncReply {
            generation,
            node: _,
            datasets,
            tiers,
            refused,
            peers: _,
            certificate_due: _,
            observed,
            observed_since,
            datasets_gone,
        } = reply;
        let nodes = self.nodes.entry(policy.to_owned()).or_default();
        let is_new = !nodes.contains_key(node);
        let mut state = nodes.remove(node).unwrap_or_default();
        let is_part = !observed_since.is_empty();
        let mut problems = Vec::new();
        if is_part && observed_since != state.cursor {
            // Of a conversation that was forgotten here: it is to tell everything again.
            state.cursor.clear();
        } else {
            let said: BTreeSet<&str> = datasets.iter().map(|dataset| dataset.uid.as_str()).collect();
            let gone: Vec<Arc<str>> = match is_part {
                true => {
                    datasets_gone.iter().filter_map(|uid| state.datasets.get_key_value(uid.as_str()).map(|(uid, _)| uid.clone())).collect()
                }
                false => state.datasets.keys().filter(|uid| !said.contains(&***uid)).cloned().collect(),
            };
            for uid in gone {
                self.replace(policy, node, &mut state, uid, None, now, &mut problems);
            }
            for dataset in datasets {
                let uid = self.sums.get_key_value(dataset.uid.as_str()).map_or_else(|| dataset.uid.as_str().into(), |(uid, _)| uid.clone());
                self.replace(policy, node, &mut state, uid, Some(dataset), now, &mut problems);
            }
            state.cursor = observed;
        }
        (state.generation, state.refused, state.tiers) = (generation, refused, tiers.into());
        self.nodes.entry(policy.to_owned()).or_default().insert(node.to_owned(), state);
        Answered { is_new, problems }
    }

    #[expect(clippy::too_many_arguments, reason = "one row of an answer, taken apart")]
    fn replace(
        &mut self,
        policy: &str,
        node: &str,
        state: &mut NodeState,
        uid: Arc<str>,
        said: Option<ObservedDataset>,
        now: Instant,
        problems: &mut Vec<Arc<str>>,
    ) {
        let before = state.datasets.get(&uid).cloned();
        if before.as_deref() == said.as_ref() {
            return;
        }
        let problem = |said: Option<&ObservedDataset>| said.map(|said| (said.problem_kind, said.problem.clone())).unwrap_or_default();
        if problem(before.as_deref()) != problem(said.as_ref()) {
            problems.push(uid.clone());
        }
        if policy == names::CLIENT {
            match said {
                Some(said) => drop(state.datasets.insert(uid, Arc::new(said))),
                None => drop(state.datasets.remove(&uid)),
            }
            return;
        }
        let sum = self.sums.entry(uid.clone()).or_default();
        let digest = |said: Option<&ObservedDataset>| said.map_or((0, 0), |said| generation::of_observed(node, said));
        let (old, new) = (digest(before.as_deref()), digest(said.as_ref()));
        sum.verdict = sum.verdict.wrapping_sub(old.0).wrapping_add(new.0);
        sum.figures = sum.figures.wrapping_sub(old.1).wrapping_add(new.1);
        sum.nodes = sum.nodes + usize::from(said.is_some()) - usize::from(before.is_some());
        match said {
            Some(said) => {
                let shared = sum.common.clone().filter(|common| **common == said).unwrap_or_else(|| Arc::new(said));
                sum.common = Some(shared.clone());
                state.datasets.insert(uid.clone(), shared);
            }
            None => drop(state.datasets.remove(&uid)),
        }
        let count = self.sums.len();
        self.schedule(&uid, count, now);
    }

    /// Plans when the data set is looked at, if it is to be.
    fn schedule(&mut self, uid: &Arc<str>, count: usize, now: Instant) {
        let Some(sum) = self.sums.get_mut(uid) else { return };
        let due = match sum.woken {
            None => now,
            Some((at, verdict, _)) if verdict != sum.verdict => (at + look_again(count)).max(now),
            Some((at, _, figures)) if figures != sum.figures => (at + FIGURES_EVERY).max(now),
            Some(_) => return,
        };
        Self::plan(&mut self.due, sum, uid, due);
    }

    fn plan(due: &mut BTreeSet<(Instant, Arc<str>)>, sum: &mut Sum, uid: &Arc<str>, at: Instant) {
        if sum.due.is_some_and(|planned| planned <= at) {
            return;
        }
        if let Some(planned) = sum.due.replace(at) {
            due.remove(&(planned, uid.clone()));
        }
        due.insert((at, uid.clone()));
    }

    /// A node came or left: all data sets of its policy are to be looked at.
    pub(super) fn look_at<'a>(&mut self, uids: impl Iterator<Item = &'a str>, now: Instant) {
        let count = self.sums.len();
        for uid in uids {
            let key: Arc<str> = self.sums.get_key_value(uid).map_or_else(|| uid.into(), |(uid, _)| uid.clone());
            let sum = self.sums.entry(key.clone()).or_default();
            let at = sum.woken.map_or(now, |(at, _, _)| (at + look_again(count)).max(now));
            Self::plan(&mut self.due, sum, &key, at);
        }
    }

    /// Data sets whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut woken = Vec::new();
        while let Some((at, uid)) = self.due.first().cloned()
            && at <= now
        {
            self.due.pop_first();
            if let Some(sum) = self.sums.get_mut(&uid) {
                sum.due = None;
                sum.woken = Some((now, sum.verdict, sum.figures));
                woken.push(uid);
            }
        }
        woken
    }

    /// Gives whether it was there.
    pub(super) fn lost(&mut self, policy: &str, node: &str, now: Instant) -> bool {
        let Some(mut state) = self.nodes.get_mut(policy).and_then(|nodes| nodes.remove(node)) else { return false };
        let uids: Vec<Arc<str>> = state.datasets.keys().cloned().collect();
        for uid in uids {
            self.replace(policy, node, &mut state, uid, None, now, &mut Vec::new());
        }
        true
    }

    /// A data set that is no more needn't be looked at.
    pub(super) fn forget(&mut self, uid: &str) {
        let Some(sum) = self.sums.get_mut(uid) else { return };
        if let Some(due) = sum.due.take() {
            self.due.remove(&(due, uid.into()));
        }
        // A node that still says something of it is subtracted when it stops.
        if sum.nodes == 0 {
            self.sums.remove(uid);
        }
    }
}

fn look_again(datasets: usize) -> Duration {
    let many = Duration::from_secs(1) * u32::try_from(datasets).unwrap_or(u32::MAX) / LOOKS_A_SECOND;
    many.max(LOOK_AGAIN_MIN)
}
