//! Caches smaller than the data, and memory smaller than the data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

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
                let before = serve::counted(&suite.endpoint)?.body_bytes;
                workload::run(&Workload::Files { threads: 8, order }, &node.mount_point(), &files, epoch)?;
                let fetched = serve::counted(&suite.endpoint)?.body_bytes - before;
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
    let result = compare(suite.scale.pairs, |epoch| group.read(&local, epoch, &[]), |epoch| group.read(&mount_point, epoch, &pids))?;
    let note = format!("8 threads; limit {} MB on reader and daemon, data {} MB", bytes / 2_000_000, bytes / 1_000_000);
    suite.row("memory-limited", "files/s", Goal::Reported, &result, node.memory(), note);
    node.unmount()
}

/// A memory cgroup that ends with the value; its processes go back to the root first.
struct Group {
    folder: PathBuf,
    root: PathBuf,
}

impl Group {
    fn new(limit_bytes: u64) -> Result<Self> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, limit) = if v1.join("cgroup.procs").exists() { (v1, "memory.limit_in_bytes") } else { (v2, "memory.max") };
        let folder = root.join(format!("forebay-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("create the cgroup {} (needs root)", folder.display()))?;
        let group = Self { folder, root: root.to_path_buf() };
        fs::write(group.folder.join(limit), limit_bytes.to_string())
            .with_context(|| format!("limit {} to {limit_bytes} bytes", group.folder.display()))?;
        Ok(group)
    }

    fn take(&self, pid: u32) -> Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("put process {pid} into {}", self.folder.display()))
    }

    /// One epoch by a process of its own inside the group.
    fn read(&self, folder: &Path, epoch: u64, pids: &[u32]) -> Result<Side> {
        let before = measure::cpu_of(pids);
        // The shell joins the group before it becomes the reader, so that no page is charged elsewhere.
        let output = Command::new("sh")
            .arg("-c")
            .arg("echo $$ > \"$1/cgroup.procs\" && exec \"$2\" read \"$3\" --workload files:8 --epoch \"$4\"")
            .arg("sh")
            .arg(&self.folder)
            .arg(std::env::current_exe()?)
            .arg(folder)
            .arg(epoch.to_string())
            .output()?;
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
}

impl Drop for Group {
    fn drop(&mut self) {
        let pids = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines() {
            let _ = fs::write(self.root.join("cgroup.procs"), pid);
        }
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "the cgroup stays");
        }
    }
}
