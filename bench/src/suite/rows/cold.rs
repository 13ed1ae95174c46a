//! Reading what is not in the store yet.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::side::pass;
use super::super::{BUCKET, Figures, Suite};
use crate::compare::{Side, compare};
use crate::report::Goal;
use crate::statistics::{median, spread};
use crate::workload::{self, Order, Workload, files_below};
use crate::{get, serve};

/// Reads and GETs at once in the cold rows.
const PARALLEL: usize = 8;
const FILES: Workload = Workload::Files { threads: PARALLEL, order: Order::Shuffled };

pub(super) fn keys(suite: &Suite, prefix: &str) -> Result<Vec<(String, u64)>> {
    let root = suite.local("");
    let key = |(path, size): (std::path::PathBuf, u64)| {
        let key = path.strip_prefix(&root)?.to_str().context("a generated name is UTF-8")?.to_owned();
        Ok((key, size))
    };
    files_below(&suite.local(prefix))?.into_iter().map(key).collect()
}

pub(super) fn epoch(suite: &mut Suite) -> Result<()> {
    let mut node = suite.node(&suite.setup("cold", &["small"]))?;
    let keys = keys(suite, "small")?;
    node.mount()?;
    let files = files_below(&node.mount_point())?;
    let result = compare(
        suite.scale.pairs,
        |epoch| {
            let pass = get::all(suite.endpoint()?, BUCKET, &keys, PARALLEL, epoch)?;
            Ok(Side { cpu: pass.cpu, pass })
        },
        |epoch| {
            node.remount_empty()?;
            pass(&FILES, &node.mount_point(), &files, epoch, &node.pids())
        },
    )?;
    let note = format!("{PARALLEL} readers against {PARALLEL} GETs");
    suite.row("cold-epoch", "files/s", Goal::AtLeast(0.9), &result, node.memory(), note);
    suite.push(
        "cold-epoch-cpu",
        "us/file",
        Goal::AtMost(1.5),
        Figures::cpu_of(&result),
        node.memory(),
        "client and daemon, without the server".to_owned(),
    );
    node.unmount()
}

pub(super) fn first_byte(suite: &mut Suite) -> Result<()> {
    let mut node = suite.node(&suite.setup("cold", &["small"]))?;
    let keys = keys(suite, "small")?;
    let (mut controls, mut candidates) = (Vec::new(), Vec::new());
    let millis = |waits: &[Duration]| median(&waits.iter().map(|wait| wait.as_secs_f64() * 1e3).collect::<Vec<_>>());
    for _ in 0..suite.scale.pairs {
        node.remount_empty()?;
        let files = files_below(&node.mount_point())?;
        // Far apart, so that no read-ahead within a folder has fetched them; the first warms the connection up.
        let step = (files.len() / suite.scale.first_byte_files).max(1);
        let chosen: Vec<_> = keys.iter().step_by(step).cloned().collect();
        controls.push(millis(&get::first_bytes(suite.endpoint()?, BUCKET, &chosen)?[1..]));
        let mut waits = Vec::new();
        for (path, _) in files.iter().step_by(step) {
            let begin = Instant::now();
            let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            ensure!(file.read(&mut [0; 1])? == 1, "{} is empty", path.display());
            waits.push(begin.elapsed());
        }
        candidates.push(millis(&waits[1..]));
    }
    let later: Vec<f64> = controls.iter().zip(&candidates).map(|(control, candidate)| candidate - control).collect();
    let figures =
        Figures { control: median(&controls), forebay: median(&candidates), ratio: median(&later), spread: spread(&later), samples: later };
    suite.push("cold-first-byte", "ms", Goal::AtMost(1.0), figures, node.memory(), "the ratio column is the difference in ms".to_owned());
    node.unmount()
}

pub(super) fn source_bytes(suite: &mut Suite) -> Result<()> {
    for prefix in ["small", "large"] {
        let mut node = suite.node(&suite.setup("cold", &[prefix]))?;
        node.remount_empty()?;
        let files = files_below(&node.mount_point())?;
        let bytes: u64 = files.iter().map(|(_, size)| size).sum();
        let before = serve::counted(suite.endpoint()?)?;
        for epoch in 0..2 {
            workload::drop_pages(&files)?;
            workload::run(&FILES, &node.mount_point(), &files, epoch)?;
        }
        let after = serve::counted(suite.endpoint()?)?;
        let fetched = (after.body_bytes - before.body_bytes) as f64;
        let figures = Figures::quotient(bytes as f64, fetched);
        let note = format!("{} GETs for {} files, two epochs", after.gets - before.gets, files.len());
        suite.push(&format!("source-bytes-{prefix}"), "bytes", Goal::AtMost(1.01), figures, node.memory(), note);
        node.unmount()?;
    }
    Ok(())
}
