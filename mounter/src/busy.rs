//! Who keeps a mount busy: processes with an open file, a mapping, a working folder or a root on it, found in /proc.
//! Never touches the mount itself: a stat there could wait for a daemon that is gone.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Most users worth telling.
const USERS_MAX: usize = 16;

/// A process that uses the mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub pid: u32,
    /// The command's name, as in /proc/PID/comm.
    pub name: String,
    /// The path that it holds, or what it is.
    pub holds: String,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({}: {})", self.pid, self.name, self.holds)
    }
}

/// Processes that hold something at or below `mount_point`. Only what this user may read in /proc is seen.
pub fn users(mount_point: &Path) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let holds = holding(&entry.path(), mount_point)?;
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
            Some(User { pid, name, holds })
        })
        .take(USERS_MAX)
        .collect()
}

/// What the process below `process` (a folder of /proc) holds at or below `mount_point`. Links are read, never followed.
fn holding(process: &Path, mount_point: &Path) -> Option<String> {
    for (link, what) in [("cwd", "working folder"), ("root", "root")] {
        if let Ok(target) = fs::read_link(process.join(link))
            && target.starts_with(mount_point)
        {
            return Some(format!("{what} {}", target.display()));
        }
    }
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if let Ok(target) = fs::read_link(entry.path())
            && target.starts_with(mount_point)
        {
            return Some(format!("open {}", target.display()));
        }
    }
    let maps = fs::read(process.join("maps")).ok()?;
    let prefix = mount_point.to_str()?;
    String::from_utf8_lossy(&maps)
        .lines()
        .filter_map(|line| line.split_once('/').map(|(_, rest)| format!("/{rest}")))
        .find(|path| Path::new(path).starts_with(prefix))
        .map(|path| format!("mapping of {path}"))
}
