//! How a process of Forebay starts, logs, measures, tells that it is well, and stops.
//! Knows signals, logs, the metrics endpoint, exit codes. Does not know what the process is for.
//! Invariant: nothing here reads the environment, or a flag but those in `flags`: settings come as arguments.

pub mod exit;
pub mod flags;
pub mod health;
pub mod identity;
pub mod logging;
pub mod metrics;
pub mod run;
pub mod shutdown;
