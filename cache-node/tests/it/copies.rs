//! Copies: as many as the rules ask for, when all is well, when a node is lost, and when one comes back. Real nodes in one process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use forebay_node::control::{Control, DrainProgress};
use forebay_node::copies;
use forebay_node::fill::LENT_UNREAD;
use futures::StreamExt;

use crate::memory_source::{MemorySource, pattern};
use crate::peers::{Cache, bytes_of, fill, holders, missing, read_all, serve_all_of, settle_all, stop_all, wait_for};
use crate::semantics::Rig;

/// Two copies of each block, and none that a reader made.
const TWO: &str = "  rules: [{ path: /, localCopy: Never, copies: { min: 2 } }]\n";

/// Files of one block: a large one that is complete somewhere goes whole, so it is no use to count its copies.
fn small(source: &MemorySource, count: usize) -> BTreeMap<String, usize> {
    let files: BTreeMap<String, usize> = (0..count).map(|number| (format!("d{}/s{number}", number % 5), 300 * (number + 1))).collect();
    for (path, len) in &files {
        source.put(path.as_bytes(), pattern(*len as u64, *len));
    }
    files
}

/// Serves from these nodes, and waits until each asks the others: who started first found nobody.
async fn together(cache: &Cache, numbers: &[usize], source: &Arc<MemorySource>, rest: &str) -> Vec<Arc<Rig>> {
    let rigs = serve_all_of(cache, numbers, source, rest).await;
    all_asked(&rigs).await;
    rigs
}

async fn all_asked(rigs: &[Arc<Rig>]) {
    let bypassed = |rig: &Arc<Rig>| rig.node.shared().unwrap().0.peers().bypassed().len();
    wait_for("nobody is bypassed", || rigs.iter().all(|rig| bypassed(rig) == 0)).await;
}

