//! Who leaves when room is needed, and whether a newcomer is let in: by the tier's policy, within a data set's quota and by priority.
//! Objects compete in two groups. In their tier: those of one priority among each other, and the lowest priority of which anybody may leave comes
//! first. In their data set's quota: its own objects, in whichever tier.
//! Invariants: nobody leaves for an object of lower priority, or for another data set's quota. A pinned object leaves only for its own data set's
//! quota, once nothing else of that data set is left.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::datasets::Dataset;
use super::index::{Entry, Place, Scope, kept};
use super::room::Newcomer;
use super::tier::Tier;
use super::types::{Class, Refusal};
use super::{Store, hash_of, plan};
use crate::evict::{Candidate, Evict, Reach, Standing};
use forebay_wire::block::ObjectRef;

/// Objects that compete for room.
struct Group<'a> {
    policy: &'a dyn Evict,
    standing: &'a Standing,
    scope: &'a Scope,
    /// `None`: in all tiers.
    tier: Option<u8>,
}

impl Group<'_> {
    fn has(&self, entry: &Entry) -> bool {
        self.tier.is_none_or(|tier| Place::from(entry.location).tier() == tier)
    }
}

/// Data sets of one priority.
struct Rank {
    priority: i16,
    scope: Scope,
}

impl Store {
    /// Evicts one object of the tier, of the lowest priority that anybody may leave of, up to `priority`; for `newcomer`, if given. `false`: nobody is
    /// left to choose, or the policy keeps those that are.
    pub(super) fn evict_one(&self, tier: &Arc<Tier>, priority: i16, newcomer: Option<&Newcomer<'_>>) -> bool {
        let policy = tier.policy.load_full();
        for Rank { priority: lowest, scope } in self.ranks(tier.number, priority) {
            let standing = tier.standing(lowest);
            let group = Group { policy: &**policy, standing: &standing, scope: &scope, tier: Some(tier.number) };
            // Who outranks them doesn't compete with them.
            let rival = newcomer.filter(|newcomer| newcomer.class == Class::Auto && newcomer.dataset.priority() == lowest);
            match self.evict_of(&group, newcomer, rival) {
                Chosen::Evicted => return true,
                Chosen::Kept => return false,
                // They left meanwhile, or are the newcomer itself.
                Chosen::Nobody => {}
            }
        }
        false
    }

    /// Evicts one object of the data set for its own quota, those of the tier first where the policy goes by use.
    pub(super) fn evict_own(&self, tier: &Arc<Tier>, dataset: &Dataset, newcomer: Option<&Newcomer<'_>>) -> bool {
        let policy = tier.policy.load_full();
        let scope = Scope::of(vec![dataset.number]);
        let is_here = self.index.may_leave(dataset.number, tier.number) > 0;
        let only = match policy.reach(&dataset.standing) {
            // By hash all are one group, so that what stays is the lowest of all.
            Reach::Highest { .. } => None,
            Reach::Sample { .. } => is_here.then_some(tier.number),
        };
        let group = Group { policy: &**policy, standing: &dataset.standing, scope: &scope, tier: only };
        let rival = newcomer.filter(|newcomer| newcomer.class == Class::Auto);
        matches!(self.evict_of(&group, newcomer, rival), Chosen::Evicted)
    }

    fn evict_of(&self, group: &Group<'_>, newcomer: Option<&Newcomer<'_>>, rival: Option<&Newcomer<'_>>) -> Chosen {
        let own = newcomer.map(|newcomer| kept(newcomer.hash));
        let may_leave = |entry: &Entry| group.has(entry) && Some(entry.hash) != own;
        let entries = match group.policy.reach(group.standing) {
            Reach::Highest { from } => {
                let highest = self.highest(from, group.scope, may_leave);
                if let (Some(entry), Some(rival)) = (&highest, rival)
                    && entry.hash < kept(rival.hash)
                {
                    return Chosen::Kept;
                }
                highest.into_iter().collect()
            }
            Reach::Sample { count } => self.index.sample(rand::random(), count, group.scope, may_leave),
        };
        let mut candidates: Vec<Candidate> = entries.iter().map(|entry| Candidate { hash: entry.hash, recency: entry.recency }).collect();
        let Some(chosen) = group.policy.choose(&mut candidates) else { return Chosen::Nobody };
        for (entry, candidate) in entries.iter().zip(&candidates) {
            if entry.recency != candidate.recency {
                self.index.set_recency(entry.hash, entry.location, candidate.recency);
            }
        }
        if self.remove(&entries[chosen]) {
            group.policy.left(group.standing, candidates[chosen]);
            self.counters.evictions.fetch_add(1, Relaxed);
        }
        Chosen::Evicted
    }

    fn highest(&self, from: u64, scope: &Scope, accepts: impl Fn(&Entry) -> bool) -> Option<Entry> {
        self.index.highest(from, scope, &accepts).or_else(|| self.index.highest(u64::MAX, scope, &accepts))
    }

    /// The data sets that have anything in the tier that may leave, by priority, the lowest first, up to `priority`.
    fn ranks(&self, tier: u8, priority: i16) -> Vec<Rank> {
        let all = self.datasets.all();
        let mut here: Vec<(i16, u16)> = all
            .iter()
            .filter(|dataset| self.index.may_leave(dataset.number, tier) > 0)
            .map(|dataset| (dataset.priority(), dataset.number))
            .collect();
        here.sort_unstable();
        // Also of those that have nothing here yet: they may before the search is over.
        let is_one = all.windows(2).all(|pair| pair[0].priority() == pair[1].priority());
        let ranks = here.chunk_by(|a, b| a.0 == b.0).take_while(|rank| rank[0].0 <= priority);
        let scope = |rank: &[(i16, u16)]| if is_one { Scope::all() } else { Scope::of(rank.iter().map(|(_, number)| *number).collect()) };
        ranks.map(|rank| Rank { priority: rank[0].0, scope: scope(rank) }).collect()
    }

