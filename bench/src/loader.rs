//! Emulates accelerators behind a loader: how many of them stay busy when their samples come from a folder.
//! An accelerator takes a batch, computes for a fixed time (here: waits), takes the next; readers fill a short queue of batches.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::split_mix::SplitMix;
use crate::workload::read_through;

/// An accelerator counts as fed when it computes for at least this share of the time.
const BUSY_MIN: f64 = 0.9;
/// Batches that wait for each accelerator.
const QUEUE_BATCHES: usize = 2;
/// No search goes beyond: far over what one machine of today can feed.
const ACCELERATORS_MAX: usize = 1024;

/// Bytes a reader asks for at a time; a sample below it comes in one read.
const READ_BYTES: usize = 4 << 20;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Model {
    /// An H100 with ResNet-50 takes 194 MB/s of samples of 110 KB.
    ResNet50,
    /// An H100 with UNet3D takes 2.9 GB/s of large samples; a sample here is a file, or a stretch of one.
    UNet3d,
}

impl Model {
    fn bytes_per_second(self) -> f64 {
        match self {
            Self::ResNet50 => 194e6,
            Self::UNet3d => 2.9e9,
        }
    }
    /// Bytes that one accelerator takes at a time: 0.1 s of work or more.
    fn batch_bytes(self) -> f64 {
        match self {
            Self::ResNet50 => 44e6,
            Self::UNet3d => 300e6,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub(crate) readers: usize,
    pub(crate) length: Duration,
}

/// The largest number of accelerators of which each is busy for nine tenths of the time or more: steps away from `guess` that double, then halves
/// of the gap, so that a good guess takes two trials. Where not even one is, the share of the time that one is busy: below 0.9.
pub(crate) fn fed(model: Model, files: &[(PathBuf, u64)], trial: Trial, guess: f64) -> Result<f64> {
    let mut share_of_one = 0.0;
    let good = search(guess as usize, |accelerators| {
        let share = busy(model, files, accelerators, trial)?;
        if accelerators == 1 {
            share_of_one = share;
        }
        Ok(share >= BUSY_MIN)
    })?;
    Ok(if good == 0 { share_of_one } else { good as f64 })
}

/// The largest number up to `ACCELERATORS_MAX` that `is_good`, if all below a good one are; 0 for none.
fn search(guess: usize, mut is_good: impl FnMut(usize) -> Result<bool>) -> Result<usize> {
    let (mut good, mut bad, mut step) = (0, ACCELERATORS_MAX + 1, 1);
    let mut next = guess.clamp(1, ACCELERATORS_MAX);
    loop {
        if is_good(next)? {
            good = next;
        } else {
            bad = next;
        }
        if bad - good == 1 {
            return Ok(good);
        }
        next = match (good, bad) {
            (_, bad) if bad > ACCELERATORS_MAX => (good + step).min(ACCELERATORS_MAX),
            (0, bad) => bad.saturating_sub(step).max(1),
            (good, bad) => good + (bad - good) / 2,
        };
        step *= 2;
    }
}

/// The share of the time that `accelerators` compute, all together.
fn busy(model: Model, files: &[(PathBuf, u64)], accelerators: usize, trial: Trial) -> Result<f64> {
    let (queue, batches) = mpsc::sync_channel::<f64>(QUEUE_BATCHES * accelerators);
    let batches = Mutex::new(batches);
    let mut order: Vec<usize> = (0..files.len()).collect();
    SplitMix::new(accelerators as u64).shuffle(&mut order);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let compute = Duration::from_secs_f64(model.batch_bytes() / model.bytes_per_second());
    let failure = Mutex::new(None);
    let busy = std::thread::scope(|scope| {
        for _ in 0..trial.readers {
            let (queue, order, next, stop, failure) = (queue.clone(), &order, &next, &stop, &failure);
            scope.spawn(move || {
                let mut buffer = vec![0; READ_BYTES];
                let mut gathered = 0.0;
                while !stop.load(Ordering::Relaxed) {
                    let (path, _) = &files[order[next.fetch_add(1, Ordering::Relaxed) % order.len()]];
                    match read_through(path, &mut buffer).context("feed the loader") {
                        Ok(bytes) => gathered += bytes as f64,
                        Err(error) => {
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                    }
                    while gathered >= model.batch_bytes() {
                        gathered -= model.batch_bytes();
                        if queue.send(model.batch_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        drop(queue);
        let workers: Vec<_> = (0..accelerators).map(|_| scope.spawn(|| accelerate(&batches, compute, trial.length))).collect();
        let shares: Vec<f64> = workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).collect();
        stop.store(true, Ordering::Relaxed);
        // Readers that wait for room see the receiver gone.
        drop(std::mem::replace(&mut *batches.lock().unwrap_or_else(PoisonError::into_inner), mpsc::sync_channel(1).1));
        shares.iter().sum::<f64>() / shares.len().max(1) as f64
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(busy),
    }
}

/// One accelerator: takes batches until `length` after its first; the share of that time it computed.
fn accelerate(batches: &Mutex<mpsc::Receiver<f64>>, compute: Duration, length: Duration) -> f64 {
    let take = || batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
    if take().is_err() {
        return 0.0;
    }
    let (begin, mut computed) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < length {
        let end = Instant::now() + compute;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        computed += compute;
        if take().is_err() {
            break;
        }
    }
    computed.as_secs_f64() / begin.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_finds_the_last_good_number_from_any_guess() -> Result<()> {
        for last in [0, 1, 2, 7, 56, 1023, ACCELERATORS_MAX] {
            for guess in [0, 1, 2, 8, 55, 56, 57, 900, 5000] {
                assert_eq!(search(guess, |number| Ok(number <= last))?, last, "guess {guess}");
            }
        }
        let mut trials = 0;
        let found = search(56, |number| {
            trials += 1;
            Ok(number <= 56)
        })?;
        assert_eq!((found, trials), (56, 2));
        Ok(())
    }
}
