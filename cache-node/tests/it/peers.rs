//! Several nodes, one cache: real nodes in one process with real sockets and certificates between them, over one source that counts.

mod model;
mod processes;
mod rig;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use forebay_node::control::{Control as _, NodeCoverage, PreloadState, Scope};
use forebay_node::node::Node;
use forebay_peer::{BlockRef, DatasetId, FreeRequest, Listed, ManifestRequest, PeerError, ReadRequest, Refusal, StoreRequest, Want};
use forebay_wire::block::{BlockId, BlockIndex, Extent};
use forebay_wire::node_config::NodeConfig;
use tokio_util::sync::CancellationToken;

use crate::memory_source::{MemorySource, pattern};
use crate::preload::everything;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::semantics::{Rig, spec};
use crate::strict::Spoiling;
use forebay_source::{Limits, RetryPolicy, SourceHandle};
pub(crate) use rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn s_13_four_nodes_that_read_everything_at_once_cost_the_source_its_bytes_once() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let files = fill(&source, 200);
    let rigs = cache.serve_all(&source, "  rules: [{ path: /, localCopy: Never }]\n").await;
    read_all(&rigs, &files).await;
    assert_eq!(source.bytes.load(Relaxed), bytes_of(&files), "cold");
    settle_all(&rigs).await;
    assert!(holders(&rigs, &files).iter().all(|count| *count == 1), "together they hold one copy");
    read_all(&rigs, &files).await;
    assert_eq!(source.bytes.load(Relaxed), bytes_of(&files), "warm");
    let owned: Vec<u64> = rigs.iter().map(|rig| rig.node.fill().metrics().bytes.get()).collect();
    assert!(owned.iter().all(|bytes| *bytes > bytes_of(&files) / 8), "each has a share: {owned:?}");
    assert_eq!(rigs.iter().map(|rig| rig.node.fill().metrics().turned.get()).sum::<u64>(), 0);
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_real_server_each_byte_is_sent_once() {
    let (server, cache) = (S3Server::start("data").await, Cache::new(4));
    let files: BTreeMap<String, usize> = (0..120).map(|number| (format!("d{}/f{number}", number % 5), 30_000 + 2_000 * number)).collect();
    for (path, len) in &files {
        server.put("data", path, &pattern(*len as u64, *len));
    }
    let text = format!(
        "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t, namespace: tests }}\nspec:\n  source: s3://data/\n  s3: {{ endpoint: \"{}\" }}\n  secretRef: {{ name: s3 }}\n",
        server.endpoint()
    );
    let secrets = cache.folder.path().join("secrets/s3");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("AWS_ACCESS_KEY_ID"), ACCESS_KEY).unwrap();
    std::fs::write(secrets.join("AWS_SECRET_ACCESS_KEY"), SECRET_KEY).unwrap();
    let mut rigs = Vec::new();
    for number in 0..4 {
        let config = NodeConfig { secrets: Some(cache.folder.path().join("secrets")), ..cache.config(number, 1 << 30) };
        let node = start(config);
        let spec = forebay_wire::dataset_spec::Dataset::parse("t.yaml", &text).unwrap();
        let (adding, added) = (node.clone(), tokio::task::spawn_blocking);
        let dataset = added(move || adding.add(spec, Path::new("/nowhere")).unwrap()).await.unwrap();
        rigs.push(Arc::new(Rig { node, dataset }));
    }
    for rig in &rigs {
        rig.listed().await;
    }
    // Who started first asked who wasn't there yet.
    wait_for("nobody is bypassed", || rigs.iter().all(|rig| rig.node.shared().unwrap().0.peers().bypassed().is_empty())).await;
    read_all(&rigs, &files).await;
    settle_all(&rigs).await;
    let sum = |count: fn(&Node) -> u64| rigs.iter().map(|rig| count(&rig.node)).sum::<u64>();
    let (taken, turned) = (sum(|node| node.fill().metrics().bytes.get()), sum(|node| node.fill().metrics().turned.get()));
    let ratio = taken as f64 / bytes_of(&files) as f64;
    assert!((1.0..=1.01).contains(&ratio), "{ratio}: {taken} bytes, {turned} blocks were not given by their owners");
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_13_a_node_lost_while_all_read_costs_no_error() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let files = fill(&source, 300);
    let rigs = cache.serve_all(&source, "").await;
    let reading = {
        let (rigs, files) = (rigs[..3].to_vec(), files.clone());
        tokio::spawn(async move { read_all(&rigs, &files).await })
    };
    // In the middle: it has given some and owes some.
    let lost = rigs[3].clone();
    wait_for("the node gives", || lost.node.shared().unwrap().1.bytes.get() > 200_000).await;
    lost.node.stop().await;
    reading.await.unwrap();
    let before = source.bytes.load(Relaxed);
    assert!(before <= bytes_of(&files) * 3 / 2, "{before} of {}: only what the lost node had was read again", bytes_of(&files));
    // Who is next for its blocks has them now.
    settle_all(&rigs[..3]).await;
    read_all(&rigs[..3], &files).await;
    assert_eq!(source.bytes.load(Relaxed), before);
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_others_away_a_node_reads_the_source_itself() {
    let (source, cache) = (MemorySource::new(), Cache::new(4));
    let files = fill(&source, 40);
    let rig = Arc::new(cache.serve(0, &source, ""));
    rig.listed().await;
    read_all(std::slice::from_ref(&rig), &files).await;
    assert_eq!(source.bytes.load(Relaxed), bytes_of(&files));
    assert_eq!(rig.node.shared().unwrap().0.peers().bypassed().len(), 3);
    rig.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_13_a_node_that_does_not_serve_the_data_set_gives_nothing_of_it() {
    let (source, cache) = (MemorySource::new(), Cache::new(2));
    let files = fill(&source, 40);
    let (rig, other) = (Arc::new(cache.serve(0, &source, "")), cache.start(1, 1 << 30));
    rig.listed().await;
    read_all(std::slice::from_ref(&rig), &files).await;
    assert!(other.shared().unwrap().1.refused_dataset.get() > 0);
    assert_eq!((other.shared().unwrap().1.bytes.get(), source.bytes.load(Relaxed)), (0, bytes_of(&files)));
    rig.node.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s_13_what_others_give_is_kept_as_the_rule_says() {
    // Copies of each block after one, two and three reads of everything by both nodes. What comes a second time because it is read ahead is kept, too.
    let cases = [("Never", [1..=1, 1..=1, 1..=1]), ("Hot", [1..=2, 2..=2, 2..=2]), ("Always", [2..=2, 2..=2, 2..=2])];
    for (rule, expected) in cases {
        let (source, cache) = (MemorySource::new(), Cache::new(2));
        let files = fill(&source, 60);
        let rigs = cache.serve_all(&source, &format!("  rules: [{{ path: /, localCopy: {rule} }}]\n")).await;
        // Who starts first asks who isn't there yet.
        wait_for("nobody is bypassed", || rigs.iter().all(|rig| rig.node.shared().unwrap().0.peers().bypassed().is_empty())).await;
        let failures =
            |rigs: &[Arc<Rig>]| rigs.iter().map(|rig| rig.node.shared().unwrap().0.peers().metrics().failures.get()).sum::<u64>();
        let at_start = failures(&rigs);
        for (round, copies) in expected.into_iter().enumerate() {
            read_all(&rigs, &files).await;
            settle_all(&rigs).await;
            let holders = holders(&rigs, &files);
            assert!(holders.iter().all(|count| copies.contains(count)), "{rule} after {} reads: {holders:?}", round + 1);
            let one = holders.iter().filter(|count| **count == 1).count();
            assert!(*copies.start() == 2 || one > holders.len() / 2, "{rule} after {} reads: {holders:?}", round + 1);
        }
        assert_eq!(source.bytes.load(Relaxed), bytes_of(&files), "{rule}");
        assert_eq!(failures(&rigs), at_start, "none by reading");
        stop_all(rigs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_preloads_its_own_and_with_a_rule_all() {
    for (rule, copies) in [("Hot", 1), ("Always", 3)] {
        let (source, cache) = (MemorySource::new(), Cache::new(3));
        let files = fill(&source, 150);
        let rigs = cache.serve_all(&source, &format!("  rules: [{{ path: /, localCopy: {rule} }}]\n")).await;
        let loads = rigs.iter().map(|rig| {
            let preload = rig.dataset.preload.clone();
            tokio::spawn(async move { preload.run(everything(), CancellationToken::new()).await.unwrap() })
        });
        let mut bytes_done = 0;
        for progress in futures::future::try_join_all(loads).await.unwrap() {
            assert_eq!((progress.state, progress.files_failed), (PreloadState::Done, 0));
            assert_eq!((progress.files_done, progress.bytes_done), (progress.files_total, progress.bytes_total));
            bytes_done += progress.bytes_done;
        }
        settle_all(&rigs).await;
        assert_eq!(bytes_done, copies as u64 * bytes_of(&files), "{rule}");
        assert_eq!(source.bytes.load(Relaxed), bytes_of(&files), "{rule}");
        assert!(holders(&rigs, &files).iter().all(|count| *count == copies), "{rule}");
        stop_all(rigs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changed_is_told_by_its_owner() {
    let (source, cache) = (MemorySource::new(), Cache::new(2));
    let files = fill(&source, 20);
    let rigs = cache.serve_all(&source, "").await;
    for path in files.keys() {
        source.put(path.as_bytes(), pattern(9, 5_000));
    }
    for rig in &rigs {
        for path in files.keys() {
            // Found by the old list, it is stale; its next open has the new version.
            let stale = rig.read_path(path).await;
            assert!(stale.is_err() || stale == Ok(pattern(9, 5_000).to_vec()), "{path}");
            assert_eq!(rig.read_path(path).await.unwrap(), pattern(9, 5_000), "{path}");
        }
    }
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_list_of_nodes_is_followed_while_running() {
    let (source, mut cache) = (MemorySource::new(), Cache::new(3));
    let files = fill(&source, 90);
    let third = cache.list.pop().unwrap();
    let rigs: Vec<_> = (0..2).map(|number| Arc::new(cache.serve(number, &source, ""))).collect();
    for rig in &rigs {
        rig.listed().await;
    }
    read_all(&rigs, &files).await;
    settle_all(&rigs).await;
    cache.list.push(third);
    let third = Arc::new(cache.serve(2, &source, ""));
    third.listed().await;
    for rig in &rigs {
        rig.node.set_peers(&cache.list).unwrap();
    }
    let rigs = [rigs, vec![third]].concat();
    let before = source.bytes.load(Relaxed);
    read_all(&rigs, &files).await;
    let again = source.bytes.load(Relaxed) - before;
    assert!(again < bytes_of(&files) / 20, "a third of {} is the new node's, and had from those whose it was: {again}", bytes_of(&files));
    let (fill, keeps) = (rigs[2].node.fill(), holders(&rigs[2..], &files).iter().sum::<usize>());
    assert!(fill.metrics().peer_bytes.get() > 0 && keeps > 0, "{keeps} blocks");
    // One without this node changes nothing.
    let refused = rigs[2].node.set_peers(&cache.list[..2]).unwrap_err();
    assert_eq!(refused.to_string(), "join the cache: node-2 is not in its list of nodes");
    read_all(&rigs, &files).await;
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_read_of_anothers_block_brings_its_bytes_only() {
    let (source, cache) = (MemorySource::new(), Cache::new(2));
    let len = 8_000_000;
    source.put(b"large", pattern(1, len));
    let rigs = cache.serve_all(&source, "  rules: [{ path: /, localCopy: Never }]\n").await;
    let found = rigs[0].find("large").await.unwrap();
    let object = rigs[0].fs().file_of_entry(&rigs[0].fs().manifest().unwrap(), forebay_manifest::EntryIndex(0)).unwrap().0.object;
    // Far enough apart not to be taken for a sequence, whichever blocks are whose.
    let mut others: Vec<u32> = Vec::new();
    for index in (1..120).filter(|index| owner_of(&rigs, BlockId { object: object.id, index: BlockIndex(*index) }) == 1) {
        if others.last().is_none_or(|last| index >= last + 8) {
            others.push(index);
        }
    }
    assert!(others.len() > 4, "{others:?}");
    // Each block twice: the first is read by its owner directly, the second fills it there.
    for (index, inside) in others.iter().rev().map(|index| (index, 1_000)).chain(others.iter().rev().map(|index| (index, 45_000))) {
        let offset = u64::from(*index) * BLOCK + inside;
        assert_eq!(rigs[0].read(found.id, offset, 4096).await.unwrap(), pattern(1, len)[offset as usize..][..4096]);
    }
    settle_all(&rigs).await;
    assert_eq!(rigs[0].node.fill().metrics().peer_bytes.get(), 2 * 4096 * others.len() as u64);
    assert_eq!(rigs[0].node.fill().metrics().bytes.get(), 0, "the other one asks the source");
    assert_eq!(source.bytes.load(Relaxed), (4096 + BLOCK) * others.len() as u64);
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proving_a_large_object_on_every_node_costs_the_source_its_bytes_once() {
    let (memory, cache) = (MemorySource::new(), Cache::new(2));
    let len = 5 * BLOCK as usize + 100;
    memory.put(b"large", pattern(3, len));
    let source = Spoiling::summed(memory);
    let mut rigs = Vec::new();
    for number in 0..2 {
        let node = cache.start(number, 1 << 30);
        let handle = SourceHandle::wrap(source.clone(), Limits::default(), RetryPolicy::default());
        let spec = spec("  verify: Strict\n  rules: [{ path: /, localCopy: Never }]\n");
        let dataset = node.add_with(spec, Path::new("/nowhere"), vec![handle]).unwrap();
        rigs.push(Arc::new(Rig { node, dataset }));
    }
    let readers = rigs.iter().map(|rig| {
        let rig = rig.clone();
        tokio::spawn(async move {
            rig.listed().await;
            assert!(rig.read_path("large").await.unwrap() == pattern(3, len));
        })
    });
    futures::future::try_join_all(readers).await.unwrap();
    settle_all(&rigs).await;
    assert_eq!(source.reads.load(Relaxed), 6, "each block once");
    assert!(rigs.iter().all(|rig| rig.node.fill().metrics().verified.get() == 1));
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_blocks_and_frees_go_from_node_to_node() {
    let (source, cache) = (MemorySource::new(), Cache::new(2));
    let files = fill(&source, 40);
    let rigs = cache.serve_all(&source, "").await;
    let (peers, dataset) = (rigs[0].node.shared().unwrap().0.peers().clone(), DatasetId::new("tests/t").unwrap());
    // The other's list of files, if it is newer than none; a file like any manifest.
    let ask = |than| ManifestRequest { dataset: dataset.clone(), than, refresh: false };
    let Listed::Newer(head, answer) = peers.manifest(&name(1), &ask((0, 0))).await.unwrap() else { panic!("it has a list of files") };
    let copy = cache.folder.path().join("copy.manifest");
    std::fs::write(&copy, answer.whole().await.unwrap()).unwrap();
    let (copied, own) = (forebay_manifest::Manifest::open(&copy).unwrap(), rigs[1].fs().manifest().unwrap());
    assert_eq!(copied.summary(), own.summary());
    let same = peers.manifest(&name(1), &ask((head.term, head.sequence))).await.unwrap();
    assert!(matches!(same, Listed::Same(state) if state.error.is_empty()));
    // A block that is pushed is held, and the source isn't asked.
    let own = rigs[0].fs().manifest().unwrap();
    let mut first = None;
    forebay_node::fs::for_each_below(&own, b"/", &mut |entry, _| first = first.or(Some(entry))).unwrap();
    let (file, path) = rigs[0].fs().file_of_entry(&own, first.unwrap()).unwrap();
    let path = String::from_utf8(path).unwrap();
    let path = path.trim_start_matches('/').to_owned();
    let block = BlockRef {
        dataset: dataset.clone(),
        object: file.object,
        key: file.key.0.clone(),
        version: file.version.0.clone(),
        index: BlockIndex(0),
    };
    let bytes = pattern(files[&path] as u64, files[&path]).slice(..(BLOCK as usize).min(files[&path]));
    assert!(peers.store(&name(1), &StoreRequest { block: block.clone(), by_demand: false }, bytes.clone()).await.unwrap());
    assert!(rigs[1].node.store().contains(&file.object, BlockIndex(0)));
    let held = ReadRequest {
        block: block.clone(),
        extent: Extent::new(0, bytes.len() as u64).unwrap(),
        want: Want::Held,
        background: false,
        elsewhere: false,
    };
    assert_eq!(peers.read(&name(1), &held).await.unwrap().whole().await.unwrap(), bytes);
    assert_eq!(source.bytes.load(Relaxed), 0);
    // A key that isn't the object's is no block of this data set.
    let other = BlockRef { key: "other".into(), ..block };
    let refused = peers.read(&name(1), &ReadRequest { block: other, ..held.clone() }).await.unwrap().whole().await.unwrap_err();
    assert!(matches!(refused, PeerError::Refused { refusal: Refusal::Malformed(_), .. }), "{refused:?}");
    let freed = peers.free(&name(1), &FreeRequest { dataset, paths: vec!["/".to_owned()] }).await.unwrap();
    assert_eq!((freed.files, freed.bytes), (1, bytes.len() as u64));
    let refused = peers.read(&name(1), &held).await.unwrap().whole().await.unwrap_err();
    assert!(matches!(refused, PeerError::Refused { refusal: Refusal::NotHeld, .. }), "{refused:?}");
    stop_all(rigs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_each_node_holds_and_who_cannot_say() {
    let (source, cache) = (MemorySource::new(), Cache::new(3));
    let files = fill(&source, 60);
    let total = bytes_of(&files);
    let mut rigs = cache.serve_all(&source, "  rules: [{ path: /, localCopy: Never }]\n").await;
    let nodes = async |rigs: &[Arc<Rig>]| rigs[0].node.status(Scope::Cache).await.datasets.remove(0).nodes;
    let before = nodes(&rigs).await;
    assert_eq!(before.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["node-0", "node-1", "node-2"]);
    let sum = |nodes: &[NodeCoverage], count: fn(&NodeCoverage) -> u64| nodes.iter().map(count).sum::<u64>();
    assert_eq!((sum(&before, |node| node.own_bytes), sum(&before, |node| node.own_files)), (total, files.len() as u64), "{before:?}");
    assert_eq!(sum(&before, |node| node.held_bytes), 0);
    read_all(&rigs[..1], &files).await;
    settle_all(&rigs).await;
    // A walk is at most as old as its pause.
    let limit = Instant::now() + Duration::from_secs(30);
    let after = loop {
        let after = nodes(&rigs).await;
        if sum(&after, |node| node.held_bytes) == total {
            break after;
        }
        assert!(Instant::now() < limit, "{after:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(after.iter().all(|node| node.held_bytes == node.own_bytes && node.held_files == node.own_files), "{after:?}");
    assert_eq!(sum(&after, |node| node.copied_bytes), 0, "the reader kept nothing of others'");
    assert!(rigs[0].node.status(Scope::Node).await.datasets[0].nodes.is_empty());
    stop_all(vec![rigs.pop().unwrap()]).await;
    let lost = nodes(&rigs).await;
    assert!(lost[2].unknown.contains("node-2") && lost[..2].iter().all(|node| node.unknown.is_empty()), "{lost:?}");
    stop_all(rigs).await;
}
