//! Storage far away, behind one trait: list keys, ask for one object, read a range of one version.
//! Knows keys, versions, byte ranges, listings. Does not know blocks, node ids or what is cached.
//! Invariant: bytes that `read` yields are of the version that was asked for, or it fails.
//! Start at `open`: it builds the client of a scheme and wraps it in `limit` (how much at once) and `retry` (again, from where it stopped).

pub mod checksum;
pub mod faulty;
pub mod file;
pub mod limit;
pub mod listing;
pub mod metrics;
mod open;
#[doc(hidden)]
pub mod probe;
pub mod retry;
pub mod s3;

pub use checksum::Checksum;
pub use limit::{Limits, Priority, Rates};
pub use metrics::SourceMetrics;
pub use open::{SourceHandle, open};
pub use retry::RetryPolicy;

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use forebay_wire::block::Extent;

/// An object's name in its source, below the source's prefix, as the source spells it: any bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Bytes);

/// What tells two contents of one key apart (an ETag without quotes, a version id, or `mtime-size` for files). Opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub Bytes);

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: Key,
    /// In bytes.
    pub size: u64,
    pub modified: SystemTime,
    pub version: Version,
}

/// One page of keys, in ascending byte order.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Only keys that begin with this (relative to the source's own prefix).
    pub prefix: Bytes,
    /// Only keys strictly after this one.
    pub after: Option<Bytes>,
    /// Only keys before this one; the page may end early, never run past it.
    pub before: Option<Bytes>,
    /// With `true`, keys that hold a `/` after `prefix` are folded into `ListPage::folders`.
    pub one_level: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ListPage {
    pub objects: Vec<Object>,
    /// Common prefixes, each ending in `/`, only with `one_level`.
    pub folders: Vec<Bytes>,
    /// Where to go on (as `after`); `None` at the end of the range.
    pub next: Option<Bytes>,
}

/// The bytes of one range, in order. Ends after exactly the extent's length or with an error, never short.
pub type Body = BoxStream<'static, Result<Bytes, SourceError>>;

#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The source's URI without credentials, for hashes, logs and xattrs: `s3://bucket/prefix/`.
    fn name(&self) -> &str;
    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError>;
    async fn head(&self, key: &Key) -> Result<Object, SourceError>;
    /// Reads `extent` of `version`; `whole` says that the extent is the whole object, whose checksum is then verified where the source gives one.
    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError>;
    /// The sum over all bytes of this version, where the source keeps one: for objects that are read in ranges, whose answers have none.
    /// Wrappers hand it on.
    async fn checksum(&self, _key: &Key, _version: &Version) -> Result<Option<Checksum>, SourceError> {
        Ok(None)
    }
    /// How many seconds its clock is before ours, where it tells the time. Wrappers needn't know.
    fn clock_offset_seconds(&self) -> Option<i64> {
        None
    }
}

/// Why a source didn't give what was asked. `origin` is the source's name.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{}: no such object", asked(.op, .key, .origin))]
    NotFound { op: &'static str, key: String, origin: String },
    #[error("{}: the object has another version now", asked(.op, .key, .origin))]
    Replaced { op: &'static str, key: String, origin: String },
    /// Credentials refused or a permission missing: `cure` names the permission.
    #[error("{}: refused; {cure}", asked(.op, .key, .origin))]
    Denied { op: &'static str, key: String, origin: String, cure: String },
    /// In a storage class that needs a restore first.
    #[error("{}: archived; {cure}", asked(.op, .key, .origin))]
    Archived { op: &'static str, key: String, origin: String, cure: String },
    /// The source asks for fewer requests (503 SlowDown, 429).
    #[error("{}: throttled: {detail}", asked(.op, .key, .origin))]
    Throttled { op: &'static str, key: String, origin: String, detail: String },
    /// Connection refused or reset, timeout, 5xx, a truncated body.
    #[error("{}: unavailable: {detail}", asked(.op, .key, .origin))]
    Unavailable { op: &'static str, key: String, origin: String, detail: String },
    /// The answer contradicts itself: wrong range, length, checksum.
    #[error("{}: wrong answer: {detail}", asked(.op, .key, .origin))]
    Corrupt { op: &'static str, key: String, origin: String, detail: String },
    /// The protocol can't carry this key (S3 through the SDK: keys that are not UTF-8).
    #[error("{}: the key can't be asked for: {detail}", asked(.op, .key, .origin))]
    Unaskable { op: &'static str, key: String, origin: String, detail: String },
    /// The bucket or folder itself isn't there.
    #[error("{}: {detail}", asked(.op, .key, .origin))]
    Missing { op: &'static str, key: String, origin: String, detail: String },
    /// Nothing a retry could mend: a wrong region, a certificate that isn't trusted, a bad request, an unsupported answer.
    #[error("{}: {detail}", asked(.op, .key, .origin))]
    Permanent { op: &'static str, key: String, origin: String, detail: String },
}

/// What was asked of a source: of an object or folder in it, or of the whole.
fn asked(op: &str, key: &str, origin: &str) -> String {
    if key.is_empty() { format!("{op} {origin}") } else { format!("{op} {key} from {origin}") }
}

impl SourceError {
    /// Whether the same request can't succeed later without someone acting.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::Corrupt { .. } => false,
            Self::NotFound { .. }
            | Self::Replaced { .. }
            | Self::Denied { .. }
            | Self::Archived { .. }
            | Self::Unaskable { .. }
            | Self::Missing { .. }
            | Self::Permanent { .. } => true,
        }
    }
}