    /// Whether anything of lower priority would leave the tier.
    fn gives_way(&self, tier: &Tier, priority: i16) -> bool {
        let may_leave = |dataset: &Arc<Dataset>| dataset.priority() < priority && self.index.may_leave(dataset.number, tier.number) > 0;
        self.datasets.all().iter().any(may_leave)
    }

    /// Whether what could leave the tier is of a higher priority.
    pub(super) fn is_outranked(&self, tier: &Tier, priority: i16) -> bool {
        let outranks = |dataset: &Arc<Dataset>| dataset.priority() > priority && self.index.may_leave(dataset.number, tier.number) > 0;
        self.datasets.all().iter().any(outranks)
    }

    /// Whether the policy lets a newcomer in, before anybody is asked to leave.
    pub(super) fn admit(&self, tier: &Tier, bytes: u64, newcomer: &Newcomer<'_>) -> Result<(), Refusal> {
        let Newcomer { dataset, hash, class } = *newcomer;
        if dataset.quota().is_some_and(|quota| bytes > quota) {
            return Err(Refusal::OverQuota);
        }
        let policy = tier.policy.load();
        if class == Class::Pin {
            return Ok(());
        }
        if dataset.quota().is_some() && !policy.admits(&dataset.standing, hash, dataset.has_ample(bytes)) {
            return Err(Refusal::OverQuota);
        }
        let priority = dataset.priority();
        let has_room = tier.has_ample(bytes) || self.gives_way(tier, priority);
        if policy.admits(&tier.standing(priority), hash, has_room) { Ok(()) } else { Err(Refusal::NotHeld) }
    }

    /// Whether a put of `bytes` more of the object would be kept as things stand: asked before they are fetched, so that nothing is fetched only
    /// to be refused. Memory only. A later put may still be refused.
    pub fn would_hold(&self, dataset: super::DatasetSlot, object: &ObjectRef, bytes: u64, class: Class) -> bool {
        let dataset = self.datasets.of(dataset);
        let tier = self.tier_of(object);
        let (policy, hash, priority) = (tier.policy.load_full(), hash_of(object.id), dataset.priority());
        let wins = |group: &Group<'_>| {
            let may_leave = |entry: &Entry| group.has(entry) && entry.hash != kept(hash);
            match (policy.reach(group.standing), class) {
                (Reach::Sample { .. }, _) => !self.index.sample(hash, 1, group.scope, may_leave).is_empty(),
                (Reach::Highest { from }, Class::Auto) => {
                    policy.would_admit(group.standing, hash, false)
                        && self.highest(from, group.scope, may_leave).is_some_and(|highest| highest.hash > kept(hash))
                }
                (Reach::Highest { .. }, Class::Pin) => self.highest(u64::MAX, group.scope, may_leave).is_some(),
            }
        };
        let own = Scope::of(vec![dataset.number]);
        let in_quota = Group { policy: &**policy, standing: &dataset.standing, scope: &own, tier: None };
        if dataset.quota().is_some_and(|quota| bytes > quota) || !(dataset.has_ample(bytes) || wins(&in_quota)) {
            return false;
        }
        if tier.has_ample(bytes) || self.gives_way(tier, priority) {
            return true;
        }
        let standing = tier.standing(priority);
        let mut ranks = self.ranks(tier.number, priority);
        ranks.pop().is_some_and(|Rank { scope, .. }| {
            wins(&Group { policy: &**policy, standing: &standing, scope: &scope, tier: Some(tier.number) })
        })
    }

    /// Whether a put of `bytes` more of the object would be kept without anybody leaving. Memory only.
    pub fn has_room_beside(&self, dataset: super::DatasetSlot, object: &ObjectRef, bytes: u64) -> bool {
        self.tier_of(object).has_ample(bytes) && self.datasets.of(dataset).has_ample(bytes)
    }

    /// Where the object is, or would go.
    fn tier_of(&self, object: &ObjectRef) -> &Arc<Tier> {
        let here = self.index.find(hash_of(object.id)).iter().next().map(|entry| Place::from(entry.location).tier());
        &self.tiers[here.map_or_else(|| plan::home_of(&self.quotas(), object.id), usize::from)]
    }

    /// Evicts until each data set is within its quota again, for at most so long: after it was lowered, or a restart.
    pub(super) fn trim_to_quotas(&self, at_most: Duration) {
        let began = Instant::now();
        let over: Vec<Arc<Dataset>> = self.datasets.all().iter().filter(|dataset| dataset.is_over()).cloned().collect();
        for dataset in over {
            let is_due = || dataset.is_over() && began.elapsed() < at_most;
            while is_due() {
                let tier = self.tiers.iter().max_by_key(|tier| dataset.unpinned_bytes(tier.number));
                if !tier.is_some_and(|tier| self.evict_own(tier, &dataset, None)) {
                    break;
                }
            }
            // Then pinned ones, those that hash highest: what stays is the subset that a preload would choose.
            let is_pinned = |entry: &Entry| entry.is_pinned && entry.dataset == dataset.number;
            let mut next = u64::MAX;
            while let Some(entry) = Some(()).filter(|()| is_due()).and_then(|()| self.index.highest_of_all(next, is_pinned)) {
                next = entry.hash;
                if self.remove(&entry) {
                    self.counters.evictions.fetch_add(1, Relaxed);
                }
            }
        }
    }
}

enum Chosen {
    Evicted,
    /// The policy prefers who is here to the newcomer.
    Kept,
    Nobody,
}
