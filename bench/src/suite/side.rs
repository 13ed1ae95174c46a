//! One pass of one side, with the CPU of everything that served it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::compare::Side;
use crate::measure;
use crate::workload::{self, Workload};

/// Client and the processes `pids` together. They are looked up by the caller: a fresh mount has new ones.
pub(crate) fn pass(workload: &Workload, folder: &Path, files: &[(PathBuf, u64)], epoch: u64, pids: &[u32]) -> Result<Side> {
    let before = measure::cpu_of(pids);
    let pass = workload::run(workload, folder, files, epoch)?;
    let cpu = pass.cpu + measure::cpu_of(pids).saturating_sub(before);
    Ok(Side { pass, cpu })
}
