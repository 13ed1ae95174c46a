//! Between the node's own types and the service's messages, field by field: a new field doesn't compile until it travels.

use std::time::Duration;

use forebay_wire::node_service as wire;

use super::{
    DatasetStatus, DrainProgress, FailedFile, ListingStatus, ManifestStatus, MountStatus, NodeCoverage, NodeStatus, PeerStatus,
    PreloadProgress, PreloadState, TierStatus,
};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<NodeStatus> for wire::StatusReply {
    fn from(status: NodeStatus) -> Self {
        let NodeStatus { version, pid, uptime, datasets, tiers, peers } = status;
        Self {
            version,
            pid,
            uptime_ms: millis(uptime),
            datasets: datasets.into_iter().map(Into::into).collect(),
            tiers: tiers.into_iter().map(Into::into).collect(),
            peers: peers.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::StatusReply> for NodeStatus {
    fn from(reply: wire::StatusReply) -> Self {
        let wire::StatusReply { version, pid, uptime_ms, datasets, tiers, peers } = reply;
        Self {
            version,
            pid,
            uptime: Duration::from_millis(uptime_ms),
            datasets: datasets.into_iter().map(Into::into).collect(),
            tiers: tiers.into_iter().map(Into::into).collect(),
            peers: peers.into_iter().map(Into::into).collect(),
        }
    }
}

/// Both directions for structs whose fields have the same names; `=>` lists those that need `Into`.
macro_rules! same_fields {
    ($ours:ident, $theirs:ident { $($same:ident),* }) => {
        impl From<$ours> for wire::$theirs {
            fn from(value: $ours) -> Self {
                let $ours { $($same),* } = value;
                Self { $($same),* }
            }
        }
        impl From<wire::$theirs> for $ours {
            fn from(value: wire::$theirs) -> Self {
                let wire::$theirs { $($same),* } = value;
                Self { $($same),* }
            }
        }
    };
}

same_fields!(FailedFile, FailedFile { path, cause });
same_fields!(PeerStatus, PeerStatus { name, address, bypassed });
same_fields!(
    NodeCoverage,
    NodeCoverage { node, unknown, held_files, held_bytes, own_files, own_bytes, copied_bytes, lacking_copies, term, sequence }
);
same_fields!(MountStatus, MountStatus { passthrough, without_passthrough, resend });
same_fields!(TierStatus, TierStatus { path, capacity_bytes, used_bytes, free_bytes, degraded, too_small });
same_fields!(ListingStatus, ListingStatus { running, keys, requests, error });

impl From<ManifestStatus> for wire::ManifestStatus {
    fn from(status: ManifestStatus) -> Self {
        let ManifestStatus { version, term, sequence, age } = status;
        Self { version, term, sequence, age_ms: age.map(millis) }
    }
}

impl From<wire::ManifestStatus> for ManifestStatus {
    fn from(status: wire::ManifestStatus) -> Self {
        let wire::ManifestStatus { version, term, sequence, age_ms } = status;
        Self { version, term, sequence, age: age_ms.map(Duration::from_millis) }
    }
}

macro_rules! preload_progress {
    ($($same:ident),*) => {
        impl From<PreloadProgress> for wire::PreloadProgress {
            fn from(progress: PreloadProgress) -> Self {
                let PreloadProgress { state, $($same),* } = progress;
                Self { state: wire::PreloadState::from(state).into(), $($same),* }
            }
        }
        impl From<wire::PreloadProgress> for PreloadProgress {
            fn from(progress: wire::PreloadProgress) -> Self {
                let state = progress.state().into();
                let wire::PreloadProgress { state: _, $($same),* } = progress;
                Self { state, $($same),* }
            }
        }
    };
}

preload_progress!(
    files_done,
    files_total,
    bytes_done,
    bytes_total,
    files_failed,
    bytes_per_second,
    files_read_through,
    bytes_read_through,
    bytes_verified,
    blocks_mended,
    bytes_over_quota
);

impl From<PreloadState> for wire::PreloadState {
    fn from(state: PreloadState) -> Self {
        match state {
            PreloadState::Waiting => Self::Waiting,
            PreloadState::Running => Self::Running,
            PreloadState::Paused => Self::Paused,
            PreloadState::Done => Self::Done,
            PreloadState::Failed => Self::Failed,
        }
    }
}

impl From<wire::PreloadState> for PreloadState {
    fn from(state: wire::PreloadState) -> Self {
        match state {
            wire::PreloadState::Waiting => Self::Waiting,
            wire::PreloadState::Running => Self::Running,
            wire::PreloadState::Paused => Self::Paused,
            wire::PreloadState::Done => Self::Done,
            wire::PreloadState::Failed => Self::Failed,
        }
    }
}

macro_rules! dataset_status {
    ($($same:ident),*) => {
        impl From<DatasetStatus> for wire::DatasetStatus {
            fn from(status: DatasetStatus) -> Self {
                let DatasetStatus { manifest, listing, preload, failed_files, mount, nodes, $($same),* } = status;
                Self {
                    manifest: Some(manifest.into()),
                    listing: Some(listing.into()),
                    preload: preload.map(Into::into),
                    failed_files: failed_files.into_iter().map(Into::into).collect(),
                    mount: mount.map(Into::into),
                    nodes: nodes.into_iter().map(Into::into).collect(),
                    $($same),*
                }
            }
        }
        impl From<wire::DatasetStatus> for DatasetStatus {
            fn from(status: wire::DatasetStatus) -> Self {
                let wire::DatasetStatus { manifest, listing, preload, failed_files, mount, nodes, $($same),* } = status;
                Self {
                    manifest: manifest.unwrap_or_default().into(),
                    listing: listing.unwrap_or_default().into(),
                    preload: preload.map(Into::into),
                    failed_files: failed_files.into_iter().map(Into::into).collect(),
                    mount: mount.map(Into::into),
                    nodes: nodes.into_iter().map(Into::into).collect(),
                    $($same),*
                }
            }
        }
    };
}

dataset_status!(
    name,
    mount_point,
    sources,
    files,
    directories,
    bytes,
    cached_files,
    cached_bytes,
    hits,
    misses,
    source_bytes,
    source_requests,
    source_errors,
    unreachable_keys,
    serving,
    degraded,
    read_store_bytes,
    read_peer_bytes,
    read_source_bytes,
    lister,
    lacking_copies,
    quota_bytes,
    stored_bytes,
    priority
);

impl From<DrainProgress> for wire::DrainProgress {
    fn from(progress: DrainProgress) -> Self {
        let DrainProgress { blocks, moved, moved_bytes, left, done } = progress;
        Self { blocks, moved, moved_bytes, left, done }
    }
}

impl From<wire::DrainProgress> for DrainProgress {
    fn from(progress: wire::DrainProgress) -> Self {
        let wire::DrainProgress { blocks, moved, moved_bytes, left, done } = progress;
        Self { blocks, moved, moved_bytes, left, done }
    }
}
