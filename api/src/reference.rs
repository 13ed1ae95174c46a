//! The reference of both kinds, in Markdown: each field with its type, what stands in for it, and what it means.
//! Knows schemas. Does not know any field.
//! Invariant: every field of the schema has a row.

use serde_json::{Map, Value};

use crate::condition::{CACHE_POLICY_CONDITIONS, ConditionType, DATASET_CONDITIONS};
use crate::crd::field::LEFT_OUT;
use crate::crd::{self, walk};

pub(crate) fn text() -> String {
    let mut text = String::from(
        "# The fields of Dataset and CachePolicy\n\n\
         Made from the types in `api/` and `wire/` by `make crds`: change those, not this page.\n\n\
         Both kinds are of the group `forebay.dev`, version `v1alpha1`. `[]` stands for each entry of a list, `{}` for each value of a map. A field in\n\
         **bold** must be there, wherever what is around it is. What the API server checks of a field beyond its type stands below its kind, with the sentence that it answers.\n\
         It needs Kubernetes 1.34 or later: earlier ones count the cost of checking a quantity too high.\n",
    );
    kind(&mut text, "Dataset", "Namespaced; short name `dset` (`ds` are DaemonSets).", &crd::dataset_schema(), &DATASET_CONDITIONS);
    kind(&mut text, "CachePolicy", "Of the whole cluster; short name `cpol`.", &crd::cache_policy_schema(), &CACHE_POLICY_CONDITIONS);
    text
}

fn kind(text: &mut String, name: &str, about: &str, schema: &Value, conditions: &[ConditionType]) {
    let described = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.push_str(&format!("\n## {name}\n\n{described} {about}\n"));
    for part in ["spec", "status"] {
        text.push_str(&format!("\n### {name}: {part}\n\n| field | type | when left out | meaning |\n|---|---|---|---|\n"));
        let required = required(schema);
        walk(&schema["properties"][part], part, &mut |path, fields| {
            // An entry of a list of scalars is told by the list.
            if path != part && !(path.ends_with("[]") || path.ends_with("{}")) {
                let bold = if required.iter().any(|known| known == path) { "**" } else { "" };
                let row = format!("| {bold}`{path}`{bold} | {} | {} | {} |\n", type_of(fields), left_out(fields), meaning(fields));
                text.push_str(&row);
            }
        });
        if part == "status" {
            text.push_str(&format!("\n### {name}: conditions\n\n| type | says when true |\n|---|---|\n"));
            for condition in conditions {
                text.push_str(&format!("| {} | {} |\n", condition.as_str(), condition.meaning()));
            }
        }
    }
    text.push_str(&format!("\n### {name}: checks\n\n| where | answer |\n|---|---|\n"));
    walk(schema, "", &mut |path, fields| {
        for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let part = |keyword: &str| rule.get(keyword).and_then(Value::as_str).unwrap_or_default();
            let place = format!("{path}{}", part("fieldPath"));
            text.push_str(&format!("| `{}` | {} |\n", place.trim_start_matches('.'), cell(part("message"))));
        }
    });
}

/// The paths of all fields that must be there.
fn required(schema: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    walk(schema, "", &mut |path, fields| {
        for name in fields.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            paths.push(format!("{path}.{name}").trim_start_matches('.').to_owned());
        }
    });
    paths
}

fn type_of(fields: &Map<String, Value>) -> String {
    if fields.contains_key("x-kubernetes-int-or-string") {
        return "quantity".to_owned();
    }
    if let Some(words) = fields.get("enum").and_then(Value::as_array) {
        return words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    }
    let inner = |keyword: &str| fields.get(keyword).and_then(Value::as_object).map(type_of).unwrap_or_default();
    match fields.get("type").and_then(Value::as_str) {
        Some("array") => {
            let key = fields.get("x-kubernetes-list-map-keys").and_then(|keys| keys.get(0)).and_then(Value::as_str);
            format!("list of {}{}", inner("items"), key.map(|key| format!(", by `{key}`")).unwrap_or_default())
        }
        Some("object") if fields.contains_key("additionalProperties") => format!("map of {}", inner("additionalProperties")),
        Some("string") if fields.get("format").is_some_and(|format| format == "date-time") => "time".to_owned(),
        Some(name) => {
            let bound = |keyword: &str| fields.get(keyword).and_then(Value::as_i64);
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("{name}, {least} to {most}"),
                (Some(least), None) => format!("{name} from {least}"),
                (None, Some(most)) => format!("{name} up to {most}"),
                (None, None) => name.to_owned(),
            }
        }
        None => String::new(),
    }
}

fn left_out(fields: &Map<String, Value>) -> String {
    match (fields.get(LEFT_OUT).and_then(Value::as_str), fields.get("default")) {
        (Some(text), _) => cell(text),
        (None, Some(Value::String(text))) => cell(text),
        (None, Some(value)) => format!("`{value}`"),
        (None, None) => String::new(),
    }
}

fn meaning(fields: &Map<String, Value>) -> String {
    cell(fields.get("description").and_then(Value::as_str).unwrap_or_default())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
