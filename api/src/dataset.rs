//! The kind `Dataset`: a bucket, or several, as one folder for every pod of a namespace.
//! Knows the object around the spec and its columns. Does not know what the spec's fields mean: `forebay-wire` does.

mod fields;
pub mod status;

use std::ops::{Deref, DerefMut};

use forebay_wire::dataset_spec::file::DatasetSpecFile;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

pub(crate) use fields::fields;
pub use status::{
    DatasetStatus, FailedFile, NodeCoverage, NodeShare, PreloadState, PreloadStatus, ProblemKey, ProblemKeys, QuotaStatus, ResolvedPolicy,
};

/// The spec of a Dataset, in the words that a file for `forebay-node mount` uses too.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
#[expect(clippy::duplicated_attributes, reason = "every column has a name, a type and a path")]
#[kube(
    group = "forebay.dev",
    version = "v1alpha1",
    kind = "Dataset",
    plural = "datasets",
    singular = "dataset",
    shortname = "dset",
    category = "forebay",
    namespaced,
    status = "DatasetStatus",
    schema = "disabled",
    doc = "A bucket, or several, as one folder. Its schema is in [`crate::crd`].",
    printcolumn(name = "Files", type_ = "integer", json_path = ".status.files", description = "Files in the current version."),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size", description = "Bytes of these files."),
    printcolumn(name = "Cached", type_ = "string", json_path = ".status.cached", description = "Bytes of them that the cache holds."),
    printcolumn(
        name = "Warm",
        type_ = "string",
        json_path = ".status.warm",
        description = "How much of what rules and preload ask for is held."
    ),
    printcolumn(name = "Hit", type_ = "string", json_path = ".status.hit", description = "Reads that needed nothing from the source."),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready, or isn't."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Since when it exists."),
    printcolumn(
        name = "Policy",
        type_ = "string",
        json_path = ".status.policy.name",
        priority = 1,
        description = "The CachePolicy that it uses."
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        priority = 1,
        description = "Digest of the list of its files."
    )
)]
pub struct DatasetSpec(pub DatasetSpecFile);

impl Deref for DatasetSpec {
    type Target = DatasetSpecFile;

    fn deref(&self) -> &DatasetSpecFile {
        &self.0
    }
}

impl DerefMut for DatasetSpec {
    fn deref_mut(&mut self) -> &mut DatasetSpecFile {
        &mut self.0
    }
}

impl From<DatasetSpecFile> for DatasetSpec {
    fn from(spec: DatasetSpecFile) -> Self {
        Self(spec)
    }
}

impl JsonSchema for DatasetSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DatasetSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        DatasetSpecFile::json_schema(generator)
    }
}

impl Serialize for DatasetSpec {
    /// Fields that are left out are absent: a `null` in a server-side apply would be one more field that the writer owns.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut spec = serde_json::to_value(&self.0).map_err(serde::ser::Error::custom)?;
        drop_nulls(&mut spec);
        spec.serialize(serializer)
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
