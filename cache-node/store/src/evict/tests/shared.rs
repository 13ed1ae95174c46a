//! Two data sets in one cache: what each of them hits by priority and quota, next to the best possible on the same terms.
//! `cargo test -p forebay-store --lib what_two_data_sets -- --nocapture` prints the table of docs/operations.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{KINDS, Random, hash_of};
use crate::evict::{Candidate, Evict, EvictionKind, Reach, Recency, Standing};

/// Of each of the two.
const OBJECTS: u64 = 4096;
const EPOCHS: usize = 6;

/// On which terms each of the two is kept; quotas in objects.
#[derive(Clone, Copy)]
struct Terms {
    priority: [i16; 2],
    quota: [usize; 2],
}

const NONE: usize = usize::MAX;

/// A tier as the store drives its policy: see `Store::make_room`, `evict_one` and `evict_own`.
struct Tier {
    policy: Box<dyn Evict>,
    capacity: usize,
    terms: Terms,
    /// Of a priority each; equals share the first one's.
    standings: [Standing; 2],
    own: [Standing; 2],
    objects: BTreeMap<u64, (usize, Recency)>,
    counts: [usize; 2],
    random: Random,
}

impl Tier {
    fn new(kind: EvictionKind, capacity: usize, terms: Terms) -> Self {
        let standings = || [Standing::new(), Standing::new()];
        let random = Random(20_261_127);
        Self {
            policy: kind.policy(),
            capacity,
            terms,
            standings: standings(),
            own: standings(),
            objects: BTreeMap::new(),
            counts: [0; 2],
            random,
        }
    }

    fn class(&self, dataset: usize) -> usize {
        if self.terms.priority[0] == self.terms.priority[1] { 0 } else { dataset }
    }

    /// Whether it was a hit; brings it in otherwise, if it is let in.
    fn read(&mut self, dataset: usize, hash: u64) -> bool {
        if let Some((_, recency)) = self.objects.get_mut(&hash) {
            if let Some(touched) = self.policy.touched(*recency) {
                *recency = touched;
            }
            return true;
        }
        if self.makes_room(dataset, hash) {
            self.objects.insert(hash, (dataset, self.policy.entered(hash)));
            self.counts[dataset] += 1;
        }
        false
    }

    fn makes_room(&mut self, dataset: usize, hash: u64) -> bool {
        let quota = self.terms.quota[dataset];
        if quota != NONE {
            let has_room = self.counts[dataset] < quota;
            if !self.policy.admits(&self.own[dataset], hash, has_room) || !(has_room || self.evict(&[dataset], true, Some(hash))) {
                return false;
            }
        }
        let other = 1 - dataset;
        let has_room = self.objects.len() < self.capacity;
        let gives_way = self.terms.priority[other] < self.terms.priority[dataset] && self.counts[other] > 0;
        if !self.policy.admits(&self.standings[self.class(dataset)], hash, has_room || gives_way) {
            return false;
        }
        has_room
            || match self.terms.priority[other].cmp(&self.terms.priority[dataset]) {
                std::cmp::Ordering::Less if gives_way => self.evict(&[other], false, None),
                std::cmp::Ordering::Equal => self.evict(&[0, 1], false, Some(hash)),
                std::cmp::Ordering::Less | std::cmp::Ordering::Greater => self.evict(&[dataset], false, Some(hash)),
            }
    }

    /// Evicts one object of `datasets`, within the quota of the first or for the tier; `rival` competes with them.
    fn evict(&mut self, datasets: &[usize], in_quota: bool, rival: Option<u64>) -> bool {
        let standing = if in_quota { &self.own[datasets[0]] } else { &self.standings[self.class(datasets[0])] };
        let is_meant = |entry: &(&u64, &(usize, Recency))| datasets.contains(&entry.1.0);
        let candidate = |(hash, (_, recency)): (&u64, &(usize, Recency))| Candidate { hash: *hash, recency: *recency };
        let mut candidates: Vec<Candidate> = match self.policy.reach(standing) {
            Reach::Highest { from } => {
                let highest =
                    self.objects.range(..=from).rev().find(is_meant).or_else(|| self.objects.iter().rev().find(is_meant)).map(candidate);
                if highest.zip(rival).is_some_and(|(highest, rival)| highest.hash < rival) {
                    return false;
                }
                highest.into_iter().collect()
            }
            Reach::Sample { count } => {
                let from = self.random.next();
                self.objects.range(from..).chain(self.objects.range(..from)).filter(is_meant).map(candidate).take(count).collect()
            }
        };
        let Some(chosen) = self.policy.choose(&mut candidates) else { return false };
        for candidate in &candidates {
            if let Some((_, recency)) = self.objects.get_mut(&candidate.hash) {
                *recency = candidate.recency;
            }
        }
        if let Some((dataset, _)) = self.objects.remove(&candidates[chosen].hash) {
            self.counts[dataset] -= 1;
        }
        self.policy.left(standing, candidates[chosen]);
        true
    }
}

