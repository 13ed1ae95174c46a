//! What the commands print: text for people, JSON for programs.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Output;
use super::commands::MountStatus;
use crate::control::{DatasetStatus, FailedFile, NodeCoverage, PreloadProgress, PreloadState};
use crate::doctor::{Finding, Level};

pub(super) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("error: write JSON: {error}"),
    }
}

pub(super) fn bytes(count: u64) -> HumanBytes {
    HumanBytes(count)
}

pub(super) fn findings(findings: &[Finding]) {
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "OK  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        println!("{level} {}: {}", finding.check, finding.found);
        if let Some(cure) = &finding.cure {
            println!("     -> {cure}");
        }
    }
}

pub(super) fn status(mounts: &[MountStatus]) {
    if mounts.is_empty() {
        println!("nothing is mounted; `forebay-node mount dataset.yaml ./data` mounts a data set");
    }
    for mount in mounts {
        println!("{} on {}", mount.name, mount.mount_point);
        if let Some(problem) = &mount.problem {
            println!("  problem   {problem}");
        }
        let Some(node) = &mount.node else { continue };
        for dataset in &node.datasets {
            self::dataset(dataset);
        }
        for tier in &node.tiers {
            println!(
                "  tier      {}: {} of {} used, {} free on the disk",
                tier.path,
                bytes(tier.used_bytes),
                bytes(tier.capacity_bytes),
                bytes(tier.free_bytes)
            );
            if !tier.degraded.is_empty() {
                println!("  degraded  {}: {}", tier.path, tier.degraded);
            }
            if !tier.too_small.is_empty() {
                println!("  too small {}: {}", tier.path, tier.too_small);
            }
        }
        for peer in &node.peers {
            println!(
                "  node      {} at {}{}",
                peer.name,
                peer.address,
                if peer.bypassed { ": does not answer, reads go around it" } else { "" }
            );
        }
        println!("  daemon    pid {}, version {}, up {}", node.pid, node.version, HumanDuration(node.uptime));
    }
}

/// What each node of a cache holds, and all together.
fn nodes(nodes: &[NodeCoverage]) {
    let share = |held: u64, own: u64| (u128::from(held) * 100).checked_div(u128::from(own)).unwrap_or(100);
    for node in nodes {
        if !node.unknown.is_empty() {
            println!("  held      {}: not known: {}", node.node, node.unknown);
            continue;
        }
        let lacking = if node.lacking_copies > 0 { format!(", {} copies lack", HumanCount(node.lacking_copies)) } else { String::new() };
        println!(
            "  held      {}: {} of its {} ({} %), {} of {} files, {} of others{lacking}",
            node.node,
            bytes(node.held_bytes),
            bytes(node.own_bytes),
            share(node.held_bytes, node.own_bytes),
            HumanCount(node.held_files),
            HumanCount(node.own_files),
            bytes(node.copied_bytes)
        );
    }
    let known: Vec<&NodeCoverage> = nodes.iter().filter(|node| node.unknown.is_empty()).collect();
    if nodes.len() > 1 {
        let sum = |count: fn(&NodeCoverage) -> u64| known.iter().map(|node| count(node)).sum::<u64>();
        let (held, own) = (sum(|node| node.held_bytes), sum(|node| node.own_bytes));
        println!(
            "  held      by {} of {} nodes together: {} of {} ({} %), and {} of copies",
            known.len(),
            nodes.len(),
            bytes(held),
            bytes(own),
            share(held, own),
            bytes(sum(|node| node.copied_bytes))
        );
    }
}

