//! The policies against the best that could be done, on the ways data sets are read. Objects are all of one size.
//! `cargo test -p forebay-store --lib which_eviction -- --nocapture` prints the table of docs/operations.md.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Candidate, Evict, EvictionKind, Reach, Recency, Standing};

mod shared;

const OBJECTS: u64 = 8192;
const EPOCHS: usize = 6;
const KINDS: [EvictionKind; 3] = [EvictionKind::Hold, EvictionKind::Lru, EvictionKind::S3Fifo];

/// xorshift64*, so that a seed replays.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn shuffle(&mut self, items: &mut [u64]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// What an object's number becomes: as uniform as a content's hash.
fn hash_of(object: u64) -> u64 {
    let mut x = object.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A tier as the store drives its policy: see `Store::make_room` and `evict_one`.
struct Tier {
    policy: Box<dyn Evict>,
    standing: Standing,
    capacity: usize,
    objects: BTreeMap<u64, Recency>,
    random: Random,
}

impl Tier {
    fn new(kind: EvictionKind, capacity: usize, seed: u64) -> Self {
        Self { policy: kind.policy(), standing: Standing::new(), capacity, objects: BTreeMap::new(), random: Random(seed | 1) }
    }

    /// Whether it was a hit; brings it in otherwise, if the policy lets it.
    fn read(&mut self, hash: u64) -> bool {
        if let Some(recency) = self.objects.get_mut(&hash) {
            if let Some(touched) = self.policy.touched(*recency) {
                *recency = touched;
            }
            return true;
        }
        let has_room = self.objects.len() < self.capacity;
        if self.policy.admits(&self.standing, hash, has_room) && (has_room || self.evict_for(hash)) {
            self.objects.insert(hash, self.policy.entered(hash));
        }
        false
    }

    fn evict_for(&mut self, newcomer: u64) -> bool {
        let candidate = |(hash, recency): (&u64, &Recency)| Candidate { hash: *hash, recency: *recency };
        let mut candidates: Vec<Candidate> = match self.policy.reach(&self.standing) {
            Reach::Highest { from } => {
                let highest = self.objects.range(..=from).next_back().or_else(|| self.objects.last_key_value()).map(candidate);
                if highest.is_some_and(|highest| highest.hash < newcomer) {
                    return false;
                }
                highest.into_iter().collect()
            }
            Reach::Sample { count } => {
                let from = self.random.next();
                self.objects.range(from..).chain(self.objects.range(..from)).map(candidate).take(count).collect()
            }
        };
        let Some(chosen) = self.policy.choose(&mut candidates) else { return false };
        for candidate in &candidates {
            self.objects.insert(candidate.hash, candidate.recency);
        }
        self.objects.remove(&candidates[chosen].hash);
        self.policy.left(&self.standing, candidates[chosen]);
        true
    }
}

/// The order in which objects are read, and how many of the reads come before anything is counted.
struct Pattern {
    name: &'static str,
    reads: Vec<u64>,
    warm_up: usize,
}

impl Pattern {
    fn epochs(name: &'static str, mut each: impl FnMut(&mut Vec<u64>)) -> Self {
        let mut order: Vec<u64> = (0..OBJECTS).map(hash_of).collect();
        let mut reads = Vec::new();
        for _ in 0..EPOCHS {
            each(&mut order);
            reads.extend(&order);
        }
        Self { name, reads, warm_up: OBJECTS as usize }
    }

    fn shuffled_epochs(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        Self::epochs("epochs, shuffled", |order| random.shuffle(order))
    }

    fn fixed_epochs(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        let mut is_first = true;
        Self::epochs("epochs, one order", |order| {
            if std::mem::take(&mut is_first) {
                random.shuffle(order);
            }
        })
    }

    /// The n-th most popular object is read as often as 1 / n^0.9 says.
    fn zipf(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        let mut ranks: Vec<u64> = (0..OBJECTS).map(hash_of).collect();
        random.shuffle(&mut ranks);
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=OBJECTS)
            .map(|rank| {
                sum += (rank as f64).powf(-0.9);
                sum
            })
            .collect();
        let reads = (0..OBJECTS as usize * EPOCHS)
            .map(|_| {
                let at = random.unit() * sum;
                ranks[sums.partition_point(|sum| *sum <= at)]
            })
            .collect();
        Self { name: "Zipf 0.9", reads, warm_up: OBJECTS as usize }
    }

    /// Half of the reads go to 512 objects, the others walk over all the rest in order.
    fn scan_and_hot(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        let mut at = 0;
        let reads = (0..OBJECTS as usize * EPOCHS)
            .map(|_| {
                hash_of(if random.below(2) == 0 {
                    random.below(512)
                } else {
                    at = (at + 1) % (OBJECTS - 512);
                    512 + at
                })
            })
            .collect();
        Self { name: "scan + hot set", reads, warm_up: OBJECTS as usize }
    }

    fn hit_ratio(&self, mut read: impl FnMut(usize, u64) -> bool) -> f64 {
        let hits = self.reads.iter().enumerate().filter(|(at, hash)| read(*at, **hash) && *at >= self.warm_up).count();
        hits as f64 / (self.reads.len() - self.warm_up) as f64
    }

    fn with(&self, kind: EvictionKind, capacity: usize, seed: u64) -> f64 {
        let mut tier = Tier::new(kind, capacity, seed);
        let ratio = self.hit_ratio(|_, hash| tier.read(hash));
        assert!(tier.objects.len() <= capacity);
        ratio
    }

    /// What a cache gets that knows all reads to come (Belady, free not to keep what it reads).
    fn best(&self, capacity: usize) -> f64 {
        let mut next_of = HashMap::new();
        let mut nexts = vec![usize::MAX; self.reads.len()];
        for (at, hash) in self.reads.iter().enumerate().rev() {
            nexts[at] = next_of.insert(*hash, at).unwrap_or(usize::MAX);
        }
        // By the time of its next read; the last one is of least use.
        let mut kept: BTreeSet<(usize, u64)> = BTreeSet::new();
        self.hit_ratio(|at, hash| {
            let hit = kept.remove(&(at, hash));
            if nexts[at] != usize::MAX {
                kept.insert((nexts[at], hash));
            }
            if kept.len() > capacity {
                kept.pop_last().unwrap();
            }
            hit
        })
    }
}

