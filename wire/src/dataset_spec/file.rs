//! The Dataset as it is written: the vocabulary that Kubernetes will know, unchecked beyond its shape.
//! Knows names, docs and kinds of fields. Does not know what a valid value is: `validate` does.
//! Changes: a new optional field is safe; renaming, removing or requiring one is breaking.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Addressing, Eviction, PreloadWhen, Verify};
use crate::rule::{CacheMode, LocalCopy};
use crate::unit;
use crate::yaml::Ignored;

/// A bucket, or several, as one folder.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Dataset")]
pub struct DatasetFile {
    /// `forebay.dev/v1alpha1`.
    pub api_version: String,
    /// `Dataset`.
    pub kind: String,
    pub metadata: MetadataFile,
    pub spec: DatasetSpecFile,
    /// Written by the operator; not read here.
    #[serde(default)]
    #[schemars(skip)]
    pub status: Option<Ignored>,
}

/// What Kubernetes keeps with every object. Only name and namespace are read here.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetadataFile {
    /// A DNS label: a-z, 0-9 and `-`, at most 63 characters.
    pub name: String,
    /// `default` when left out.
    pub namespace: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub annotations: Option<BTreeMap<String, String>>,
    #[schemars(skip)]
    pub creation_timestamp: Option<Ignored>,
    #[schemars(skip)]
    pub deletion_grace_period_seconds: Option<Ignored>,
    #[schemars(skip)]
    pub deletion_timestamp: Option<Ignored>,
    #[schemars(skip)]
    pub finalizers: Option<Ignored>,
    #[schemars(skip)]
    pub generate_name: Option<Ignored>,
    #[schemars(skip)]
    pub generation: Option<Ignored>,
    #[schemars(skip)]
    pub managed_fields: Option<Ignored>,
    #[schemars(skip)]
    pub owner_references: Option<Ignored>,
    #[schemars(skip)]
    pub resource_version: Option<Ignored>,
    #[schemars(skip)]
    pub self_link: Option<Ignored>,
    #[schemars(skip)]
    pub uid: Option<Ignored>,
}

/// Where the files come from, how they are cached, and how they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatasetSpecFile {
    /// One source that fills the whole data set: `s3://bucket/prefix/` or `file:///folder`. Either this or `sources`.
    pub source: Option<String>,
    /// The secret with the provider's keys for `source`. Without one, the machine's own credentials are used where the node allows it, else none.
    pub secret_ref: Option<NameRefFile>,
    /// The Kubernetes service account whose cloud role reads `source`. Means nothing outside Kubernetes.
    pub service_account_name: Option<String>,
    /// What only S3 knows, for `source`.
    pub s3: Option<S3File>,
    /// Several sources, each below its own path. Either this or `source`.
    pub sources: Option<Vec<SourceFile>>,
    /// The CachePolicy to use. Means nothing outside Kubernetes.
    pub policy_ref: Option<NameRefFile>,
    /// What to do with the files below a path; the longest path wins, a field left out comes from the next shorter path.
    pub rules: Option<Vec<RuleFile>>,
    /// Who leaves the cache when it is full.
    pub eviction: Option<Eviction>,
    /// The most that the whole cache holds of this data set, such as `10Ti`; each node has its share by weight. What is pinned counts to it.
    #[serde(default, deserialize_with = "unit::quantity_text")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub quota: Option<String>,
    /// -1000 to 1000: when the cache is full, data sets of a lower priority give way first, and none gives way to one of a lower priority.
    pub priority: Option<i32>,
    /// Load files ahead of use.
    pub preload: Option<PreloadFile>,
    /// How the list of files is kept fresh.
    pub sync: Option<SyncFile>,
    /// Owner and mode of everything in the data set; by default any user can read.
    pub permissions: Option<PermissionsFile>,
    /// The claim that the operator makes. Means nothing outside Kubernetes.
    pub volume: Option<VolumeFile>,
    /// When the bytes of an object larger than a block are served.
    pub verify: Option<Verify>,
}

/// Names another object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NameRefFile {
    /// The other object's name.
    pub name: String,
}

