//! One run of whole nodes: they read everything cold, lose a node, go through faults while they read, and read everything once more.
//! Knows the order of things and what must hold after each. Does not know how a node does it.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use forebay_wire::block::{BlockId, BlockIndex};
use tokio::time::{Instant, sleep};

use crate::cache::{Cache, Terms};
use crate::chance::Chance;
use crate::faults::{self, AFTERMATH, Done};
use crate::judge::{Judge, Reason};
use crate::load::{self, Figures};
use crate::origin::{Totals, Watch};

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) files: u32,
    /// Files that each node reads in an epoch.
    pub(crate) reads: u32,
    /// For how long things go wrong, in the simulation's time.
    pub(crate) faults: Duration,
}

/// Copies are where they belong after so long, or something is wrong.
const IN_PLACE_WITHIN: Duration = Duration::from_secs(3600);
/// What is moved when a node is lost, over what it had.
const MOVED_MAX: f64 = 1.1;
const ON_ITS_WAY_BYTES: f64 = 65_536.0;

/// What a run found, in words; and what is wrong.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) wrong: Vec<String>,
}

impl Report {
    pub(crate) fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{line}");
    }
    pub(crate) fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }
    fn readers(&mut self, phase: &str, seen: &load::Seen) {
        let Figures { reads, bytes, bad, p50, p99, most } = seen.figures();
        self.line(&format!("{phase}: {reads} reads, {bytes} bytes, {bad} bad; p50 {p50} ms, p99 {p99} ms, longest {most} ms"));
        self.wrong.extend(seen.complaints().into_iter().map(|complaint| format!("{phase}: {complaint}")));
    }
}

/// What the seed makes of the data set's rules.
fn terms(chance: &Chance) -> Terms {
    let copies_min = 1 + chance.below(2) as u32;
    let copies_max = copies_min + [0, 0, 3][chance.below(3)];
    let local_copy = ["Never", "Hot"][chance.below(2)];
    Terms { copies_min, copies_max, local_copy, preload: chance.below(3) == 0 }
}

pub(crate) async fn run(seed: u64, size: Size) -> Result<Report> {
    let mut report = Report::default();
    let chance = Chance::new(seed);
    let terms = terms(&chance);
    let cache = Cache::new(seed, size.files, terms)?;
    let judge = Judge::new(cache.clone());
    let watch: Arc<dyn Watch> = judge.clone();
    let _ = cache.origin.watch.set(Arc::downgrade(&watch));
    let begin = Instant::now();
    report.line(&format!("seed {seed}: {} nodes, {} files, {} blocks; {terms:?}", size.nodes, size.files, cache.data.blocks()));
    for _ in 0..size.nodes {
        let number = cache.add();
        cache.members.lock().push(number);
    }
    let all: Vec<usize> = cache.members.lock().clone();
    for number in &all {
        cache.start(*number)?;
    }
    cold(&cache, &all, size, &chance, &mut report).await;
    if terms.copies_min > 1 {
        in_place(&cache, "copies of what was read", Instant::now(), &mut report).await;
        lose_one(&cache, &chance, &mut report).await?;
    }
    let before = cache.origin.totals();
    let again = judge.again();
    let until = Instant::now() + size.faults;
    let (seen, done) = {
        let readers = load::keep_reading(&cache, &all, until + Duration::from_secs(5), 400, seed);
        let raging = async { tokio::join!(readers, faults::rage(&cache, until, &chance)) };
        let (seen, done) = tokio::select! {
            both = raging => both,
            () = cache.census.keep_taking(&cache) => unreachable!("it never ends"),
        };
        (seen, done?)
    };
    raged(&cache, &seen, done, before, &mut report);
    sleep(AFTERMATH).await;
    faults::tell_all(&cache, &chance).await?;
    if terms.copies_min > 1 {
        in_place(&cache, "copies after the faults", Instant::now(), &mut report).await;
    }
    sleep(AFTERMATH * 2).await;
    calm(&cache, size, &chance, &judge, &mut report).await;
    let reasons = judge.again().into_iter().map(|(reason, count)| format!("{reason:?} {}", count - again.get(&reason).unwrap_or(&0)));
    report.line(&format!("blocks read again, by the reason: {}", reasons.collect::<Vec<_>>().join(", ")));
    report.wrong.extend(judge.complaints());
    cache.census.take(&cache);
    report.wrong.extend(cache.census.complaints());
    let (connections, bytes) = cache.net.totals();
    report.line(&format!(
        "network: {connections} connections, {bytes} bytes; {:.1} s in the simulation's time",
        begin.elapsed().as_secs_f64()
    ));
    for number in cache.running() {
        cache.kill(number, false).await?;
    }
    Ok(report)
}