/// Waits until each block is on two nodes, no less and no more.
async fn two_copies(rigs: &[Arc<Rig>], files: &BTreeMap<String, usize>) {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let holders = holders(rigs, files);
        let count = |copies: usize| holders.iter().filter(|count| **count == copies).count();
        if count(2) == holders.len() {
            return;
        }
        let counts: Vec<usize> = (0..=4).map(count).collect();
        let metrics: Vec<_> = rigs
            .iter()
            .map(|rig| {
                (
                    &rig.node.fill().metrics().copies,
                    rig.dataset.copies.as_ref().unwrap().lacking(),
                    *rig.dataset.copies.as_ref().unwrap().passes().borrow(),
                )
            })
            .collect();
        assert!(Instant::now() < limit, "two copies of each block within 30 s; blocks with 0, 1, ... copies: {counts:?}; {metrics:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_14_a_lost_node_costs_the_source_nothing() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let files = fill(&source, 160);
    let rigs = together(&cache, &[0, 1, 2, 3], &source, TWO).await;
    read_all(&rigs, &files).await;
    assert_eq!(source.bytes.load(Relaxed), bytes_of(&files), "copies are not read from the source again");
    two_copies(&rigs, &files).await;
    let sent: u64 = rigs.iter().map(|rig| rig.node.fill().metrics().copies.sent_bytes.get()).sum();
    assert!(sent >= bytes_of(&files) / 2, "the owners handed them down: {sent} of {}", bytes_of(&files));
    rigs[3].node.stop().await;
    read_all(&rigs[..3], &files).await;
    assert_eq!(source.bytes.load(Relaxed), bytes_of(&files), "the next in rank has what the lost node had");
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_is_one_copy_and_what_is_never_cached_is_not_copied() {
    let (source, cache) = (MemorySource::new(), Cache::new(3));
    let files = fill(&source, 60);
    let rules =
        "  rules: [{ path: /, localCopy: Never, copies: { min: 3 } }, { path: /d0, cache: Never }, { path: /d1, copies: { min: 1 } }]\n";
    let rigs = together(&cache, &[0, 1, 2], &source, rules).await;
    read_all(&rigs, &files).await;
    let of = |folder: &str| files.clone().into_iter().filter(|(path, _)| path.starts_with(folder)).collect();
    let count_of = |folder: &str| holders(&rigs, &of(folder));
    wait_for("three copies where they are asked for", || count_of("d2").iter().all(|count| *count == 3)).await;
    settle_all(&rigs).await;
    assert!(count_of("d1").iter().all(|count| *count == 1), "{:?}", count_of("d1"));
    assert!(count_of("d0").iter().all(|count| *count == 0));
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_15_what_a_node_that_left_held_is_copied_again_and_dropped_when_it_returns() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let files = small(&source, 160);
    let rigs = together(&cache, &[0, 1, 2, 3], &source, TWO).await;
    read_all(&rigs, &files).await;
    two_copies(&rigs, &files).await;
    rigs[3].node.stop().await;
    let (left, before) = (&rigs[..3], source.bytes.load(Relaxed));
    assert!(holders(left, &files).contains(&1), "some blocks have lost a copy");
    for rig in left {
        rig.node.set_peers(&cache.list[..3]).unwrap();
    }
    two_copies(left, &files).await;
    assert_eq!(source.bytes.load(Relaxed), before, "they come from the copy that lives");
    // It returns with its disk, which nobody uses any more.
    let left = rigs[..3].to_vec();
    let gone = Arc::downgrade(&rigs.into_iter().nth(3).unwrap().node);
    wait_for("the end of the node", || gone.strong_count() == 0).await;
    let back = serve_all_of(&cache, &[3], &source, TWO).await;
    for rig in &left {
        rig.node.set_peers(&cache.list).unwrap();
    }
    let all = [left, back].concat();
    two_copies(&all, &files).await;
    let trimmed: u64 = all.iter().map(|rig| rig.node.fill().metrics().copies.trimmed.get()).sum();
    assert!(trimmed > 0, "what was made meanwhile is dropped again");
    read_all(&all, &files).await;
    assert_eq!(source.bytes.load(Relaxed), before);
    stop_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_15_a_node_that_comes_with_an_empty_disk_takes_what_is_its_own_from_the_others() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let files = small(&source, 160);
    let rigs = serve_all_of(&cache, &[0, 1, 2], &source, TWO).await;
    for rig in &rigs {
        rig.node.set_peers(&cache.list[..3]).unwrap();
    }
    all_asked(&rigs).await;
    read_all(&rigs, &files).await;
    two_copies(&rigs, &files).await;
    let before = source.bytes.load(Relaxed);
    let last = serve_all_of(&cache, &[3], &source, TWO).await;
    for rig in &rigs {
        rig.node.set_peers(&cache.list).unwrap();
    }
    let all = [rigs, last].concat();
    // Two of each there are from the beginning: they are to be on other nodes.
    wait_for("copies where they belong", || missing(&all, &files, 2) == 0).await;
    two_copies(&all, &files).await;
    assert!(all[3].node.fill().metrics().copies.brought.get() > 0);
    read_all(&all, &files).await;
    assert_eq!(source.bytes.load(Relaxed), before);
    stop_all(all).await;
}

/// One copy of each block, and none that a reader made.
const ONE: &str = "  rules: [{ path: /, localCopy: Never }]\n";

#[tokio::test(flavor = "multi_thread")]
async fn s_15_what_nodes_that_join_own_is_had_from_those_whose_it_was() {
    let (source, cache) = (MemorySource::new(), Cache::new(5));
    let files = small(&source, 160);
    let rigs = serve_all_of(&cache, &[0, 1, 2], &source, ONE).await;
    for rig in &rigs {
        rig.node.set_peers(&cache.list[..3]).unwrap();
    }
    all_asked(&rigs).await;
    read_all(&rigs, &files).await;
    let before = source.bytes.load(Relaxed);
    assert_eq!(before, bytes_of(&files));
    // Two at once: the next in rank of what is theirs may be the other one.
    let joined = serve_all_of(&cache, &[3, 4], &source, ONE).await;
    for rig in &rigs {
        rig.node.set_peers(&cache.list).unwrap();
    }
    let all = [rigs, joined].concat();
    all_asked(&all).await;
    // At once, while it is moved.
    read_all(&all, &files).await;
    wait_for("blocks where they belong", || missing(&all, &files, 1) == 0).await;
    wait_for("one copy of each", || holders(&all, &files).iter().all(|count| *count == 1)).await;
    let again = source.bytes.load(Relaxed) - before;
    assert!(again * 50 <= bytes_of(&files), "{again} bytes of {} were read again", bytes_of(&files));
    let guessed: u64 = all.iter().map(|rig| rig.node.fill().metrics().guessed.get()).sum();
    let brought: u64 = all.iter().map(|rig| rig.node.fill().metrics().copies.brought.get()).sum();
    assert!(guessed + brought > 0, "{guessed} for readers, {brought} in the background");
    stop_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_16_a_node_that_was_drained_may_go_without_a_read_of_the_source() {
    let (source, cache) = (MemorySource::new(), Cache::new(3));
    let files = fill(&source, 120);
    let rigs = together(&cache, &[0, 1, 2], &source, "  rules: [{ path: /, localCopy: Never }]\n").await;
    read_all(&rigs, &files).await;
    settle_all(&rigs).await;
    let before = source.bytes.load(Relaxed);
    let drain = async || rigs[2].node.drain().await.unwrap().collect::<Vec<DrainProgress>>().await.pop().unwrap();
    let outcome = drain().await;
    assert!(outcome.done && outcome.moved > 0 && outcome.left == 0, "{outcome:?}");
    let again = drain().await;
    assert!(again.done && again.moved == 0 && again.blocks >= outcome.moved, "{again:?}");
    assert!(holders(&rigs[..2], &files).iter().all(|count| *count == 1));
    rigs[2].node.stop().await;
    read_all(&rigs[..2], &files).await;
    assert_eq!(source.bytes.load(Relaxed), before);
    stop_all(rigs).await;
}

/// Reads everything on every node until this holds.
async fn read_until(rigs: &[Arc<Rig>], files: &BTreeMap<String, usize>, what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < limit, "{what} within 30 s");
        read_all(rigs, files).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_17_a_block_that_many_nodes_ask_for_is_on_several_and_on_one_again_when_it_is_cool() {
    let (source, cache) = (MemorySource::new(), Cache::new(6));
    let (hot, cool) = (small(&source, 1), fill(&source, 20));
    let rules = "  rules: [{ path: /, localCopy: Never, copies: { min: 1, max: 3 } }]\n";
    let rigs = together(&cache, &[0, 1, 2, 3, 4, 5], &source, rules).await;
    read_all(&rigs, &cool).await;
    let before = source.bytes.load(Relaxed);
    read_until(&rigs, &hot, "three copies of what all ask for", || holders(&rigs, &hot) == [3]).await;
    assert_eq!(source.bytes.load(Relaxed) - before, bytes_of(&hot), "copies are not read from the source");
    let given = || rigs.iter().map(|rig| rig.node.shared().unwrap().1.bytes.get()).collect::<Vec<_>>();
    let at_first = given();
    for _ in 0..40 {
        read_all(&rigs, &hot).await;
    }
    let given: Vec<u64> = given().iter().zip(at_first).map(|(now, before)| now - before).filter(|bytes| *bytes > 0).collect();
    let all: u64 = given.iter().sum();
    assert!(given.len() == 3 && given.iter().all(|bytes| *bytes * 2 <= all), "three nodes give, none more than half: {given:?}");
    assert!(holders(&rigs, &cool).iter().all(|count| *count == 1), "what few ask for is on one");

    let cool_down = async |after: Duration| {
        let at = tokio::time::Instant::now() + after;
        for rig in &rigs {
            copies::cool(&rig.node.shared().unwrap().0, rig.node.fill(), at).await;
        }
    };
    cool_down(LENT_UNREAD / 2).await;
    assert_eq!(holders(&rigs, &hot), [3], "it was read a moment ago");
    cool_down(LENT_UNREAD).await;
    assert_eq!(holders(&rigs, &hot), [1], "its owner has it");
    read_all(&rigs, &hot).await;
    assert_eq!(source.bytes.load(Relaxed) - before, bytes_of(&hot));
    stop_all(rigs).await;
}
