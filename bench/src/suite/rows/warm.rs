//! Reading what is in the store already.

use std::path::PathBuf;

use anyhow::Result;

use super::super::node::{Node, Serving};
use super::super::side::pass;
use super::super::{Figures, Suite};
use crate::compare::{Comparison, compare};
use crate::loader::{self, Model, Trial};
use crate::report::Goal;
use crate::workload::{self, Order, Workload, files_below};

/// What is done to the candidate before each of its passes, outside the clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing: its page cache answers where it can.
    Keep,
    /// Its pages are dropped, entries and inodes stay: what data larger than memory looks like.
    DropPages,
    /// A fresh mount; the store's pages are in memory.
    Remount,
}

const FILES_1: Workload = Workload::Files { threads: 1, order: Order::Shuffled };
const FILES_2: Workload = Workload::Files { threads: 2, order: Order::Shuffled };
const FILES_8: Workload = Workload::Files { threads: 8, order: Order::Shuffled };

/// Control and candidate in turns over the same files.
fn against(suite: &Suite, node: &mut Node, prefix: &str, below: &str, workload: &Workload, before: Before) -> Result<Comparison> {
    let (local, mounted) = (suite.local(prefix), node.mount_point().join(below));
    let (local_files, mounted_files) = (files_below(&local)?, files_below(&mounted)?);
    compare(
        suite.scale.pairs,
        |epoch| pass(workload, &local, &local_files, epoch, &[]),
        |epoch| {
            match before {
                Before::Keep => {}
                Before::DropPages => workload::drop_pages(&mounted_files)?,
                Before::Remount => {
                    node.remount()?;
                    node.warm_store_pages()?;
                }
            }
            pass(workload, &mounted, &mounted_files, epoch, &node.pids())
        },
    )
}

pub(super) fn steady(suite: &mut Suite) -> Result<()> {
    let mut node = suite.warm(&suite.setup("small", &["small"]))?;
    // A second pass in the same mount: what became complete in the first is looked up again, and the pages are there.
    let files = files_below(&node.mount_point())?;
    workload::run(&FILES_8, &node.mount_point(), &files, 1)?;
    for (name, workload) in [("steady-threads-1", FILES_1), ("steady-threads-2", FILES_2), ("steady-threads-8", FILES_8)] {
        let result = against(suite, &mut node, "small", "", &workload, Before::Keep)?;
        suite.row(name, "files/s", Goal::AtLeast(0.7), &result, node.memory(), String::new());
        if workload == FILES_8 {
            suite.push("steady-cpu", "us/file", Goal::AtMost(1.5), Figures::cpu_of(&result), node.memory(), "client and daemon".to_owned());
        }
    }
    node.unmount()
}

pub(super) fn fresh(suite: &mut Suite) -> Result<()> {
    let mut node = suite.warm(&suite.setup("small", &["small"]))?;
    let result = against(suite, &mut node, "small", "", &FILES_8, Before::Remount)?;
    suite.row("store-warm-fresh", "files/s", Goal::AtLeast(0.2), &result, node.memory(), "8 threads".to_owned());
    suite.push(
        "store-warm-fresh-cpu",
        "us/file",
        Goal::AtMost(4.0),
        Figures::cpu_of(&result),
        node.memory(),
        "client and daemon".to_owned(),
    );
    node.unmount()
}

pub(super) fn later(suite: &mut Suite) -> Result<()> {
    let mut setup = suite.setup("small", &["small"]);
    setup.serving = Serving::Open;
    let mut node = suite.warm(&setup)?;
    let files = files_below(&node.mount_point())?;
    workload::run(&FILES_8, &node.mount_point(), &files, 1)?;
    let result = against(suite, &mut node, "small", "", &FILES_8, Before::DropPages)?;
    suite.row("store-warm-later", "files/s", Goal::AtLeast(0.35), &result, node.memory(), "8 threads, serving: Open".to_owned());
    suite.push(
        "store-warm-later-cpu",
        "us/file",
        Goal::AtMost(4.0),
        Figures::cpu_of(&result),
        node.memory(),
        "client and daemon".to_owned(),
    );
    node.unmount()
}

pub(super) fn large(suite: &mut Suite) -> Result<()> {
    let mut node = suite.warm(&suite.setup("large", &["large"]))?;
    let mut result = against(suite, &mut node, "large", "", &Workload::Sequential, Before::DropPages)?;
    (result.control, result.candidate) = (result.control_bytes / 1e6, result.candidate_bytes / 1e6);
    suite.row("large-sequential", "MB/s", Goal::AtLeast(0.85), &result, node.memory(), "1 thread, 1 MiB reads, store-warm".to_owned());
    node.unmount()
}

