//! What a node has to do about one block when it looks for copies: bring it, drop it, or nothing.
//! Pure: knows two lists of nodes and whether the block is here. Does not know who has it elsewhere: they are asked.

use std::collections::HashSet;

use forebay_wire::block::BlockId;
use forebay_wire::id::NodeName;
use forebay_wire::rule::LocalCopy;

use crate::peer::View;

/// What is to be done about a block, and whom to ask first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Todo {
    /// It is to be here and isn't: these may have it.
    Bring { from: Vec<NodeName> },
    /// It is here and needn't be, once all of these have it.
    Drop { once: Vec<NodeName> },
    /// It is here, and one of these is to have it.
    Move { to: Vec<NodeName> },
}

impl Todo {
    pub(super) fn nodes(&self) -> &[NodeName] {
        match self {
            Self::Bring { from: nodes } | Self::Drop { once: nodes } | Self::Move { to: nodes } => nodes,
        }
    }
}

/// What a rule says of a block's copies.
#[derive(Clone, Copy, Debug)]
pub struct CopyTerms {
    /// Nodes that are to have it.
    pub min: u32,
    pub local_copy: LocalCopy,
}

/// What this node knows of the time before.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// It has just started, and the others perhaps, too: only what is to be on several nodes is looked for.
    Start,
    /// It has been there for a while, and others may have what was theirs without it.
    Join,
    /// All was in place by this list.
    List(&'a View),
}

/// By `view`; `changed` where it isn't the list that all was in place by.
pub fn todo(view: &View, before: Before<'_>, changed: bool, block: BlockId, terms: CopyTerms, is_here: bool) -> Option<Todo> {
    let CopyTerms { min, local_copy } = terms;
    let holders = view.holders(block, min);
    // Of one copy there is another only where the list was another, or this node wasn't on it.
    let is_start = matches!(before, Before::Start);
    let before = match before {
        Before::List(view) => Some(view),
        Before::Start | Before::Join => None,
    };
    if holders.own && !is_here && (min > 1 || changed && !is_start) {
        // Who was to have it by the last list, and the next in rank, which stood in for who was away; who joins knows no last list, and another may have
        // joined with it.
        let next = if before.is_some() { 1 } else { 2 };
        let mut from = view.holders(block, min + next).others;
        let former = before.iter().flat_map(|before| before.holders(block, min).others);
        from.extend(former.filter(|name| view.has(name) && !holders.others.contains(name)));
        let mut seen = HashSet::new();
        from.retain(|name| seen.insert(name.clone()));
        return Some(Todo::Bring { from });
    }
    let was_own = before.as_ref().is_some_and(|before| before.holders(block, min).own);
    let may_stay = match local_copy {
        LocalCopy::Always => true,
        LocalCopy::Hot => !was_own,
        LocalCopy::Never => false,
    };
    (is_here && !holders.own && changed && !may_stay).then_some(Todo::Drop { once: holders.others })
}
