//! What to do with the files below a path: pin, cache as it comes, or never cache; for how long; how many copies.
//! Knows one row of the table. Does not know which row wins for a file: the node's `rules` does.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::DatasetPath;
use crate::unit::ByteSize;

/// How the files below a path are cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CacheMode {
    /// Loaded ahead of use and never evicted.
    Pin,
    /// Cached when read, evicted when space is needed.
    #[default]
    Auto,
    /// Read through; what is cached of it is freed.
    Never,
}

/// Whether a node keeps a copy of its own of what another node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LocalCopy {
    /// It is read from there each time.
    Never,
    /// Of what this node reads again, while nobody has to leave for it.
    #[default]
    Hot,
    /// Of all that this node reads or preloads, on the same terms as what is its own.
    Always,
}

/// How many nodes hold a block: at least `min`, up to `max` when it is read often. 1 <= min <= max.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copies {
    pub min: u32,
    pub max: u32,
}

impl Copies {
    /// The owner's only: what holds where no rule says more.
    pub const ONE: Self = Self { min: 1, max: 1 };
}

/// One row: a field that is `None` comes from the next shorter path that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub path: DatasetPath,
    pub cache: Option<CacheMode>,
    /// Only with `Pin`: pin a stable subset of this size.
    pub max_bytes: Option<ByteSize>,
    pub ttl: Option<Duration>,
    pub copies: Option<Copies>,
    pub local_copy: Option<LocalCopy>,
}
