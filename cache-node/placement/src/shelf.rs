//! Placements by their lists of nodes, so that those who go by the same list share one, and its table.
//! Knows lists. Does not know who goes by them. Nothing is kept that nobody uses.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Peer, Placement, PlacementError};

/// Used behind an `Arc` by the nodes of one process; most processes have one.
#[derive(Default)]
pub struct Shelf {
    /// Guards which placements are in use.
    placements: Mutex<Vec<Weak<Placement>>>,
}

impl Shelf {
    /// Places blocks over `peers`, in any order, as `Placement::new` does. O(peers * placements in use).
    pub fn place(&self, mut peers: Vec<Peer>) -> Result<Arc<Placement>, PlacementError> {
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        // A list of weak references is whole at any time.
        let mut placements = self.placements.lock().unwrap_or_else(PoisonError::into_inner);
        placements.retain(|placement| placement.strong_count() > 0);
        if let Some(known) = placements.iter().filter_map(Weak::upgrade).find(|placement| placement.peers() == peers) {
            return Ok(known);
        }
        let placement = Arc::new(Placement::new(peers)?);
        placements.push(Arc::downgrade(&placement));
        Ok(placement)
    }
}
