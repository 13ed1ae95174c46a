//! Integration tests of the node, one binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boundaries;
mod canary;
mod changes;
mod cli;
mod cluster;
mod copies;
mod crash;
mod disk;
mod fill;
mod fs_model;
mod fuse;
mod fuzz_smoke;
mod holder;
mod keys;
mod laptop;
mod manifests;
mod memory_source;
mod peers;
mod preload;
mod pressure;
#[expect(dead_code, reason = "the sources' own tests need more of it")]
#[path = "../../source/tests/it/s3_server.rs"]
mod s3_server;
mod sanity;
mod semantics;
mod strict;
