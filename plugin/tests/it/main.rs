//! The plugin's tests from outside: the real program against a real API server.
#![expect(clippy::unwrap_used, reason = "tests")]

mod api_server;
mod changes;
mod looks;
