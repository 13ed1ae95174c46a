//! What lies between two stores: the protocol of the nodes against the same frames over a bare connection, by the example `peer_bench`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::{Figures, Suite};
use super::generated::told;
use crate::measure::Memory;
use crate::report::Goal;
use crate::statistics::median;

/// Both sides of one measure, a value for each round.
fn rounds(told: &Value, figure: &str) -> Result<(Vec<f64>, Vec<f64>)> {
    let side = |name: &str| -> Result<Vec<f64>> {
        let values = told[figure][name].as_array().with_context(|| format!("peer_bench tells {figure} of {name}: {told}"))?;
        values.iter().map(|value| value.as_f64().context("a round's figure is a number")).collect()
    };
    let (control, forebay) = (side("control")?, side("forebay")?);
    ensure!(control.len() == forebay.len() && !control.is_empty(), "peer_bench tells as many rounds of both sides: {told}");
    Ok((control, forebay))
}

fn figures(told: &Value, figure: &str) -> Result<Figures> {
    let (control, forebay) = rounds(told, figure)?;
    Ok(Figures::paired(&control, &forebay))
}

pub(super) fn wire(suite: &mut Suite) -> Result<()> {
    let mut command = suite.example("peer_bench")?;
    let milliseconds = suite.scale.trial.as_millis() / 4;
    command.args([milliseconds.to_string(), (suite.scale.pairs + 1).to_string()]);
    for told in told(command)? {
        let row = told["row"].as_str().context("a measure has a name")?;
        let name = format!("peers-wire-{row}");
        let none = Memory::default();
        if row.ends_with("latency") {
            let (echo_p99, p99) = rounds(&told, "p99_us")?;
            let note = format!(
                "p50 of a read of 128 KiB; p99 {:.0} us (echo {:.0}); the control is an echo of as many bytes over bare TCP",
                median(&p99),
                median(&echo_p99)
            );
            suite.push(&name, "us", Goal::AtMost(3.0), figures(&told, "p50_us")?, none, note);
        } else {
            let cpu = figures(&told, "cpu_ns_per_kib")?;
            let note = format!("both sides on this machine; CPU {:.2} x; the control is the same frames over a bare connection", cpu.ratio);
            let megabytes = |figures: Figures| Figures { control: figures.control / 1e6, forebay: figures.forebay / 1e6, ..figures };
            suite.push(&name, "MB/s", Goal::AtLeast(0.9), megabytes(figures(&told, "bytes_per_second")?), none, note);
        }
    }
    Ok(())
}