/// Small and large files in one mount, where one serving mode must do for both.
pub(super) fn both(suite: &mut Suite) -> Result<()> {
    let mut node = suite.warm(&suite.setup("both", &["small", "large"]))?;
    let files = files_below(&node.mount_point())?;
    workload::run(&FILES_8, &node.mount_point(), &files, 1)?;
    let small = against(suite, &mut node, "small", "small", &FILES_8, Before::Keep)?;
    suite.row("both-steady-small", "files/s", Goal::Reported, &small, node.memory(), "8 threads, large files in the same mount".to_owned());
    let mut large = against(suite, &mut node, "large", "large", &Workload::Sequential, Before::DropPages)?;
    (large.control, large.candidate) = (large.control_bytes / 1e6, large.candidate_bytes / 1e6);
    suite.row("both-large-sequential", "MB/s", Goal::AtLeast(0.85), &large, node.memory(), "small files in the same mount".to_owned());
    node.unmount()
}

pub(super) fn mmap(suite: &mut Suite) -> Result<()> {
    let mut node = suite.warm(&suite.setup("model", &["model"]))?;
    let mut result = against(suite, &mut node, "model", "", &Workload::Mmap, Before::DropPages)?;
    (result.control, result.candidate) = (result.control_bytes / 1e6, result.candidate_bytes / 1e6);
    let gibibytes = suite.scale.amounts.model_bytes as f64 / f64::from(1 << 30);
    suite.row("mmap-safetensors", "MB/s", Goal::AtLeast(0.85), &result, node.memory(), format!("{gibibytes:.2} GiB, store-warm"));
    node.unmount()
}

pub(super) fn random(suite: &mut Suite) -> Result<()> {
    let mut node = suite.warm(&suite.setup("large", &["large"]))?;
    // A big read takes about as long as five small ones.
    let reads = suite.scale.random_reads;
    for (block, block_name, reads) in [(4 << 10, "4k", reads), (128 << 10, "128k", reads / 5)] {
        for threads in [1, 8, 64] {
            let workload = Workload::Random { block, threads, reads };
            let result = against(suite, &mut node, "large", "", &workload, Before::DropPages)?;
            let Comparison { p50_us, p99_us, control_p50_us, control_p99_us, .. } = result;
            let note =
                format!("p50 {p50_us:.0} us (local {control_p50_us:.0}), p99 {p99_us:.0} us (local {control_p99_us:.0}), store-warm");
            suite.row(&format!("random-{block_name}-threads-{threads}"), "reads/s", Goal::AtLeast(0.8), &result, node.memory(), note);
        }
    }
    node.unmount()
}

pub(super) fn walk(suite: &mut Suite) -> Result<()> {
    let setup = suite.setup("tiny", &["tiny"]);
    let mut node = suite.node(&setup)?;
    node.mount()?;
    let none: Vec<(PathBuf, u64)> = Vec::new();
    let local = suite.local("tiny");
    for (name, before, goal) in [("walk-first", Before::Remount, 0.6), ("walk-second", Before::Keep, 1.0)] {
        let result = compare(
            suite.scale.pairs,
            |epoch| pass(&Workload::Walk, &local, &none, epoch, &[]),
            |epoch| {
                if before == Before::Remount {
                    node.remount()?;
                }
                pass(&Workload::Walk, &node.mount_point(), &none, epoch, &node.pids())
            },
        )?;
        let note = format!("{} files, local entries in memory", suite.scale.amounts.tiny);
        suite.row(name, "entries/s", Goal::AtLeast(goal), &result, node.memory(), note);
    }
    node.unmount()
}

pub(super) fn accelerators(suite: &mut Suite) -> Result<()> {
    let trial = Trial { readers: 8, length: suite.scale.trial };
    for (name, prefix, model) in [("accelerators-resnet50", "small", Model::ResNet50), ("accelerators-unet3d", "large", Model::UNet3d)] {
        let mut node = suite.warm(&suite.setup(prefix, &[prefix]))?;
        let (local, mounted) = (files_below(&suite.local(prefix))?, files_below(&node.mount_point())?);
        // The warm-up; what it found is where the searches that count begin.
        let mut control = loader::fed(model, &local, trial, 1.0)?;
        let mut candidate = loader::fed(model, &mounted, trial, 1.0)?;
        let (mut controls, mut candidates) = (Vec::new(), Vec::new());
        for _ in 0..suite.scale.searches {
            control = loader::fed(model, &local, trial, control)?;
            candidate = loader::fed(model, &mounted, trial, candidate)?;
            controls.push(control);
            candidates.push(candidate);
        }
        let note = "H100s busy over 90 %, 8 reading threads".to_owned();
        suite.push(name, "accelerators", Goal::AtLeast(0.9), Figures::paired(&controls, &candidates), node.memory(), note);
        node.unmount()?;
    }
    Ok(())
}
