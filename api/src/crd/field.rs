//! What the API server checks at one field beyond its type: limits, and rules in CEL with the sentence that a user sees.
//! Knows how they are laid over a schema. Does not know any field.
//! Invariant: an entry for a field that isn't there panics, so that a renamed field can't lose its checks unseen.

use serde_json::{Map, Value, json};

/// Checks at one field.
pub(crate) struct Field {
    /// From the root: `spec.sources[].uri`.
    path: String,
    limits: Vec<(&'static str, Value)>,
    rules: Vec<Value>,
}

impl Field {
    pub(crate) fn at(path: impl Into<String>) -> Self {
        Self { path: path.into(), limits: Vec::new(), rules: Vec::new() }
    }

    /// One of OpenAPI's keywords, or one of Kubernetes' own.
    pub(crate) fn limit(mut self, keyword: &'static str, value: impl Into<Value>) -> Self {
        self.limits.push((keyword, value.into()));
        self
    }

    /// A list whose entries are told apart by `key`: server-side apply merges them, and rules see an entry's former self.
    pub(crate) fn map_by(self, key: &str) -> Self {
        self.limit("x-kubernetes-list-type", "map").limit("x-kubernetes-list-map-keys", json!([key]))
    }

    /// `cel` must hold, else `message` says what to write. One that names `oldSelf` holds for changes only.
    pub(crate) fn rule(mut self, cel: impl Into<String>, message: &str) -> Self {
        self.rules.push(json!({ "rule": cel.into(), "message": message }));
        self
    }

    /// As `rule`; the mistake is shown at `field`, a path from here that begins with a dot.
    pub(crate) fn rule_at(mut self, field: &str, cel: impl Into<String>, message: &str) -> Self {
        self.rules.push(json!({ "rule": cel.into(), "message": message, "fieldPath": field }));
        self
    }

    /// What stands in for the field when it is left out, for readers only: nothing is written into an object.
    pub(crate) fn left_out(self, means: &'static str) -> Self {
        self.limit(LEFT_OUT, means)
    }

    pub(crate) fn lay_over(self, schema: &mut Value) {
        let Self { path, limits, rules } = self;
        let fields = find(schema, &path);
        for (keyword, value) in limits {
            fields.insert(keyword.to_owned(), value);
        }
        if !rules.is_empty() {
            fields.insert("x-kubernetes-validations".to_owned(), Value::Array(rules));
        }
    }
}

/// A keyword of our own for the reference; Kubernetes' types drop it.
pub(crate) const LEFT_OUT: &str = "x-forebay-left-out";

fn find<'a>(schema: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut place = schema;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let name = part.trim_end_matches("[]");
        place = place.get_mut("properties").and_then(|properties| properties.get_mut(name)).unwrap_or_else(|| panic!("no field {path}"));
        for _ in 0..(part.len() - name.len()) / 2 {
            place = place.get_mut("items").unwrap_or_else(|| panic!("{path} is no list"));
        }
    }
    place.as_object_mut().unwrap_or_else(|| panic!("no schema at {path}"))
}