/// Names one entry of another object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRefFile {
    /// The other object's name: a ConfigMap's, or a Secret's.
    pub name: String,
    /// `ca.crt` when left out.
    pub key: Option<String>,
}

/// One of several sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceFile {
    /// Where its files appear: absolute, such as `/images`. No source's path lies inside another's.
    pub path: String,
    /// `s3://bucket/prefix/` or `file:///folder`.
    pub uri: String,
    /// The secret with the provider's keys.
    pub secret_ref: Option<NameRefFile>,
    /// The Kubernetes service account whose cloud role reads it. Means nothing outside Kubernetes.
    pub service_account_name: Option<String>,
    /// What only S3 knows.
    pub s3: Option<S3File>,
}

/// What only S3 knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3File {
    /// A server other than AWS: `https://minio.corp:9000`.
    pub endpoint: Option<String>,
    /// Found out from the bucket when left out.
    pub region: Option<String>,
    /// How the bucket is put into a request's address.
    pub addressing: Option<Addressing>,
    /// Certificates (PEM) to trust beside the system's.
    pub ca_bundle_ref: Option<KeyRefFile>,
    /// Agree to pay for the requests.
    pub requester_pays: Option<bool>,
    /// A role to assume with the credentials at hand.
    #[serde(rename = "roleARN")]
    pub role_arn: Option<String>,
    /// Send requests without a signature, for public buckets.
    pub anonymous: Option<bool>,
}

/// What to do with the files below a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleFile {
    /// Absolute, such as `/images/train`; `/` is the whole data set.
    pub path: String,
    /// Pin: loaded ahead of use and never evicted. Auto: cached when read. Never: read through.
    pub cache: Option<CacheMode>,
    /// With Pin only: pin a stable subset of this size, such as `120Ti`.
    #[serde(default, deserialize_with = "unit::quantity_text")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub max_bytes: Option<String>,
    /// How long a file stays in the cache after it was filled, such as `24h`; the source is never touched.
    pub ttl: Option<String>,
    /// How many nodes hold a block.
    pub copies: Option<CopiesFile>,
    /// Whether a node keeps a copy of its own of what another node holds.
    pub local_copy: Option<LocalCopy>,
}

/// At least `min` nodes hold a block, up to `max` when it is read often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopiesFile {
    /// 1 when left out.
    pub min: Option<u32>,
    /// The same as `min` when left out.
    pub max: Option<u32>,
}

/// Load files ahead of use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreloadFile {
    /// Never, Once (for each `revision`), Always (also what a sync finds), or Manual (when told so).
    pub when: Option<PreloadWhen>,
    /// What to load; everything when left out.
    pub paths: Option<Vec<String>>,
    /// A limit of its own, such as `200Mi`, for all nodes of the cache together.
    #[serde(default, deserialize_with = "unit::quantity_text")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub max_bytes_per_second: Option<String>,
    /// A new number makes `Once` run again.
    pub revision: Option<i64>,
    /// Pause it.
    pub suspend: Option<bool>,
    /// Also reads what is cached already and compares it with its checksums; what differs is loaded anew.
    pub verify: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SyncMode {
    /// List the source again at an interval.
    #[default]
    Interval,
    /// Frozen at the first complete list.
    Never,
}

/// How the list of files is kept fresh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SyncFile {
    /// Whether the source is listed again.
    pub mode: Option<SyncMode>,
    /// At least `1s`; `10m` when left out. With mode Interval only.
    pub interval: Option<String>,
}

/// Owner and mode of everything in the data set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PermissionsFile {
    /// 0 when left out.
    pub uid: Option<u32>,
    /// 0 when left out.
    pub gid: Option<u32>,
    /// In octal, `"0444"` when left out.
    pub file_mode: Option<String>,
    /// In octal, `"0555"` when left out.
    pub directory_mode: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClaimMode {
    /// A claim of the data set's name in its namespace.
    #[default]
    Create,
    None,
}

/// The claim that the operator makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeFile {
    /// Whether there is one.
    pub claim: Option<ClaimMode>,
}
