//! Several nodes that load everything ahead of use.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::super::node::{Node, find};
use super::super::{BUCKET, Suite};
use super::cold;
use super::peers::Cache;
use crate::compare::{Side, compare};
use crate::report::Goal;
use crate::workload::Pass;
use crate::{get, measure};

const NODES: usize = 4;
/// Of the bare copier, as many as a copier that is tuned for small files has.
const COPIES_AT_ONCE: usize = 64;
/// Each pair moves all data twice.
const PRELOAD_PAIRS: usize = 3;
const PRELOADED_WITHIN: Duration = Duration::from_secs(900);
const ASK_EVERY: Duration = Duration::from_millis(200);

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
