//! From a Dataset's source to what `source` opens: looks up the secrets it names in the node's folder of secrets.
//! Knows where secrets lie. Does not know what a provider does with them.
//! Invariant: no error holds a secret's value.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use forebay_wire::dataset_spec::{CaBundleRef, Location, SourceSpec};
use forebay_wire::node_config::{AmbientCredentials, NodeConfig};
use forebay_wire::secret::{Credentials, Secret, SourceAccess};

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
    #[error("{origin}: the secret in {path} lacks {key}: write the key's value into the file {path}/{key}")]
    Incomplete { origin: String, path: PathBuf, key: &'static str },
    #[error("{origin}: the file {path} holds {problem}")]
    Unusable { origin: String, path: PathBuf, problem: &'static str },
}

/// What `source::open` needs besides `spec`. Reads the files it names; blocks on the disk.
pub fn resolve(spec: &SourceSpec, node: &NodeConfig) -> Result<SourceAccess, AccessError> {
    let Location::S3(s3) = &spec.location else {
        return Ok(SourceAccess { credentials: Credentials::Anonymous, ca_bundle: None });
    };
    let origin = spec.to_string();
    let credentials = match &spec.secret {
        Some(name) => Credentials::Keys(keys(&origin, name, node)?),
        None if s3.anonymous || node.ambient_credentials == AmbientCredentials::Deny => Credentials::Anonymous,
        None => Credentials::Ambient,
    };
    let ca_bundle = match &s3.ca_bundle {
        Some(reference) => Some(ca_bundle(&origin, reference, node)?),
        None => None,
    };
    Ok(SourceAccess { credentials, ca_bundle })
}

/// Every file of the secret's folder, by name; hidden ones (`..data`, as Kubernetes mounts have them) are left out.
fn keys(origin: &str, name: &str, node: &NodeConfig) -> Result<BTreeMap<String, Secret>, AccessError> {
    const WHAT: &str = "secret";
    let Some(folder) = &node.secrets else {
        return Err(AccessError::NoFolder {
            origin: origin.to_owned(),
            what: WHAT,
            name: name.to_owned(),
            key: "AWS_ACCESS_KEY_ID".to_owned(),
        });
    };
    let path = folder.join(name);
    let failed = |path: &Path, cause| AccessError::Read { origin: origin.to_owned(), what: WHAT, path: path.to_owned(), cause };
    let mut keys = BTreeMap::new();
    for entry in std::fs::read_dir(&path).map_err(|cause| failed(&path, cause))? {
        let file = entry.map_err(|cause| failed(&path, cause))?.path();
        let Some(key) = file.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else { continue };
        let value = read(&file, SECRET_BYTES_MAX).map_err(|cause| failed(&file, cause))?;
        let value = String::from_utf8(value).map_err(|_| AccessError::Unusable {
            origin: origin.to_owned(),
            path: file.clone(),
            problem: "bytes that are no text: write the key's value only",
        })?;
        // An editor's last newline is no part of a key.
        keys.insert(key.to_owned(), Secret::new(value.trim_end_matches(['\n', '\r'])));
    }
    for key in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        if keys.get(key).is_none_or(|value| value.expose().is_empty()) {
            return Err(AccessError::Incomplete { origin: origin.to_owned(), path, key });
        }
    }
    Ok(keys)
}

fn ca_bundle(origin: &str, reference: &CaBundleRef, node: &NodeConfig) -> Result<String, AccessError> {
    const WHAT: &str = "CA bundle";
    let CaBundleRef { name, key } = reference;
    let Some(folder) = &node.secrets else {
        return Err(AccessError::NoFolder { origin: origin.to_owned(), what: WHAT, name: name.clone(), key: key.clone() });
    };
    let path = folder.join(name).join(key);
    let pem = read(&path, CA_BUNDLE_BYTES_MAX).map_err(|cause| AccessError::Read {
        origin: origin.to_owned(),
        what: WHAT,
        path: path.clone(),
        cause,
    })?;
    match String::from_utf8(pem) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Ok(pem),
        _ => Err(AccessError::Unusable {
            origin: origin.to_owned(),
            path,
            problem: "no certificate in PEM: it must contain -----BEGIN CERTIFICATE-----",
        }),
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
