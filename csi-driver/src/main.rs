//! `forebay-csi`: mounts data sets for the pods of one machine, and keeps the mounts while everything else is restarted.

use std::process::ExitCode;

fn main() -> ExitCode {
    forebay_csi::cli::main().into()
}
