//! The node of Forebay: sources, manifest, store, fill and the FUSE session that serves them as a folder.
//! Only `node` builds the parts and joins them.

pub mod access;
mod aside;
pub mod cli;
pub mod cluster;
pub mod control;
pub mod copies;
pub mod doctor;
pub mod fill;
pub mod fs;
pub mod fuse;
pub mod handover;
pub mod holder;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod preload;
pub mod reader;
pub mod refresh;
pub mod rules;
