//! The rows, in groups: a function measures and pushes the rows that come from the same passes.

mod cold;
mod events;
mod generated;
mod limits;
mod peer_wire;
mod peers;
mod warm;

use anyhow::{Result, ensure};

use super::Suite;
use crate::report::{Goal, Row};

/// Folders of data that a row may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Small,
    Large,
    Tiny,
    Model,
}

pub(super) struct Group {
    /// Begins the name of each of its rows.
    pub(super) name: &'static str,
    /// What it must push: a measure that is left out silently would look like one that is fine.
    rows: &'static [&'static str],
    pub(super) data: &'static [Data],
    pub(super) measure: fn(&mut Suite) -> Result<()>,
}

impl Group {
    /// Whether one of `chosen` begins the name of one of its rows, or its own; all are when nothing is chosen.
    pub(super) fn is_wanted(&self, chosen: &[String]) -> bool {
        let names = || self.rows.iter().chain([&self.name]);
        chosen.is_empty() || chosen.iter().any(|wish| names().any(|name| name.starts_with(wish.as_str())))
    }

    /// Each of its rows is there with a figure, and no other.
    pub(super) fn check(&self, measured: &[Row]) -> Result<()> {
        let names: Vec<&str> = measured.iter().map(|row| row.row.as_str()).collect();
        ensure!(names == self.rows, "measured {names:?} instead of {:?}", self.rows);
        for row in measured {
            // A difference or a count of bytes may be zero or less, a speed may not.
            let has_figure = row.ratio.is_finite() && (row.ratio > 0.0 || matches!(row.goal, Goal::AtMost(_)));
            ensure!(has_figure, "row {} has no ratio: {}", row.row, row.ratio);
        }
        Ok(())
    }
}

/// `make bench ROWS="steady walk"` chooses by the beginnings of rows' names.
pub(super) const ALL: [Group; 25] = [
    Group { name: "cold-epoch", rows: &["cold-epoch", "cold-epoch-cpu"], data: &[Data::Small], measure: cold::epoch },
    Group { name: "cold-first-byte", rows: &["cold-first-byte"], data: &[Data::Small], measure: cold::first_byte },
    Group {
        name: "source-bytes",
        rows: &["source-bytes-small", "source-bytes-large"],
        data: &[Data::Small, Data::Large],
        measure: cold::source_bytes,
    },
    Group {
        name: "steady",
        rows: &["steady-threads-1", "steady-threads-2", "steady-threads-8", "steady-cpu"],
        data: &[Data::Small],
        measure: warm::steady,
    },
    Group { name: "store-warm-fresh", rows: &["store-warm-fresh", "store-warm-fresh-cpu"], data: &[Data::Small], measure: warm::fresh },
    Group { name: "store-warm-later", rows: &["store-warm-later", "store-warm-later-cpu"], data: &[Data::Small], measure: warm::later },
    Group { name: "large-sequential", rows: &["large-sequential"], data: &[Data::Large], measure: warm::large },
    Group { name: "both", rows: &["both-steady-small", "both-large-sequential"], data: &[Data::Small, Data::Large], measure: warm::both },
    Group { name: "mmap-safetensors", rows: &["mmap-safetensors"], data: &[Data::Model], measure: warm::mmap },
    Group {
        name: "random",
        rows: &[
            "random-4k-threads-1",
            "random-4k-threads-8",
            "random-4k-threads-64",
            "random-128k-threads-1",
            "random-128k-threads-8",
            "random-128k-threads-64",
        ],
        data: &[Data::Large],
        measure: warm::random,
    },
    Group { name: "walk", rows: &["walk-first", "walk-second"], data: &[Data::Tiny], measure: warm::walk },
    Group {
        name: "accelerators",
        rows: &["accelerators-resnet50", "accelerators-unet3d"],
        data: &[Data::Small, Data::Large],
        measure: warm::accelerators,
    },
    Group {
        name: "hit-ratio",
        rows: &[
            "hit-ratio-25-shuffled",
            "hit-ratio-25-fixed",
            "hit-ratio-50-shuffled",
            "hit-ratio-50-fixed",
            "hit-ratio-75-shuffled",
            "hit-ratio-75-fixed",
        ],
        data: &[Data::Small],
        measure: limits::hit_ratio,
    },
    Group { name: "pin-60", rows: &["pin-60"], data: &[Data::Small], measure: limits::pin },
    Group { name: "memory-limited", rows: &["memory-limited"], data: &[Data::Small], measure: limits::memory_limited },
    Group {
        name: "manifest-10m",
        rows: &["manifest-10m-bytes", "manifest-10m-build", "manifest-10m-open", "manifest-10m-lookup", "manifest-10m-heap"],
        data: &[],
        measure: generated::manifest,
    },
    Group {
        name: "listing-10m",
        rows: &[
            "listing-10m-even",
            "listing-10m-even-of-bare",
            "listing-10m-even-memory",
            "listing-10m-skewed",
            "listing-10m-skewed-of-bare",
            "listing-10m-skewed-memory",
        ],
        data: &[],
        measure: generated::listing,
    },
    Group {
        name: "restart-1m",
        rows: &["restart-1m-kept", "restart-1m-first-hit", "restart-1m-index"],
        data: &[],
        measure: generated::restart,
    },
    Group {
        name: "peers-wire",
        rows: &[
            "peers-wire-plain-128k-streams-1",
            "peers-wire-plain-128k-streams-8",
            "peers-wire-plain-4m-streams-1",
            "peers-wire-plain-4m-streams-8",
            "peers-wire-plain-latency",
            "peers-wire-tls-128k-streams-1",
            "peers-wire-tls-128k-streams-8",
            "peers-wire-tls-4m-streams-1",
            "peers-wire-tls-4m-streams-8",
            "peers-wire-tls-latency",
        ],
        data: &[],
        measure: peer_wire::wire,
    },
    Group { name: "peers-source-bytes", rows: &["peers-source-bytes"], data: &[Data::Small], measure: peers::source_bytes },
    Group { name: "peers-small", rows: &["peers-small", "peers-small-cpu"], data: &[Data::Small], measure: peers::small },
    Group {
        name: "peers-random",
        rows: &["peers-random-128k-threads-1", "peers-random-128k-threads-8"],
        data: &[Data::Large],
        measure: peers::random,
    },
    Group { name: "peers-preload", rows: &["peers-preload"], data: &[Data::Small, Data::Large], measure: events::preload },
    Group { name: "peers-lost", rows: &["peers-lost-longest", "peers-lost-bytes"], data: &[Data::Small], measure: events::lost },
    Group { name: "memory-10m", rows: &["memory-10m", "memory-10m-group"], data: &[], measure: generated::memory },
];

pub(super) fn names() -> String {
    ALL.iter().flat_map(|group| group.rows).copied().collect::<Vec<_>>().join(", ")
}
