//! `kubectl-forebay`: kubectl finds it by its name and runs it as `kubectl forebay`.

use std::process::ExitCode;

fn main() -> ExitCode {
    forebay_plugin::cli::main().into()
}
