//! What other programs see of this crate: schemas, examples.
#![expect(clippy::unwrap_used, reason = "tests")]

mod examples;
mod schema;
