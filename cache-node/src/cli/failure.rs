//! Every error that reaches the user: its words and its exit code, in one place.

use std::error::Error;
use std::fmt;

use forebay_daemon::exit::Exit;
use forebay_daemon::logging::chain;
use forebay_daemon::run::RunError;
use forebay_mounter::MountError;
use forebay_wire::problem::Problems;

use crate::access::AccessError;
use crate::cluster::ClusterError;
use crate::control::ClientError;
use crate::doctor::source::ProbeError;
use crate::holder::HolderError;
use crate::node::NodeError;
use crate::peer::PeerSetupError;
use forebay_source::SourceError;
use forebay_store::StoreError;

/// What is printed behind `error: `, and how the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
    fn of(exit: Exit, error: &dyn Error) -> Self {
        Self::new(exit, chain(error).to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Problems> for Failure {
    fn from(error: Problems) -> Self {
        Self::of(Exit::Usage, &error)
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        Self::of(of_access(&error), &error)
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::of(of_source(&error), &error)
    }
}

/// The same whether `mount` finds it out or the daemon.
fn of_source(error: &SourceError) -> Exit {
    match error {
        SourceError::NotFound { .. } | SourceError::Missing { .. } => Exit::NoInput,
        SourceError::Denied { .. } | SourceError::Archived { .. } => Exit::Permission,
        SourceError::Permanent { .. } | SourceError::Unaskable { .. } => Exit::Usage,
        SourceError::Replaced { .. } | SourceError::Throttled { .. } => Exit::Temporary,
        SourceError::Unavailable { .. } | SourceError::Corrupt { .. } => Exit::Unavailable,
    }
}

fn of_access(error: &AccessError) -> Exit {
    match error {
        AccessError::NoFolder { .. }
        | AccessError::NotGiven { .. }
        | AccessError::NoRole { .. }
        | AccessError::Incomplete { .. }
        | AccessError::Unusable { .. } => Exit::Usage,
        AccessError::Read { cause, .. } if cause.kind() == std::io::ErrorKind::PermissionDenied => Exit::Permission,
        AccessError::Read { .. } => Exit::Usage,
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::InUse { .. } => Exit::Temporary,
        StoreError::NotWritable { .. } | StoreError::Format { .. } => Exit::CannotCreate,
        StoreError::Config { .. } => Exit::Usage,
        StoreError::Io { .. } => Exit::Io,
        StoreError::Misuse { .. } => Exit::Internal,
    }
}

impl From<ProbeError> for Failure {
    fn from(error: ProbeError) -> Self {
        match error {
            ProbeError::Access(error) => error.into(),
            ProbeError::Source(error) => error.into(),
        }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Node(error) => error.into(),
            ClusterError::Identity(_) => Self::of(Exit::Usage, &error),
            ClusterError::Listen { .. } => Self::of(Exit::Temporary, &error),
            ClusterError::Serve { .. } => Self::of(Exit::Machine, &error),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let exit = match &error {
            NodeError::BlockSize { .. } | NodeError::Duplicate { .. } => Exit::Usage,
            NodeError::Access(error) => of_access(error),
            NodeError::Store(error) => of_store(error),
            NodeError::Source { cause, .. } => of_source(cause),
            NodeError::Manifest { .. } => Exit::Io,
            NodeError::Holder { .. } | NodeError::Fuse(_) => Exit::Machine,
            NodeError::Peers(PeerSetupError::Listen { .. }) | NodeError::FormerMount { .. } | NodeError::Stopping => Exit::Temporary,
            NodeError::Peers(
                PeerSetupError::Identity(_) | PeerSetupError::Placement(_) | PeerSetupError::Unlisted { .. } | PeerSetupError::Name { .. },
            ) => Exit::Usage,
        };
        Self::of(exit, &error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let exit = match &error {
            RunError::Runtime(_) | RunError::Signals(_) => Exit::Machine,
            RunError::Listen(_) => Exit::Temporary,
        };
        Self::of(exit, &error)
    }
}

impl From<HolderError> for Failure {
    fn from(error: HolderError) -> Self {
        let exit = match &error {
            HolderError::AlreadyMounted { .. } | HolderError::Busy { .. } => Exit::Temporary,
            HolderError::NotMounted { .. } => Exit::NoInput,
            HolderError::Mount { cause, .. } => match cause {
                MountError::Device { .. } | MountError::Init { .. } => Exit::Machine,
                MountError::Mount { .. } | MountError::Io { .. } => Exit::CannotCreate,
                MountError::Busy { .. } => Exit::Temporary,
            },
            HolderError::NotReady { code, .. } => code.and_then(Exit::from_code).unwrap_or(Exit::Unavailable),
            HolderError::Holder(_) => Exit::Unavailable,
            HolderError::Io { .. } => Exit::CannotCreate,
        };
        Self::of(exit, &error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Connect { .. } | ClientError::Lost { .. } => Exit::Unavailable,
            ClientError::NotFound(_) => Exit::NoInput,
            ClientError::Failed(_) => Exit::Unavailable,
        };
        // tonic's own causes say nothing to a user.
        Self::new(exit, error.to_string())
    }
}
