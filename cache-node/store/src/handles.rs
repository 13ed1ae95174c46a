//! A bounded set of open files: 4-way associative, so a hit takes one short lock of its own set and allocates nothing.

use std::sync::Arc;

use parking_lot::Mutex;

const WAYS: usize = 4;

pub(crate) struct Handles<T> {
    sets: Box<[Mutex<Set<T>>]>,
}

struct Set<T> {
    ways: [Option<(u64, Arc<T>)>; WAYS],
    /// Who is replaced next: round robin.
    hand: usize,
}

impl<T> Handles<T> {
    /// Keeps at most `max` files open, at least `WAYS`.
    pub(crate) fn new(max: usize) -> Self {
        let sets = (max / WAYS).max(1);
        Self { sets: (0..sets).map(|_| Mutex::new(Set { ways: [const { None }; WAYS], hand: 0 })).collect() }
    }

    fn set(&self, key: u64) -> &Mutex<Set<T>> {
        // Fibonacci hashing: keys are small numbers in a row.
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.sets[(mixed as usize * self.sets.len()) >> 32]
    }

    pub(crate) fn get(&self, key: u64) -> Option<Arc<T>> {
        let set = self.set(key).lock();
        set.ways.iter().flatten().find(|(k, _)| *k == key).map(|(_, value)| value.clone())
    }

    pub(crate) fn insert(&self, key: u64, value: Arc<T>) {
        let mut set = self.set(key).lock();
        let same = set.ways.iter().position(|way| way.as_ref().is_some_and(|(k, _)| *k == key));
        let at = match same.or_else(|| set.ways.iter().position(Option::is_none)) {
            Some(at) => at,
            None => {
                set.hand = (set.hand + 1) % WAYS;
                set.hand
            }
        };
        let old = set.ways[at].replace((key, value));
        drop(set);
        // Closing a file is I/O: not under the lock.
        drop(old);
    }

    pub(crate) fn remove(&self, key: u64) {
        let mut set = self.set(key).lock();
        let old = set.ways.iter_mut().find(|way| way.as_ref().is_some_and(|(k, _)| *k == key)).and_then(Option::take);
        drop(set);
        drop(old);
    }
}
