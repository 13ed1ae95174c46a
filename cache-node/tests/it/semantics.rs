//! One test for each rule of SEMANTICS.md that can be seen without a kernel; the kernel's part is in `fuse`, `crash` and the bench.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use forebay_node::control::{Control, Scope};
use forebay_node::fs::{Attempt, Error, Filesystem, Invalidation, Kind, Node as Found, NodeId, Opened};
use forebay_node::node::{Dataset, Node};
use forebay_wire::dataset_spec::{self, Eviction};
use forebay_wire::node_config::{NodeConfig, ServingMode, Tier};
use forebay_wire::unit::{ByteSize, Capacity, Percent};

use crate::memory_source::{MemorySource, pattern};

pub(crate) struct Rig {
    pub(crate) node: Arc<Node>,
    pub(crate) dataset: Arc<Dataset>,
}

pub(crate) fn config(folder: &Path, capacity_bytes: u64) -> NodeConfig {
    let capacity = Capacity::Bytes(ByteSize::new(capacity_bytes).unwrap());
    NodeConfig {
        tiers: vec![Tier { path: folder.to_owned(), capacity, keep_free: Percent::new(0).unwrap() }],
        block_size: ByteSize::kibibytes(64),
        serving: ServingMode::Open,
        ..NodeConfig::default()
    }
}

pub(crate) fn spec(rest: &str) -> dataset_spec::Dataset {
    let text = format!(
        "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t, namespace: tests }}\nspec:\n  source: s3://memory/\n{rest}"
    );
    dataset_spec::Dataset::parse("t.yaml", &text).unwrap()
}

/// Serves `source` from the cache in `folder`. The interval is long: tests sync when they mean to.
pub(crate) async fn serve(source: &Arc<MemorySource>, folder: &Path, rest: &str) -> Rig {
    serve_with(source, config(folder, 1 << 30), rest).await
}

pub(crate) async fn serve_with(source: &Arc<MemorySource>, config: NodeConfig, rest: &str) -> Rig {
    let node = Node::start(config, Eviction::Hold, tokio::runtime::Handle::current()).unwrap();
    let dataset = node.add_with(spec(rest), Path::new("/nowhere"), vec![source.handle()]).unwrap();
    Rig { node, dataset }
}

impl Rig {
    pub(crate) fn fs(&self) -> &Arc<Filesystem> {
        &self.dataset.fs
    }
    pub(crate) async fn listed(&self) {
        let mut synced = self.dataset.refresh.synced();
        tokio::time::timeout(Duration::from_secs(20), synced.wait_for(|synced| *synced > 0)).await.unwrap().unwrap();
    }
    pub(crate) async fn sync(&self) {
        self.node.refresh().await.unwrap();
    }
    pub(crate) async fn find(&self, path: &str) -> Result<Found, Error> {
        let mut parent = NodeId::ROOT;
        let mut found = None;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let node = self.fs().lookup(parent, part.as_bytes()).await?;
            parent = node.id;
            found = Some(node);
        }
        Ok(found.unwrap())
    }
    pub(crate) async fn read(&self, id: NodeId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut into = vec![0; len];
        match self.fs().try_read(id, offset, &mut into) {
            Attempt::Ready(Ok(read)) => {
                into.truncate(read);
                Ok(into)
            }
            Attempt::Ready(Err(error)) => Err(error),
            Attempt::Wait => self.fs().read(id, offset, len).await.map(|bytes| bytes.to_vec()),
        }
    }
    pub(crate) async fn read_path(&self, path: &str) -> Result<Vec<u8>, Error> {
        let found = self.find(path).await?;
        self.read(found.id, 0, usize::try_from(found.attributes.size).unwrap() + 10).await
    }
    pub(crate) async fn names(&self, id: NodeId) -> Vec<String> {
        self.fs().prepare_directory(id).await.unwrap();
        let mut names = Vec::new();
        let outcome = self.fs().try_read_directory(id, 0, &mut |row| {
            names.push(row.name.escape_ascii().to_string());
            ControlFlow::Continue(())
        });
        assert!(matches!(outcome, Attempt::Ready(Ok(()))));
        names.split_off(2)
    }
    pub(crate) async fn stop(self) {
        self.node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_01_bytes_are_those_of_the_object_cold_and_warm() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    for (key, len) in [("a/small", 100), ("a/page", 4097), ("a/blocks", 200_001), ("empty", 0), ("b/c/d/block", 65536)] {
        source.put(key.as_bytes(), pattern(len as u64, len));
    }
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    for _ in 0..2 {
        for (key, len) in [("a/small", 100), ("a/page", 4097), ("a/blocks", 200_001), ("empty", 0), ("b/c/d/block", 65536)] {
            assert_eq!(rig.read_path(key).await.unwrap(), pattern(len as u64, len), "{key}");
        }
        settle(&rig).await;
    }
    assert_eq!(source.bytes.load(Ordering::Relaxed), 100 + 4097 + 200_001 + 65536, "every byte once");
    assert_eq!(rig.names(NodeId::ROOT).await, ["a", "b", "empty"]);
    assert_eq!(rig.find("a").await.unwrap().attributes.kind, Kind::Directory);
    assert_eq!(rig.find("a/none").await.unwrap_err(), Error::NotFound);
    rig.stop().await;
}

