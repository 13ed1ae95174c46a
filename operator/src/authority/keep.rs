//! Keeps the authorities in a Secret of the operator's namespace.
//! Invariant: what is in force is what the API server has: nothing is signed by an authority that a restart would lose.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use super::{Authority, Lives, rotate};
use crate::error::{During, Error};
use crate::names;

/// Reads the authorities, rotates them where it is time or asked for, and writes what changed. Only the leader calls it.
pub async fn load(client: &Client, namespace: &str, lives: Lives, now: u64) -> Result<Vec<Authority>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let name = names::AUTHORITY_SECRET;
    let found = api.get_opt(name).await.during(|| format!("read the Secret {name}"))?;
    let mut authorities = match &found {
        Some(secret) => parse(secret).ok_or_else(|| Error::Authority(name.to_owned()))?,
        None => Vec::new(),
    };
    // What is written below has no annotations: it is asked for once.
    let is_asked = found.as_ref().is_some_and(|secret| secret.annotations().contains_key(names::ROTATE_ANNOTATION));
    if !rotate(&mut authorities, lives, is_asked, now)? {
        return Ok(authorities);
    }
    let mut secret = secret(&authorities, namespace);
    match found {
        // With its resource version: whoever was faster wins, and the next attempt reads what they wrote.
        Some(old) => {
            secret.metadata.resource_version = old.resource_version();
            api.replace(name, &PostParams::default(), &secret).await.during(|| format!("write the Secret {name}"))?
        }
        None => api.create(&PostParams::default(), &secret).await.during(|| format!("create the Secret {name}"))?,
    };
    let newest = authorities.last().map_or(0, |newest| newest.since);
    tracing::info!(authorities = authorities.len(), newest, is_asked, "the certificate authorities changed");
    Ok(authorities)
}

fn secret(authorities: &[Authority], namespace: &str) -> Secret {
    let mut data = std::collections::BTreeMap::new();
    for authority in authorities {
        data.insert(format!("{}.crt", authority.since), ByteString(authority.certificate.clone().into_bytes()));
        data.insert(format!("{}.key", authority.since), ByteString(authority.key.clone().into_bytes()));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(names::AUTHORITY_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some([(names::MANAGED_BY_LABEL.to_owned(), names::FIELD_MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// Oldest first; `None` when an entry is half there or no text.
fn parse(secret: &Secret) -> Option<Vec<Authority>> {
    let data = secret.data.as_ref()?;
    let text = |name: &str| data.get(name).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
    let mut authorities = Vec::new();
    for since in data.keys().filter_map(|name| name.strip_suffix(".crt")) {
        let (certificate, key) = (text(&format!("{since}.crt"))?, text(&format!("{since}.key"))?);
        authorities.push(Authority { since: since.parse().ok()?, certificate, key });
    }
    authorities.sort_by_key(|authority| authority.since);
    Some(authorities)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let authorities = vec![Authority::make(1_800_000_000).unwrap(), Authority::make(1_900_000_000).unwrap()];
        let mut secret = secret(&authorities, "forebay");
        assert!(parse(&secret).unwrap() == authorities);
        secret.data.as_mut().unwrap().remove("1900000000.key");
        assert!(parse(&secret).is_none());
    }
}
