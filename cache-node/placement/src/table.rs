//! The ranks of slots that were asked for before. Nothing is lost when a row is: it is computed again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{PeerIndex, RANKS_KEPT, Ranks, Slot};

/// One row a slot: `RANKS_KEPT` numbers of 16 bits, each a node's position plus one, 0 behind the last. A row is written whole or not at all.
pub(super) struct Table(Box<[AtomicU64]>);

const _: () = assert!(RANKS_KEPT * 16 == 64 && super::PEERS_MAX < u16::MAX as usize);

impl Table {
    pub(super) fn new() -> Self {
        // Zeroed by the kernel: a page is taken when the first of its slots is ranked.
        let rows = Box::new_zeroed_slice(Slot::COUNT as usize);
        // SAFETY: an `AtomicU64` has the layout of a `u64`, for which all bits zero is the value 0.
        Self(unsafe { rows.assume_init() })
    }

    pub(super) fn get(&self, slot: Slot) -> Option<Ranks> {
        let row = self.0[slot.number() as usize].load(Relaxed);
        let mut peers = [PeerIndex(0); RANKS_KEPT];
        let mut count = 0;
        for (at, peer) in peers.iter_mut().enumerate() {
            match (row >> (16 * at)) as u16 {
                0 => break,
                number => *peer = PeerIndex(number - 1),
            }
            count += 1;
        }
        (count > 0).then(|| Ranks::of(&peers[..count]))
    }

    pub(super) fn put(&self, slot: Slot, ranks: &Ranks) {
        let packed = ranks.as_slice().iter().enumerate().map(|(at, peer)| u64::from(peer.0 + 1) << (16 * at));
        self.0[slot.number() as usize].store(packed.sum(), Relaxed);
    }
}