fn capacity(percent: u64) -> usize {
    (OBJECTS * percent / 100) as usize
}

#[test]
fn which_eviction_for_which_reads() {
    println!("| reads | cache / data set | `Hold` | `LRU` | `S3FIFO` | the best possible |\n|---|---|---|---|---|---|");
    for seed in [1, 20_261_125] {
        for pattern in [Pattern::shuffled_epochs(seed), Pattern::fixed_epochs(seed), Pattern::zipf(seed), Pattern::scan_and_hot(seed)] {
            for percent in [25, 50, 75] {
                let best = pattern.best(capacity(percent));
                let [hold, lru, s3_fifo] = KINDS.map(|kind| pattern.with(kind, capacity(percent), seed));
                let name = pattern.name;
                if seed == 1 {
                    println!("| {name} | 0.{percent} | {hold:.2} | {lru:.2} | {s3_fifo:.2} | {best:.2} |");
                }
                let all = format!("{name} {percent} seed {seed}: hold {hold:.3} lru {lru:.3} s3-fifo {s3_fifo:.3} best {best:.3}");
                assert!([hold, lru, s3_fifo].into_iter().all(|ratio| ratio <= best + 1e-9), "nobody beats the best: {all}");
                check(name, percent as f64 / 100.0, [hold, lru, s3_fifo], best, &all);
            }
        }
    }
}

/// What docs/operations.md advises, as bounds with some room for other seeds.
fn check(name: &str, share: f64, [hold, lru, s3_fifo]: [f64; 3], best: f64, all: &str) {
    if name.starts_with("epochs") {
        assert!((best - share).abs() < 0.001, "in epochs the ceiling is cache / data set: {all}");
        assert!(hold >= 0.98 * share, "{all}");
        assert!(lru < 0.65 * hold && s3_fifo < 0.75 * hold && lru < s3_fifo, "{all}");
    }
    if name == "epochs, one order" {
        assert!(lru < 0.15, "{all}");
    }
    if name.starts_with("Zipf") {
        assert!((hold - share).abs() < 0.25, "what is popular has no better chance, and no worse: {all}");
        assert!(lru >= 0.8 * best && s3_fifo >= 0.83 * best && s3_fifo >= lru - 0.01, "{all}");
    }
    if name.starts_with("scan") {
        assert!(s3_fifo > lru + 0.03 && s3_fifo >= 0.7 * best, "{all}");
        assert!((hold - share).abs() < 0.07, "{all}");
    }
}