/// What each of the two reads, by turns.
struct Reads {
    name: &'static str,
    reads: Vec<(usize, u64)>,
}

fn object(dataset: usize, n: u64) -> u64 {
    hash_of((dataset as u64) << 32 | n)
}

fn epochs(dataset: usize) -> Vec<u64> {
    let mut random = Random(31 + dataset as u64);
    let mut order: Vec<u64> = (0..OBJECTS).map(|n| object(dataset, n)).collect();
    let mut reads = Vec::new();
    for _ in 0..EPOCHS {
        random.shuffle(&mut order);
        reads.extend(&order);
    }
    reads
}

/// The n-th most popular object is read as often as 1 / n^0.9 says.
fn zipf(dataset: usize) -> Vec<u64> {
    let mut random = Random(77 + dataset as u64);
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=OBJECTS)
        .map(|rank| {
            sum += (rank as f64).powf(-0.9);
            sum
        })
        .collect();
    let read = |_| {
        let at = random.unit() * sum;
        object(dataset, sums.partition_point(|sum| *sum <= at) as u64)
    };
    (0..OBJECTS as usize * EPOCHS).map(read).collect()
}

impl Reads {
    fn of(name: &'static str, each: [Vec<u64>; 2]) -> Self {
        let [first, second] = each;
        let reads = first.into_iter().zip(second).flat_map(|(a, b)| [(0, a), (1, b)]).collect();
        Self { name, reads }
    }

    /// Of each of the two, from the second epoch on.
    fn hit_ratios(&self, mut read: impl FnMut(usize, usize, u64) -> bool) -> [f64; 2] {
        let warm_up = 2 * OBJECTS as usize;
        let mut hits = [0_usize; 2];
        for (at, (dataset, hash)) in self.reads.iter().enumerate() {
            hits[*dataset] += usize::from(read(at, *dataset, *hash) && at >= warm_up);
        }
        hits.map(|hits| hits as f64 / ((self.reads.len() - warm_up) / 2) as f64)
    }

    fn with(&self, kind: EvictionKind, capacity: usize, terms: Terms) -> [f64; 2] {
        let mut tier = Tier::new(kind, capacity, terms);
        let ratios = self.hit_ratios(|_, dataset, hash| tier.read(dataset, hash));
        assert!(tier.objects.len() <= capacity);
        for (dataset, quota) in terms.quota.into_iter().enumerate() {
            assert!(tier.counts[dataset] <= quota);
        }
        ratios
    }

    /// What caches get that know all reads to come (Belady): one for each of `rooms`, for the data sets and with the most objects that it says. Together
    /// they have `capacity`; the first one comes first.
    fn best(&self, rooms: &[Room<'_>], capacity: usize) -> [f64; 2] {
        let mut next_of = HashMap::new();
        let mut nexts = vec![usize::MAX; self.reads.len()];
        for (at, (_, hash)) in self.reads.iter().enumerate().rev() {
            nexts[at] = next_of.insert(*hash, at).unwrap_or(usize::MAX);
        }
        let mut kept: Vec<BTreeSet<(usize, u64)>> = rooms.iter().map(|_| BTreeSet::new()).collect();
        self.hit_ratios(|at, dataset, hash| {
            let room = rooms.iter().position(|(of, _)| of.contains(&dataset)).expect("each has a room");
            let hit = kept[room].remove(&(at, hash));
            if nexts[at] != usize::MAX {
                kept[room].insert((nexts[at], hash));
            }
            if kept[room].len() > rooms[room].1 {
                kept[room].pop_last();
            }
            if kept.iter().map(BTreeSet::len).sum::<usize>() > capacity {
                kept.iter_mut().rev().find_map(BTreeSet::pop_last);
            }
            hit
        })
    }
}

/// For which data sets, and how many objects at most.
type Room<'a> = (&'a [usize], usize);

