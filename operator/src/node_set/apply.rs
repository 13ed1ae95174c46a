//! Brings the API server to what was built, and to what every node needs: whom to believe.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::reflector::ObjectRef;
use serde_json::json;

use super::Built;
use crate::context::Context;
use crate::dataset::apply::{delete, put};
use crate::error::Error;
use crate::names;
use crate::nodes::generation;

/// Applied when it differs from what was applied last, or when somebody else changed or removed it.
pub async fn apply(ctx: &Context, built: &Built) -> Result<(), Error> {
    let namespace = &ctx.settings.namespace;
    let Built { name, id, .. } = built;
    publish_trusted(ctx).await?;
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
    delete(&Api::<ConfigMap>::namespaced(ctx.client.clone(), namespace), name).await?;
    ctx.memory.forget(id);
    Ok(())
}

/// The ConfigMap that every node's pod mounts, when it isn't what it should be.
pub async fn publish_trusted(ctx: &Context) -> Result<(), Error> {
    let (namespace, name) = (&ctx.settings.namespace, names::AUTHORITY_SECRET);
    let bundle = ctx.authority.bundle();
    let found = ctx.stores.config_maps.get(&ObjectRef::<ConfigMap>::new(name).within(namespace));
    if found.is_some_and(|map| map.data.as_ref().and_then(|data| data.get("ca.crt")) == Some(&bundle)) {
        return Ok(());
    }
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), namespace);
    let labels = json!({ names::NAME_LABEL: "forebay", names::MANAGED_BY_LABEL: names::FIELD_MANAGER });
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "data": { "ca.crt": bundle },
    });
    put(&maps, name, &object, &format!("apply the ConfigMap {name}")).await.map(drop)
}
