//! The CSI driver of Forebay: what kubelet asks for, and the mounts behind it.
//! Knows CSI, paths below kubelet's folder, sessions. Does not know the Kubernetes API, the data, or a source's credentials.
//! Invariant: which mounts exist is what the kernel's table says; memory holds only what a new process can't read from there.

pub mod cli;

mod attach;
mod cache_node;
mod driver;
mod error;
mod identity;
mod kubelet;
mod locks;
mod metrics;
mod node;
mod registration;
mod session;
mod sessions;
mod status;
mod target;
mod volume;
