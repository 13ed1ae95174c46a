//! Placement and copies of many blocks over many nodes.

use anyhow::Result;

use crate::trial::Report;

pub(crate) fn run(_seed: u64, _nodes: usize, _blocks: u64) -> Result<Report> {
    Ok(Report::default())
}
