//! How much memory this process may use, and which folders are memory.

use std::path::Path;

/// The smaller of the machine's memory and the limits of the process' cgroups; 0 when neither can be read.
pub(super) fn limit_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text)).unwrap_or(0);
    cgroup_limit().map_or(machine, |limit| limit.min(machine))
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest `memory.max` from our cgroup up to the root of the unified hierarchy.
fn cgroup_limit() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut folder = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    let mut lowest = None;
    while folder.starts_with("/sys/fs/cgroup") {
        let limit = std::fs::read_to_string(folder.join("memory.max")).ok().and_then(|text| text.trim().parse::<u64>().ok());
        lowest = match (lowest, limit) {
            (Some(lowest), Some(limit)) => Some(std::cmp::min::<u64>(lowest, limit)),
            (lowest, limit) => lowest.or(limit),
        };
        folder = folder.parent()?.to_owned();
    }
    lowest
}

/// Whether the folder (or its nearest parent that exists) is on tmpfs.
pub(super) fn is_tmpfs(path: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let existing = path.ancestors().find(|path| path.exists());
    existing.and_then(|path| rustix::fs::statfs(path).ok()).is_some_and(|stat| stat.f_type == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_is_read_in_kilobytes() {
        assert_eq!(super::meminfo_total("MemFree: 1 kB\nMemTotal:       16303428 kB\n"), Some(16_303_428 * 1024));
        assert_eq!(super::meminfo_total("nothing"), None);
    }
}
