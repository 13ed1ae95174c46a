//! Which CachePolicy a Dataset uses.
//! Pure: policies and the namespace's labels come as arguments.

use std::collections::BTreeMap;

use forebay_api::cache_policy::NamespacesFrom;
use forebay_api::{CachePolicy, Dataset};
use forebay_wire::dataset_spec::file::DatasetSpecFile;
use kube::ResourceExt;

use crate::selector;

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyProblem {
    Missing { name: String },
    NoDefault,
    Namespace { policy: String, namespace: String },
}

impl PolicyProblem {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "PolicyMissing",
            Self::NoDefault => "NoDefaultPolicy",
            Self::Namespace { .. } => "NamespaceNotAllowed",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Self::Missing { name } => {
                format!("the CachePolicy `{name}` isn't there: create it, or name another one in spec.policyRef")
            }
            Self::NoDefault => "no CachePolicy is the default: set `spec.default: true` in one, or name one in spec.policyRef".to_owned(),
            Self::Namespace { policy, namespace } => format!(
                "the CachePolicy `{policy}` may not be used from the namespace `{namespace}`: have its allowedNamespaces select the namespace's labels, or name another policy"
            ),
        }
    }
}

/// The policy that `spec.policyRef` names, else the oldest default. Policies that are being deleted are gone already.
pub fn find<'a>(dataset: &Dataset, policies: impl IntoIterator<Item = &'a CachePolicy>) -> Result<&'a CachePolicy, PolicyProblem> {
    let mut alive = policies.into_iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    match &dataset.spec.policy_ref {
        Some(reference) => {
            alive.find(|policy| policy.name_any() == reference.name).ok_or_else(|| PolicyProblem::Missing { name: reference.name.clone() })
        }
        None => alive.filter(|policy| policy.spec.default).min_by_key(|policy| age(policy)).ok_or(PolicyProblem::NoDefault),
    }
}

/// Whether `policy` may be used from `namespace`, whose labels these are. `None`: they aren't needed, or the namespace isn't there.
pub fn allow(policy: &CachePolicy, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Result<(), PolicyProblem> {
    let allowed = match policy.spec.allowed_namespaces.from {
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => match (&policy.spec.allowed_namespaces.selector, labels) {
            (Some(selector), Some(labels)) => selector::labels(selector, labels),
            (None, _) | (_, None) => false,
        },
    };
    if allowed { Ok(()) } else { Err(PolicyProblem::Namespace { policy: policy.name_any(), namespace: namespace.to_owned() }) }
}

/// What the Dataset's priority counts as: its own, and no more than the policy lets it have.
pub fn priority(spec: &DatasetSpecFile, policy: &CachePolicy) -> i32 {
    spec.priority.unwrap_or_default().min(policy.spec.max_priority)
}

/// Sorts the older first; the name decides between policies of the same second.
pub fn age(policy: &CachePolicy) -> (Option<k8s_openapi::jiff::Timestamp>, String) {
    (policy.creation_timestamp().map(|time| time.0), policy.name_any())
}
