//! What needs more than the types: the files made from them, objects as people write them, and a real API server.
#![expect(clippy::unwrap_used, reason = "tests")]

mod apiserver;
mod generated;
mod objects;
