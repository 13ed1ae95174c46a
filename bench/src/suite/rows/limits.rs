//! Caches smaller than the data, and memory smaller than the data.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::group::Group;
use super::super::node::Serving;
use super::super::{Figures, Suite};
use crate::compare::{Side, compare};
use crate::report::Goal;
use crate::statistics::{median, spread};
use crate::workload::{self, Order, Pass, Workload, files_below};
use crate::{measure, serve};

/// Epochs after the first, which fills.
const HIT_EPOCHS: u64 = 3;

pub(super) fn hit_ratio(suite: &mut Suite) -> Result<()> {
    let bytes: u64 = files_below(&suite.local("small"))?.iter().map(|(_, size)| size).sum();
    for percent in [25, 50, 75] {
        for (name, order) in [("shuffled", Order::Shuffled), ("fixed", Order::Fixed)] {
            let mut setup = suite.setup("part", &["small"]);
            setup.capacity_bytes = Some(bytes * percent / 100);
            setup.serving = Serving::Open;
            let mut node = suite.node(&setup)?;
            node.remount_empty()?;
            let files = files_below(&node.mount_point())?;
            let mut hits = Vec::new();
            for epoch in 0..=HIT_EPOCHS {
                workload::drop_pages(&files)?;
                let before = serve::counted(suite.endpoint()?)?.body_bytes;
                workload::run(&Workload::Files { threads: 8, order }, &node.mount_point(), &files, epoch)?;
                let fetched = serve::counted(suite.endpoint()?)?.body_bytes - before;
                if epoch > 0 {
                    hits.push(1.0 - fetched as f64 / bytes as f64);
                }
            }
            let ceiling = percent as f64 / 100.0;
            let samples: Vec<f64> = hits.iter().map(|hit| hit / ceiling).collect();
            let figures = Figures { control: ceiling, forebay: median(&hits), ratio: median(&samples), spread: spread(&samples), samples };
            let note = "by bytes from the source, epochs 2 to 4; the control is cache / data set".to_owned();
            suite.push(&format!("hit-ratio-{percent}-{name}"), "hits", Goal::AtLeast(0.98), figures, node.memory(), note);
            node.unmount()?;
        }
    }
    Ok(())
}

/// A cache that is as large as what is pinned, 60 % of the data: a stable part of it is hit in every epoch, the rest is read through.
pub(super) fn pin(suite: &mut Suite) -> Result<()> {
    let bytes: u64 = files_below(&suite.local("small"))?.iter().map(|(_, size)| size).sum();
    let pinned = bytes * 60 / 100;
    let mut setup = suite.setup("pinned", &["small"]);
    // A cache pays for whole pages.
    setup.capacity_bytes = Some(pinned * 1018 / 1000);
    setup.dataset_lines = format!("  rules: [{{ path: /, cache: Pin, maxBytes: \"{pinned}\" }}]\n");
    setup.serving = Serving::Open;
    let mut node = suite.node(&setup)?;
    node.remount_empty()?;
    let files = files_below(&node.mount_point())?;
    let mut hits = Vec::new();
    for epoch in 0..=HIT_EPOCHS {
        workload::drop_pages(&files)?;
        let before = serve::counted(suite.endpoint()?)?.body_bytes;
        workload::run(&Workload::Files { threads: 8, order: Order::Shuffled }, &node.mount_point(), &files, epoch)?;
        let fetched = serve::counted(suite.endpoint()?)?.body_bytes - before;
        if epoch > 0 {
            hits.push(1.0 - fetched as f64 / bytes as f64);
        }
    }
    let off: Vec<f64> = hits.iter().map(|hit| (hit - 0.6).abs()).collect();
    let note = format!("hits by bytes from the source in epochs 2 to 4: {hits:.3?}; the ratio column is the largest distance from 0.60");
    let largest = off.iter().copied().fold(0.0, f64::max);
    let figures = Figures { control: 0.6, forebay: median(&hits), ratio: largest, spread: spread(&off), samples: off };
    suite.push("pin-60", "hits", Goal::AtMost(0.01), figures, node.memory(), note);
    node.unmount()
}

/// Reader and daemon in one memory cgroup of half the data's size; the local reader in the same group.
pub(super) fn memory_limited(suite: &mut Suite) -> Result<()> {
    let local = suite.local("small");
    let bytes: u64 = files_below(&local)?.iter().map(|(_, size)| size).sum();
    let mut setup = suite.setup("small", &["small"]);
    setup.serving = Serving::Open;
    let mut node = suite.warm(&setup)?;
    let group = Group::new(bytes / 2)?;
    for pid in node.pids() {
        group.take(pid)?;
    }
    // Pages that were charged to nobody would stay in memory and hide the limit.
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop the page cache (needs root)")?;
    let mount_point = node.mount_point();
    let pids = node.pids();
    let result = compare(
        suite.scale.pairs,
        |epoch| read_inside(&group, &local, epoch, &[]),
        |epoch| read_inside(&group, &mount_point, epoch, &pids),
    )?;
    let note = format!("8 threads; limit {} MB on reader and daemon, data {} MB", bytes / 2_000_000, bytes / 1_000_000);
    suite.row("memory-limited", "files/s", Goal::Reported, &result, node.memory(), note);
    node.unmount()
}

/// One epoch by a process of its own inside the group.
fn read_inside(group: &Group, folder: &Path, epoch: u64, pids: &[u32]) -> Result<Side> {
    let before = measure::cpu_of(pids);
    let mut command = group.command(std::env::current_exe()?);
    command.arg("read").arg(folder).args(["--workload", "files:8", "--epoch", &epoch.to_string()]);
    let output = command.output()?;
    if !output.status.success() {
        bail!("read {} under the limit: {}: {}", folder.display(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let told: Value = serde_json::from_slice(&output.stdout).context("read the reader's JSON")?;
    let number = |name: &str| told[name].as_f64().with_context(|| format!("the reader's JSON has `{name}`"));
    let cpu = Duration::from_secs_f64(number("cpu_seconds")?);
    let pass = Pass {
        units: number("units")? as u64,
        bytes: number("bytes")? as u64,
        elapsed: Duration::from_secs_f64(number("seconds")?),
        cpu,
        latencies: Vec::new(),
    };
    ensure!(pass.units > 0, "{} holds no file", folder.display());
    Ok(Side { cpu: cpu + measure::cpu_of(pids).saturating_sub(before), pass })
}
