//! `forebay-node`: mounts a data set as a folder, and tells about it.

use std::process::ExitCode;

fn main() -> ExitCode {
    forebay_node::cli::main().into()
}
