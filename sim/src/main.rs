//! Many nodes of one cache in one process, over a simulated network, clock and source: the same seed gives the same run.
//! Knows the parts of a node and how they are joined by `forebay_node::node`. Does not know how they work: what is tested is the real code.
//! Invariant: nothing that a run shows depends on this machine's clock, threads or random numbers, but for the lines that say so.
//!
//! Start at `trial`, one run of whole nodes with faults, and at `scale`, placement and copies over a thousand nodes.

mod cache;
mod census;
mod chance;
mod cli;
mod data;
mod faults;
mod judge;
mod load;
mod net;
mod origin;
mod pipe;
mod scale;
mod trial;

fn main() -> std::process::ExitCode {
    cli::run()
}
