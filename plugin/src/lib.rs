//! What a person asks of data sets in a cluster: how they are, why they aren't as they should be, and a few changes of their fields.
//! Knows Kubernetes, Forebay's kinds, and what a cache node reports of itself. Does not know how anything is done: operator and nodes do.
//! Invariant: it changes fields of a Dataset's spec and nothing else, and has no credential but the user's own kubeconfig.

pub mod change;
pub mod cli;
pub mod cluster;
pub mod doctor;
pub mod error;
pub mod live;
pub mod names;
pub mod observe;
pub mod status;
