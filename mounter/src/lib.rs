//! Everything that a mount needs besides an answer to its requests: the device, mount(2), INIT, the hand-over record, backing ids, notifications.
//! Knows the kernel's interface. Does not know data sets, CSI or Kubernetes. The one part that needs privileges.
//! Invariant: the record names every backing id that the kernel may hold for an open file, before that file is open.

pub mod abort;
pub mod backing;
pub mod busy;
pub mod device;
pub mod hold;
pub mod init;
pub mod notify;
pub mod protocol;
pub mod record;
pub mod resume;
pub mod run_folder;

pub use resume::give_back;

/// Why a mount could not be made or undone.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("open /dev/fuse: {cause}; load the module with `modprobe fuse`, or give the container the device")]
    Device {
        #[source]
        cause: std::io::Error,
    },
    #[error("mount on {mount_point}: {cause}; {cure}")]
    Mount {
        mount_point: String,
        cure: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("talk FUSE with the kernel: {detail}")]
    Init { detail: String },
    #[error("unmount {mount_point}: busy")]
    Busy { mount_point: String },
    #[error("{op} {path}: {cause}")]
    Io {
        op: &'static str,
        path: String,
        #[source]
        cause: std::io::Error,
    },
}