/// All nodes read at once what nobody has: each block costs the source one read.
async fn cold(cache: &Arc<Cache>, all: &[usize], size: Size, chance: &Chance, report: &mut Report) {
    let begin = Instant::now();
    let seen = load::epoch(cache, all, size.reads, chance).await;
    report.readers("cold", &seen);
    let Totals { reads, bytes, blocks, most } = cache.origin.totals();
    let per_block = reads as f64 / blocks.max(1) as f64;
    let took = begin.elapsed().as_secs_f64();
    report.line(&format!("source: {reads} reads of {blocks} blocks, {per_block:.4} a block, at most {most}; {bytes} bytes; {took:.1} s"));
    report.demand(most <= 1, || format!("cold: a block was read {most} times from the source, {reads} reads of {blocks} blocks"));
    let balance = balance(cache);
    report.line(&format!("balance: nodes own {:.3} to {:.3} of their share of the blocks", balance.0, balance.1));
}

/// The least and the most that a node owns, as parts of an equal share.
fn balance(cache: &Cache) -> (f64, f64) {
    let running = cache.running();
    let Some(alive) = running.iter().map(|number| cache.alive(*number)).collect::<Option<Vec<_>>>() else { return (0.0, 0.0) };
    let mut owned = vec![0_u32; alive.len()];
    for_each_block(cache, |_, block, _| {
        for (at, alive) in alive.iter().enumerate() {
            owned[at] += u32::from(alive.node.fill().owns(block));
        }
    });
    let share = cache.data.blocks() as f64 / alive.len() as f64;
    let part = |count: Option<&u32>| f64::from(*count.unwrap_or(&0)) / share;
    (part(owned.iter().min()), part(owned.iter().max()))
}

fn for_each_block(cache: &Cache, mut visit: impl FnMut(u32, BlockId, u64)) {
    for file in 0..cache.data.files {
        let object = cache.data.object(file);
        for index in (0..cache.data.blocks_of(file)).map(BlockIndex) {
            let bytes = crate::data::block_size().extent(index, object.size).map_or(0, |extent| extent.len());
            visit(file, BlockId { object: object.id, index }, bytes);
        }
    }
}

/// Of the blocks that some node has: those that fewer nodes have than are to, and those that nobody has.
fn lacking(cache: &Cache) -> (u64, u64) {
    let running = cache.running();
    let Some(alive) = running.iter().map(|number| cache.alive(*number)).collect::<Option<Vec<_>>>() else { return (0, 0) };
    let Some((neighbours, _)) = alive.first().and_then(|alive| alive.node.shared()) else { return (0, 0) };
    let (view, min) = (neighbours.view(), cache.copies_min());
    let (mut lacking, mut absent) = (0, 0);
    for_each_block(cache, |file, block, _| {
        let object = cache.data.object(file);
        let has = |at: usize| alive[at].node.store().contains(&object, block.index);
        let holders = view.holders(block, min);
        let names = holders.others.iter().filter_map(|name| running.iter().position(|number| crate::cache::name(*number) == *name));
        let to_have: Vec<usize> = names.chain(holders.own.then_some(0)).collect();
        if to_have.iter().all(|at| has(*at)) {
            return;
        }
        match (0..alive.len()).any(has) {
            true => lacking += 1,
            false => absent += 1,
        }
    });
    (lacking, absent)
}

/// Waits until each block that some node has is on all nodes that are to have it.
async fn in_place(cache: &Arc<Cache>, what: &str, begin: Instant, report: &mut Report) -> Duration {
    let left = loop {
        let (left, _) = lacking(cache);
        if left == 0 || begin.elapsed() > IN_PLACE_WITHIN {
            break left;
        }
        // Each look goes through all blocks.
        sleep((begin.elapsed() / 20).max(Duration::from_millis(10))).await;
    };
    let took = begin.elapsed();
    report.line(&format!("{what}: in place after {:.2} s", took.as_secs_f64()));
    report.demand(left == 0, || format!("{what}: {left} blocks are on fewer nodes than they are to be after {IN_PLACE_WITHIN:?}"));
    took
}

