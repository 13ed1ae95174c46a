//! The JSON schemas of the files a user writes, made from the types that read them.

pub mod reference;

use crate::dataset_spec::file::DatasetFile;
use crate::node_config::file::NodeConfigFile;

/// Of a Dataset file.
pub fn dataset() -> serde_json::Value {
    schemars::schema_for!(DatasetFile).to_value()
}

/// Of a node's own file.
pub fn node_config() -> serde_json::Value {
    schemars::schema_for!(NodeConfigFile).to_value()
}

/// A quantity may be written as a number or as text, as everywhere in Kubernetes.
pub(crate) fn quantity(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "anyOf": [{ "type": "integer" }, { "type": "string" }, { "type": "null" }],
        "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$",
        "x-kubernetes-int-or-string": true
    })
}
