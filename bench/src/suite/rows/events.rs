//! Several nodes while something happens: they load everything ahead of use, and one of them is lost under load.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::node::{Node, find};
use super::super::{BUCKET, Figures, Suite};
use super::cold;
use super::peers::Cache;
use crate::compare::{Side, compare};
use crate::report::Goal;
use crate::split_mix::SplitMix;
use crate::workload::{Pass, files_below};
use crate::{get, measure, serve};

const NODES: usize = 4;
/// Of the bare copier, as many as a copier that is tuned for small files has.
const COPIES_AT_ONCE: usize = 64;
/// Each pair moves all data twice.
const PRELOAD_PAIRS: usize = 3;
const PRELOADED_WITHIN: Duration = Duration::from_secs(900);
/// Longer than a node that was away is left alone.
const ACQUAINTED_WITHIN: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(200);
const READERS: usize = 8;

/// Four nodes load all of a data set, against a bare parallel copier to a folder of the same disk.
pub(super) fn preload(suite: &mut Suite) -> Result<()> {
    let cache = Cache::new(suite, vec!["1Gi"; NODES])?;
    let mut setup = suite.setup("peers-preload", &["small", "large"]);
    setup.dataset_lines = "  preload: { when: Once }\n".to_owned();
    let mut nodes = (0..NODES).map(|number| cache.node(suite, number, &setup)).collect::<Result<Vec<_>>>()?;
    let keys = [cold::keys(suite, "small")?, cold::keys(suite, "large")?].concat();
    let bytes: u64 = keys.iter().map(|(_, size)| size).sum();
    let folder = suite.options.folder.join("nodes").join("copied");
    let result = compare(
        PRELOAD_PAIRS,
        |epoch| {
            let below = folder.join(epoch.to_string());
            let pass = get::copy_all(suite.endpoint()?, BUCKET, &keys, COPIES_AT_ONCE, &below)?;
            Ok(Side { cpu: pass.cpu, pass })
        },
        |_| {
            nodes.iter_mut().try_for_each(Node::empty)?;
            let begin = Instant::now();
            nodes.iter_mut().try_for_each(Node::begin)?;
            let files = wait_preloaded(&nodes, begin)?;
            let cpu: Duration = nodes.iter().map(|node| measure::cpu_of(&node.pids())).sum();
            ensure!(files >= keys.len() as u64, "{files} of {} files were loaded", keys.len());
            Ok(Side { cpu, pass: Pass { units: keys.len() as u64, bytes, elapsed: begin.elapsed(), cpu, ..Pass::default() } })
        },
    )?;
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    let note = format!(
        "4 nodes, {} files, {:.1} GB, from the mounts to the last block; the control is {COPIES_AT_ONCE} GETs at once into files; 0 failed",
        keys.len(),
        bytes as f64 / 1e9
    );
    suite.row("peers-preload", "files/s", Goal::AtLeast(1.0), &result, nodes[0].memory(), note);
    nodes.iter_mut().try_for_each(Node::unmount)
}

/// Waits until no node goes around another: the first one that starts finds the others away.
fn wait_acquainted(nodes: &[Node]) -> Result<()> {
    let begin = Instant::now();
    for node in nodes {
        while node.status()?.to_string().contains("\"bypassed\":true") {
            ensure!(begin.elapsed() < ACQUAINTED_WITHIN, "{} goes around other nodes", node.mount_point().display());
            std::thread::park_timeout(ASK_EVERY);
        }
    }
    Ok(())
}

/// Waits until each node is done; files that they loaded, those of several nodes more than once.
fn wait_preloaded(nodes: &[Node], begin: Instant) -> Result<u64> {
    let mut files = 0;
    for node in nodes {
        files += loop {
            ensure!(begin.elapsed() < PRELOADED_WITHIN, "{} is not preloaded within {PRELOADED_WITHIN:?}", node.mount_point().display());
            let status = node.status()?;
            let told = find(&status, "preload").cloned().unwrap_or_default();
            let number = |name: &str| told[name].as_u64().unwrap_or(0);
            match told["state"].as_str() {
                Some("Done") => break number("filesDone"),
                Some("Failed") => bail!("{} files of a preload failed", number("filesFailed")),
                _ => std::thread::park_timeout(ASK_EVERY),
            }
        };
    }
    Ok(files)
}

/// One of four nodes is killed with its holder while another reads everything, twice, from all of them.
pub(super) fn lost(suite: &mut Suite) -> Result<()> {
    let cache = Cache::new(suite, vec!["1Gi"; NODES])?;
    let mut setup = suite.setup("peers-lost", &["small"]);
    setup.dataset_lines = "  rules: [{ path: /, localCopy: Never }]\n".to_owned();
    let mut nodes = (0..NODES).map(|number| cache.node(suite, number, &setup)).collect::<Result<Vec<_>>>()?;
    for node in &mut nodes {
        node.remount_empty()?;
    }
    wait_acquainted(&nodes)?;
    let files = files_below(&nodes[0].mount_point())?;
    read_twice(&files, 1, || Ok(()))?;
    let held = |node: &Node| -> Result<u64> {
        let status = node.status()?;
        find(&status, "cachedBytes").and_then(Value::as_u64).context("a node's status has `cachedBytes`")
    };
    let share = held(&nodes[NODES - 1])?;
    let before = serve::counted(suite.endpoint()?)?.body_bytes;
    let mut lost = nodes.pop().context("there are four")?;
    let longest = read_twice(&files, 2, || lost.kill())?;
    let fetched = serve::counted(suite.endpoint()?)?.body_bytes - before;
    let note =
        format!("of a whole file, {READERS} readers on one of 4 nodes, no read failed; another was killed in the first of two epochs");
    suite.push_value("peers-lost-longest", "ms", Goal::AtMost(2000.0), longest.as_secs_f64() * 1e3, nodes[0].memory(), note);
    let note = "what the source was asked for then; the control is what the lost node held".to_owned();
    suite.push("peers-lost-bytes", "bytes", Goal::AtMost(1.1), Figures::quotient(share as f64, fetched as f64), nodes[0].memory(), note);
    nodes.iter_mut().try_for_each(Node::unmount)
}

/// Reads every file twice, shuffled, past the mount's pages; `event` happens when a third of the first epoch is read. The longest read of a file.
fn read_twice(files: &[(PathBuf, u64)], seed: u64, event: impl FnOnce() -> Result<()> + Send) -> Result<Duration> {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    let mut order: Vec<usize> = Vec::new();
    for epoch in 0..2 {
        let mut turn: Vec<usize> = (0..files.len()).collect();
        SplitMix::new(2 * seed + epoch).shuffle(&mut turn);
        order.extend(turn);
    }
    let next = AtomicUsize::new(0);
    let read = || -> Result<Duration> {
        let mut longest = Duration::ZERO;
        while let Some(at) = order.get(next.fetch_add(1, Relaxed)) {
            let (path, size) = &files[*at];
            let begin = Instant::now();
            let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            longest = longest.max(begin.elapsed());
            ensure!(bytes.len() as u64 == *size, "{} has {} bytes instead of {size}", path.display(), bytes.len());
            crate::workload::drop_pages(std::slice::from_ref(&files[*at]))?;
        }
        Ok(longest)
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        while next.load(Relaxed) < files.len() / 3 {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        event()?;
        let mut longest = Duration::ZERO;
        for reader in readers {
            longest = longest.max(reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??);
        }
        Ok(longest)
    })
}
