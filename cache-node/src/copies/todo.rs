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

/// By `view`, where all was in place by `before`; `None` when the node has just started, `changed` when `before` is another list.
pub fn todo(view: &View, before: Option<&View>, changed: bool, block: BlockId, terms: CopyTerms, is_here: bool) -> Option<Todo> {
    let CopyTerms { min, local_copy } = terms;
    let holders = view.holders(block, min);
    // Of one copy there is another only where the list was another.
    if holders.own && !is_here && (min > 1 || changed && before.is_some()) {
        // Who was to have it by the last list, and the next in rank, which stood in for who was away.
        let mut from = view.holders(block, min + 1).others;
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
