//! What a Dataset says and this version does nothing with: nobody should believe that it is at work.
//! Pure. A field that gets its meaning leaves this list.

use forebay_wire::dataset_spec::file::DatasetSpecFile;

/// The fields, as in `spec.rules[0].copies`. Values that say what is done anyway aren't among them.
pub fn fields(spec: &DatasetSpecFile) -> Vec<String> {
    let mut fields = Vec::new();
    for (index, rule) in spec.rules.iter().flatten().enumerate() {
        // As many as are asked for at least are always there; none is added by demand.
        if rule.copies.as_ref().is_some_and(|copies| copies.max.is_some_and(|max| Some(max) != copies.min)) {
            fields.push(format!("spec.rules[{index}].copies.max"));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, expected: &[&str]) {
        assert_eq!(fields(&serde_json::from_value(spec.clone()).unwrap()), expected, "{spec}");
    }

    #[test]
    fn what_does_nothing_is_named_and_what_is_done_anyway_is_not() {
        check(json!({ "source": "s3://a-b/", "rules": [{ "path": "/", "copies": { "min": 2 } }] }), &[]);
        check(json!({ "rules": [{ "path": "/", "copies": { "min": 2, "max": 2 } }] }), &[]);
        check(json!({ "eviction": "Hold", "rules": [{ "path": "/", "localCopy": "Always" }] }), &[]);
        check(
            json!({ "eviction": "S3FIFO", "rules": [{ "path": "/" }, { "path": "/a", "copies": { "max": 2 }, "localCopy": "Never" }] }),
            &["spec.rules[1].copies.max"],
        );
    }
}
