//! The CustomResourceDefinitions: the types' schemas in the form that the API server takes, with what it checks by itself.
//! Knows both kinds as a whole. Does not know what a field means.
//! Invariant: structural (each object typed, no reference, nothing but types and limits), and the same bytes from the same types.

pub(crate) mod field;
pub(crate) mod names;
mod structural;
#[cfg(test)]
mod tests;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, CustomResourceValidation};
use kube::CustomResourceExt;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::{CachePolicy, CachePolicySpec, CachePolicyStatus, Dataset, DatasetSpec, DatasetStatus};
use field::Field;

/// Of Datasets.
pub fn dataset() -> CustomResourceDefinition {
    complete(Dataset::crd(), &dataset_schema())
}

/// Of CachePolicies.
pub fn cache_policy() -> CustomResourceDefinition {
    complete(CachePolicy::crd(), &cache_policy_schema())
}

pub(crate) fn dataset_schema() -> Value {
    let about = "A bucket, or several, as one folder that every pod of the namespace can mount.";
    root::<DatasetSpec, DatasetStatus>(about, crate::dataset::fields())
}

pub(crate) fn cache_policy_schema() -> Value {
    let about = "One cache over the nodes that it selects, and which Datasets may use it for what.";
    root::<CachePolicySpec, CachePolicyStatus>(about, crate::cache_policy::fields())
}

/// `crd` with `schema` in its only version. Panics when it doesn't fit Kubernetes' types: a bug in our tables.
fn complete(mut crd: CustomResourceDefinition, schema: &Value) -> CustomResourceDefinition {
    let typed = serde_json::from_value(schema.clone()).expect("the schema is made of fields that Kubernetes knows");
    let [version] = crd.spec.versions.as_mut_slice() else { panic!("there is one version") };
    version.schema = Some(CustomResourceValidation { open_api_v3_schema: Some(typed) });
    crd
}

/// The schema of a kind: its spec and status, with `fields` laid over them.
fn root<Spec: JsonSchema, Status: JsonSchema>(about: &str, fields: Vec<Field>) -> Value {
    let mut schema = json!({
        "type": "object",
        "description": about,
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string", "description": "`forebay.dev/v1alpha1`." },
            "kind": { "type": "string", "description": "The name of this kind." },
            "metadata": { "type": "object" },
            "spec": of::<Spec>(),
            "status": of::<Status>(),
        }
    });
    // What a status lacks is not known: nothing stands in for it.
    structural::drop_defaults(&mut schema["properties"]["status"]);
    for field in fields {
        field.lay_over(&mut schema);
    }
    schema
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structural::make(&mut schema);
    schema
}

/// Calls `visit` with the path of each schema in `schema` (`spec.sources[].uri`), outer ones first.
pub(crate) fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Map<String, Value>)) {
    let Some(fields) = schema.as_object() else { return };
    visit(path, fields);
    if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
        for (name, inner) in properties {
            walk(inner, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, visit);
        }
    }
    if let Some(items) = fields.get("items") {
        walk(items, &format!("{path}[]"), visit);
    }
    if let Some(values) = fields.get("additionalProperties") {
        walk(values, &format!("{path}{{}}"), visit);
    }
}
