//! How fast a session is on files that lie in memory, beside the plain local folder: figures to look at, not to pass.
//! `cargo test --release -p forebay-node --test it fuse::speed -- --ignored --nocapture`

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::tree::Plan;
use super::{Bench, can_mount, child};

const READERS: usize = 2;

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Reads all files once, in random order, and tells the rate.
fn epoch(what: &str, paths: &[PathBuf], daemon: Option<u32>) {
    let mut paths = paths.to_vec();
    paths.shuffle(&mut SmallRng::seed_from_u64(1));
    let (cpu_daemon, cpu_client) = (daemon.map_or(0.0, cpu_seconds), cpu_seconds(std::process::id()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in paths.chunks(paths.len().div_ceil(READERS)) {
            scope.spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                for path in part {
                    let mut file = File::open(path).unwrap();
                    while file.read(&mut buffer).unwrap() > 0 {}
                }
            });
        }
    });
    let (seconds, files) = (begun.elapsed().as_secs_f64(), paths.len() as f64);
    let micros = |cpu: f64| 1e6 * cpu / files;
    println!(
        "{what:32} {:8.0} files/s   CPU per file: daemon {:5.1} us, client {:5.1} us",
        files / seconds,
        micros(daemon.map_or(0.0, cpu_seconds) - cpu_daemon),
        micros(cpu_seconds(std::process::id()) - cpu_client),
    );
}

fn walk(what: &str, root: &Path) {
    let begun = Instant::now();
    let mut entries = 0;
    for directory in fs::read_dir(root).unwrap() {
        for file in fs::read_dir(directory.unwrap().path()).unwrap() {
            file.unwrap().metadata().unwrap();
            entries += 1;
        }
    }
    println!("{what:32} {:8.0} entries/s walked and statted", f64::from(entries) / begun.elapsed().as_secs_f64());
}

#[test]
#[ignore = "takes a minute and a quiet machine"]
fn small_files() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let plan = bench.local(Plan {
        directories: 100,
        files_each: 200,
        size_base: 20_000,
        size_step: 7919,
        size_modulus: 180_000,
        ..Plan::default()
    });
    let local: Vec<PathBuf> = (0..plan.files()).map(|file| plan.local.as_ref().unwrap().join(format!("{file:06}"))).collect();
    epoch("ext4, first", &local, None);
    epoch("ext4", &local, None);
    let plans = [
        ("no-open", Plan { no_open: true, ..plan.clone() }),
        ("open answered, keep-cache", plan.clone()),
        ("passthrough", Plan { passthrough_every: 1, ..plan.clone() }),
    ];
    for (name, plan) in plans {
        let mount = bench.mount();
        let daemon = child::daemon(&mount.socket, &plan);
        mount.wait_until_ready();
        let paths: Vec<PathBuf> = (0..plan.files()).map(|file| mount.mount_point.join(plan.path(file))).collect();
        for round in ["fresh", "later", "later"] {
            epoch(&format!("{name}, {round}"), &paths, Some(daemon.0.id()));
        }
        drop(daemon);
        drop(mount);
        let mount = bench.mount();
        let _daemon = child::daemon(&mount.socket, &plan);
        mount.wait_until_ready();
        walk(&format!("{name}, first"), &mount.mount_point);
        walk(&format!("{name}, second"), &mount.mount_point);
    }
    epoch("ext4", &local, None);
}
