//! Preloads of more than the cache keeps: nothing is fetched only to be refused, and what was fetched is not fetched again.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use forebay_node::control::{PreloadOrder, PreloadProgress, PreloadState};
use tokio_util::sync::CancellationToken;

use crate::memory_source::{MemorySource, pattern};
use crate::semantics::{Rig, config, serve_with, settle};

/// Puts files of these sizes and gives the bytes of all.
fn fill(source: &MemorySource, sizes: impl Iterator<Item = usize>) -> u64 {
    let mut bytes = 0;
    for (n, size) in sizes.enumerate() {
        source.put(format!("d{}/f{n}", n % 7).as_bytes(), pattern(n as u64, size));
        bytes += size as u64;
    }
    bytes
}

pub(crate) fn everything() -> PreloadOrder {
    PreloadOrder { paths: vec!["/".to_owned()], verify: false }
}

/// Preloads everything; how it ended, and the bytes that were asked of the source.
async fn preload(rig: &Rig, source: &MemorySource) -> (PreloadProgress, u64) {
    let before = source.bytes.load(Relaxed);
    let progress = rig.dataset.preload.run(everything(), CancellationToken::new()).await.unwrap();
    settle(rig).await;
    assert_eq!(progress.state, PreloadState::Done, "{progress:?}");
    assert_eq!((progress.files_done, progress.bytes_done), (progress.files_total, progress.bytes_total), "totals are of what is wanted");
    (progress, source.bytes.load(Relaxed) - before)
}

/// A cache of a quarter of the data, preloaded twice, also by another process.
async fn a_quarter_is_loaded_once(source: &std::sync::Arc<MemorySource>, folder: &Path, all_bytes: u64, rules: &str) {
    let capacity = all_bytes / 4;
    let mut first = 0;
    for process in 0..2 {
        let rig = serve_with(source, config(folder, capacity), rules).await;
        rig.listed().await;
        for _ in 0..2 {
            let (progress, fetched) = preload(&rig, source).await;
            first += fetched;
            assert_eq!(progress.bytes_total + progress.bytes_read_through, all_bytes);
            assert!(progress.bytes_total <= capacity && progress.bytes_total >= capacity / 10 * 9, "{progress:?} of {capacity}");
            assert!(first <= capacity / 10 * 11, "process {process}: {first} bytes fetched for a cache of {capacity}");
        }
        assert!(first >= capacity / 10 * 9, "{first} of {capacity}");
        let usage = rig.node.store().usage();
        assert!(usage.tiers[0].used_bytes >= capacity / 100 * 95, "{usage:?}");
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_cache_is_loaded_as_far_as_it_is_kept_and_only_once() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let all_bytes = fill(&source, (0..700).map(|n| [9_000, 40_000, 65_536, 90_000][n % 4] + n));
    a_quarter_is_loaded_once(&source, folder.path(), all_bytes, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_of_more_than_the_cache_are_loaded_as_far_as_they_are_kept() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let all_bytes = fill(&source, (0..700).map(|n| [9_000, 40_000, 65_536, 90_000][n % 4] + n));
    a_quarter_is_loaded_once(&source, folder.path(), all_bytes, "  rules: [{ path: /, cache: Pin }]\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_with_a_limit_come_first_and_the_rest_as_far_as_it_is_kept() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let all_bytes = fill(&source, (0..700).map(|n| [9_000, 40_000, 65_536, 90_000][n % 4] + n));
    a_quarter_is_loaded_once(&source, folder.path(), all_bytes, "  rules: [{ path: /, cache: Pin, maxBytes: 4Mi }]\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_large_files_are_loaded_in_part() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let all_bytes = fill(&source, (0..4).map(|n| (8 << 20) + n));
    a_quarter_is_loaded_once(&source, folder.path(), all_bytes, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_is_loaded_whole() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let all_bytes = fill(&source, (0..100).map(|n| 10_000 + n));
    let rig = serve_with(&source, config(folder.path(), 8 << 20), "").await;
    rig.listed().await;
    let (progress, fetched) = preload(&rig, &source).await;
    assert_eq!((progress.files_total, progress.files_read_through, progress.bytes_read_through, fetched), (100, 0, 0, all_bytes));
    assert_eq!(preload(&rig, &source).await.1, 0);
    rig.stop().await;
}

/// Changes a bit in every 40,000 bytes of what the cache keeps.
fn spoil(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            spoil(&entry.path());
        } else if entry.metadata().unwrap().len() > 100_000 {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            (20_000..bytes.len()).step_by(40_000).for_each(|at| bytes[at] ^= 1);
            let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_compared_with_its_checksums_and_loaded_anew_where_it_differs() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let all_bytes = fill(&source, (0..60).map(|n| [9_000, 40_000, 65_536, 190_000][n % 4] + n));
    let rig = serve_with(&source, config(folder.path(), 1 << 30), "").await;
    rig.listed().await;
    preload(&rig, &source).await;
    let verify = || async {
        let before = source.bytes.load(Relaxed);
        let order = PreloadOrder { verify: true, ..everything() };
        let progress = rig.dataset.preload.run(order, CancellationToken::new()).await.unwrap();
        settle(&rig).await;
        assert_eq!((progress.state, progress.bytes_done), (PreloadState::Done, all_bytes), "{progress:?}");
        (progress.bytes_verified, progress.blocks_mended, source.bytes.load(Relaxed) - before)
    };
    assert_eq!(verify().await, (all_bytes, 0, 0), "all of it is good");
    spoil(folder.path());
    let (verified, mended, fetched) = verify().await;
    assert!(mended > 10 && fetched > 0 && verified < all_bytes, "{verified} of {all_bytes} good, {mended} mended, {fetched} fetched");
    assert_eq!(verify().await, (all_bytes, 0, 0), "it is good again");
    rig.stop().await;
}
