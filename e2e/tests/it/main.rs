//! The whole product on a real cluster. One test at a time (`--test-threads=1`): they share the installation. `make e2e` runs it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod cluster_changes;
mod crash;
mod disks;
mod fields;
mod identity;
mod limits;
mod plugin;
mod uninstall;
mod use_it;
mod wrong_input;

use std::sync::Once;

use forebay_e2e::cluster::{Namespace, apply, helm_install};

/// What the release is installed with, as `--set` takes it.
pub(crate) const VALUES: &[&str] = &[
    // Hosts of the tests' own servers are on the cluster's bridge; a policy has to name what isn't AWS.
    "defaultPolicy.spec.allowedSources={s3://*,http://10.213.0.1:*,https://10.213.0.1:*}",
    "defaultPolicy.spec.tiers[0].type=Disk",
    "defaultPolicy.spec.tiers[0].paths={/var/lib/forebay}",
    "defaultPolicy.spec.tiers[0].capacity=1Gi",
    "node.memory=256Mi",
    // The test machine's disk is nearly full at times, and its nodes share it.
    "defaultPolicy.spec.tiers[0].keepFreePercent=0",
];

/// Installs the chart, at the first test only.
pub(crate) fn installed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| helm_install(VALUES).unwrap());
}

/// A namespace with credentials and a Dataset `t` over `bucket`; `rest` goes on in its spec.
pub(crate) fn dataset(name: &str, bucket: &forebay_e2e::bucket::Bucket, rest: &str) -> Namespace {
    installed();
    let namespace = Namespace::with_credentials(name).unwrap();
    apply(name, &spec("t", &bucket.source(), rest)).unwrap();
    namespace
}

pub(crate) fn spec(name: &str, source: &str, rest: &str) -> String {
    format!("apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: {name} }}\nspec: {{ {source}{rest} }}\n")
}
