//! Integration tests of the node, one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod fill;
mod fs_model;
mod fuse;
mod holder;
mod memory_source;
mod semantics;
