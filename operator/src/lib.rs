//! The operator: turns Datasets and CachePolicies into cache nodes, volumes and what each node is told, and tells back how it went.
//! Knows Kubernetes, what is desired and what was observed. Does not know FUSE, blocks, or the inside of a source.
//! Invariant: what a pass decides is a pure function of what it observed; the API server's answer alone says what was applied.

pub mod authority;
pub mod cache_policy;
pub mod clean;
pub mod cli;
pub mod clients;
pub mod context;
pub mod dataset;
pub mod error;
pub mod event;
pub mod follow;
pub mod gate;
pub mod lease;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod node_set;
pub mod nodes;
pub mod roll;
pub mod run;
pub mod selector;
pub mod taint;
