//! Which node of a cache lists, seen from one: it follows whoever does, and returns from that when it is its own turn.
//! Knows the order of `group` and when a listing is due. Does not know how a source is listed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use forebay_peer::ListingState;
use forebay_wire::id::NodeName;
use tokio::time::Instant;
use tracing::{info, warn};

use super::group::{ASK_EVERY, ASK_FIRST_EVERY, ASK_FROZEN_EVERY, Group, Heard, patience};
use super::{Outcome, Refresh, RefreshError, Trouble};
use crate::aside;
use crate::fill::chain;

/// Who is asked to list and doesn't is asked again so often.
const ASKED_IN_VAIN_MAX: u32 = 10;
/// A list of files that can't be taken is asked for again after so long.
const TAKE_AGAIN: Duration = Duration::from_secs(10);
/// What a node keeps of another's list of files while it comes; left over, the catalog removes it.
const FETCHED: &str = "fetched.partial";

/// Whom a node asks for a newer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Lister,
    /// The lister, which is to list before it answers.
    ForListing,
    /// Those that list when this one doesn't.
    Heirs,
}

impl Refresh {
    /// Follows the lister until this node is to list, now.
    pub(super) async fn until_leading(self: &Arc<Self>, group: &Group) {
        let mut changes = group.neighbours().changes();
        let (mut is_asked, mut failing_since) = (false, None::<Instant>);
        let mut in_vain = 0;
        loop {
            let (before, after) = group.order();
            if !self.caught_up.swap(true, Relaxed) {
                // Who was first in rank before a restart: those after it may have listed meanwhile.
                self.follow(group, &after, Ask::Heirs).await;
            }
            let heard = self.follow(group, &before, if is_asked { Ask::ForListing } else { Ask::Lister }).await;
            if is_asked && heard.as_ref().is_some_and(|state| !state.listed) {
                // By its own view another node lists: lists of nodes differ for a moment. When they go on differing, two that list do no harm.
                in_vain += 1;
                if in_vain > ASKED_IN_VAIN_MAX {
                    return;
                }
                tokio::time::sleep(ASK_FIRST_EVERY).await;
                continue;
            }
            in_vain = 0;
            let is_running = heard.as_ref().is_some_and(|state| state.running);
            match heard {
                Some(state) if state.error.is_empty() => failing_since = None,
                Some(_) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    let has_list = self.fs.manifest().is_some();
                    if since.elapsed() >= patience(has_list, self.interval, before.len()) {
                        return;
                    }
                }
                None => {
                    if is_asked {
                        // Nobody else does it.
                        self.asked.notify_one();
                    }
                    if before.is_empty() || self.heard_at.lock().elapsed() >= group.take_over() {
                        self.leads.store(true, Relaxed);
                        tokio::select! {
                            () = self.due() => return,
                            () = tokio::time::sleep(ASK_EVERY), if !before.is_empty() => {}
                            // Another list of nodes has another order. When there are no more lists the node stops.
                            _ = changes.changed() => {}
                        }
                    } else {
                        tokio::time::sleep(ASK_FIRST_EVERY).await;
                    }
                    is_asked = false;
                    continue;
                }
            }
            *self.heard_at.lock() = Instant::now();
            self.leads.store(false, Relaxed);
            let lister = self.heard_from.lock().clone();
            // Who lists next, should the lister be lost.
            if let Some(lister) = lister.filter(|lister| is_running && before.last() == Some(lister)) {
                self.keep_listing(group, &lister).await;
            }
            is_asked = tokio::select! {
                () = tokio::time::sleep(self.ask_again_after()) => false,
                () = self.asked.notified() => true,
                () = self.fs.refresh_wanted() => true,
            };
        }
    }

    fn ask_again_after(&self) -> Duration {
        match (self.fs.manifest(), self.interval) {
            (None, _) => ASK_FIRST_EVERY,
            (Some(_), Some(_)) => ASK_EVERY,
            (Some(_), None) => ASK_FROZEN_EVERY,
        }
    }

    /// Takes what the first of `nodes` that answers has, if it is newer; `None` when none answers.
    pub(super) async fn follow(self: &Arc<Self>, group: &Group, nodes: &[NodeName], ask: Ask) -> Option<ListingState> {
        let refresh = ask == Ask::ForListing;
        if nodes.is_empty() {
            return None;
        }
        group.note_moment(self.fs.begin_listing());
        if refresh {
            self.outcomes.send_modify(|last| last.busy = true);
        }
        let heard = group.ask(nodes, self.newest(), refresh, &self.folder.join(FETCHED)).await;
        let state = match heard {
            None => None,
            Some((node, Heard::Same(state))) => {
                // Those after this one know of its listing what they heard from it.
                if ask != Ask::Heirs {
                    *self.heard_from.lock() = Some(node);
                    self.note(&state);
                }
                Some(state)
            }
            Some((node, Heard::Newer { path, number, began, listed })) => {
                if ask != Ask::Heirs {
                    *self.heard_from.lock() = Some(node.clone());
                }
                self.take(group, &node, path, number, began).await;
                Some(ListingState { listed, ..ListingState::default() })
            }
        };
        if refresh {
            self.outcomes.send_modify(|last| {
                last.busy = false;
                // When nobody answered, or nobody listed for it, this node lists, and that counts.
                last.number += u64::from(state.as_ref().is_some_and(|state| state.listed));
            });
        }
        state
    }

    async fn take(self: &Arc<Self>, group: &Group, node: &NodeName, path: std::path::PathBuf, number: (u64, u64), began: Option<Duration>) {
        let epoch = group.number_of(began);
        let this = self.clone();
        let taken = aside::spawn(move || this.adopt(path, epoch)).await.unwrap_or(Err(RefreshError::Aborted));
        match taken {
            Ok(changes) => {
                info!(dataset = self.fs.name(), %node, added = changes.added, removed = changes.removed, replaced = changes.replaced, "synced from the lister");
                self.heard_of(number);
                let this = self.clone();
                // It says itself what went wrong.
                drop(aside::spawn(move || this.forget_listing()).await);
                *self.began.lock() = began.and_then(|began| Instant::now().checked_sub(began));
                *self.last.lock() = (Some(Instant::now()), changes);
                self.outcomes.send_modify(|last| last.error = None);
            }
            Err(error) => {
                warn!(dataset = self.fs.name(), %node, error = %chain(&error), "a newer list of files can't be taken; what is there goes on serving");
                tokio::time::sleep(TAKE_AGAIN).await;
            }
        }
    }

    /// What the lister says of its listing holds here as well.
    fn note(&self, state: &ListingState) {
        let listed_at = state.age_ms.and_then(|age| Instant::now().checked_sub(Duration::from_millis(age)));
        if self.fs.manifest().is_some() && listed_at.is_some() {
            self.last.lock().0 = listed_at;
        }
        let error = (!state.error.is_empty()).then(|| (Trouble::of(state.trouble), state.error.clone()));
        self.outcomes.send_if_modified(|last: &mut Outcome| {
            let is_other = last.error != error;
            last.error = error;
            is_other
        });
    }

    /// What other nodes of the cache are told.
    pub fn state(&self) -> ListingState {
        let age_ms = self.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let (trouble, error) =
            self.outcomes.borrow().error.clone().map_or((0, String::new()), |(trouble, error)| (trouble.number(), error));
        ListingState { age_ms, error, trouble, listed: false, running: self.progress.running.load(Relaxed) }
    }

    /// Since the listing of the manifest that serves began, while that is known.
    pub fn began_ms_ago(&self) -> Option<u64> {
        self.began.lock().map(|began| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Who lists: this node, or whom it heard from last. `None` in a cache of one node, and while nobody answered.
    pub fn lister(&self) -> Option<NodeName> {
        let group = self.group.as_ref()?;
        if self.leads() { Some(group.neighbours().own().clone()) } else { self.heard_from.lock().clone() }
    }

    /// Whether this node lists for the others, or for itself alone.
    pub fn leads(&self) -> bool {
        self.group.is_none() || self.leads.load(Relaxed)
    }

    /// Some node has a manifest of this number: what is listed next exceeds it. A lister that doesn't have it lists, so that all go by one again.
    pub fn heard_of(&self, number: (u64, u64)) {
        let is_new = {
            let mut known = self.known.lock();
            let is_new = number > (*known).max(self.catalog.newest());
            *known = (*known).max(number);
            is_new
        };
        if is_new && self.leads() {
            self.ask();
        }
    }

    /// The highest number that any node is known to have.
    pub(super) fn newest(&self) -> (u64, u64) {
        self.catalog.newest().max(*self.known.lock())
    }
}

impl Trouble {
    /// As other nodes are told; see `peer.proto`.
    fn number(self) -> u32 {
        match self {
            Self::Denied => 1,
            Self::Unreachable => 2,
            Self::Here => 3,
        }
    }

    fn of(number: u32) -> Self {
        match number {
            1 => Self::Denied,
            3 => Self::Here,
            _ => Self::Unreachable,
        }
    }
}