fn moved(cache: &Cache) -> u64 {
    let fills = cache.running().into_iter().filter_map(|number| cache.alive(number));
    fills.map(|alive| alive.node.fill().metrics().peer_bytes.get() + alive.node.fill().metrics().copies.sent_bytes.get()).sum()
}

/// A node is lost, and nobody reads: what it had is made again from the other copies.
async fn lose_one(cache: &Arc<Cache>, chance: &Chance, report: &mut Report) -> Result<()> {
    let running = cache.running();
    let number = running[chance.below(running.len())];
    let Some(alive) = cache.alive(number) else { return Ok(()) };
    let mut had = 0;
    for_each_block(cache, |file, block, bytes| {
        let object = cache.data.object(file);
        let is_to_have = alive.node.shared().is_some_and(|(neighbours, _)| neighbours.holds(block, cache.copies_min()));
        had += if is_to_have && alive.node.store().contains(&object, block.index) { bytes } else { 0 };
    });
    drop(alive);
    let source = cache.origin.totals().bytes;
    let mut done = Done::default();
    let left: Vec<usize> = running.iter().copied().filter(|other| *other != number).collect();
    let own = cache.alive(number).map_or(0, |alive| {
        let metrics = alive.node.fill().metrics();
        metrics.peer_bytes.get() + metrics.copies.sent_bytes.get()
    });
    let before = moved(cache) - own;
    // Each node is told at another moment, within two seconds: that is part of it.
    let told_at = faults::lose(cache, number, chance, &mut done).await?;
    let took = in_place(cache, "a node lost", told_at, report).await;
    let (moved, again) = (moved(cache) - before, cache.origin.totals().bytes - source);
    let part = moved as f64 / had.max(1) as f64;
    report.line(&format!(
        "a node lost: it had {had} bytes; {moved} were moved, {part:.3} of that, by {} nodes in {:.2} s; {again} came from the source",
        left.len(),
        took.as_secs_f64()
    ));
    // Beside that a copy that was being handed down when counting began, which is one block at most of so few nodes.
    let moved_max = MOVED_MAX * had as f64 + ON_ITS_WAY_BYTES;
    report.demand(moved as f64 <= moved_max, || format!("a node lost: {moved} bytes were moved where it had {had}"));
    report.demand(again == 0, || format!("a node lost: {again} bytes came from the source, though there were copies"));
    Ok(())
}

fn raged(cache: &Cache, seen: &load::Seen, done: Done, before: Totals, report: &mut Report) {
    report.readers("under faults", seen);
    let totals = cache.origin.totals();
    report.line(&format!("faults: {done:?}"));
    report.line(&format!("source under faults: {} reads, {} bytes", totals.reads - before.reads, totals.bytes - before.bytes));
}

/// All is well again: each block is read from the source at most once more, and only if nobody has it.
async fn calm(cache: &Arc<Cache>, size: Size, chance: &Chance, judge: &Judge, report: &mut Report) {
    let (elsewhere, absent) = lacking(cache);
    // Of one copy, what somebody has who is far down in the ranks isn't found: a few blocks, where nodes stood in for others or several joined at once.
    let may = if cache.copies_min() == 1 { elsewhere + absent } else { absent };
    let (before, reads) = (judge.again(), cache.origin.totals());
    let running = cache.running();
    let seen = load::epoch(cache, &running, size.reads, chance).await;
    report.readers("calm", &seen);
    let again = cache.origin.totals().reads - reads.reads;
    report
        .line(&format!("source when all is well again: {again} reads; {absent} blocks were on no node, {elsewhere} not where they belong"));
    let after = judge.again();
    for reason in [Reason::Troubled, Reason::Doubled] {
        let count = after.get(&reason).unwrap_or(&0) - before.get(&reason).unwrap_or(&0);
        report.demand(count == 0, || format!("calm: {count} blocks were read again from the source: {reason:?}"));
    }
    report.demand(again <= may, || format!("calm: {again} reads of the source, where {may} would do"));
}
