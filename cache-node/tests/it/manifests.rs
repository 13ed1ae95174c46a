//! One node of a cache lists a data set, the others take its list of files: real nodes in one process, over one source that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::memory_source::{MemorySource, pattern};
use crate::peers::{Cache, fill, read_all, serve_all_of, stop_all, wait_for};
use crate::semantics::Rig;

const INTERVAL: &str = "  sync: { interval: 1h }\n";
/// What the lister found is with all nodes by then; a busy machine gets more.
const WITHIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 2 });

async fn shows(rig: &Rig, path: &str) -> bool {
    rig.find(path).await.is_ok()
}

/// Waits until each of `rigs` shows the path, or each doesn't.
async fn all_show(rigs: &[Arc<Rig>], path: &str, expected: bool) -> Duration {
    let begin = Instant::now();
    loop {
        let mut count = 0;
        for rig in rigs {
            count += usize::from(shows(rig, path).await == expected);
        }
        if count == rigs.len() {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < WITHIN, "{path} is {expected} on {count} of {} nodes", rigs.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lister(rigs: &[Arc<Rig>]) -> usize {
    let listers: Vec<usize> = (0..rigs.len()).filter(|at| rigs[*at].dataset.refresh.leads()).collect();
    assert_eq!(listers.len(), 1, "one lists: {listers:?}");
    listers[0]
}

fn put(source: &MemorySource, files: &mut BTreeMap<String, usize>, path: &str) {
    source.put(path.as_bytes(), pattern(1000, 1000));
    files.insert(path.to_owned(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn s_18_one_node_lists_and_what_it_finds_is_with_all_at_once() {
    let source = MemorySource::new();
    let mut files = fill(&source, 250);
    let alone = Cache::new(1).serve_all(&source, INTERVAL).await;
    let pages = source.pages.swap(0, Relaxed);
    stop_all(alone).await;

    let cache = Cache::new(4);
    let rigs = cache.serve_all(&source, INTERVAL).await;
    assert_eq!(source.pages.load(Relaxed), pages, "four nodes list as one does");
    read_all(&rigs, &files).await;
    let first = lister(&rigs);
    put(&source, &mut files, "d0/new");
    // Somebody asks a node that doesn't list: it is the lister that does it.
    let other = (first + 1) % 4;
    rigs[other].sync().await;
    assert!(shows(&rigs[other], "d0/new").await, "who asked has it when it is told so");
    println!("all show it after {:?}", all_show(&rigs, "d0/new", true).await);
    // Where it cuts the keys into ranges changes from one to the next.
    assert!(source.pages.load(Relaxed) < 3 * pages, "listed twice: {} pages, {pages} the first time", source.pages.load(Relaxed));
    let number = |rig: &Arc<Rig>| (rig.fs().manifest().unwrap().summary().term, rig.fs().manifest().unwrap().summary().sequence);
    assert!(rigs.iter().all(|rig| number(rig) == number(&rigs[0])));
    source.delete(b"d0/new");
    files.remove("d0/new");
    rigs[first].sync().await;
    all_show(&rigs, "d0/new", false).await;
    read_all(&rigs, &files).await;
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_18_when_the_lister_is_lost_the_next_in_rank_lists() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let mut files = fill(&source, 60);
    let mut rigs = cache.serve_all(&source, INTERVAL).await;
    let lost = rigs.remove(lister(&rigs));
    lost.node.stop().await;
    put(&source, &mut files, "d1/new");
    rigs[0].sync().await;
    all_show(&rigs, "d1/new", true).await;
    lister(&rigs);
    read_all(&rigs, &files).await;
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_18_what_a_lost_lister_had_listed_is_not_listed_again() {
    const FILES: usize = 6000;
    let source = MemorySource::new();
    for number in 0..FILES {
        source.put(format!("d{}/f{number:04}", number % 7).as_bytes(), pattern(1, 10));
    }
    let alone = Cache::new(1).serve_all(&source, INTERVAL).await;
    let (digest, pages) = (alone[0].fs().manifest().unwrap().summary().digest, source.pages.swap(0, Relaxed));
    stop_all(alone).await;
    source.listed.lock().clear();

    let cache = Cache::new(3);
    *source.pages_max.lock() = Some(pages / 2);
    let mut rigs: Vec<_> = (0..3).map(|number| Arc::new(cache.serve(number, &source, INTERVAL))).collect();
    wait_for("half of it to be listed", || source.pages.load(Relaxed) > pages / 2 && rigs.iter().any(|rig| rig.dataset.refresh.leads()))
        .await;
    // Until nothing more comes, and the next in rank has all of it but for the first record, which is each node's own.
    let log = |number: usize| {
        let path = cache.folder.path().join(format!("store-{number}/datasets/tests/t/manifests/listing-0.log"));
        std::fs::metadata(path).map_or(0, |metadata| metadata.len())
    };
    let begin = Instant::now();
    loop {
        let count = source.listed.lock().len();
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let mut logs = [0, 1, 2].map(log);
        logs.sort_unstable();
        if source.listed.lock().len() == count && logs[1] > 1000 && logs[1].abs_diff(logs[2]) < 32 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "the next in rank has {logs:?}");
    }
    let before: BTreeSet<_> = source.listed.lock().drain(..).collect();
    assert!(before.len() > FILES / 10 && before.len() < FILES, "{} of {FILES} are listed", before.len());
    assert!(rigs.iter().all(|rig| rig.fs().manifest().is_none()));
    let lost = rigs.remove(lister(&rigs));
    lost.node.stop().await;
    *source.pages_max.lock() = None;
    for rig in &rigs {
        rig.listed().await;
    }
    // A range that is cut while its page comes is asked for a second time behind the cut: a page or two.
    let after: BTreeSet<_> = source.listed.lock().iter().cloned().collect();
    let again = after.intersection(&before).count();
    assert!(again <= before.len() / 50, "{again} of {} that were listed", before.len());
    assert_eq!(after.union(&before).count(), FILES);
    for rig in &rigs {
        assert_eq!(rig.fs().manifest().unwrap().summary().digest, digest, "as a listing of the whole");
    }
    // What is listed from now on is newer, whoever lists.
    source.put(b"d0/new", pattern(1, 10));
    rigs[0].sync().await;
    all_show(&rigs, "d0/new", true).await;
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_18_two_listers_bring_no_deleted_file_back() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let files = fill(&source, 60);
    let rigs = serve_all_of(&cache, &[0, 1, 2, 3], &source, INTERVAL).await;
    let gone = files.keys().next().unwrap().clone();
    let split = |rigs: &[Arc<Rig>], numbers: &[usize]| {
        let list: Vec<_> = numbers.iter().map(|number| cache.list[*number].clone()).collect();
        numbers.iter().for_each(|number| rigs[*number].node.set_peers(&list).unwrap());
    };
    split(&rigs, &[0, 1]);
    split(&rigs, &[2, 3]);
    let (left, right) = rigs.split_at(2);
    // Each side has a lister of its own. The right one's list is older, and so is what it says of the file.
    put(&source, &mut files.clone(), "d2/new");
    right[0].sync().await;
    all_show(right, "d2/new", true).await;
    assert!(shows(&right[0], &gone).await);
    source.delete(gone.as_bytes());
    left[0].sync().await;
    all_show(left, &gone, false).await;

    split(&rigs, &[0, 1, 2, 3]);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        for rig in left {
            assert!(!shows(rig, &gone).await, "a deleted file came back after {:?}", begin.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all_show(&rigs, &gone, false).await;
    all_show(&rigs, "d2/new", true).await;
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_18_why_the_lister_fails_is_told_by_all_until_it_doesnt() {
    let (source, cache) = (MemorySource::new(), Cache::new(3));
    let files = fill(&source, 30);
    source.away.store(true, Relaxed);
    let rigs: Vec<_> = (0..3).map(|number| Arc::new(cache.serve(number, &source, INTERVAL))).collect();
    wait_for("all tell it", || rigs.iter().all(|rig| rig.dataset.refresh.error().is_some())).await;
    // Over several attempts, after each of which the lister asks the others.
    for _ in 0..100 {
        assert!(rigs[lister(&rigs)].dataset.refresh.error().is_some());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    source.away.store(false, Relaxed);
    for rig in &rigs {
        rig.listed().await;
    }
    wait_for("nobody tells it any more", || rigs.iter().all(|rig| rig.dataset.refresh.error().is_none())).await;
    read_all(&rigs, &files).await;
    stop_all(rigs).await;
}
