//! Rows by key, and which of them changed since when: what one side of a call has to tell the other that knows the rest.
//! Pure. Knows neither side, and not what a row is.
//! Invariant: applying `since(n)` to what was there at change `n` gives what is there now.

use std::collections::{BTreeMap, VecDeque};

/// Keys that went and are remembered: whoever was away for more of them is told everything.
const GONE_MAX: usize = 4096;

/// A table that counts its changes.
#[derive(Clone, Debug)]
pub struct Versioned<V> {
    rows: BTreeMap<String, Row<V>>,
    /// Oldest first.
    gone: VecDeque<(u64, String)>,
    /// The change after which everything that went is remembered.
    remembered: u64,
    now: u64,
}

#[derive(Clone, Debug)]
struct Row<V> {
    value: V,
    changed: u64,
}

/// What is other than it was at a change. Removals come first where both name a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<'a, V> {
    pub gone: Vec<&'a str>,
    /// By key.
    pub set: Vec<&'a V>,
}

impl<V> Default for Versioned<V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), gone: VecDeque::new(), remembered: 0, now: 0 }
    }
}

impl<V: PartialEq> Versioned<V> {
    /// How many changes there were.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Gives whether that changed anything.
    pub fn set(&mut self, key: &str, value: V) -> bool {
        if self.rows.get(key).is_some_and(|row| row.value == value) {
            return false;
        }
        self.now += 1;
        self.rows.insert(key.to_owned(), Row { value, changed: self.now });
        true
    }

    pub fn remove(&mut self, key: &str) -> Option<V> {
        let row = self.rows.remove(key)?;
        self.now += 1;
        self.gone.push_back((self.now, key.to_owned()));
        if self.gone.len() > GONE_MAX
            && let Some((change, _)) = self.gone.pop_front()
        {
            self.remembered = change;
        }
        Some(row.value)
    }

    /// Makes the rows `rows`; gives whether that changed anything.
    pub fn replace(&mut self, rows: BTreeMap<String, V>) -> bool {
        let before = self.now;
        let gone: Vec<String> = self.rows.keys().filter(|key| !rows.contains_key(*key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        for (key, value) in rows {
            self.set(&key, value);
        }
        self.now != before
    }

    /// What is other than after change `then`; `None`: too long ago, or never.
    pub fn since(&self, then: u64) -> Option<Changes<'_, V>> {
        if then < self.remembered || then > self.now {
            return None;
        }
        let gone = self.gone.iter().rev().take_while(|(change, _)| *change > then).map(|(_, key)| key.as_str()).collect();
        Some(Changes { gone, set: self.rows.values().filter(|row| row.changed > then).map(|row| &row.value).collect() })
    }

    pub fn get(&self, key: &str) -> Option<&V> {
        self.rows.get(key).map(|row| &row.value)
    }
    pub fn contains_key(&self, key: &str) -> bool {
        self.rows.contains_key(key)
    }
    /// By key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values().map(|row| &row.value)
    }
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// What a far side has that applied the changes.
    fn apply(far: &mut BTreeMap<String, (String, u32)>, changes: &Changes<'_, (String, u32)>) {
        for key in &changes.gone {
            far.remove(*key);
        }
        for row in &changes.set {
            far.insert(row.0.clone(), (*row).clone());
        }
    }

    #[test]
    fn changes_since_any_moment_lead_to_what_is_there_now() {
        let mut table = Versioned::default();
        let mut snapshots = vec![(0, BTreeMap::new())];
        // A walk that sets, sets the same again, removes and brings back.
        for step in 0..400_u32 {
            let key = format!("k{}", step * 7 % 13);
            match step % 5 {
                0 | 2 => drop(table.remove(&key)),
                _ => drop(table.set(&key, (key.clone(), step % 3))),
            }
            snapshots.push((table.now(), table.values().map(|row| (row.0.clone(), row.clone())).collect()));
        }
        let (now, last) = snapshots.last().unwrap().clone();
        for (then, mut far) in snapshots {
            apply(&mut far, &table.since(then).unwrap());
            assert_eq!(far, last, "since {then} of {now}");
        }
        assert_eq!(table.since(now + 1), None, "that never was");
    }

    #[test]
    fn who_was_away_for_too_many_removals_is_told_everything() {
        let mut table = Versioned::default();
        let start = table.now();
        for number in 0..=GONE_MAX {
            table.set("a", number);
            table.remove("a");
        }
        assert_eq!(table.since(start), None);
        assert_eq!(table.since(table.now() - 2).unwrap().gone, ["a"]);
    }

    #[test]
    fn the_same_again_is_no_change() {
        let mut table = Versioned::default();
        assert!(table.replace([("a".to_owned(), 1), ("b".to_owned(), 2)].into()));
        let now = table.now();
        assert!(!table.set("a", 1));
        assert!(!table.replace([("a".to_owned(), 1), ("b".to_owned(), 2)].into()));
        assert_eq!(table.now(), now);
        assert!(table.replace([("b".to_owned(), 3)].into()));
        assert_eq!(table.since(now).unwrap(), Changes { gone: vec!["a"], set: vec![&3] });
    }
}
