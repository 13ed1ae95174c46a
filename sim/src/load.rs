//! Readers: what a training job asks of each node, and whether it gets it.
//! Knows files and their right bytes. Does not know where they come from.

use std::sync::Arc;
use std::time::Duration;

use forebay_wire::block::Extent;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::cache::{Alive, Cache};
use crate::chance::Chance;

/// Reads of one node at once.
pub(crate) const READERS: usize = 8;
/// A read that takes longer is lost.
const READ_WITHIN: Duration = Duration::from_secs(120);
/// Complaints that are told in words.
const TOLD_MAX: usize = 20;

/// What all readers saw.
#[derive(Default)]
pub(crate) struct Seen {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reads: u64,
    bytes: u64,
    /// Never answered.
    lost: u64,
    failed: u64,
    wrong: u64,
    told: Vec<String>,
    millis: Vec<u32>,
}

/// In figures.
#[derive(Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) reads: u64,
    pub(crate) bytes: u64,
    pub(crate) bad: u64,
    /// Of one read, in milliseconds.
    pub(crate) p50: u32,
    pub(crate) p99: u32,
    pub(crate) most: u32,
}

impl Seen {
    pub(crate) fn figures(&self) -> Figures {
        let mut state = self.state.lock();
        state.millis.sort_unstable();
        let at = |part: f64| state.millis.get((state.millis.len() as f64 * part) as usize).copied().unwrap_or(0);
        let most = state.millis.last().copied().unwrap_or(0);
        let bad = state.lost + state.failed + state.wrong;
        Figures { reads: state.reads, bytes: state.bytes, bad, p50: at(0.5), p99: at(0.99), most }
    }

    /// What went wrong, in words.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut complaints = state.told.clone();
        if state.lost + state.failed + state.wrong > complaints.len() as u64 {
            complaints.push(format!("in all {} reads were lost, {} failed, {} had other bytes", state.lost, state.failed, state.wrong));
        }
        complaints
    }

    fn complain(&self, count: impl FnOnce(&mut State) -> &mut u64, what: String) {
        let mut state = self.state.lock();
        *count(&mut state) += 1;
        if state.told.len() < TOLD_MAX {
            state.told.push(what);
        }
    }
}

/// Reads a file on a node and compares its bytes; nothing counts if the node is killed meanwhile.
async fn read(cache: &Cache, number: usize, alive: &Alive, file: u32, seen: &Seen) {
    let Ok(object) = cache.file(alive, file) else {
        return seen.complain(|state| &mut state.failed, format!("file {file} is not in the list of node {number}"));
    };
    let size = cache.data.size(file);
    let Some(extent) = Extent::new(0, size) else { return };
    let begin = Instant::now();
    let asked = timeout(READ_WITHIN, alive.dataset.fs.reader().read(&object, extent, true));
    let outcome = tokio::select! {
        biased;
        () = alive.killed.cancelled() => return,
        outcome = asked => outcome,
    };
    match outcome {
        Ok(Ok(bytes)) if bytes == cache.data.bytes(file, 0, size) => {
            let mut state = seen.state.lock();
            state.reads += 1;
            state.bytes += size;
            state.millis.push(u32::try_from(begin.elapsed().as_millis()).unwrap_or(u32::MAX));
        }
        Ok(Ok(_)) => seen.complain(|state| &mut state.wrong, format!("file {file} has other bytes on node {number}")),
        Ok(Err(error)) => {
            let text = forebay_node::fill::chain(&error);
            seen.complain(|state| &mut state.failed, format!("file {file} can't be read on node {number}: {text}"));
        }
        Err(_) => seen.complain(|state| &mut state.lost, format!("file {file} never came to node {number}: a lost fetch")),
    }
}

/// Each node reads `count` files, all where there are no more, each in an order of its own, all nodes at once.
pub(crate) async fn epoch(cache: &Arc<Cache>, nodes: &[usize], count: u32, chance: &Chance) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let mut tasks = Vec::new();
    for number in nodes.iter().copied() {
        let Some(alive) = cache.alive(number) else { continue };
        let files = shuffled(cache.data.files, count, chance);
        let (cache, seen) = (cache.clone(), seen.clone());
        tasks.push(tokio::spawn(async move {
            let read = |file| read(&cache, number, &alive, file, &seen);
            futures::stream::iter(files).for_each_concurrent(READERS, read).await;
        }));
    }
    for task in tasks {
        if let Err(error) = task.await {
            seen.complain(|state| &mut state.failed, format!("a reader panicked: {error}"));
        }
    }
    seen
}

/// `count` of the files in any order.
fn shuffled(files: u32, count: u32, chance: &Chance) -> Vec<u32> {
    let mut all: Vec<u32> = (0..files).collect();
    chance.shuffle(&mut all);
    all.truncate(count as usize);
    all
}

/// Reads on all nodes that run, with pauses, until `until`. A few files are read more than others.
pub(crate) async fn keep_reading(cache: &Arc<Cache>, nodes: &[usize], until: Instant, pause_ms: u64, seed: u64) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let mut tasks = Vec::new();
    for number in nodes.iter().copied() {
        for reader in 0..2 {
            let (cache, seen) = (cache.clone(), seen.clone());
            let chance = Chance::new(seed ^ (number as u64) << 8 ^ reader);
            tasks.push(tokio::spawn(async move {
                while Instant::now() < until {
                    sleep(chance.millis(pause_ms / 2, pause_ms)).await;
                    let files = if chance.below(4) == 0 { 10.min(cache.data.files) } else { cache.data.files };
                    let file = chance.below(files as usize) as u32;
                    if let Some(alive) = cache.alive(number) {
                        read(&cache, number, &alive, file, &seen).await;
                    }
                }
            }));
        }
    }
    for task in tasks {
        if let Err(error) = task.await {
            seen.complain(|state| &mut state.failed, format!("a reader panicked: {error}"));
        }
    }
    seen
}
