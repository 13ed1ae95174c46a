//! Brings the API server to what was built. Certificates are made here, when there is none or it is due.
//! Invariant: a certificate is renewed at half of its life, and whenever what is to be trusted changed.

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};

use super::Built;
use crate::authority::{CERTIFICATE_LIFE, Certified, is_due};
use crate::context::{Context, now};
use crate::dataset::apply::{delete, put};
use crate::error::{During, Error};
use crate::names;
use crate::nodes::generation;

/// Applied when it differs from what was applied last, or when somebody else changed or removed it.
pub async fn apply(ctx: &Context, built: &Built) -> Result<(), Error> {
    let namespace = &ctx.settings.namespace;
    let Built { name, id, .. } = built;
    secret(ctx, built).await?;
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let sets: Api<DaemonSet> = Api::namespaced(ctx.client.clone(), namespace);
    let wanted = generation::of_text(&format!("{}\n{}", built.config_map, built.daemon_set));
    // The API server counts every change of a DaemonSet's spec, whoever made it.
    let at = |generation: Option<i64>| format!("{wanted} {}", generation.unwrap_or(0));
    let same_map = ctx.stores.config_maps.get(&ObjectRef::<ConfigMap>::new(name).within(namespace)).is_some_and(|map| {
        map.data.as_ref().and_then(|data| data.get("node.yaml")).map(String::as_str) == built.config_map["data"]["node.yaml"].as_str()
    });
    let set = ctx.stores.daemon_sets.get(&ObjectRef::<DaemonSet>::new(name).within(namespace));
    if same_map && set.is_some_and(|set| ctx.memory.is_applied(id, &at(set.metadata.generation))) {
        return Ok(());
    }
    put(&maps, name, &built.config_map, &format!("apply the ConfigMap {name}")).await?;
    let set = put(&sets, name, &built.daemon_set, &format!("apply the DaemonSet {name}")).await?;
    ctx.memory.applied(id, &at(set.metadata.generation));
    Ok(())
}

/// Removes a set's objects, the configuration last: while it is there, something may be left.
pub async fn remove(ctx: &Context, name: &str, id: &str) -> Result<(), Error> {
    let namespace = &ctx.settings.namespace;
    delete(&Api::<DaemonSet>::namespaced(ctx.client.clone(), namespace), name).await?;
    delete(&Api::<Secret>::namespaced(ctx.client.clone(), namespace), name).await?;
    delete(&Api::<ConfigMap>::namespaced(ctx.client.clone(), namespace), name).await?;
    // Should it come back, its certificates are looked for at once.
    ctx.memory.forget(id);
    Ok(())
}

async fn secret(ctx: &Context, built: &Built) -> Result<(), Error> {
    let Built { name, id, .. } = built;
    if !ctx.memory.may_look_at_certificate(id) {
        return Ok(());
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &ctx.settings.namespace);
    let found = api.get_opt(name).await.during(|| format!("read the Secret {name}"))?;
    let now = now();
    if !found.is_some_and(|secret| is_good(&secret, id, &ctx.authority.bundle(), now)) {
        let (certified, trusted) = ctx.authority.certify(&names::node_host(id), now)?;
        let object = object(&built.metadata, &certified, &trusted, now);
        put(&api, name, &object, &format!("apply the Secret {name}")).await?;
        tracing::info!(secret = name, "a certificate was made");
    }
    ctx.memory.looked_at_certificate(id);
    Ok(())
}

fn object(metadata: &Value, certified: &Certified, trusted: &str, now: u64) -> Value {
    let mut metadata = metadata.clone();
    metadata["annotations"] = json!({ names::SINCE_ANNOTATION: now.to_string() });
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {
            "tls.crt": ByteString(certified.certificate.clone().into_bytes()),
            "tls.key": ByteString(certified.key.clone().into_bytes()),
            "ca.crt": ByteString(trusted.to_owned().into_bytes()),
        },
    })
}

/// Of this very set, young enough, and trusting what is in force now.
fn is_good(secret: &Secret, id: &str, trusted: &str, now: u64) -> bool {
    let since: Option<u64> = secret.annotations().get(names::SINCE_ANNOTATION).and_then(|since| since.parse().ok());
    let data = secret.data.as_ref();
    let has = |key: &str| data.and_then(|data| data.get(key)).is_some_and(|value| !value.0.is_empty());
    let bundle = data.and_then(|data| data.get("ca.crt"));
    secret.labels().get(names::POLICY_LABEL).is_some_and(|found| found == id)
        && since.is_some_and(|since| since <= now && !is_due(since, CERTIFICATE_LIFE, now))
        && bundle.is_some_and(|bundle| bundle.0 == trusted.as_bytes())
        && has("tls.crt")
        && has("tls.key")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_certificate_is_good_until_half_of_its_life_and_for_one_set() {
        let now = 1_800_000_000;
        let half = CERTIFICATE_LIFE.as_secs() / 2;
        let check = |since: &str, id: &str, bundle: &str, expected: bool| {
            let secret: Secret = serde_json::from_value(json!({
                "metadata": { "labels": { names::POLICY_LABEL: "p" }, "annotations": { names::SINCE_ANNOTATION: since } },
                "data": { "tls.crt": "YQ==", "tls.key": "YQ==", "ca.crt": "Y2E=" }
            }))
            .unwrap();
            assert_eq!(is_good(&secret, id, bundle, now), expected, "{since} {id} {bundle}");
        };
        check(&(now - 1).to_string(), "p", "ca", true);
        check(&(now - half + 1).to_string(), "p", "ca", true);
        check(&(now - half).to_string(), "p", "ca", false);
        check(&(now + 10).to_string(), "p", "ca", false);
        check(&now.to_string(), "q", "ca", false);
        check(&now.to_string(), "p", "ca and another", false);
        check("yesterday", "p", "ca", false);
    }
}
