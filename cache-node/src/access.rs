//! From a Dataset's source to what `source` opens: looks up the secrets it names in the node's folder of secrets.
//! Knows where secrets lie. Does not know what a provider does with them.
//! Invariant: no error holds a secret's value.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use forebay_wire::dataset_spec::{CaBundleRef, Location, S3Location, SourceSpec};
use forebay_wire::node_config::{AmbientCredentials, NodeConfig};
use forebay_wire::reach::Reach;
use forebay_wire::secret::{Credentials, IdentityToken, ROLE_ENTRY, Secret, SourceAccess, TOKEN_ENTRY, account_reference};

/// No key of any provider is longer; a Google key file has some 3 KiB.
const SECRET_BYTES_MAX: u64 = 64 << 10;
const CA_BUNDLE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(
        "{origin}: it names the {what} `{name}`, and this node has no folder of secrets: set `secrets` in the node's config file (--config) to a folder that holds `{name}/{key}`"
    )]
    NoFolder { origin: String, what: &'static str, name: String, key: String },
    #[error("{origin}: read the {what} from {path}: {cause}")]
    Read { origin: String, what: &'static str, path: PathBuf, cause: io::Error },
    #[error("{origin}: it names the {what} `{name}`, which isn't there: create it in the Dataset's namespace")]
    NotGiven { origin: String, what: &'static str, name: String },
    #[error(
        "{origin}: it names the service account `{account}` and no role: write `s3.roleARN`, or annotate the account with eks.amazonaws.com/role-arn"
    )]
    NoRole { origin: String, account: String },
    #[error("{origin}: the secret {name} lacks {key}: write the key's value into {entry}")]
    Incomplete { origin: String, name: String, key: &'static str, entry: String },
    #[error("{origin}: the {what}'s entry {entry} holds {problem}")]
    Unusable { origin: String, what: &'static str, entry: String, problem: &'static str },
}

/// Where what a spec names is looked up.
#[derive(Clone, Copy, Debug)]
pub enum References<'a> {
    /// A folder as Kubernetes mounts secrets: `<name>/<KEY>` holds one value. `None`: this node has none.
    Folder(Option<&'a Path>),
    /// Handed over by the operator: name, then key.
    Given(&'a BTreeMap<String, BTreeMap<String, Vec<u8>>>),
}

/// What `source::open` needs besides `spec`, with a node's own folder of secrets. Reads the files it names; blocks on the disk.
pub fn resolve(spec: &SourceSpec, node: &NodeConfig) -> Result<SourceAccess, AccessError> {
    resolve_from(spec, References::Folder(node.secrets.as_deref()), node.ambient_credentials)
}

/// The same from anywhere. May reach whatever the machine does: who resolves for somebody else sets `reach`.
pub fn resolve_from(spec: &SourceSpec, references: References<'_>, ambient: AmbientCredentials) -> Result<SourceAccess, AccessError> {
    let Location::S3(s3) = &spec.location else {
        return Ok(SourceAccess { credentials: Credentials::Anonymous, ca_bundle: None, reach: Reach::Anywhere });
    };
    let lookup = Lookup { origin: spec.to_string(), references };
    let credentials = match (&spec.secret, &spec.service_account) {
        (Some(name), _) => Credentials::Keys(lookup.keys(name)?),
        // Elsewhere the machine is what a service account is in a cluster.
        (None, Some(account)) if matches!(references, References::Given(_)) => Credentials::Token(lookup.token(account, s3)?),
        (None, _) if s3.anonymous || ambient == AmbientCredentials::Deny => Credentials::Anonymous,
        (None, _) => Credentials::Ambient,
    };
    let ca_bundle = match &s3.ca_bundle {
        Some(reference) => Some(lookup.ca_bundle(reference)?),
        None => None,
    };
    Ok(SourceAccess { credentials, ca_bundle, reach: Reach::Anywhere })
}

/// For one source: `origin` is its URI.
struct Lookup<'a> {
    origin: String,
    references: References<'a>,
}

impl Lookup<'_> {
    /// Every entry of the secret, by name; hidden ones (`..data`, as Kubernetes mounts have them) are left out.
    fn keys(&self, name: &str) -> Result<BTreeMap<String, Secret>, AccessError> {
        const WHAT: &str = "secret";
        let mut keys = BTreeMap::new();
        for (key, value) in self.entries(name)? {
            let value = String::from_utf8(value).map_err(|_| AccessError::Unusable {
                origin: self.origin.clone(),
                what: WHAT,
                entry: self.place(name, &key),
                problem: "bytes that are no text: write the key's value only",
            })?;
            // An editor's last newline is no part of a key.
            keys.insert(key, Secret::new(value.trim_end_matches(['\n', '\r'])));
        }
        for key in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            if keys.get(key).is_none_or(|value| value.expose().is_empty()) {
                let entry = self.place(name, key);
                return Err(AccessError::Incomplete { origin: self.origin.clone(), name: name.to_owned(), key, entry });
            }
        }
        Ok(keys)
    }

    /// Of the service account, as the operator hands it over.
    fn token(&self, account: &str, s3: &S3Location) -> Result<IdentityToken, AccessError> {
        const WHAT: &str = "service account";
        let entries = match self.references {
            References::Given(given) => given.get(&account_reference(account)),
            References::Folder(_) => None,
        };
        let entry = |name: &str| entries.and_then(|entries| entries.get(name)).and_then(|value| String::from_utf8(value.clone()).ok());
        let token = entry(TOKEN_ENTRY).ok_or_else(|| self.not_given(WHAT, account))?;
        let role_arn = s3.role_arn.clone().or_else(|| entry(ROLE_ENTRY));
        if role_arn.is_none() && s3.endpoint.is_none() {
            return Err(AccessError::NoRole { origin: self.origin.clone(), account: account.to_owned() });
        }
        Ok(IdentityToken { token: Secret::new(token), role_arn })
    }

    fn entries(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>, AccessError> {
        const WHAT: &str = "secret";
        let folder = match self.references {
            References::Given(given) => return given.get(name).cloned().ok_or_else(|| self.not_given(WHAT, name)),
            References::Folder(None) => return Err(self.no_folder(WHAT, name, "AWS_ACCESS_KEY_ID")),
            References::Folder(Some(folder)) => folder.join(name),
        };
        let failed = |path: &Path, cause| AccessError::Read { origin: self.origin.clone(), what: WHAT, path: path.to_owned(), cause };
        let mut entries = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).map_err(|cause| failed(&folder, cause))? {
            let file = entry.map_err(|cause| failed(&folder, cause))?.path();
            let Some(key) = file.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else { continue };
            entries.insert(key.to_owned(), read(&file, SECRET_BYTES_MAX).map_err(|cause| failed(&file, cause))?);
        }
        Ok(entries)
    }

    fn ca_bundle(&self, reference: &CaBundleRef) -> Result<String, AccessError> {
        const WHAT: &str = "CA bundle";
        let CaBundleRef { name, key } = reference;
        let pem = match self.references {
            References::Given(given) => {
                let entries = given.get(name).ok_or_else(|| self.not_given(WHAT, name))?;
                entries.get(key).cloned().ok_or_else(|| self.not_given(WHAT, &format!("{name}/{key}")))?
            }
            References::Folder(None) => return Err(self.no_folder(WHAT, name, key)),
            References::Folder(Some(folder)) => {
                let path = folder.join(name).join(key);
                let failed = |cause| AccessError::Read { origin: self.origin.clone(), what: WHAT, path: path.clone(), cause };
                read(&path, CA_BUNDLE_BYTES_MAX).map_err(failed)?
            }
        };
        match String::from_utf8(pem) {
            Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Ok(pem),
            _ => Err(AccessError::Unusable {
                origin: self.origin.clone(),
                what: WHAT,
                entry: self.place(name, key),
                problem: "no certificate in PEM: it must contain -----BEGIN CERTIFICATE-----",
            }),
        }
    }

    /// Where a person finds the entry.
    fn place(&self, name: &str, key: &str) -> String {
        match self.references {
            References::Folder(Some(folder)) => folder.join(name).join(key).display().to_string(),
            References::Folder(None) | References::Given(_) => format!("{name}/{key}"),
        }
    }

    fn not_given(&self, what: &'static str, name: &str) -> AccessError {
        AccessError::NotGiven { origin: self.origin.clone(), what, name: name.to_owned() }
    }

    fn no_folder(&self, what: &'static str, name: &str, key: &str) -> AccessError {
        AccessError::NoFolder { origin: self.origin.clone(), what, name: name.to_owned(), key: key.to_owned() }
    }
}

