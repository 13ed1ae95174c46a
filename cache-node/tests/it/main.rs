//! Integration tests of the node, one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod faults;
mod fill;
mod fs_model;
mod fuse;
mod holder;
mod lying_server;
mod memory_source;
mod s3_server;
mod semantics;
mod source_suite;
mod store_model;
