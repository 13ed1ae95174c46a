//! What crosses a process: the Dataset file, the node's own file, units, ids, secrets and the control service.
//! Knows formats and what a valid value is. Does not know Kubernetes, FUSE, files on disk, or how anything is done.
//! Invariant: a value of a type outside a `file` module is valid; nothing here prints a secret.

pub mod block;
mod check;
pub mod control_service;
pub mod csi;
pub mod dataset_spec;
pub mod glob;
pub mod id;
pub mod node_config;
pub mod node_service;
pub mod peer_message;
pub mod problem;
pub mod reach;
pub mod rule;
pub mod schema;
pub mod secret;
pub mod unit;
pub mod versioned;
pub mod volume_service;
mod yaml;
