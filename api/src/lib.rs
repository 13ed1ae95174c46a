//! Forebay's two kinds of Kubernetes objects: Dataset and CachePolicy.
//! Knows fields, defaults, conditions, and what the API server refuses. Does not know how anything is done, and does no I/O.
//! Invariant: what a Dataset may say is defined in `forebay-wire`, once; here it only gets its Kubernetes form.
//! Changes: within `v1alpha1` a new optional field is safe; a new meaning, a removed field or a narrower value is breaking.
//!
//! Whoever watches these kinds wraps them in `kube`'s `DeserializeGuard`: an object written for a newer version of the types
//! may hold a field that this one doesn't know, and must not stop the list of all others.

pub mod cache_policy;
pub mod condition;
pub mod crd;
pub mod dataset;
pub mod generated;
mod kubernetes;
pub mod quantity;
mod reference;

pub use cache_policy::{CachePolicy, CachePolicySpec, CachePolicyStatus};
pub use dataset::{Dataset, DatasetSpec, DatasetStatus};

/// The API group of both kinds.
pub const GROUP: &str = "forebay.dev";
/// The only version there is yet.
pub const VERSION: &str = "v1alpha1";
