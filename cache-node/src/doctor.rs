//! What this machine gives and lacks for a mount, and what to do about it.
//! Knows devices, kernel, memory, disks, and asks the source as `mount` would. Does not know how a mount is made.
//! Invariant: nothing is changed on the machine or in the source.

pub mod source;

use std::fs::OpenOptions;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use forebay_wire::dataset_spec::Dataset;
use forebay_wire::node_config::NodeConfig;
use indicatif::HumanBytes;
use serde::Serialize;

/// Passthrough and RESEND exist since then.
const KERNEL_MIN: (u32, u32) = (6, 9);
/// What the daemon takes with the largest manifest, without the page cache.
const MEMORY_BYTES_MIN: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    Ok,
    /// It works, slower or with a stated cost.
    Warn,
    /// A mount would fail.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do; nothing when all is well.
    pub cure: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), cure: None }
    }
    fn warn(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, found: found.into(), cure: Some(cure.into()) }
    }
    fn fail(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, found: found.into(), cure: Some(cure.into()) }
    }
}

/// All checks: of the machine, of the cache folders, and of the sources of `dataset`. Takes some seconds when a source is slow.
pub async fn examine(dataset: Option<&Dataset>, config: &NodeConfig) -> Vec<Finding> {
    let is_root = rustix::process::geteuid().is_root();
    let mut findings = vec![device(Path::new("/dev/fuse"))];
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    findings.extend(kernel(&release, is_root));
    findings.push(rights(is_root, || std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default()));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .map(|file| std::fs::read_to_string(file).unwrap_or_default());
    findings.push(memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), &limits));
    let mut room = 0;
    for tier in &config.tiers {
        let (finding, bytes) = disk(tier);
        findings.push(finding);
        room += bytes;
    }
    if let Some(dataset) = dataset {
        findings.extend(dataset.notes.iter().map(|note| Finding::ok("dataset", note)));
        findings.extend(source::examine(dataset, config, room).await);
    }
    findings
}

fn device(path: &Path) -> Finding {
    const CHECK: &str = "fuse device";
    let shown = path.display();
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device()) => {
            Finding::ok(CHECK, format!("{shown} can be opened"))
        }
        Ok(_) => Finding::fail(CHECK, format!("{shown} is no device"), "remove it and load the module: modprobe fuse"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::fail(
            CHECK,
            format!("there is no {shown}"),
            "load the module (modprobe fuse); in a container give it the device (--device /dev/fuse)",
        ),
        Err(error) => Finding::fail(
            CHECK,
            format!("open {shown}: {error}"),
            "give this user the right to open it; in a container allow the device (--device /dev/fuse --cap-add SYS_ADMIN)",
        ),
    }
}

fn kernel(release: &str, is_root: bool) -> Vec<Finding> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_MIN {
        let cure = "it works, slower, and when the daemon dies reads fail until it is mounted again; for more use Linux 6.9 or newer";
        return vec![Finding::warn("kernel", format!("Linux {release}: without passthrough and without RESEND"), cure)];
    }
    let resend = Finding::ok("kernel", format!("Linux {release}: a daemon that dies is replaced without a failed read (RESEND)"));
    let passthrough = match is_root {
        true => Finding::ok("passthrough", "complete files are read by the kernel itself"),
        false => Finding::warn(
            "passthrough",
            "only root may use it",
            "it works without, slower; mount as root for local speed with data larger than memory",
        ),
    };
    vec![resend, passthrough]
}

fn rights(is_root: bool, fuse_conf: impl FnOnce() -> String) -> Finding {
    const CHECK: &str = "rights";
    if is_root {
        return Finding::ok(CHECK, "root mounts for every user");
    }
    let found = std::env::split_paths("/usr/bin:/bin:/usr/local/bin").any(|folder| folder.join("fusermount3").exists());
    if !found {
        return Finding::fail(CHECK, "this user can't mount: there is no fusermount3", "install the package fuse3, or mount as root");
    }
    if fuse_conf().lines().any(|line| line.trim() == "user_allow_other") {
        return Finding::ok(CHECK, "fusermount3 mounts, and other users may read");
    }
    Finding::warn(
        CHECK,
        "only this user will be able to read the mount",
        "to let others read, add the line user_allow_other to /etc/fuse.conf, or mount as root",
    )
}

/// `limits` are the contents of the files that hold a control group's limit; `max`, or nothing, is none.
fn memory(meminfo: &str, limits: &[String]) -> Finding {
    const CHECK: &str = "memory";
    let line = |name: &str| meminfo.lines().find_map(|line| line.strip_prefix(name));
    let available =
        line("MemAvailable:").and_then(|rest| rest.trim().split(' ').next()).and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10);
    let limit = limits.iter().filter_map(|text| text.trim().parse::<u64>().ok()).min();
    let Some(usable) = available.into_iter().chain(limit).min() else {
        return Finding::warn(CHECK, "/proc/meminfo can't be read", "mount /proc");
    };
    if usable < MEMORY_BYTES_MIN {
        let cure = format!("the daemon takes up to {} with a large data set: free some, or raise the limit", HumanBytes(MEMORY_BYTES_MIN));
        return Finding::warn(CHECK, format!("{} are free", HumanBytes(usable)), cure);
    }
    Finding::ok(CHECK, format!("{} are free", HumanBytes(usable)))
}

/// The finding, and how many bytes the tier can take.
fn disk(tier: &forebay_wire::node_config::Tier) -> (Finding, u64) {
    const CHECK: &str = "cache folder";
    let shown = tier.path.display();
    // The folder may not be there yet: `mount` creates it.
    let Some(existing) = tier.path.ancestors().find(|folder| folder.exists()) else {
        return (Finding::fail(CHECK, format!("{shown}: no folder above it exists"), "name another with --cache-dir FOLDER"), 0);
    };
    let cure = "name another with --cache-dir FOLDER, or give this user the right to write there";
    if !existing.is_dir() {
        return (Finding::fail(CHECK, format!("{} is no folder", existing.display()), cure), 0);
    }
    if let Err(error) = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        return (Finding::fail(CHECK, format!("write into {}: {error}", existing.display()), cure), 0);
    }
    let statistics = match rustix::fs::statvfs(existing) {
        Ok(statistics) => statistics,
        Err(error) => return (Finding::fail(CHECK, format!("measure {}: {error}", existing.display()), cure), 0),
    };
    if statistics.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return (Finding::fail(CHECK, format!("{} is read-only", existing.display()), cure), 0);
    }
    let total = statistics.f_blocks.saturating_mul(statistics.f_frsize);
    let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
    let room = tier.capacity.of(total).min(free.saturating_sub(tier.keep_free.of(total)));
    let found = format!("{shown}: room for {} ({} free, {} stay free)", HumanBytes(room), HumanBytes(free), tier.keep_free);
    match room {
        0 => (Finding::warn(CHECK, found, "nothing can be cached: free space on that disk, or name another with --cache-dir FOLDER"), 0),
        _ => (Finding::ok(CHECK, found), room),
    }
}

#[cfg(test)]
mod tests;
