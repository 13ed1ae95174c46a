//! Integration tests of the protocol between nodes: real sockets, real certificates. One binary.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod damage;
mod proxy;
mod ranks;
mod rig;
mod trust;
