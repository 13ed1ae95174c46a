//! Integration tests of the sources, one binary: one suite for all of them, and a server that lies.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod lying_server;
mod options;
mod recorder;
mod s3_server;
mod source_suite;
