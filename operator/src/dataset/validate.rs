//! Whether a Dataset can be served as it stands, from what was observed.
//! Pure. Does not know how it is served.
//! Invariant: what isn't `Valid` reaches no node.

use forebay_api::{CachePolicy, Dataset};
use forebay_wire::dataset_spec::file::ClaimMode;
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
    let object = object(dataset);
    forebay_wire::dataset_spec::Dataset::parse("Dataset", &object).map_err(|problems| Invalid {
        reason: "InvalidSpec",
        message: problems.problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect::<Vec<_>>().join("; "),
    })?;
    allowed::check(&dataset.spec, &policy.spec.allowed_sources, api_server)
        .map_err(|refused| Invalid { reason: "SourceNotAllowed", message: format!("{}: {}", refused.field, refused.message) })?;
    let claim = dataset.spec.volume.as_ref().and_then(|volume| volume.claim).unwrap_or_default();
    Ok(Valid { policy, policy_uid: policy.uid().unwrap_or_default(), object, with_claim: claim == ClaimMode::Create })
}

/// What a node is told of the object: the same as a Dataset file on a laptop.
pub fn object(dataset: &Dataset) -> String {
    json!({
        "apiVersion": "forebay.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": { "name": dataset.name_any(), "namespace": dataset.namespace().unwrap_or_default() },
        "spec": dataset.spec,
    })
    .to_string()
}
