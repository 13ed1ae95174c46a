//! Two ways to do the same, in turns: A B A B. Pairs are compared with each other, so that a slow minute of the machine falls on both.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::statistics::{median, spread};
use crate::workload::Pass;

/// Below this many pairs a quartile says nothing.
pub(crate) const PAIRS_MIN: usize = 5;
/// Rounds that warm both sides and aren't counted.
const WARM_UP_ROUNDS: usize = 1;

/// One side of one pair: the pass, and the CPU of everything that served it (client and daemon).
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) pass: Pass,
    pub(crate) cpu: Duration,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// Candidate's speed over control's, median of the pairs.
    pub(crate) ratio: f64,
    /// Distance between the quartiles of the paired ratios.
    pub(crate) spread: f64,
    /// The ratio of each pair.
    pub(crate) samples: Vec<f64>,
    /// Candidate's CPU per unit over control's, median of the pairs.
    pub(crate) cpu_ratio: f64,
    pub(crate) cpu_spread: f64,
    pub(crate) cpu_samples: Vec<f64>,
    /// Units per second, median.
    pub(crate) control: f64,
    pub(crate) candidate: f64,
    /// Bytes per second, median.
    pub(crate) control_bytes: f64,
    pub(crate) candidate_bytes: f64,
    /// CPU microseconds per unit, median.
    pub(crate) control_cpu_us: f64,
    pub(crate) candidate_cpu_us: f64,
    /// Latencies of the candidate in microseconds, median over the passes; 0 when none were taken.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) control_p50_us: f64,
    pub(crate) control_p99_us: f64,
    /// The spread was over a quarter of the median twice: the speed decides nothing, CPU time does.
    pub(crate) noise: bool,
}

/// Runs `pairs` pairs after the warm-up, and all once more when they were noise. Both closures take the epoch, the same for both of a pair.
pub(crate) fn compare(
    pairs: usize,
    mut control: impl FnMut(u64) -> Result<Side>,
    mut candidate: impl FnMut(u64) -> Result<Side>,
) -> Result<Comparison> {
    let mut round = |offset: u64| -> Result<Comparison> {
        let mut sides = Vec::new();
        for at in 0..WARM_UP_ROUNDS + pairs {
            let epoch = offset + at as u64;
            let pair = (control(epoch)?, candidate(epoch)?);
            if at >= WARM_UP_ROUNDS {
                sides.push(pair);
            }
        }
        Ok(judge(&sides))
    };
    let first = round(0)?;
    if !first.noise {
        return Ok(first);
    }
    round(1000)
}

fn judge(sides: &[(Side, Side)]) -> Comparison {
    let each = |value: &dyn Fn(&(Side, Side)) -> f64| sides.iter().map(value).collect::<Vec<f64>>();
    let cpu_us = |side: &Side| side.cpu.as_secs_f64() * 1e6 / side.pass.units.max(1) as f64;
    let samples = each(&|(a, b)| b.pass.units_per_second() / a.pass.units_per_second());
    let cpu_samples = each(&|(a, b)| cpu_us(b) / cpu_us(a).max(1e-9));
    let micros = |side: &Side, share: f64| side.pass.latency(share).as_secs_f64() * 1e6;
    Comparison {
        ratio: median(&samples),
        spread: spread(&samples),
        cpu_ratio: median(&cpu_samples),
        cpu_spread: spread(&cpu_samples),
        cpu_samples,
        control: median(&each(&|(a, _)| a.pass.units_per_second())),
        candidate: median(&each(&|(_, b)| b.pass.units_per_second())),
        control_bytes: median(&each(&|(a, _)| a.pass.bytes_per_second())),
        candidate_bytes: median(&each(&|(_, b)| b.pass.bytes_per_second())),
        control_cpu_us: median(&each(&|(a, _)| cpu_us(a))),
        candidate_cpu_us: median(&each(&|(_, b)| cpu_us(b))),
        p50_us: median(&each(&|(_, b)| micros(b, 0.5))),
        p99_us: median(&each(&|(_, b)| micros(b, 0.99))),
        control_p50_us: median(&each(&|(a, _)| micros(a, 0.5))),
        control_p99_us: median(&each(&|(a, _)| micros(a, 0.99))),
        noise: spread(&samples) > median(&samples) / 4.0,
        samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(millis: u64) -> Side {
        let elapsed = Duration::from_millis(millis);
        Side { pass: Pass { units: 1000, bytes: 1000, elapsed, ..Pass::default() }, cpu: elapsed }
    }

    #[test]
    fn a_slow_minute_falls_on_both_sides() -> Result<()> {
        let millis = |epoch: u64| if epoch == 3 { 1000 } else { 100 };
        let result = compare(PAIRS_MIN, |epoch| Ok(side(millis(epoch))), |epoch| Ok(side(2 * millis(epoch))))?;
        assert_eq!((result.ratio, result.noise, result.samples.len()), (0.5, false, PAIRS_MIN));
        assert_eq!(result.cpu_ratio, 2.0);
        Ok(())
    }

    #[test]
    fn noise_is_run_again_once() -> Result<()> {
        let mut calls = 0;
        let candidate = |epoch: u64| {
            calls += 1;
            Ok(side(if epoch.is_multiple_of(2) { 50 } else { 200 }))
        };
        assert!(compare(PAIRS_MIN, |_| Ok(side(100)), candidate)?.noise);
        assert_eq!(calls, 2 * (PAIRS_MIN + WARM_UP_ROUNDS));
        Ok(())
    }
}