/// Waits until what was read is in the store.
pub(crate) async fn settle(rig: &Rig) {
    let limit = Instant::now() + Duration::from_secs(10);
    while rig.node.fill().metrics().in_flight.get() > 0 {
        assert!(Instant::now() < limit, "fills end");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_02_a_mount_is_usable_before_its_listing_is_complete() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    source.put(b"a/b/file", pattern(1, 1000));
    let rig = serve(&source, folder.path(), "").await;
    // Whether or not the listing was faster, ids and bytes are the same.
    let before = rig.find("a/b/file").await.unwrap();
    rig.listed().await;
    let after = rig.find("a/b/file").await.unwrap();
    assert_eq!(before.id.content(), after.id.content());
    assert_eq!(rig.read(before.id, 0, 2000).await.unwrap(), pattern(1, 1000));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_03_a_sync_shows_what_changed_and_tells_the_kernel() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    for key in ["d/replaced", "d/removed", "d/same"] {
        source.put(key.as_bytes(), pattern(1, 500));
    }
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    let mut told = rig.fs().invalidations().unwrap();
    let same = rig.find("d/same").await.unwrap().id;
    source.put(b"d/replaced", pattern(2, 600));
    source.put(b"d/added", pattern(3, 700));
    source.delete(b"d/removed");
    rig.sync().await;
    assert_eq!(rig.read_path("d/replaced").await.unwrap(), pattern(2, 600));
    assert_eq!(rig.read_path("d/added").await.unwrap(), pattern(3, 700));
    assert_eq!(rig.find("d/removed").await.unwrap_err(), Error::NotFound);
    assert_eq!(rig.find("d/same").await.unwrap().id.content(), same.content(), "what stayed keeps its inode");
    let mut names = Vec::new();
    while let Ok(invalidation) = told.try_recv() {
        if let Invalidation::Entry { name, .. } = invalidation {
            names.push(String::from_utf8(name).unwrap());
        }
    }
    names.sort();
    assert_eq!(names, ["added", "removed", "replaced"]);
    rig.stop().await;
}

/// Flips a bit in the third page of a list's entries.
fn damage(manifest: &Path) {
    let mut bytes = std::fs::read(manifest).unwrap();
    bytes[3 * 4096 + 100] ^= 1;
    // Written in place: who has it mapped sees it.
    let file = std::fs::File::options().write(true).open(manifest).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s_03_a_sync_gets_past_a_damaged_list() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    for file in 0..2000 {
        source.put(format!("d/{file:04}").as_bytes(), pattern(file, 10));
    }
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    let mut told = rig.fs().invalidations().unwrap();
    // No lookup has touched the page, the comparison with the next list will.
    damage(rig.fs().manifest().unwrap().file());
    source.put(b"d/1999b", pattern(1, 600));
    source.delete(b"d/0500");
    rig.sync().await;
    assert_eq!(rig.read_path("d/1999b").await.unwrap(), pattern(1, 600));
    assert_eq!(rig.find("d/0500").await.unwrap_err(), Error::NotFound);
    assert_eq!(rig.read_path("d/0501").await.unwrap(), pattern(501, 10));
    let is_told = std::iter::from_fn(|| told.try_recv().ok()).any(|one| matches!(one, Invalidation::Entry { name, .. } if name == b"d"));
    assert!(is_told, "the kernel forgets all it knew: nobody can say what changed");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_04_an_open_file_never_mixes_versions() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    source.put(b"large", pattern(1, 300_000));
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    let _kernel = rig.fs().invalidations().unwrap();
    let open = rig.find("large").await.unwrap().id;
    assert_eq!(rig.read(open, 0, 65536).await.unwrap(), pattern(1, 300_000)[..65536]);
    settle(&rig).await;
    source.put(b"large", pattern(2, 300_000));
    // What is cached of the old version stays readable; what is not is refused, never the new version's bytes.
    assert_eq!(rig.read(open, 200_000, 65536).await.unwrap_err(), Error::Stale { id: open });
    assert_eq!(rig.read(open, 0, 65536).await.unwrap(), pattern(1, 300_000)[..65536]);
    rig.sync().await;
    assert_eq!(rig.read(open, 0, 65536).await.unwrap(), pattern(1, 300_000)[..65536], "a removed id still leads to its version");
    assert_eq!(rig.read_path("large").await.unwrap(), pattern(2, 300_000));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_05_a_name_that_a_fill_finds_changed_is_right_within_a_second() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    source.put(b"d/replaced", pattern(1, 500));
    source.put(b"d/deleted", pattern(1, 500));
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    let mut told = rig.fs().invalidations().unwrap();
    source.put(b"d/replaced", pattern(2, 800));
    source.delete(b"d/deleted");
    let started = Instant::now();
    assert!(matches!(rig.read_path("d/replaced").await, Err(Error::Stale { .. })));
    assert!(matches!(rig.read_path("d/deleted").await, Err(Error::Stale { .. })));
    assert_eq!(rig.read_path("d/replaced").await.unwrap(), pattern(2, 800));
    assert_eq!(rig.find("d/deleted").await.unwrap_err(), Error::NotFound);
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(matches!(told.try_recv().unwrap(), Invalidation::Entry { name, .. } if name == b"replaced"));
    let folder_id = rig.find("d").await.unwrap().id;
    assert_eq!(rig.names(folder_id).await, ["replaced"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_05_a_file_that_only_a_repair_showed_stays_open_over_a_restart() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    source.put(b"d/replaced", pattern(1, 500));
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    source.put(b"d/replaced", pattern(2, 800));
    assert!(matches!(rig.read_path("d/replaced").await, Err(Error::Stale { .. })));
    let open = rig.find("d/replaced").await.unwrap().id;
    assert_eq!(rig.read(open, 0, 1000).await.unwrap(), pattern(2, 800));
    settle(&rig).await;
    rig.stop().await;
    // No listing can tell the next daemon.
    source.away.store(true, Ordering::Relaxed);
    let rig = serve(&source, folder.path(), "").await;
    assert_eq!(rig.read(open, 0, 1000).await.unwrap(), pattern(2, 800));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_06_a_listing_across_a_sync_neither_repeats_nor_loses_names_that_stayed() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    for number in 0..300 {
        source.put(format!("d/{number:03}").as_bytes(), pattern(1, 10));
    }
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    let id = rig.find("d").await.unwrap().id;
    let (mut names, mut cookie) = (Vec::new(), 0);
    let read = |names: &mut Vec<String>, cookie: &mut u64, count: usize| {
        let mut left = count;
        let outcome = rig.fs().try_read_directory(id, *cookie, &mut |row| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            *cookie = row.cookie;
            names.push(row.name.escape_ascii().to_string());
            ControlFlow::Continue(())
        });
        assert!(matches!(outcome, Attempt::Ready(Ok(()))), "{outcome:?}");
    };
    read(&mut names, &mut cookie, 102);
    for number in (0..300).step_by(3) {
        source.delete(format!("d/{number:03}").as_bytes());
        source.put(format!("d/{number:03}x").as_bytes(), pattern(1, 10));
    }
    rig.sync().await;
    read(&mut names, &mut cookie, 10_000);
    let stayed: Vec<_> = (0..300).filter(|number| number % 3 != 0).map(|number| format!("{number:03}")).collect();
    for name in &stayed {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_07_a_complete_file_passes_through_and_an_evicted_one_is_looked_up_again() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    source.put(b"large", pattern(1, 200_000));
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    let cold = rig.find("large").await.unwrap();
    assert!(matches!(rig.fs().open(cold.id).await, Ok(Opened::Cached)));
    assert_eq!(cold.entry_ttl, Duration::from_secs(1), "so that the next epoch finds the passthrough id");
    rig.read_path("large").await.unwrap();
    settle(&rig).await;
    let warm = rig.find("large").await.unwrap();
    assert_ne!(warm.id, cold.id, "another I/O mode is another inode");
    assert!(matches!(rig.fs().open(warm.id).await, Ok(Opened::Passthrough(_))));
    rig.node.free(vec!["/".into()]).await.unwrap();
    assert!(matches!(rig.fs().open(warm.id).await, Err(Error::Stale { .. })));
    assert_eq!(rig.find("large").await.unwrap().id, cold.id);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_08_with_the_source_away_what_is_cached_is_served_and_the_rest_is_eio() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    source.put(b"cached", pattern(1, 5000));
    source.put(b"other", pattern(2, 5000));
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    rig.read_path("cached").await.unwrap();
    settle(&rig).await;
    source.away.store(true, Ordering::Relaxed);
    assert_eq!(rig.read_path("cached").await.unwrap(), pattern(1, 5000));
    assert_eq!(rig.read_path("other").await.unwrap_err(), Error::Io);
    rig.node.refresh().await.unwrap_err();
    let status = rig.node.status(Scope::Node).await;
    assert!(status.datasets[0].degraded[0].contains("can't be listed"), "{:?}", status.datasets[0].degraded);
    assert_eq!(rig.read_path("cached").await.unwrap(), pattern(1, 5000));
    source.away.store(false, Ordering::Relaxed);
    assert_eq!(rig.read_path("other").await.unwrap(), pattern(2, 5000));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_09_a_list_that_was_damaged_between_two_runs_is_made_anew() {
    for damaged in ["the last", "the one before"] {
        let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
        for file in 0..2000 {
            source.put(format!("d/{file:04}").as_bytes(), pattern(file, 10));
        }
        // Without an interval nothing but the damage asks for a listing.
        let rig = serve(&source, folder.path(), "  sync: { mode: Never }\n").await;
        rig.listed().await;
        let first = rig.fs().manifest().unwrap().file().to_owned();
        source.put(b"d/1999b", pattern(1, 600));
        rig.sync().await;
        let last = rig.fs().manifest().unwrap().file().to_owned();
        assert_ne!(first, last);
        rig.stop().await;
        damage(if damaged == "the last" { &last } else { &first });

        let rig = serve(&source, folder.path(), "  sync: { mode: Never }\n").await;
        let mut synced = rig.dataset.refresh.synced();
        let is_right = async {
            while !rig.read_path("d/1999b").await.is_ok_and(|bytes| bytes == pattern(1, 600)) {
                synced.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_right).await.unwrap();
        for file in [0, 500, 1999] {
            assert_eq!(rig.read_path(&format!("d/{file:04}")).await.unwrap(), pattern(file, 10), "{damaged}");
        }
        let aside = std::fs::read_dir(last.parent().unwrap()).unwrap().map(|row| row.unwrap().path());
        assert!(!aside.into_iter().any(|path| path == if damaged == "the last" { last.clone() } else { first.clone() }), "{damaged}");
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s_09_a_restart_keeps_what_is_cached_and_serves_before_it_lists() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    source.put(b"a/file", pattern(1, 200_000));
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    rig.read_path("a/file").await.unwrap();
    settle(&rig).await;
    let id = rig.find("a/file").await.unwrap().id;
    let bytes = source.bytes.load(Ordering::Relaxed);
    rig.stop().await;
    source.away.store(true, Ordering::Relaxed);
    let rig = serve(&source, folder.path(), "").await;
    assert_eq!(rig.find("a/file").await.unwrap().id, id);
    assert_eq!(rig.read_path("a/file").await.unwrap(), pattern(1, 200_000));
    assert_eq!(source.bytes.load(Ordering::Relaxed), bytes);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_10_rules_never_cache_pin_and_preload() {
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    for number in 0..20 {
        source.put(format!("never/{number}").as_bytes(), pattern(number, 2000));
        source.put(format!("pinned/{number}").as_bytes(), pattern(number, 2000));
    }
    let rig = serve(&source, folder.path(), "  rules: [{ path: /never, cache: Never }, { path: /pinned, cache: Pin }]\n").await;
    rig.listed().await;
    let mut progress = rig.dataset.preload.progress();
    let done = |progress: &Option<forebay_node::control::PreloadProgress>| {
        progress.as_ref().is_some_and(|progress| progress.state == forebay_node::control::PreloadState::Done)
    };
    let last = tokio::time::timeout(Duration::from_secs(20), progress.wait_for(done)).await.unwrap().unwrap().clone().unwrap();
    assert_eq!((last.files_done, last.bytes_done, last.files_failed), (20, 40_000, 0));
    let bytes = source.bytes.load(Ordering::Relaxed);
    for _ in 0..2 {
        for number in 0..20 {
            assert_eq!(rig.read_path(&format!("pinned/{number}")).await.unwrap(), pattern(number, 2000));
        }
    }
    assert_eq!(source.bytes.load(Ordering::Relaxed), bytes, "what is pinned is here");
    let id = rig.find("never/3").await.unwrap().id;
    rig.read_path("never/3").await.unwrap();
    settle(&rig).await;
    assert_eq!(rig.fs().extended_attribute(id, b"user.forebay.cached").unwrap(), b"none");
    assert_eq!(rig.fs().extended_attribute(id, b"user.forebay.source").unwrap(), b"s3://memory/never/3");
    rig.stop().await;
}
