//! What goes wrong, by chance: nodes die and come back, with their disk or without; links are cut; nodes are slow; others join or are drained.
//! Knows the cache's nodes. Does not know what is read meanwhile.
//! Invariant: the source is up, and more than half of the nodes are: whoever reads has a right to its bytes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::info;

use crate::cache::Cache;
use crate::chance::Chance;

/// A node that was away, slow or cut off may cost others a request for so long after.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(30);

/// What was done, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) restarts: u32,
    pub(crate) losses: u32,
    pub(crate) joins: u32,
    pub(crate) drains: u32,
    pub(crate) partitions: u32,
    pub(crate) slow: u32,
    pub(crate) source: u32,
}

/// Does something every few seconds until `until`, and mends it again before it returns.
pub(crate) async fn rage(cache: &Arc<Cache>, until: Instant, chance: &Chance) -> Result<Done> {
    let mut done = Done::default();
    while Instant::now() < until {
        sleep(chance.millis(2000, 8000)).await;
        let running = cache.running();
        let number = running[chance.below(running.len())];
        // At least two thirds stay.
        let may_go = running.len() * 3 > cache.members.lock().len() * 2 && running.len() > 3;
        let what = chance.below(8);
        info!(at = cache.seconds(), number, what, "something goes wrong");
        match what {
            0 | 1 if may_go => restart(cache, number, chance, &mut done).await?,
            2 if may_go => {
                lose(cache, number, chance, &mut done).await?;
            }
            3 => join(cache, chance, &mut done).await?,
            4 if may_go => drain(cache, number, chance, &mut done).await?,
            5 => partition(cache, &running, chance, &mut done).await,
            6 => slow(cache, number, chance, &mut done).await,
            7 => source(cache, chance, &mut done).await,
            _ => {}
        }
    }
    Ok(done)
}

fn trouble(cache: &Cache, number: usize) {
    cache.trouble(number, Instant::now() + AFTERMATH);
}

/// Killed, and started again on the same disk; the list of nodes stays.
async fn restart(cache: &Arc<Cache>, number: usize, chance: &Chance, done: &mut Done) -> Result<()> {
    done.restarts += 1;
    cache.trouble(number, Instant::now() + Duration::from_secs(3600));
    cache.kill(number, chance.below(2) == 0).await?;
    sleep(chance.millis(500, 15_000)).await;
    cache.start(number)?;
    cache.settle_trouble(number, Instant::now() + AFTERMATH);
    Ok(())
}

/// Its machine is gone, with the disk; after a while the others are told so. When they began to be told.
pub(crate) async fn lose(cache: &Arc<Cache>, number: usize, chance: &Chance, done: &mut Done) -> Result<Instant> {
    done.losses += 1;
    cache.trouble(number, Instant::now() + Duration::from_secs(3600));
    cache.kill(number, true).await?;
    cache.wipe(number)?;
    sleep(chance.millis(1000, 20_000)).await;
    cache.members.lock().retain(|member| *member != number);
    let told_at = Instant::now();
    tell_all(cache, chance).await?;
    Ok(told_at)
}

async fn join(cache: &Arc<Cache>, chance: &Chance, done: &mut Done) -> Result<()> {
    done.joins += 1;
    let number = cache.add();
    cache.members.lock().push(number);
    cache.start(number)?;
    trouble(cache, number);
    tell_all(cache, chance).await
}

/// What only this node has is moved, then it leaves.
async fn drain(cache: &Arc<Cache>, number: usize, chance: &Chance, done: &mut Done) -> Result<()> {
    done.drains += 1;
    if let Some(alive) = cache.alive(number)
        && let Some(copies) = alive.dataset.copies.clone()
    {
        alive.node.fill().set_draining(true);
        copies.drain(|_| {}).await?;
    }
    trouble(cache, number);
    cache.members.lock().retain(|member| *member != number);
    tell_all(cache, chance).await?;
    cache.kill(number, false).await?;
    cache.wipe(number)
}

/// Everybody hears of another list of nodes, each at a time of its own.
pub(crate) async fn tell_all(cache: &Arc<Cache>, chance: &Chance) -> Result<()> {
    let mut numbers = cache.running();
    chance.shuffle(&mut numbers);
    let all = Duration::from_secs(2);
    let pause = all / u32::try_from(numbers.len().max(1)).unwrap_or(u32::MAX);
    // While their lists differ they don't turn to the same nodes.
    for number in cache.running() {
        cache.trouble(number, Instant::now() + all + AFTERMATH);
    }
    for number in numbers {
        cache.tell(number)?;
        sleep(pause).await;
    }
    Ok(())
}

/// Some nodes don't reach the others, in one direction or in both.
async fn partition(cache: &Arc<Cache>, running: &[usize], chance: &Chance, done: &mut Done) {
    done.partitions += 1;
    let (both, until) = (chance.below(3) > 0, Instant::now() + chance.millis(2000, 20_000));
    let mut side = running.to_vec();
    chance.shuffle(&mut side);
    side.truncate(1 + chance.below((running.len() / 3).max(1)));
    for here in &side {
        for there in running.iter().filter(|there| !side.contains(there)) {
            cache.net.cut(*here, *there);
            if both {
                cache.net.cut(*there, *here);
            }
        }
    }
    for number in running {
        cache.trouble(*number, until + AFTERMATH);
    }
    sleep_until(until).await;
    cache.net.mend_all();
}

async fn slow(cache: &Arc<Cache>, number: usize, chance: &Chance, done: &mut Done) {
    done.slow += 1;
    let until = Instant::now() + chance.millis(2000, 20_000);
    cache.net.slow_down(number, chance.millis(20, 600));
    cache.trouble(number, until + AFTERMATH);
    sleep_until(until).await;
    cache.net.slow_down(number, Duration::ZERO);
}

/// Requests to the source fail now and then; they are asked again, so nobody notices.
async fn source(cache: &Arc<Cache>, chance: &Chance, done: &mut Done) {
    done.source += 1;
    *cache.origin.failing.lock() = chance.between(10, 100);
    sleep(chance.millis(2000, 10_000)).await;
    *cache.origin.failing.lock() = 0;
}
