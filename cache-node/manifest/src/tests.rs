//! Manifests against a model: the tree that the rules of `key` give, made with maps.
#![expect(clippy::unwrap_used, reason = "tests")]

mod change;
mod damage;
mod golden;
pub(super) mod model;
mod tree;
