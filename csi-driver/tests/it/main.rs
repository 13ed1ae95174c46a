//! The driver's binary on the real kernel, as root, with a small cache node in a process of its own: both can be killed.
#![expect(clippy::unwrap_used, reason = "tests")]

mod crash;
mod lifecycle;
mod machine;
mod reader;
mod refusals;
mod repeat;
mod stand_in;
