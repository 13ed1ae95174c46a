//! What this node said it has: who asked may drop its own copy because of that, so the block stays here for a while, if rules don't forbid it and the
//! disk doesn't need the room.
//! Knows blocks and until when. Does not know who asked, or why.
//! Invariant: of two nodes that go by different lists, and each takes the other for the one that is to have a block, at most one drops it.
//!
//! Found by the simulation: a copy lent by demand was counted by its former owner, which had another list already, and cooled away a moment later.

use std::collections::HashMap;
use std::time::Duration;

use forebay_wire::block::{BlockId, BlockIndex, ObjectRef};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Fill;

/// Longer than a pass takes from its questions to the last of their answers' consequences, and than a list takes to reach all.
const KEPT_FOR: Duration = Duration::from_secs(120);
/// What is over is looked for when there are twice as many as were left the last time, and at least so many.
const SWEPT_FROM: usize = 1 << 10;

/// Until when each block is kept.
#[derive(Default)]
pub(super) struct Promises {
    /// Guards them, and who looks into the store to promise or to drop.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    until: HashMap<BlockId, Instant>,
    swept: usize,
}

impl Promises {
    /// Which of `blocks` `has`; those are kept. Blocks on the disk.
    fn promise(&self, blocks: &[(ObjectRef, BlockIndex)], now: Instant, has: impl Fn(&ObjectRef, BlockIndex) -> bool) -> Vec<bool> {
        let mut kept = self.kept.lock();
        if kept.until.len() >= 2 * kept.swept.max(SWEPT_FROM) {
            kept.until.retain(|_, until| *until > now);
            kept.swept = kept.until.len();
        }
        let answer = |(object, index): &(ObjectRef, BlockIndex)| {
            let is_here = has(object, *index);
            if is_here {
                kept.until.insert(BlockId { object: object.id, index: *index }, now + KEPT_FOR);
            }
            is_here
        };
        blocks.iter().map(answer).collect()
    }

    /// What `dropped` gives; `None` when the block was promised, and stays.
    fn unless_promised<T>(&self, block: BlockId, now: Instant, dropped: impl FnOnce() -> T) -> Option<T> {
        let kept = self.kept.lock();
        match kept.until.get(&block) {
            Some(until) if *until > now => None,
            Some(_) | None => Some(dropped()),
        }
    }
}

impl Fill {
    /// Which of these blocks are here; they are not dropped as a copy too many for a while. Blocks on the disk.
    pub fn promise(&self, blocks: &[(ObjectRef, BlockIndex)]) -> Vec<bool> {
        let has = |object: &ObjectRef, index| self.store.contains(object, index);
        match self.shared.get() {
            Some(shared) => shared.promises.promise(blocks, Instant::now(), has),
            None => blocks.iter().map(|(object, index)| has(object, *index)).collect(),
        }
    }

    /// Drops a copy that is too much: the bytes that are free then. `None` when somebody counts on it, and it stays. Blocks on the disk.
    pub fn drop_copy(&self, object: &ObjectRef, index: BlockIndex) -> Option<u64> {
        let drop = || self.store.drop_block(object, index);
        match self.shared.get() {
            Some(shared) => shared.promises.unless_promised(BlockId { object: object.id, index }, Instant::now(), drop),
            None => Some(drop()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_wire::block::ObjectId;

    fn block(number: u128) -> (ObjectRef, BlockIndex) {
        (ObjectRef { id: ObjectId(number), size: 1 }, BlockIndex(0))
    }

    fn id(number: u128) -> BlockId {
        BlockId { object: ObjectId(number), index: BlockIndex(0) }
    }

    #[test]
    fn what_others_were_told_is_here_stays_for_a_while() {
        let (promises, now) = (Promises::default(), Instant::now());
        assert_eq!(promises.promise(&[block(1), block(2)], now, |object, _| object.id == ObjectId(1)), [true, false]);
        assert_eq!(promises.unless_promised(id(1), now + KEPT_FOR / 2, || "dropped"), None);
        assert_eq!(promises.unless_promised(id(2), now, || "dropped"), Some("dropped"), "nobody was told that it is here");
        assert_eq!(promises.unless_promised(id(1), now + KEPT_FOR, || "dropped"), Some("dropped"));
    }

    #[test]
    fn what_is_over_takes_no_memory_for_long() {
        let (promises, now) = (Promises::default(), Instant::now());
        let ask = |numbers: std::ops::Range<u128>, now| {
            for number in numbers {
                promises.promise(&[block(number)], now, |_, _| true);
            }
        };
        ask(0..5000, now);
        assert_eq!(promises.kept.lock().until.len(), 5000, "all of them are in force");
        ask(5000..20_000, now + KEPT_FOR);
        assert!(promises.kept.lock().until.len() <= 15_000, "{}", promises.kept.lock().until.len());
        assert_eq!(promises.unless_promised(id(19_999), now + KEPT_FOR, || ()), None);
    }
}
