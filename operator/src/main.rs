//! `forebay-operator`: watches Datasets and CachePolicies of one cluster.

use std::process::ExitCode;

fn main() -> ExitCode {
    forebay_operator::cli::main().into()
}
