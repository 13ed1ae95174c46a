//! Whether a read of the source was needed: the first of a block is, and each further one has to have a reason.
//! Knows who has what, who reaches whom, and what happened lately. Does not know why a node did what it did.
//!
//! A node that asks for a block which others asked for before is right when nobody has the block any more, or when no node that has it is one that it
//! should have asked, or could. What is left is a doubled fetch: a fault of the code.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_node::peer::View;
use forebay_wire::block::{BlockId, BlockIndex, ObjectRef};
use parking_lot::Mutex;
use tracing::info;

use crate::cache::{Alive, Cache, name};
use crate::origin::Watch;

/// Why a block was read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// No node that runs has it, nor is anybody bringing it.
    Nobody,
    /// Those who have it are none of those whom the reader asks: they have it by another list of nodes, or as a copy of a reader of theirs.
    Elsewhere,
    /// Those who have it were silent, cut off, slow or started again a moment ago, or the reader was, or whoever asked the reader to stand in for them;
    /// or the reader bypasses them.
    Troubled,
    /// None of these.
    Doubled,
}

pub(crate) struct Judge {
    cache: Arc<Cache>,
    /// Guards what was found.
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    again: BTreeMap<Reason, u64>,
    told: Vec<String>,
}

/// Doubled fetches that are told in words.
const TOLD_MAX: usize = 20;

impl Judge {
    pub(crate) fn new(cache: Arc<Cache>) -> Arc<Self> {
        Arc::new(Self { cache, found: Mutex::default() })
    }

    /// How many blocks were read again, by the reason.
    pub(crate) fn again(&self) -> BTreeMap<Reason, u64> {
        self.found.lock().again.clone()
    }
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.found.lock().told.clone()
    }

    fn reason(&self, reader: usize, object: ObjectRef, index: u32, flying: &[usize]) -> (Reason, Vec<usize>) {
        let Some(own) = self.cache.alive(reader) else { return (Reason::Troubled, Vec::new()) };
        if flying.contains(&reader) {
            return (Reason::Doubled, vec![reader]);
        }
        let block = BlockId { object: object.id, index: BlockIndex(index) };
        let has = |other: &usize| {
            let alive = self.cache.alive(*other);
            *other != reader && (alive.is_some_and(|alive| alive.node.store().contains(&object, block.index)) || flying.contains(other))
        };
        let holders: Vec<usize> = self.cache.running().into_iter().filter(has).collect();
        let view = own.node.shared().map(|(neighbours, _)| neighbours.view());
        let Some(view) = view else { return (Reason::Nobody, holders) };
        let reasons = holders.iter().map(|other| self.reason_of(reader, &own, *other, block, &view, flying.contains(other)));
        // The one that says most against the reader.
        (reasons.max().unwrap_or(Reason::Nobody), holders)
    }

    /// Why the reader didn't get it from `other`.
    fn reason_of(&self, reader: usize, own: &Alive, other: usize, block: BlockId, view: &View, is_flying: bool) -> Reason {
        let named = name(other);
        let (before, after) = view.order(block);
        let is_own = view.holders(block, 1).own;
        let is_asked = match is_own {
            // What is its own it reads from the source, whoever has a copy: `copies` brings those.
            true => false,
            // A node that isn't ranked asks all who are; one that is, those before it. Who is asked second only gives what it has.
            false => before.contains(&named) && (!is_flying || before.first() == Some(&named) || after.is_empty()),
        };
        if !is_asked {
            return Reason::Elsewhere;
        }
        let net = &self.cache.net;
        let is_bypassed = own.node.shared().is_some_and(|(neighbours, _)| neighbours.peers().bypassed().contains(&named));
        // A node that is ranked stands in for those before it, when another can't reach them: whoever that is.
        let is_ranked = own.node.shared().is_some_and(|(neighbours, _)| neighbours.is_ranked(block));
        let stands_in = !is_own && is_ranked && self.cache.is_anyone_troubled();
        let is_troubled = stands_in || [reader, other].into_iter().any(|node| self.cache.is_troubled(node));
        match () {
            () if is_bypassed || is_troubled || net.is_cut(reader, other) || net.is_cut(other, reader) => Reason::Troubled,
            () => Reason::Doubled,
        }
    }
}

impl Watch for Judge {
    fn asked(&self, node: usize, file: u32, index: u32, before: u32, flying: &[usize]) {
        if before == 0 {
            return;
        }
        let (reason, holders) = self.reason(node, self.cache.data.object(file), index, flying);
        let mut found = self.found.lock();
        *found.again.entry(reason).or_default() += 1;
        if reason == Reason::Doubled && found.told.len() < TOLD_MAX {
            let flying = if flying.is_empty() { String::new() } else { format!("; on its way to {flying:?}") };
            let at = self.cache.seconds();
            info!(at, node, file, index, "doubled");
            found.told.push(format!(
                "at {at:.3} s block {index} of file {file} was read again by node {node}: doubled, {holders:?} have it{flying}"
            ));
        }
    }
}
