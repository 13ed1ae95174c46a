//! Which nodes have which block, two numbers of 16 bits each.
//! Knows numbers. Does not know where a block should be.

/// Of each block.
pub(super) const COPIES: usize = 2;
const NOBODY: u16 = u16::MAX;

pub(super) struct Holdings {
    of: Vec<[u16; COPIES]>,
    /// Blocks that each node has.
    counts: Vec<u64>,
}

impl Holdings {
    /// Each of `blocks` blocks is where `first` says.
    pub(super) fn new<I: Iterator<Item = u16>>(blocks: u64, first: impl Fn(u64) -> I) -> Self {
        let mut holdings = Self { of: vec![[NOBODY; COPIES]; blocks as usize], counts: vec![0; usize::from(NOBODY)] };
        for number in 0..blocks {
            let mut place = [NOBODY; COPIES];
            place.iter_mut().zip(first(number)).for_each(|(place, node)| *place = node);
            holdings.put(number, place);
        }
        holdings
    }

    pub(super) fn blocks(&self) -> u64 {
        self.of.len() as u64
    }

    pub(super) fn holders(&self, number: u64) -> impl Iterator<Item = u16> + use<> {
        self.of[number as usize].into_iter().filter(|node| *node != NOBODY)
    }

    /// How many blocks a node has.
    pub(super) fn of(&self, node: u16) -> u64 {
        self.counts[usize::from(node)]
    }

    fn put(&mut self, number: u64, place: [u16; COPIES]) {
        let before = std::mem::replace(&mut self.of[number as usize], place);
        before.into_iter().filter(|node| *node != NOBODY).for_each(|node| self.counts[usize::from(node)] -= 1);
        place.into_iter().filter(|node| *node != NOBODY).for_each(|node| self.counts[usize::from(node)] += 1);
    }

    /// At most `COPIES` nodes.
    pub(super) fn set(&mut self, number: u64, nodes: &[u16]) {
        let mut place = [NOBODY; COPIES];
        place.iter_mut().zip(nodes).for_each(|(place, node)| *place = *node);
        self.put(number, place);
    }
}
