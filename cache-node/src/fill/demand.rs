//! More copies of a block while many nodes ask for it, and fewer again when they don't: `copies.max` of a rule.
//! Knows how often each block was asked for, and which were lent to this node. Does not know who asks.
//! Invariant: only blocks whose rule allows it are counted, at most `ASKED_MAX`; forgetting one costs copies or room for a while, never a byte.
//!
//! The owner counts, and lends a copy to the next node in rank for each `BLOCKS_A_COPY` that were asked for lately. Whoever asks and may be sent on is
//! told in turn who else has it: so it is the owner that spreads the reads, and nobody has to be told of copies before he asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use forebay_wire::block::{BlockId, BlockIndex, Extent};
use forebay_wire::id::NodeName;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{FileObject, Fill, Shared};

/// What was asked for counts half after so long.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Times that a block was asked for lately, for each copy more.
const BLOCKS_A_COPY: f64 = 8.0;
/// Less than that is as if it had never been asked for.
const FORGOTTEN: f64 = 0.5;
/// Blocks that are counted, some 150 bytes each.
const ASKED_MAX: usize = 1 << 14;
/// A node that took no copy isn't offered one again so soon.
const OFFER_AGAIN: Duration = Duration::from_secs(10);
/// A copy that was lent and that nobody read for so long is dropped.
pub const LENT_UNREAD: Duration = Duration::from_secs(60);
/// How often that is looked at.
pub const COOL_EVERY: Duration = Duration::from_secs(10);

/// How many blocks were asked for lately: each counts half after `HALF_LIFE`.
#[derive(Clone, Copy, Debug)]
struct Heat {
    blocks: f64,
    at: Instant,
}

impl Heat {
    fn now(self, now: Instant) -> f64 {
        self.blocks * 0.5_f64.powf(now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64())
    }

    fn add(&mut self, blocks: f64, now: Instant) -> f64 {
        *self = Self { blocks: self.now(now) + blocks, at: now };
        self.blocks
    }
}

struct Asked {
    heat: Heat,
    /// Who was lent a copy, beside those that are to have one anyway.
    lent: Vec<NodeName>,
    /// No copy is offered before.
    offer_at: Instant,
    is_offering: bool,
    /// Who was named last.
    turn: usize,
}

struct Lent {
    file: Arc<FileObject>,
    read_at: Instant,
}

#[derive(Default)]
pub(super) struct Demand {
    /// Guards what other nodes asked this one for.
    asked: Mutex<HashMap<BlockId, Asked>>,
    /// Guards what was lent to this node.
    lent: Mutex<HashMap<BlockId, Lent>>,
    /// As many; so that who has none takes no lock.
    lent_count: AtomicUsize,
}

impl Demand {
    /// Counts, and tells how hot the block is now. `None` when as many are counted as may.
    fn count(&self, block: BlockId, blocks: f64, now: Instant) -> Option<f64> {
        let mut asked = self.asked.lock();
        if asked.len() >= ASKED_MAX && !asked.contains_key(&block) {
            asked.retain(|_, asked| asked.heat.now(now) >= FORGOTTEN);
            if asked.len() >= ASKED_MAX {
                return None;
            }
        }
        let new = || Asked { heat: Heat { blocks: 0.0, at: now }, lent: Vec::new(), offer_at: now, is_offering: false, turn: 0 };
        Some(asked.entry(block).or_insert_with(new).heat.add(blocks, now))
    }

    /// The next of this node (`None`) and the others in turn.
    fn turn(&self, block: BlockId, first: Vec<NodeName>) -> Option<NodeName> {
        let mut asked = self.asked.lock();
        let asked = asked.get_mut(&block)?;
        let mut others = first;
        others.extend(asked.lent.iter().cloned());
        asked.turn = (asked.turn + 1) % (others.len() + 1);
        asked.turn.checked_sub(1).and_then(|at| others.into_iter().nth(at))
    }