fn dataset(dataset: &DatasetStatus) {
    println!("  source    {}", dataset.sources.join(", "));
    println!("  files     {} in {} folders, {}", HumanCount(dataset.files), HumanCount(dataset.directories), bytes(dataset.bytes));
    let percent = (u128::from(dataset.cached_bytes) * 100).checked_div(u128::from(dataset.bytes)).unwrap_or(100);
    println!("  cached    {} ({percent} %), {} files", bytes(dataset.cached_bytes), HumanCount(dataset.cached_files));
    let ratio = dataset.hit_ratio().map_or_else(String::new, |ratio| format!(" ({:.1} %)", ratio * 100.0));
    println!("  reads     {} hits{ratio}, {} misses", HumanCount(dataset.hits), HumanCount(dataset.misses));
    println!(
        "  from      cache {}, other nodes {}, source {}",
        bytes(dataset.read_store_bytes),
        bytes(dataset.read_peer_bytes),
        bytes(dataset.read_source_bytes)
    );
    println!(
        "  fetched   {} in {} requests, {} errors; {} less than was read",
        bytes(dataset.source_bytes),
        HumanCount(dataset.source_requests),
        HumanCount(dataset.source_errors),
        bytes(dataset.saved_bytes())
    );
    if let Some(quota) = dataset.quota_bytes {
        println!("  quota     {} of {} used", bytes(dataset.stored_bytes), bytes(quota));
        let over = dataset.preload.as_ref().map_or(0, |preload| preload.bytes_over_quota);
        if over > 0 {
            println!(
                "  quota     keeps out {} of what rules and preload ask for: raise spec.quota, or ask for less by preload.paths or maxBytes",
                bytes(over)
            );
        }
    }
    if dataset.priority != 0 {
        println!("  priority  {}", dataset.priority);
    }
    if dataset.lacking_copies > 0 {
        println!("  copies    {} that are to be here and could not be brought yet", HumanCount(dataset.lacking_copies));
    }
    nodes(&dataset.nodes);
    if !dataset.lister.is_empty() {
        println!("  lister    {}", dataset.lister);
    }
    match dataset.manifest.age {
        Some(age) => println!(
            "  manifest  {} (term {}, sequence {}), {} old",
            dataset.manifest.version,
            dataset.manifest.term,
            dataset.manifest.sequence,
            HumanDuration(age)
        ),
        None => println!("  manifest  none yet: folders are listed when they are read"),
    }
    if dataset.listing.running {
        println!("  listing   {} keys so far, {} requests", HumanCount(dataset.listing.keys), HumanCount(dataset.listing.requests));
    }
    if !dataset.listing.error.is_empty() {
        println!("  listing   failed: {}", dataset.listing.error);
    }
    if let Some(progress) = &dataset.preload {
        println!("  preload   {}", line(progress));
    }
    if dataset.unreachable_keys > 0 {
        println!("  keys      {} that no path can name", HumanCount(dataset.unreachable_keys));
    }
    for file in &dataset.failed_files {
        println!("  failed    {}: {}", file.path, file.cause);
    }
    println!("  serving   {}", dataset.serving);
    if let Some(mount) = &dataset.mount {
        let passthrough =
            if mount.passthrough { "passthrough".to_owned() } else { format!("no passthrough: {}", mount.without_passthrough) };
        let resend = if mount.resend { "a daemon's death is a pause" } else { "a daemon's death ends the mount: no RESEND in this kernel" };
        println!("  kernel    {passthrough}; {resend}");
    }
    for reason in &dataset.degraded {
        println!("  degraded  {reason}");
    }
}

fn line(progress: &PreloadProgress) -> String {
    let state = match progress.state {
        PreloadState::Waiting => "waits for the list of files",
        PreloadState::Running => "runs",
        PreloadState::Paused => "is paused",
        PreloadState::Done => "is done",
        PreloadState::Failed => "is done, with failed files",
    };
    let left = progress.bytes_total.saturating_sub(progress.bytes_done).checked_div(progress.bytes_per_second);
    let left = match left {
        Some(seconds) if progress.state == PreloadState::Running => format!(", {} left", HumanDuration(Duration::from_secs(seconds))),
        _ => String::new(),
    };
    let through = match (progress.files_read_through, progress.bytes_read_through) {
        (0, 0) => String::new(),
        (files, through) => {
            let quota = match progress.bytes_over_quota {
                0 => String::new(),
                over => format!(" ({} for the quota)", bytes(over)),
            };
            format!(", {} files and {} left to the source: the cache would not keep them{quota}", HumanCount(files), bytes(through))
        }
    };
    let verified = match (progress.bytes_verified, progress.blocks_mended) {
        (0, 0) => String::new(),
        (verified, mended) => {
            format!(", {} compared with checksums, {} blocks differed and were loaded anew", bytes(verified), HumanCount(mended))
        }
    };
    format!(
        "{state}: {} of {} files, {} of {}, {}/s{left}, {} failed{through}{verified}",
        HumanCount(progress.files_done),
        HumanCount(progress.files_total),
        bytes(progress.bytes_done),
        bytes(progress.bytes_total),
        bytes(progress.bytes_per_second),
        HumanCount(progress.files_failed),
    )
}

/// A sample of what failed, with the causes; the rest is counted.
pub(super) fn failed_files(files: &[FailedFile], count: u64) {
    for file in files {
        println!("failed {}: {}", file.path, file.cause);
    }
    let more = count.saturating_sub(files.len() as u64);
    if more > 0 {
        println!("failed {} more: see the daemon's log", HumanCount(more));
    }
}

/// A bar on a terminal, nothing elsewhere; with JSON one object a line.
pub(super) struct Bar {
    bar: ProgressBar,
    format: Output,
}

impl Bar {
    pub(super) fn new(format: Output) -> Self {
        let target = match format {
            Output::Text => ProgressDrawTarget::stderr(),
            Output::Json => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {bytes}/{total_bytes} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, format }
    }

    pub(super) fn show(&self, progress: &PreloadProgress) {
        match self.format {
            Output::Text => {
                self.bar.set_length(progress.bytes_total);
                self.bar.set_position(progress.bytes_done);
                self.bar.set_message(line(progress));
            }
            Output::Json => println!("{}", serde_json::to_string(progress).unwrap_or_default()),
        }
    }

    pub(super) fn finish(&self, progress: &PreloadProgress) {
        self.bar.finish_and_clear();
        if self.format == Output::Text {
            println!("preload {}", line(progress));
        }
    }
}
