//! Which page to ask for next, and where to cut. Pure: pages come as arguments.
//! Invariant: a cut is always right of what its range has committed, so no key is yielded twice and none is left out.

use bytes::Bytes;

use super::checkpoint::successor;
use super::split::Alphabet;
use super::{Checkpoint, ListEvent, Range, RangeId};
use crate::{ListPage, Object};

/// Stops a source that lets itself be cut without end from filling the memory.
const RANGES_MAX: u32 = 1 << 17;
/// A range that seems to have less left is not worth a probe.
const PAGES_LEFT_MIN: f64 = 1.0;
/// Keys of a page that the alphabet learns from.
const SAMPLES: usize = 8;

/// A page to ask for.
pub(super) struct Job {
    pub range: RangeId,
    pub after: Option<Bytes>,
    pub before: Option<Bytes>,
}

struct Active {
    range: Range,
    is_asked: bool,
    /// Full pages since it began or was last cut, and where that was.
    pages: u32,
    from: Bytes,
    /// Was cut since its last page: let it prove itself first.
    is_fresh: bool,
}

pub(super) struct Plan {
    /// Not done, in no order.
    active: Vec<Active>,
    alphabet: Alphabet,
    prefix: Bytes,
    next_id: u32,
}

impl Plan {
    pub(super) fn new(prefix: &Bytes, checkpoint: Checkpoint) -> Self {
        let next_id = checkpoint.ranges.iter().map(|range| range.id.0 + 1).max().unwrap_or(0);
        let mut alphabet = Alphabet::default();
        let ranges = checkpoint.ranges.into_iter().filter(|range| !range.done);
        let active: Vec<_> = ranges.map(|range| Active::new(range, prefix)).collect();
        for key in active.iter().flat_map(|active| [&active.range.after, &active.range.before]).flatten() {
            alphabet.learn(key);
        }
        Self { active, alphabet, prefix: prefix.clone(), next_id }
    }

    /// The next page to ask for, when `idle` more may be; cuts a range when none waits. `None`: nothing can be asked for now.
    pub(super) fn next(&mut self, idle: usize, events: &mut Vec<ListEvent>) -> Option<Job> {
        if !self.active.iter().any(|active| !active.is_asked) {
            self.cut(idle, events);
        }
        let active = self.active.iter_mut().find(|active| !active.is_asked)?;
        active.is_asked = true;
        Some(Job { range: active.range.id, after: active.range.after.clone(), before: active.range.before.clone() })
    }

    /// Cuts the ranges that have most left, into `idle` more ranges if it can.
    fn cut(&mut self, idle: usize, events: &mut Vec<ListEvent>) {
        let mut candidates: Vec<(f64, usize)> =
            self.active.iter().enumerate().filter_map(|(at, active)| Some((self.pages_left(active)?, at))).collect();
        candidates.sort_unstable_by(|left, right| right.0.total_cmp(&left.0));
        candidates.truncate(idle);
        let Some(each) = idle.checked_div(candidates.len()) else { return };
        for (_, at) in candidates {
            if self.next_id >= RANGES_MAX {
                return;
            }
            let active = &mut self.active[at];
            let after = active.range.after.clone().unwrap_or_default();
            let guesses = self.alphabet.guesses(&after, active.range.before.as_deref(), each.max(1));
            active.is_fresh = true;
            active.pages = 0;
            active.from = after;
            let mut end = active.range.before.clone();
            let mut from = active.range.id;
            if let Some(first) = guesses.first() {
                active.range.before = Some(successor(first.as_bytes()));
            }
            for (index, guess) in guesses.iter().enumerate() {
                let at = Bytes::copy_from_slice(guess.as_bytes());
                let into = RangeId(self.next_id);
                self.next_id += 1;
                events.push(ListEvent::Split { from, at: at.clone(), into });
                let before = match guesses.get(index + 1) {
                    Some(next) => Some(successor(next.as_bytes())),
                    None => end.take(),
                };
                let range = Range { id: into, started_after: Some(at.clone()), after: Some(at), before, done: false };
                self.active.push(Active::new(range, &self.prefix));
                from = into;
            }
        }
    }

    /// How much a range seems to have left; `None` when it is not to be cut now.
    fn pages_left(&self, active: &Active) -> Option<f64> {
        if active.is_fresh || active.pages == 0 {
            return None;
        }
        let after = active.range.after.as_deref()?;
        let done = self.alphabet.measure(&active.from, after, active.range.before.as_deref()).max(1e-6);
        let left = f64::from(active.pages) * (1.0 - done) / done;
        (left >= PAGES_LEFT_MIN).then_some(left)
    }

    /// Takes a page in: what of it belongs to its range becomes an event.
    pub(super) fn commit(&mut self, id: RangeId, page: ListPage, events: &mut Vec<ListEvent>) {
        let Some(at) = self.active.iter().position(|active| active.range.id == id) else { return };
        let ListPage { mut objects, next, folders: _ } = page;
        let step = (objects.len() / SAMPLES).max(1);
        objects.iter().step_by(step).chain(objects.last()).for_each(|object| self.alphabet.learn(&object.key.0));
        let active = &mut self.active[at];
        active.is_asked = false;
        active.is_fresh = false;
        // The end may have come nearer since the page was asked for.
        let before = active.range.before.as_deref();
        let inside = before.map_or(objects.len(), |before| objects.partition_point(|object: &Object| object.key.0 < *before));
        let is_last = inside < objects.len() || next.as_deref().is_none_or(|next| before.is_some_and(|before| next >= before));
        objects.truncate(inside);
        let after = if is_last { objects.last().map(|object| object.key.0.clone()) } else { next };
        if let Some(after) = after {
            active.range.after = Some(after.clone());
            active.pages += 1;
            events.push(ListEvent::Page { range: id, objects, after });
        }
        if is_last {
            self.active.swap_remove(at);
            events.push(ListEvent::Done { range: id });
        }
    }
}

impl Active {
    fn new(range: Range, prefix: &Bytes) -> Self {
        let from = range.after.clone().unwrap_or_else(|| prefix.clone());
        Self { range, is_asked: false, pages: 0, from, is_fresh: false }
    }
}
