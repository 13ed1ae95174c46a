//! The one place where an error becomes a gRPC code. kubelet repeats whatever fails; the code tells whether the volume may be half made.

use tonic::{Code, Status};

use crate::error::Error;
use forebay_mounter::MountError;

/// The code and the sentence; also for metrics.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(code(error), error.to_string())
}

fn code(error: &Error) -> Code {
    match error {
        Error::Volume(_) | Error::Path(_) | Error::Missing { .. } | Error::Block | Error::Refused { .. } => Code::InvalidArgument,
        Error::NotServable { .. } | Error::Busy { .. } => Code::FailedPrecondition,
        Error::Unknown { .. } | Error::NoCacheNode { .. } | Error::Silent { .. } => Code::Unavailable,
        Error::Pending { .. } => Code::Aborted,
        Error::NotMounted { .. } => Code::NotFound,
        Error::OtherDataset { .. } => Code::AlreadyExists,
        Error::Occupied { .. } | Error::Io { .. } | Error::Broken { .. } => Code::Internal,
        Error::Mount(cause) => match cause {
            MountError::Busy { .. } => Code::FailedPrecondition,
            MountError::Device { .. } | MountError::Mount { .. } | MountError::Init { .. } | MountError::Io { .. } => Code::Internal,
        },
    }
}
