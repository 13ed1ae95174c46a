//! A memory cgroup (version 1 or 2) that ends with the value; processes that are still in it go back to the root first.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub(super) struct Group {
    folder: PathBuf,
    root: PathBuf,
    /// Which file counts processes that were killed for want of memory.
    events: &'static str,
}

impl Group {
    pub(super) fn new(limit_bytes: u64) -> Result<Self> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, limit, events) = if v1.join("cgroup.procs").exists() {
            (v1, "memory.limit_in_bytes", "memory.oom_control")
        } else {
            (v2, "memory.max", "memory.events")
        };
        let folder = root.join(format!("forebay-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("create the cgroup {} (needs root)", folder.display()))?;
        let group = Self { folder, root: root.to_path_buf(), events };
        fs::write(group.folder.join(limit), limit_bytes.to_string())
            .with_context(|| format!("limit {} to {limit_bytes} bytes", group.folder.display()))?;
        Ok(group)
    }

    pub(super) fn take(&self, pid: u32) -> Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("put process {pid} into {}", self.folder.display()))
    }

    /// `program` as a command whose process is in the group from its first instruction on, so that no page is charged elsewhere.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo $$ > \"$0/cgroup.procs\" && exec \"$@\"").arg(&self.folder).arg(program);
        command
    }

    /// How many of its processes were killed for want of memory.
    pub(super) fn killed(&self) -> Result<u64> {
        let path = self.folder.join(self.events);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        killed.and_then(|count| count.trim().parse().ok()).with_context(|| format!("{} counts oom_kill", path.display()))
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
