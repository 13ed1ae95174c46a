//! Slots: what blocks are divided into before nodes are.

use forebay_wire::block::BlockId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// So many that 1,000 nodes have 4,194 each, and so few that the ranks of all fit into 32 MiB. Another number would move every block.
const SLOT_BITS: u32 = 22;
/// Sets this hash apart from the others of an id: the store orders objects by its lower half, rules pin a subset by its upper half. Were slots
/// chosen by either, a node's objects would lie in one part of that order, and neither would be a fair choice among them.
const SEED: u64 = 0x464f_5245_4241_5931;

/// One of `Slot::COUNT` parts of all blocks. A small file is one block, so it is in one slot whole; the blocks of a large one are in many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    pub const COUNT: u32 = 1 << SLOT_BITS;

    /// The slot of a block, by a hash of its id: the same for ever.
    pub fn of(block: BlockId) -> Self {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&block.object.0.to_le_bytes());
        bytes[16..].copy_from_slice(&block.index.0.to_le_bytes());
        Self((xxh3_64_with_seed(&bytes, SEED) >> (64 - SLOT_BITS)) as u32)
    }
    /// `None` from `COUNT` on.
    pub fn new(number: u32) -> Option<Self> {
        (number < Self::COUNT).then_some(Self(number))
    }
    /// In `[0, COUNT)`.
    pub fn number(self) -> u32 {
        self.0
    }
}
