//! From a JSON schema as schemars writes it to what Kubernetes calls structural.
//! Knows both dialects. Does not know any field.
//! Invariant: a keyword that isn't understood here stays, and the test that walks the schemas fails for it.

use serde_json::{Map, Value, json};

/// Rewrites `schema` and all below it.
pub(super) fn make(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    for keyword in ["title", "$schema"] {
        fields.remove(keyword);
    }
    drop_null(fields);
    join_words(fields);
    number_range(fields);
    if fields.get("x-kubernetes-int-or-string").is_some() {
        // Implied by it, and a pattern's message names a pattern: what to write is told by a rule.
        for keyword in ["anyOf", "pattern", "type"] {
            fields.remove(keyword);
        }
    }
    // Kubernetes refuses or prunes unknown fields by itself.
    if fields.contains_key("properties") && fields.get("additionalProperties") == Some(&Value::Bool(false)) {
        fields.remove("additionalProperties");
    }
    if fields.get("default").is_some_and(is_empty) {
        fields.remove("default");
    }
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned();
    }
    for below in ["items", "additionalProperties"] {
        fields.get_mut(below).into_iter().for_each(make);
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(make);
    }
}

/// Takes every default out of `schema`.
pub(super) fn drop_defaults(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    fields.remove("default");
    for below in ["items", "additionalProperties"] {
        fields.get_mut(below).into_iter().for_each(drop_defaults);
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(drop_defaults);
    }
}

/// A default that says no more than the field's absence.
fn is_empty(default: &Value) -> bool {
    match default {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// An optional field is one that may be absent; Kubernetes drops a `null` that somebody writes.
fn drop_null(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            fields.insert("type".to_owned(), one);
        }
    }
    let null = json!({ "type": "null" });
    if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
        choices.retain(|choice| *choice != null);
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            fields.remove("anyOf");
            for (keyword, value) in only {
                // What stands at the field says more than what stands at its type.
                fields.entry(keyword).or_insert(value);
            }
        }
    }
}

/// An enum of words, documented ones in their own schemas, becomes one list of words; what the words mean goes into the description.
fn join_words(fields: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = fields.remove("oneOf") else { return };
    let mut words = Vec::new();
    let mut meanings = Vec::new();
    for choice in &choices {
        let own = choice.get("const").into_iter().chain(choice.get("enum").and_then(Value::as_array).into_iter().flatten());
        let own: Vec<&str> = own.filter_map(Value::as_str).collect();
        if let ([word], Some(meaning)) = (own.as_slice(), choice.get("description").and_then(Value::as_str)) {
            meanings.push(format!("{word}: {}", lower_first(meaning)));
        }
        words.extend(own.into_iter().map(str::to_owned));
    }
    // Declared order, with the documented ones first, would be schemars' own: sorted is what a reader can search.
    words.sort();
    let known = fields.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    // A description that tells the words already needs no list of them.
    let told = words.iter().all(|word| known.contains(word.as_str()));
    if !told && !meanings.is_empty() {
        fields.insert("description".to_owned(), json!(format!("{known} {}", meanings.join(" ")).trim()));
    }
    fields.insert("type".to_owned(), json!("string"));
    fields.insert("enum".to_owned(), json!(words));
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), second) if !second.is_some_and(char::is_uppercase) => first.to_lowercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

/// Kubernetes knows `int32` and `int64` only; what is smaller or has no sign is a range.
fn number_range(fields: &mut Map<String, Value>) {
    let (format, range) = match fields.get("format").and_then(Value::as_str) {
        Some("uint8") => ("int32", (0_i64, i64::from(u8::MAX))),
        Some("uint32") => ("int64", (0, i64::from(u32::MAX))),
        Some(_) | None => return,
    };
    fields.insert("format".to_owned(), json!(format));
    fields.insert("minimum".to_owned(), json!(range.0));
    fields.insert("maximum".to_owned(), json!(range.1));
}
