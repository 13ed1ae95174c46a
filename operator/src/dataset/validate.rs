//! Whether a Dataset can be served as it stands, from what was observed.
//! Pure. Does not know how it is served.
//! Invariant: what isn't `Valid` reaches no node.

use forebay_api::{CachePolicy, Dataset};
use forebay_wire::dataset_spec::PreloadWhen;
use forebay_wire::dataset_spec::file::{ClaimMode, DatasetSpecFile, PreloadFile};
use forebay_wire::rule::CacheMode;
use kube::ResourceExt;
use serde_json::json;

use super::allowed;
use super::observe::Observed;
use super::policy;

/// A Dataset that nodes may be told of.
#[derive(Debug)]
pub struct Valid<'a> {
    pub policy: &'a CachePolicy,
    pub policy_uid: String,
    /// As `desired` carries it.
    pub object: String,
    pub object_for_clients: String,
    pub with_claim: bool,
}

/// Why it can't be served, and that it won't be until somebody changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub reason: &'static str,
    pub message: String,
}

/// First the policy, then what it allows, then the spec itself, as a node would read it.
pub fn validate<'a>(dataset: &Dataset, observed: &'a Observed, api_server: &[String]) -> Result<Valid<'a>, Invalid> {
    let namespace = dataset.namespace().unwrap_or_default();
    let problem = |problem: policy::PolicyProblem| Invalid { reason: problem.reason(), message: problem.message() };
    let policy = observed.policy.as_ref().map_err(|found| problem(found.clone()))?;
    policy::allow(policy, &namespace, observed.namespace_labels.as_ref()).map_err(problem)?;
    let whole = object(dataset, &dataset.spec);
    forebay_wire::dataset_spec::Dataset::parse("Dataset", &whole).map_err(|problems| Invalid {
        reason: "InvalidSpec",
        message: problems.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect::<Vec<_>>().join("; "),
    })?;
    allowed::check(&dataset.spec, &policy.spec.allowed_sources, api_server)
        .map_err(|refused| Invalid { reason: "SourceNotAllowed", message: format!("{}: {}", refused.field, refused.message) })?;
    let mut told = dataset.spec.0.clone();
    if policy::priority(&told, policy) != told.priority.unwrap_or_default() {
        told.priority = Some(policy.spec.max_priority);
    }
    let claim = dataset.spec.volume.as_ref().and_then(|volume| volume.claim).unwrap_or_default();
    Ok(Valid {
        policy,
        policy_uid: policy.uid().unwrap_or_default(),
        object_for_clients: object(dataset, &without_cache(&told)),
        object: object(dataset, &told),
        with_claim: claim == ClaimMode::Create,
    })
}

/// The same data for a node that has next to no cache: nothing is loaded ahead of use, and what would be pinned is cached as it is read. The quota
/// is the cache's, of which such a node is no part.
fn without_cache(spec: &DatasetSpecFile) -> DatasetSpecFile {
    let mut spec = spec.clone();
    spec.quota = None;
    spec.preload = Some(PreloadFile { when: Some(PreloadWhen::Never), ..PreloadFile::default() });
    for rule in spec.rules.iter_mut().flatten().filter(|rule| rule.cache == Some(CacheMode::Pin)) {
        // Said, not left out: a shorter path may say Never.
        rule.cache = Some(CacheMode::Auto);
        rule.max_bytes = None;
    }
    spec
}

/// What a node is told of the object: the same as a Dataset file on a laptop.
fn object(dataset: &Dataset, spec: &DatasetSpecFile) -> String {
    json!({
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": { "name": dataset.name_any(), "namespace": dataset.namespace().unwrap_or_default() },
        "spec": spec,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_client_is_told_of_the_same_files_and_of_no_cache() {
        let dataset: Dataset = serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "Dataset", "metadata": { "name": "a", "namespace": "vision" },
            "spec": {
                "source": "s3://bucket/", "sync": { "interval": "1m" }, "quota": "5Ti", "priority": -5,
                "preload": { "when": "Always", "paths": ["/train"], "maxBytesPerSecond": "1Gi", "revision": 3 },
                "rules": [
                    { "path": "/", "cache": "Never" },
                    { "path": "/train", "cache": "Pin", "maxBytes": "5Gi", "ttl": "24h" },
                ],
            }
        }))
        .unwrap();
        let told = forebay_wire::dataset_spec::Dataset::parse("object", &object(&dataset, &without_cache(&dataset.spec))).unwrap();
        let whole = forebay_wire::dataset_spec::Dataset::parse("object", &object(&dataset, &dataset.spec)).unwrap();
        assert_eq!((&told.sources, &told.sync, &told.name), (&whole.sources, &whole.sync, &whole.name));
        assert_eq!((told.quota, told.priority.get(), whole.quota.is_some()), (None, -5, true));
        assert_eq!((told.preload.when, told.preload.revision), (PreloadWhen::Never, 0));
        let modes: Vec<_> = told.rules.iter().map(|rule| (rule.cache, rule.max_bytes, rule.ttl.is_some())).collect();
        assert_eq!(modes, [(Some(CacheMode::Never), None, false), (Some(CacheMode::Auto), None, true)]);
    }
}
