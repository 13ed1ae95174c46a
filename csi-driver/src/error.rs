//! Why an operation of kubelet failed, in sentences that reach the pod's events.
//! Knows no gRPC: `status` maps.

use forebay_mounter::MountError;
use forebay_mounter::busy::User;

use crate::kubelet::PathError;
use crate::volume::VolumeError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("{field} is missing in the request")]
    Missing { field: &'static str },
    #[error("a data set is a folder of files, no block device: use volumeMode: Filesystem")]
    Block,
    #[error(
        "{volume} isn't known on this node yet: does the Dataset exist, and is its Ready condition true? If it was just created this passes by itself; kubelet tries again"
    )]
    Unknown { volume: String },
    #[error(
        "no cache node runs on this node yet (none answers below {folder}): look at the pods of Forebay's namespace on this node; kubelet tries again"
    )]
    NoCacheNode { folder: String },
    #[error("{detail}")]
    Refused { detail: String },
    #[error("{volume} can't be read now: {detail}")]
    NotServable { volume: String, detail: String },
    #[error("the cache node doesn't answer for {volume}: {detail}; kubelet tries again")]
    Silent { volume: String, detail: String },
    #[error("an earlier operation on volume {volume} isn't done yet; kubelet tries again")]
    Pending { volume: String },
    #[error("no volume of Forebay is mounted at {path}")]
    NotMounted { path: String },
    #[error("something that isn't Forebay's is mounted at {path}: unmount it on the node")]
    Occupied { path: String },
    #[error("another data set is mounted at {path}")]
    OtherDataset { path: String },
    #[error("unmount {path}: in use by {}", shown(.users))]
    Busy { path: String, users: Vec<User> },
    #[error("{op} {path}: {cause}")]
    Io {
        op: &'static str,
        path: String,
        #[source]
        cause: std::io::Error,
    },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("the operation broke off: {detail}")]
    Broken { detail: String },
}

impl Error {
    pub(crate) fn io(op: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| Self::Io { op, path, cause }
    }
}

fn shown(users: &[User]) -> String {
    if users.is_empty() {
        return "a process of another container".to_owned();
    }
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
