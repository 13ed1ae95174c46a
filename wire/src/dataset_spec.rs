//! A Dataset as a node uses it: valid by type, made from the file form in one place.
//! Knows what each field may hold and which go together. Does not know whether a bucket exists.
//! Changes: a new optional field is safe; a new meaning, a removed field or a narrower value is breaking.

pub mod file;
mod location;
#[cfg(test)]
mod tests;
mod validate;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{DatasetName, DatasetPath};
use crate::rule::Rule;
use crate::unit::ByteSize;

/// One data set: where its files come from and how they are cached and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    pub name: DatasetName,
    /// At least one; sorted by path; no path is inside another.
    pub sources: Vec<SourceSpec>,
    /// Sorted by path, each path once.
    pub rules: Vec<Rule>,
    pub eviction: Eviction,
    /// The most that the whole cache holds of it; `None`: as much as the cache has room for.
    pub quota: Option<ByteSize>,
    pub priority: Priority,
    pub preload: Preload,
    pub sync: Sync,
    pub permissions: Permissions,
    pub verify: Verify,
    /// Fields that are accepted and mean nothing outside Kubernetes, for people to read.
    pub notes: Vec<String>,
}

/// A source and where its files appear in the data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    pub path: DatasetPath,
    pub location: Location,
    /// Name of the secret that holds the provider's keys.
    pub secret: Option<String>,
    /// Name of the Kubernetes service account that it is read as. Never beside a secret.
    pub service_account: Option<String>,
}

/// Which storage, and what only that kind of storage knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    S3(S3Location),
    /// A folder of this machine, absolute.
    File(PathBuf),
}

impl fmt::Display for SourceSpec {
    /// The source's URI, without credentials: `s3://bucket/prefix/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::S3(s3) => write!(f, "s3://{}/{}", s3.bucket, s3.prefix),
            Location::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    pub bucket: String,
    /// Empty, or ends in `/`: what is below it is shown.
    pub prefix: String,
    /// `http://` or `https://`, a host, maybe a port; `None`: AWS' own for the region.
    pub endpoint: Option<String>,
    /// `None`: found out from the bucket.
    pub region: Option<String>,
    pub addressing: Addressing,
    pub ca_bundle: Option<CaBundleRef>,
    pub requester_pays: bool,
    /// A role to assume with the credentials at hand.
    pub role_arn: Option<String>,
    /// Requests aren't signed.
    pub anonymous: bool,
}

/// How a bucket is put into a request's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Addressing {
    /// Virtual host on AWS, path elsewhere.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    VirtualHost,
}

/// Names a file of certificates: the entry `key` of the ConfigMap or Secret `name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaBundleRef {
    pub name: String,
    pub key: String,
}

/// Who leaves the cache when it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Eviction {
    /// Nobody: a stable subset chosen by hash stays, the rest is read through. Best for epochs.
    #[default]
    Hold,
    /// What was not read for longest.
    #[serde(rename = "LRU")]
    Lru,
    /// What was read once only, first in first out.
    #[serde(rename = "S3FIFO")]
    S3Fifo,
}

impl Eviction {
    /// The strategy of one cache that several data sets share, from what each of them says: theirs if they agree, else `Hold`. So nobody's bytes are
    /// thrown out for a wish that he doesn't share.
    pub fn shared(wishes: impl IntoIterator<Item = Self>) -> Self {
        let mut wishes = wishes.into_iter();
        let first = wishes.next().unwrap_or_default();
        if wishes.all(|wish| wish == first) { first } else { Self::Hold }
    }
}

/// Before whom a data set has room in a cache that it shares: under pressure what is of lower priority leaves first, and nothing leaves for what is of
/// a lower one. Written and read as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(i16);

impl Priority {
    pub const MIN: i32 = -1000;
    pub const MAX: i32 = 1000;

    /// `None` beyond `MIN` and `MAX`.
    pub fn new(number: i32) -> Option<Self> {
        if !(Self::MIN..=Self::MAX).contains(&number) {
            return None;
        }
        i16::try_from(number).ok().map(Self)
    }
    pub fn get(self) -> i16 {
        self.0
    }
}

/// When files are loaded ahead of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PreloadWhen {
    #[default]
    Never,
    /// Once for this `revision`.
    Once,
    /// Also what a sync finds.
    Always,
    /// When told so.
    Manual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preload {
    pub when: PreloadWhen,
    /// What to load; at least one, `/` by default.
    pub paths: Vec<DatasetPath>,
    pub max_bytes_per_second: Option<ByteSize>,
    /// A new number makes `Once` run again.
    pub revision: i64,
    pub suspend: bool,
    /// Also reads what is here already and compares it with its checksums.
    pub verify: bool,
}

/// How the list of files is kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    Interval(Duration),
    /// Frozen at the first complete manifest.
    Never,
}

/// Owner and mode of everything in the data set. Modes hold the nine permission bits only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub uid: u32,
    pub gid: u32,
    pub file_mode: u16,
    pub directory_mode: u16,
}

/// When the bytes of an object larger than a block are served while they arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Verify {
    /// As they come, once range, ETag and length were checked.
    #[default]
    Stream,
    /// After the whole block, and where only the whole object has a checksum, after the whole object.
    Strict,
}
