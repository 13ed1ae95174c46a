use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;
use crate::{Body, Key, ListPage, Version};
use forebay_wire::block::Extent;

/// Sorted keys in memory, listed as S3 does, some at a time.
struct Keys {
    keys: Vec<Bytes>,
    page: usize,
    delay: Duration,
    requests: AtomicU32,
}

#[async_trait]
impl Source for Keys {
    fn name(&self) -> &str {
        "keys"
    }
    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        self.requests.fetch_add(1, Relaxed);
        tokio::time::sleep(self.delay).await;
        let from = self.keys.partition_point(|key| request.after.as_ref().is_some_and(|after| key <= after) || *key < request.prefix);
        let rest = &self.keys[from..];
        let inside = rest.partition_point(|key| key.starts_with(&request.prefix));
        let rows = &rest[..inside.min(self.page)];
        let object =
            |key: &Bytes| Object { key: Key(key.clone()), size: 1, modified: SystemTime::UNIX_EPOCH, version: Version(Bytes::new()) };
        let next = (inside > self.page).then(|| rows[rows.len() - 1].clone());
        let mut objects: Vec<_> = rows.iter().map(object).collect();
        let end = request.before.as_ref().map_or(objects.len(), |before| objects.partition_point(|object| object.key.0 < *before));
        objects.truncate(end);
        let next = next.filter(|next| request.before.as_ref().is_none_or(|before| next < before));
        Ok(ListPage { objects, folders: Vec::new(), next })
    }
    async fn head(&self, _: &Key) -> Result<Object, SourceError> {
        unreachable!("only listed")
    }
    async fn read(&self, _: &Key, _: &Version, _: Extent, _: bool) -> Result<Body, SourceError> {
        unreachable!("only listed")
    }
}

/// Lists all, stopping and going on from the written checkpoint at the events of `stops`; checks order and completeness.
async fn list_all(source: Arc<Keys>, prefix: &str, parallel: usize, stops: &[usize]) -> Vec<Bytes> {
    let prefix = Bytes::copy_from_slice(prefix.as_bytes());
    let mut checkpoint = Checkpoint::default();
    let mut ranges: HashMap<RangeId, Vec<Bytes>> = HashMap::new();
    for stop in stops.iter().copied().chain([usize::MAX]) {
        let (sink, mut events) = mpsc::channel(4);
        let task = tokio::spawn(list_parallel(source.clone(), prefix.clone(), checkpoint.clone(), ListOptions { parallel }, sink));
        let mut count = 0;
        while count < stop
            && let Some(event) = events.recv().await
        {
            checkpoint.apply(&event);
            count += 1;
            if let ListEvent::Page { range, objects, .. } = event {
                ranges.entry(range).or_default().extend(objects.into_iter().map(|object| object.key.0));
            }
        }
        drop(events);
        task.await.expect("joins").expect("lists");
        checkpoint = Checkpoint::decode(&checkpoint.encode()).expect("what was encoded");
        if checkpoint.is_done() {
            break;
        }
    }
    assert!(checkpoint.is_done());
    // Ranges in order of their beginning are the listing.
    let order: BTreeMap<_, _> = checkpoint.ranges.iter().map(|range| (range.started_after.clone(), range.id)).collect();
    order.values().flat_map(|id| ranges.remove(id).unwrap_or_default()).collect()
}

fn source(keys: impl IntoIterator<Item = String>, page: usize, delay: Duration) -> Arc<Keys> {
    let mut keys: Vec<_> = keys.into_iter().map(Bytes::from).collect();
    keys.sort_unstable();
    keys.dedup();
    Arc::new(Keys { keys, page, delay, requests: AtomicU32::new(0) })
}

#[tokio::test]
async fn random_trees_are_listed_whole_at_any_width_and_after_any_stop() {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    println!("FOREBAY_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..60 {
        let alphabets = ["ab/", "0123456789", "aé日/\u{10FFFF}", "abcdefghijklmnopqrstuvwxyzABC/._-"];
        let alphabet: Vec<char> = alphabets[random.random_range(0..alphabets.len())].chars().collect();
        let count = random.random_range(0..600);
        let keys: Vec<String> = (0..count)
            .map(|_| (0..random.random_range(1..12)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect())
            .collect();
        let source = source(keys, random.random_range(1..20), Duration::ZERO);
        let stops: Vec<usize> = (0..random.random_range(0..4)).map(|_| random.random_range(1..40)).collect();
        let parallel = random.random_range(1..40);
        assert_eq!(list_all(source.clone(), "", parallel, &stops).await, source.keys);
        let prefix = alphabet[0].to_string();
        let below: Vec<_> = source.keys.iter().filter(|key| key.starts_with(prefix.as_bytes())).cloned().collect();
        assert_eq!(list_all(source.clone(), &prefix, parallel, &stops).await, below);
    }
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let mut checkpoint = Checkpoint::default();
    checkpoint.apply(&ListEvent::Split { from: RangeId(0), at: Bytes::from_static(b"m"), into: RangeId(1) });
    let bytes = checkpoint.encode();
    assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert_eq!(Checkpoint::decode(&wrong), None);
        assert_eq!(Checkpoint::decode(&bytes[..at]), None);
    }
}

/// Requests and rounds (elapsed / delay) that `keys` need at 64 in flight, against the least possible.
async fn check_speed(name: &str, keys: impl IntoIterator<Item = String>, speedup_min: f64) {
    let delay = Duration::from_millis(20);
    let source = source(keys, 100, delay);
    let started = std::time::Instant::now();
    let listed = list_all(source.clone(), "", 64, &[]).await;
    let elapsed = started.elapsed();
    assert_eq!(listed.len(), source.keys.len());
    let pages = source.keys.len().div_ceil(100);
    let requests = source.requests.load(Relaxed);
    let speedup = delay.as_secs_f64() * pages as f64 / elapsed.as_secs_f64();
    println!("{name}: {pages} pages, {requests} requests, {speedup:.1} x sequential");
    assert!(speedup > speedup_min, "{name}: {speedup:.1} x with {requests} requests for {pages} pages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn even_and_skewed_keys_are_listed_in_parallel() {
    check_speed(
        "imagenet",
        (0..200u32)
            .flat_map(|class| (0..1000u32).map(move |file| format!("train/n{:08}/n{class:08}_{file}.JPEG", 1_440_764 + class * 1931))),
        8.0,
    )
    .await;
    check_speed(
        "skewed",
        (0..200_000u32).map(|index| {
            if index % 10 == 0 { format!("data/x{:03}/f{index:08}", index % 977) } else { format!("data/hot/part-{index:010}.bin") }
        }),
        8.0,
    )
    .await;
    check_speed("hashes", (0..200_000u64).map(|index| format!("{:016x}", index.wrapping_mul(0x9E37_79B9_7F4A_7C15))), 8.0).await;
}
