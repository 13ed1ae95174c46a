//! The rows, one function each. A function measures and pushes one row or a few that come from the same passes.

mod cold;
mod limits;
mod warm;

use anyhow::Result;

use super::Suite;

type Measure = fn(&mut Suite) -> Result<()>;

/// Names are prefixes of the rows they make; `make bench ROWS="steady walk"` chooses by prefix.
pub(super) const ALL: [(&str, Measure); 14] = [
    ("cold-epoch", cold::epoch),
    ("cold-first-byte", cold::first_byte),
    ("source-bytes", cold::source_bytes),
    ("steady", warm::steady),
    ("store-warm-fresh", warm::fresh),
    ("store-warm-later", warm::later),
    ("large", warm::large),
    ("both", warm::both),
    ("mmap", warm::mmap),
    ("random", warm::random),
    ("walk", warm::walk),
    ("accelerators", warm::accelerators),
    ("hit-ratio", limits::hit_ratio),
    ("memory-limited", limits::memory_limited),
];

pub(super) fn names() -> String {
    ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
