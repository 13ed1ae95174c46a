#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;

fn kinds() -> [(&'static str, CustomResourceDefinition); 2] {
    [("Dataset", dataset()), ("CachePolicy", cache_policy())]
}

/// The schema as the API server gets it.
fn written(crd: &CustomResourceDefinition) -> Value {
    serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Keywords that a structural schema may have where a value is described.
const KEYWORDS: [&str; 20] = [
    "type",
    "format",
    "description",
    "properties",
    "required",
    "items",
    "additionalProperties",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "maxProperties",
    "pattern",
    "x-kubernetes-int-or-string",
    "x-kubernetes-validations",
    "x-kubernetes-map-type",
];

#[test]
fn both_schemas_are_structural() {
    for (kind, crd) in kinds() {
        walk(&written(&crd), "", &mut |path, fields| {
            for keyword in fields.keys() {
                let known = KEYWORDS.contains(&keyword.as_str()) || keyword.starts_with("x-kubernetes-list-");
                assert!(known, "{kind} {path}: `{keyword}`");
            }
            let typed = fields.get("type").is_some_and(Value::is_string) || fields.contains_key("x-kubernetes-int-or-string");
            assert!(typed, "{kind} {path} has no type: {fields:?}");
            if let Some(words) = fields.get("enum").and_then(Value::as_array) {
                assert!(words.iter().all(Value::is_string), "{kind} {path}: {words:?}");
            }
            if fields.get("type").is_some_and(|name| name == "array") {
                assert!(fields.contains_key("items"), "{kind} {path}");
            }
            let format = fields.get("format").and_then(Value::as_str);
            assert!(matches!(format, None | Some("int32" | "int64" | "date-time")), "{kind} {path}: {format:?}");
        });
    }
}

#[test]
fn nothing_of_our_tables_is_lost_on_the_way_to_kubernetes_types() {
    for (schema, crd) in [(dataset_schema(), dataset()), (cache_policy_schema(), cache_policy())] {
        let mut rules = Vec::new();
        walk(&written(&crd), "", &mut |path, fields| {
            rules.extend(fields.get("x-kubernetes-validations").map(|rules| (path.to_owned(), rules.clone())));
            assert!(!fields.contains_key(field::LEFT_OUT), "{path}");
        });
        let mut expected = Vec::new();
        walk(&schema, "", &mut |path, fields| {
            expected.extend(fields.get("x-kubernetes-validations").map(|rules| (path.to_owned(), rules.clone())));
        });
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        rules.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(rules, expected);
        assert!(!rules.is_empty());
    }
}

#[test]
fn lists_merge_by_their_keys() {
    let check = |crd: &CustomResourceDefinition, path: &[&str], key: &str| {
        let mut place = written(crd);
        for part in path {
            place = place["properties"][part].clone();
        }
        assert_eq!(place["x-kubernetes-list-type"], "map", "{path:?}");
        assert_eq!(place["x-kubernetes-list-map-keys"], json!([key]), "{path:?}");
    };
    check(&dataset(), &["spec", "sources"], "path");
    check(&dataset(), &["spec", "rules"], "path");
    for (_, crd) in kinds() {
        check(&crd, &["status", "conditions"], "type");
    }
}

#[test]
fn every_field_says_what_it_means() {
    for (kind, crd) in kinds() {
        walk(&written(&crd), "", &mut |path, fields| {
            // An entry of a list is told by the list, `name` and `count` by themselves.
            let told = path.is_empty() || path == "metadata" || path.ends_with("[]") || path.ends_with("{}");
            let described = fields.get("description").and_then(Value::as_str).is_some_and(|text| text.len() > 5);
            assert!(told || described, "{kind} {path} has no description: write a doc comment at its field");
        });
    }
}

#[test]
fn secrets_come_from_the_own_namespace_only() {
    walk(&written(&dataset()), "", &mut |path, _| {
        assert!(!path.ends_with("amespace"), "{path}");
    });
}

#[test]
fn quantities_are_numbers_or_text() {
    let dataset = written(&dataset());
    let quantity = &dataset["properties"]["spec"]["properties"]["rules"]["items"]["properties"]["maxBytes"];
    assert_eq!(quantity["x-kubernetes-int-or-string"], true);
    assert_eq!(quantity["type"], Value::Null);
    let policy = written(&cache_policy());
    let capacity = &policy["properties"]["spec"]["properties"]["tiers"]["items"]["properties"]["capacity"];
    assert_eq!(capacity["x-kubernetes-int-or-string"], true);
}

#[test]
fn columns_name_fields_that_are_there() {
    for (kind, crd) in kinds() {
        let mut known = vec![".metadata.creationTimestamp".to_owned()];
        walk(&written(&crd), "", &mut |path, _| known.push(format!(".{path}")));
        for column in crd.spec.versions[0].additional_printer_columns.as_ref().unwrap() {
            let path = column.json_path.split('[').next().unwrap();
            assert!(known.iter().any(|known| known == path), "{kind} {}: {path}", column.name);
        }
    }
}
