//! Integration tests of the store, one binary: random operations, crashes and damage against a model.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod store_model;