    /// How many copies were lent, if another may be offered now; no other is until `offered`.
    fn begin_offer(&self, block: BlockId, lent_max: usize, now: Instant) -> Option<usize> {
        let mut asked = self.asked.lock();
        let asked = asked.get_mut(&block)?;
        let may = !asked.is_offering && asked.lent.len() < lent_max && now >= asked.offer_at;
        asked.is_offering |= may;
        may.then_some(asked.lent.len())
    }

    fn offered(&self, block: BlockId, taker: Option<NodeName>, now: Instant) {
        if let Some(asked) = self.asked.lock().get_mut(&block) {
            asked.is_offering = false;
            match taker {
                Some(name) => asked.lent.push(name),
                None => asked.offer_at = now + OFFER_AGAIN,
            }
        }
    }

    fn forget_cool(&self, now: Instant) {
        self.asked.lock().retain(|_, asked| asked.heat.now(now) >= FORGOTTEN);
    }

    fn lend(&self, block: BlockId, file: Arc<FileObject>, now: Instant) {
        let mut lent = self.lent.lock();
        lent.insert(block, Lent { file, read_at: now });
        self.lent_count.store(lent.len(), Relaxed);
    }

    fn touch_lent(&self, block: BlockId, now: Instant) {
        if self.lent_count.load(Relaxed) > 0
            && let Some(lent) = self.lent.lock().get_mut(&block)
        {
            lent.read_at = now;
        }
    }

    /// Takes out what nobody read for `LENT_UNREAD`.
    fn take_unread(&self, now: Instant) -> Vec<(BlockId, Arc<FileObject>)> {
        let mut lent = self.lent.lock();
        let is_unread = |lent: &Lent| now.saturating_duration_since(lent.read_at) >= LENT_UNREAD;
        let unread = lent.extract_if(|_, lent| is_unread(lent)).map(|(block, lent)| (block, lent.file)).collect();
        self.lent_count.store(lent.len(), Relaxed);
        unread
    }
}

impl Fill {
    /// Another node asks for `extent` of a block of `whole` bytes: who it should ask instead, if it may be sent on and the block is so hot that others
    /// have it too.
    pub(super) fn spread(
        self: &Arc<Self>,
        file: &Arc<FileObject>,
        index: BlockIndex,
        part: f64,
        may_go_elsewhere: bool,
    ) -> Option<NodeName> {
        let shared = self.shared.get()?;
        if file.copies.max <= file.copies.min {
            return None;
        }
        let (block, now) = (BlockId { object: file.object.id, index }, Instant::now());
        let heat = shared.demand.count(block, part, now)?;
        if heat < BLOCKS_A_COPY {
            return None;
        }
        self.offer(shared, file, index, heat, now);
        if !may_go_elsewhere {
            return None;
        }
        shared.demand.turn(block, shared.neighbours.view().holders(block, file.copies.min).others)
    }

    /// Lends one copy more, if the block is hot enough for it.
    fn offer(self: &Arc<Self>, shared: &Shared, file: &Arc<FileObject>, index: BlockIndex, heat: f64, now: Instant) {
        let block = BlockId { object: file.object.id, index };
        // Truncated: each copy wants its whole number of blocks.
        let wanted = file.copies.min.saturating_add((heat / BLOCKS_A_COPY) as u32).min(file.copies.max);
        let lent_max = (wanted - file.copies.min) as usize;
        if !self.store.contains(&file.object, index) {
            return;
        }
        let Some(lent) = shared.demand.begin_offer(block, lent_max, now) else { return };
        let (fill, file) = (self.clone(), file.clone());
        self.runtime.spawn(async move {
            let Some(shared) = fill.shared.get() else { return };
            let before = file.copies.min as usize + lent;
            let holders = shared.neighbours.view().holders(block, u32::try_from(before + 1).unwrap_or(u32::MAX));
            // The others of one more than there are; none when all have one.
            let target = holders.others.into_iter().nth(before - usize::from(holders.own));
            let taker = match target {
                Some(target) if fill.lend(&file, index, &target).await => Some(target),
                Some(_) | None => None,
            };
            shared.demand.offered(block, taker, Instant::now());
        });
    }

