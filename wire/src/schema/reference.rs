//! A page that lists every field of a file, made from its schema: what a user may write, and what it means.
//! Knows JSON schemas as schemars writes them. Does not know which file it is.

use std::fmt::Write;

use serde_json::Value;

/// The rows of `schema`, depth first: a Markdown table with a field's path, what it holds and what it means.
pub fn table(schema: &Value) -> String {
    let mut text = String::from("| field | holds | meaning |\n|---|---|---|\n");
    rows(schema, schema, "", &mut text);
    text
}

fn rows(root: &Value, object: &Value, above: &str, text: &mut String) {
    let Some(fields) = resolve(root, object).0.get("properties").and_then(Value::as_object) else { return };
    for (name, field) in fields {
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        let (target, holds) = holds(root, field);
        let required = resolve(root, object).0["required"].as_array().is_some_and(|names| names.iter().any(|other| other == name));
        // What a field is for says more than what its type is for.
        let meaning = field.get("description").or_else(|| target.get("description")).and_then(Value::as_str).unwrap_or_default();
        let meaning = meaning.replace(['\n', '|'], " ");
        let must = if required { ", must be there" } else { "" };
        // Writing to a String can't fail.
        let _ = writeln!(text, "| `{path}` | {holds}{must} | {meaning} |");
        let (below, list) = match target.get("items") {
            Some(items) => (resolve(root, items).0, "[]"),
            None => (target, ""),
        };
        if below.get("properties").is_some() {
            rows(root, below, &format!("{path}{list}"), text);
        }
    }
}

/// What `schema` refers to, and whether it may be left out as null.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> (&'a Value, bool) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
        return (&root["$defs"][name], false);
    }
    let choices = schema.get("anyOf").and_then(Value::as_array);
    match choices.map(|choices| choices.iter().filter(|choice| choice["type"] != "null").collect::<Vec<_>>()).as_deref() {
        Some([one]) => (resolve(root, one).0, true),
        Some(_) | None => (schema, false),
    }
}

/// The schema of a field's value, and its kind in words.
fn holds<'a>(root: &'a Value, field: &'a Value) -> (&'a Value, String) {
    let (target, _) = resolve(root, field);
    let words = |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if target.get("x-kubernetes-int-or-string").is_some() {
        return (target, "a quantity".to_owned());
    }
    if let Some(values) = target.get("enum").and_then(Value::as_array) {
        return (target, words(values.iter().filter_map(Value::as_str).collect()));
    }
    if let Some(values) = target.get("oneOf").and_then(Value::as_array) {
        return (target, words(values.iter().filter_map(|value| value["const"].as_str()).collect()));
    }
    let kind = match &target["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    let words = match kind {
        Some("string") => "text",
        Some("integer" | "number") => "a number",
        Some("boolean") => "`true` or `false`",
        Some("array") => "a list",
        _ => "fields",
    };
    (target, words.to_owned())
}
