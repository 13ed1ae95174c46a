//! Schemas of Kubernetes' own types where they stand in ours, in as few words as their users need.
//! Knows what the API server asks of a structural schema. Does not know who uses them.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// A quantity or a percentage: a number or text, as everywhere in Kubernetes. What it must look like, the rules of its field say.
pub(crate) fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}

pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "What is true of the object.",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "What it says." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it is true." },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "Why, in one word for programs."
                },
                "message": { "type": "string", "maxLength": 32768, "description": "Why, in one sentence for people." },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0, "description": "`metadata.generation` that it was found for."
                },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "Since when the status is what it is." }
            }
        }
    })
}

pub(crate) fn node_selector(_: &mut SchemaGenerator) -> Schema {
    let field = "What is asked of the node's fields; `metadata.name` is the only one that Kubernetes knows.";
    json_schema!({
        "type": "object",
        "required": ["nodeSelectorTerms"],
        "properties": {
            "nodeSelectorTerms": {
                "type": "array",
                "maxItems": 64,
                "x-kubernetes-list-type": "atomic",
                "description": "A node is selected that fits at least one of them.",
                "items": {
                    "type": "object",
                    "description": "Fits a node that meets everything in it; an empty one fits none.",
                    "properties": {
                        "matchExpressions": requirements(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"], "What is asked of the node's labels."),
                        "matchFields": requirements(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"], field)
                    }
                }
            }
        }
    })
}

pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 64,
                "description": "Labels that must be there with these values.",
                "additionalProperties": { "type": "string", "maxLength": 63 }
            },
            "matchExpressions": requirements(&["In", "NotIn", "Exists", "DoesNotExist"], "What else is asked of the labels.")
        }
    })
}

pub(crate) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "description": "A taint that is tolerated, as in a pod.",
            "properties": {
                "key": { "type": "string", "description": "The taint's key; every key when left out, which needs `operator: Exists`." },
                "operator": { "type": "string", "description": "How `value` is compared: Exists, or Equal when left out." },
                "value": { "type": "string", "description": "The taint's value." },
                "effect": { "type": "string", "description": "NoSchedule, PreferNoSchedule or NoExecute; every effect when left out." },
                "tolerationSeconds": { "type": "integer", "format": "int64", "description": "With NoExecute: for how long." }
            }
        }
    })
}

fn requirements(operators: &[&str], description: &str) -> Value {
    json!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "description": description,
        "items": {
            "type": "object",
            "description": "One requirement.",
            "required": ["key", "operator"],
            "properties": {
                "key": { "type": "string", "description": "Name of what is looked at." },
                "operator": { "type": "string", "enum": operators, "description": "How it is compared with `values`." },
                "values": {
                    "type": "array", "maxItems": 256, "x-kubernetes-list-type": "atomic", "items": { "type": "string" },
                    "description": "What it is compared with; none with Exists and DoesNotExist."
                }
            }
        }
    })
}
