//! What a process has used: CPU of this one by getrusage, of others by /proc, and their memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// User and system time of this process so far.
pub(crate) fn own_cpu() -> Duration {
    let usage = usage();
    let micros = |time: libc::timeval| Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs());
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

fn usage() -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a writable rusage, which the call fills; zeroed is a valid value of it as well.
    unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    }
}

/// User and system time of the processes `pids` so far, all together; one that is gone counts nothing.
pub(crate) fn cpu_of(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|pid| cpu_of_one(*pid)).sum()
}

fn cpu_of_one(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses: the fields begin after the last one. utime and stime are fields 14 and 15.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_micros(ticks * 1_000_000 / ticks_per_second()))
}

fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
}

pub(crate) fn memory_of(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("read the memory of process {pid}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Ok(Memory { resident: field("VmRSS:"), anonymous: field("RssAnon:") })
}
