//! The Secrets and ConfigMaps that a Dataset's spec names, and whether they hold what is needed.
//! Pure: what was read comes as an argument. Does not know what a provider does with a key.
//! Invariant: a value of a Secret is never part of a message.

use std::collections::{BTreeMap, BTreeSet};

use forebay_wire::dataset_spec::file::{DatasetSpecFile, KeyRefFile, NameRefFile, S3File};

/// Keys without which no S3 source can sign.
const S3_KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
const CA_KEY: &str = "ca.crt";

/// What is asked of one Secret or ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Named by a secretRef: only a Secret will do. Otherwise a ConfigMap comes first, then a Secret.
    pub is_secret: bool,
    pub keys: BTreeSet<String>,
}

/// Everything that `spec` names, by name.
pub fn of(spec: &DatasetSpecFile) -> BTreeMap<String, Reference> {
    let mut found = BTreeMap::new();
    add(&mut found, spec.secret_ref.as_ref(), spec.s3.as_ref());
    for source in spec.sources.iter().flatten() {
        add(&mut found, source.secret_ref.as_ref(), source.s3.as_ref());
    }
    found
}

fn add(found: &mut BTreeMap<String, Reference>, secret: Option<&NameRefFile>, s3: Option<&S3File>) {
    if let Some(NameRefFile { name }) = secret {
        let entry = found.entry(name.clone()).or_default();
        entry.is_secret = true;
        entry.keys.extend(S3_KEYS.map(str::to_owned));
    }
    if let Some(KeyRefFile { name, key }) = s3.and_then(|s3| s3.ca_bundle_ref.as_ref()) {
        let key = key.clone().unwrap_or_else(|| CA_KEY.to_owned());
        found.entry(name.clone()).or_default().keys.insert(key);
    }
}

/// What was read under a name: the keys and values of the ConfigMap and the Secret of that name together, `None` without any.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// Something that a spec names and that isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub reason: &'static str,
    pub message: String,
}

/// The first reference that can't be used.
pub fn check(wanted: &BTreeMap<String, Reference>, read: &BTreeMap<String, Entries>, namespace: &str) -> Option<Missing> {
    wanted.iter().find_map(|(name, reference)| {
        let kind = if reference.is_secret { "Secret" } else { "ConfigMap or Secret" };
        let Some(entries) = read.get(name) else {
            let message =
                format!("the {kind} `{name}` isn't there in the namespace `{namespace}`: create it with {}", list(&reference.keys));
            return Some(Missing { reason: if reference.is_secret { "SecretMissing" } else { "CABundleMissing" }, message });
        };
        let key = reference.keys.iter().find(|key| entries.get(*key).is_none_or(|value| value.trim_ascii().is_empty()))?;
        let has = if entries.is_empty() { "nothing".to_owned() } else { list(&entries.keys().cloned().collect()) };
        let message = format!("the {kind} `{name}` lacks the key {key}; it holds {has}: add {key}, or name another one");
        Some(Missing { reason: if reference.is_secret { "SecretKeyMissing" } else { "CABundleKeyMissing" }, message })
    })
}

/// At most ten names: a Secret may hold a thousand keys.
fn list(keys: &BTreeSet<String>) -> String {
    let mut text = keys.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    if keys.len() > 10 {
        text.push_str(", …");
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn spec() -> DatasetSpecFile {
        serde_json::from_value(serde_json::json!({
            "sources": [
                { "path": "/a", "uri": "s3://a/", "secretRef": { "name": "keys" }, "s3": { "caBundleRef": { "name": "corp-ca" } } },
                { "path": "/b", "uri": "s3://b/", "secretRef": { "name": "keys" }, "s3": { "caBundleRef": { "name": "keys", "key": "ca" } } },
            ]
        }))
        .unwrap()
    }

    fn check_with(entries: &[(&str, &[(&str, &str)])], expected: Option<(&str, &str)>) {
        let read = entries
            .iter()
            .map(|(name, pairs)| {
                ((*name).to_owned(), pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
            })
            .collect();
        let missing = check(&of(&spec()), &read, "vision");
        match (&missing, expected) {
            (None, None) => {}
            (Some(Missing { reason, message }), Some((wanted, part))) => {
                assert_eq!(*reason, wanted, "{message}");
                assert!(message.contains(part) && !message.contains("canary"), "{message}");
            }
            (missing, expected) => panic!("{missing:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn what_is_missing_is_named_and_no_value_is() {
        let ca: (&str, &[(&str, &str)]) = ("corp-ca", &[("ca.crt", "canary")]);
        let good: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "canary"), ("AWS_SECRET_ACCESS_KEY", "canary"), ("ca", "canary")];
        check_with(&[ca, ("keys", good)], None);
        check_with(&[("keys", good)], Some(("CABundleMissing", "`corp-ca` isn't there in the namespace `vision`")));
        check_with(&[ca], Some(("SecretMissing", "`keys` isn't there")));
        check_with(&[ca, ("keys", &[("accessKey", "canary"), ("ca", "canary")])], Some(("SecretKeyMissing", "it holds accessKey, ca")));
        check_with(&[ca, ("keys", &good[..2])], Some(("SecretKeyMissing", "lacks the key ca")));
        check_with(&[("corp-ca", &[("ca.crt", " ")]), ("keys", good)], Some(("CABundleKeyMissing", "lacks the key ca.crt")));
    }
}
