//! The files of the repository that are made from the types here, as text. `forebay-crdgen` writes them, a test compares them.
//! Knows where they lie. Does not read or write.
//! Invariant: the same types give the same bytes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::{crd, reference};

/// A file, and what stands in it.
pub struct Generated {
    /// From the repository's root.
    pub path: &'static str,
    pub text: String,
}

/// All of them.
pub fn files() -> [Generated; 3] {
    [
        Generated { path: "crds/datasets.forebay.dev.yaml", text: yaml(&crd::dataset()) },
        Generated { path: "crds/cachepolicies.forebay.dev.yaml", text: yaml(&crd::cache_policy()) },
        Generated { path: "docs/crds.md", text: reference::text() },
    ]
}

/// Panics when a definition can't be written: it is made of maps, lists and scalars only.
fn yaml(crd: &CustomResourceDefinition) -> String {
    let body = serde_saphyr::to_string(crd).expect("a definition is plain data");
    format!("# Made from the types in api/ by `make crds`: change those, not this file.\n{body}")
}