/// The whole file, if it is a file of at most `bytes_max`.
fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if metadata.len() > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use forebay_wire::dataset_spec::Dataset;

    const CANARY: &str = "AKIACANARY0123456789";

    fn spec(rest: &str) -> SourceSpec {
        let text = format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: a }}\nspec:\n  source: s3://abc/x\n{rest}");
        Dataset::parse("d.yaml", &text).unwrap().sources.remove(0)
    }

    fn node(folder: &Path) -> NodeConfig {
        NodeConfig { secrets: Some(folder.to_owned()), ..NodeConfig::default() }
    }

    #[test]
    fn a_secret_is_a_folder_of_keys() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("s3");
        std::fs::create_dir_all(secret.join("..data")).unwrap();
        std::fs::write(secret.join("AWS_ACCESS_KEY_ID"), format!("{CANARY}\n")).unwrap();
        let spec = spec("  secretRef: { name: s3 }\n");
        let error = resolve(&spec, &node(folder.path())).unwrap_err().to_string();
        assert!(error.contains("lacks AWS_SECRET_ACCESS_KEY") && !error.contains("CANARY"), "{error}");
        std::fs::write(secret.join("AWS_SECRET_ACCESS_KEY"), CANARY).unwrap();
        let access = resolve(&spec, &node(folder.path())).unwrap();
        assert!(!format!("{access:?}").contains("CANARY"));
        let Credentials::Keys(keys) = access.credentials else { panic!("no keys") };
        assert_eq!(keys["AWS_ACCESS_KEY_ID"].expose(), CANARY);
    }

    #[test]
    fn a_missing_secret_says_where_to_put_it() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec("  secretRef: { name: s3 }\n");
        let error = resolve(&spec, &NodeConfig::default()).unwrap_err().to_string();
        assert!(error.contains("set `secrets`") && error.contains("s3/AWS_ACCESS_KEY_ID"), "{error}");
        let error = resolve(&spec, &node(folder.path())).unwrap_err().to_string();
        assert!(error.contains(&*folder.path().join("s3").to_string_lossy()), "{error}");
    }

    #[test]
    fn what_the_operator_hands_over_is_looked_up_the_same_way() {
        let spec = spec("  secretRef: { name: s3 }\n");
        let resolve =
            |given: &BTreeMap<String, BTreeMap<String, Vec<u8>>>| resolve_from(&spec, References::Given(given), AmbientCredentials::Deny);
        let mut given = BTreeMap::new();
        assert!(resolve(&given).unwrap_err().to_string().contains("create it in the Dataset's namespace"));
        given.insert("s3".to_owned(), BTreeMap::from([("AWS_ACCESS_KEY_ID".to_owned(), CANARY.into())]));
        let error = resolve(&given).unwrap_err().to_string();
        assert!(error.contains("lacks AWS_SECRET_ACCESS_KEY") && !error.contains("CANARY"), "{error}");
        given.get_mut("s3").unwrap().insert("AWS_SECRET_ACCESS_KEY".to_owned(), CANARY.into());
        let Credentials::Keys(keys) = resolve(&given).unwrap().credentials else { panic!("no keys") };
        assert_eq!(keys["AWS_SECRET_ACCESS_KEY"].expose(), CANARY);
    }

    #[test]
    fn a_service_accounts_token_is_shown_for_a_role() {
        let resolve = |rest: &str, entries: &[(&str, &str)]| {
            let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
            let given = BTreeMap::from([(account_reference("reader"), entries)]);
            let spec = spec(&format!("  serviceAccountName: reader\n{rest}"));
            resolve_from(&spec, References::Given(&given), AmbientCredentials::Allow).map(|access| access.credentials)
        };
        let role = |credentials| match credentials {
            Ok(Credentials::Token(token)) if token.token.expose() == CANARY => token.role_arn,
            other => panic!("{other:?}"),
        };
        let token = (TOKEN_ENTRY, CANARY);
        assert_eq!(role(resolve("", &[token, (ROLE_ENTRY, "arn:aws:iam::1:role/a")])).as_deref(), Some("arn:aws:iam::1:role/a"));
        let named = "  s3: { roleARN: \"arn:aws:iam::123456789012:role/b\" }\n";
        assert_eq!(role(resolve(named, &[token, (ROLE_ENTRY, "a")])).as_deref(), Some("arn:aws:iam::123456789012:role/b"));
        assert_eq!(role(resolve("  s3: { endpoint: \"https://minio.corp\" }\n", &[token])), None);
        assert!(matches!(resolve("", &[token]), Err(AccessError::NoRole { .. })));
        assert!(resolve("", &[]).unwrap_err().to_string().contains("the service account `reader`, which isn't there"));
    }

    #[test]
    fn without_a_secret_the_node_decides() {
        let deny = NodeConfig { ambient_credentials: AmbientCredentials::Deny, ..NodeConfig::default() };
        assert!(matches!(resolve(&spec(""), &NodeConfig::default()).unwrap().credentials, Credentials::Ambient));
        assert!(matches!(resolve(&spec(""), &deny).unwrap().credentials, Credentials::Anonymous));
        let anonymous = spec("  s3: { anonymous: true }\n");
        assert!(matches!(resolve(&anonymous, &NodeConfig::default()).unwrap().credentials, Credentials::Anonymous));
    }

    #[test]
    fn a_ca_bundle_holds_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("corp")).unwrap();
        let file = folder.path().join("corp/ca.crt");
        std::fs::write(&file, "nothing").unwrap();
        let spec = spec("  s3: { caBundleRef: { name: corp } }\n");
        assert!(matches!(resolve(&spec, &node(folder.path())), Err(AccessError::Unusable { .. })));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(resolve(&spec, &node(folder.path())).unwrap().ca_bundle.is_some());
    }
}
