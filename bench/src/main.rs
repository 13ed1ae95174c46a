//! One client program that measures a folder against another folder, from outside.
//! Knows files, clocks and statistics, and how to run other programs. Does not know the inside of anything it measures.

mod check;
mod cli;
mod compare;
mod data;
mod get;
mod loader;
mod measure;
mod report;
mod s3_generated;
mod serve;
mod split_mix;
mod statistics;
mod suite;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