    /// A copy that the owner lent to this node, and that is kept.
    pub fn lent(&self, file: &Arc<FileObject>, index: BlockIndex) {
        if let Some(shared) = self.shared.get() {
            shared.demand.lend(BlockId { object: file.object.id, index }, file.clone(), Instant::now());
        }
    }

    pub(super) fn touch_lent(&self, block: BlockId) {
        if let Some(shared) = self.shared.get() {
            shared.demand.touch_lent(block, Instant::now());
        }
    }

    /// Copies that were lent to this node and that nobody read lately, as of `now`. They don't count as lent any more.
    pub fn take_unread(&self, now: Instant) -> Vec<(Arc<FileObject>, BlockIndex)> {
        let Some(shared) = self.shared.get() else { return Vec::new() };
        shared.demand.forget_cool(now);
        shared.demand.take_unread(now).into_iter().map(|(block, file)| (file, block.index)).collect()
    }

    /// `part` of a block that was asked for, in blocks.
    pub(super) fn part_of(extent: Extent, whole: Extent) -> f64 {
        extent.len() as f64 / whole.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_wire::block::ObjectId;

    fn block(number: u128) -> BlockId {
        BlockId { object: ObjectId(number), index: BlockIndex(0) }
    }

    #[test]
    fn what_was_asked_for_counts_half_after_ten_seconds() {
        let (demand, begin) = (Demand::default(), Instant::now());
        for _ in 0..4 {
            demand.count(block(1), 1.0, begin);
        }
        let after = |seconds| demand.count(block(1), 0.0, begin + Duration::from_secs(seconds));
        assert_eq!(after(0), Some(4.0));
        assert!(after(10).is_some_and(|heat| (1.99..2.01).contains(&heat)));
        demand.forget_cool(begin + Duration::from_secs(60));
        assert_eq!(demand.count(block(1), 1.0, begin + Duration::from_secs(60)), Some(1.0), "it begins anew");
    }

    #[test]
    fn one_copy_is_offered_at_a_time_and_all_who_have_one_are_named_in_turn() {
        let name = |text: &str| NodeName::new(text).expect("a name");
        let (demand, now) = (Demand::default(), Instant::now());
        demand.count(block(1), 20.0, now);
        assert_eq!(demand.begin_offer(block(1), 2, now), Some(0));
        assert_eq!(demand.begin_offer(block(1), 2, now), None, "the first isn't taken yet");
        demand.offered(block(1), Some(name("b")), now);
        assert_eq!(demand.begin_offer(block(1), 2, now), Some(1));
        demand.offered(block(1), None, now);
        assert_eq!(demand.begin_offer(block(1), 2, now), None, "nobody took it a moment ago");
        assert_eq!(demand.begin_offer(block(1), 2, now + OFFER_AGAIN), Some(1));
        let turns: Vec<_> = (0..6).map(|_| demand.turn(block(1), vec![name("a")])).collect();
        let (a, b) = (Some(name("a")), Some(name("b")));
        assert_eq!(turns, [a.clone(), b.clone(), None, a, b, None]);
    }

    #[test]
    fn only_so_many_are_counted_and_cool_ones_make_room() {
        let (demand, now) = (Demand::default(), Instant::now());
        for number in 0..ASKED_MAX as u128 {
            assert!(demand.count(block(number), 1.0, now).is_some());
        }
        assert_eq!(demand.count(block(1 << 100), 1.0, now), None);
        assert_eq!(demand.count(block(1 << 100), 1.0, now + 2 * HALF_LIFE), Some(1.0));
    }
}
