//! The operator's tests from outside: what it builds, what it says, and how it works against a real API server.
#![expect(clippy::unwrap_used, reason = "tests")]

mod api_server;
mod clients;
mod conditions;
mod fake_node;
mod golden;
mod reconcile;
mod wrong_input;
