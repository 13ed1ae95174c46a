//! Integration tests of the node, one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod fuse;
mod s3_server;
mod source_suite;
mod faults;
mod lying_server;