#[test]
fn what_two_data_sets_hit_by_priority_and_quota() {
    let capacity = OBJECTS as usize;
    let (half, quarter) = (capacity / 2, capacity / 4);
    let (equal, first_first) = ([0, 0], [1, 0]);
    // What the terms come to: who has which room.
    let cases: [(&str, Terms, Vec<Room<'_>>); 4] = [
        ("alike", Terms { priority: equal, quota: [NONE; 2] }, vec![(&[0, 1], capacity)]),
        ("A before B", Terms { priority: first_first, quota: [NONE; 2] }, vec![(&[0], capacity), (&[1], capacity)]),
        ("quota of A: a quarter of it", Terms { priority: equal, quota: [quarter, NONE] }, vec![(&[0], quarter), (&[1], capacity)]),
        (
            "A before B, quota of A: a half of it",
            Terms { priority: first_first, quota: [half, NONE] },
            vec![(&[0], half), (&[1], capacity)],
        ),
    ];
    let patterns = || {
        [
            Reads::of("A, B: epochs", [epochs(0), epochs(1)]),
            Reads::of("A, B: Zipf 0.9", [zipf(0), zipf(1)]),
            Reads::of("A: Zipf 0.9, B: epochs", [zipf(0), epochs(1)]),
        ]
    };
    println!("| reads | terms | `Hold` A, B | `LRU` A, B | `S3FIFO` A, B | the best possible A, B |\n|---|---|---|---|---|---|");
    for reads in patterns() {
        for (name, terms, rooms) in &cases {
            let best = reads.best(rooms, capacity);
            let ratios = KINDS.map(|kind| reads.with(kind, capacity, *terms));
            let [hold, lru, s3_fifo] = ratios;
            let two = |[a, b]: [f64; 2]| format!("{a:.2}, {b:.2}");
            println!("| {} | {name} | {} | {} | {} | {} |", reads.name, two(hold), two(lru), two(s3_fifo), two(best));
            let all = format!("{} {name}: hold {hold:.3?} lru {lru:.3?} s3-fifo {s3_fifo:.3?} best {best:.3?}", reads.name);
            for ratio in ratios {
                // Alike they share one room: one may have more than in the best for both.
                let beats = ratio.iter().zip(best).any(|(ratio, best)| *ratio > best + 1e-9);
                assert!(*name == "alike" || !beats, "nobody beats the best: {all}");
                assert!(ratio[0] + ratio[1] <= best[0] + best[1] + 1e-9, "nobody beats the best of both: {all}");
            }
            check(reads.name, name, ratios, best, &all);
        }
    }
}

/// What docs/operations.md says, as bounds with some room for other seeds.
fn check(reads: &str, terms: &str, ratios: [[f64; 2]; 3], best: [f64; 2], all: &str) {
    let [hold, lru, s3_fifo] = ratios;
    if terms == "A before B" {
        assert!(ratios.iter().all(|ratio| ratio[0] >= 0.99 * best[0]), "who comes first has what it would have alone: {all}");
    }
    let room = if terms.ends_with("a quarter of it") { 0.75 } else { 0.5 };
    if reads.ends_with("B: epochs") && terms.contains("quota") {
        assert!(hold[1] >= 0.97 * room, "in epochs `Hold` has what the room is of the data set: {all}");
    }
    if reads == "A, B: epochs" && terms != "alike" {
        assert!(hold[0] >= 0.97 * best[0], "{all}");
        assert!(hold[1] + 0.01 >= lru[1].max(s3_fifo[1]), "{all}");
    }
    if reads == "A, B: epochs" && terms == "alike" {
        assert!((hold[0] - hold[1]).abs() < 0.05 && hold[0] + hold[1] >= 0.97 * (best[0] + best[1]), "they share by hash: {all}");
    }
    if reads == "A, B: Zipf 0.9" {
        assert!([lru, s3_fifo].iter().all(|ratio| ratio[0] + ratio[1] >= 0.8 * (best[0] + best[1])), "{all}");
    }
}
