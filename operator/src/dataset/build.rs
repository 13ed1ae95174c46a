//! The objects that a Dataset asks for, as they are applied.
//! Pure. Does not know whether they are there already.
//! Invariant: the same Dataset gives the same objects, so that applying again changes nothing.

mod job;
mod pv;
mod pvc;

use forebay_api::Dataset;
use forebay_wire::dataset_spec::PreloadWhen;
use serde_json::{Value, json};

use super::validate::{Invalid, Valid};
use crate::context::Settings;
use crate::names;

/// What a claim asks for and a volume offers. Nominal: nothing is reserved, the data set is as large as it is.
const NOMINAL_CAPACITY: &str = "1Ti";

/// Not `Applied`: nothing of it is true yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// `None`: the Dataset wants no claim, so what was made before goes.
    pub claim: Option<Value>,
    /// Made once the API server has given the claim its UID, which is the argument.
    pub volume: Option<Volume>,
    pub job: Option<Job>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Volume(Value);

impl Volume {
    pub fn bound_to(&self, claim_uid: &str) -> Value {
        let mut volume = self.0.clone();
        volume["spec"]["claimRef"]["uid"] = Value::from(claim_uid);
        volume
    }
}

/// The Job of the current revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub name: String,
    pub object: Value,
    pub suspend: bool,
}

pub fn build(dataset: &Dataset, valid: &Valid<'_>, settings: &Settings) -> Built {
    let preload = dataset.spec.preload.clone().unwrap_or_default();
    let wants_job = matches!(preload.when, Some(PreloadWhen::Once | PreloadWhen::Always));
    Built {
        claim: valid.with_claim.then(|| pvc::build(dataset)),
        volume: valid.with_claim.then(|| Volume(pv::build(dataset))),
        job: wants_job.then(|| job::build(dataset, &preload, settings)),
    }
}

/// What to say when something of the claim's name is there that isn't ours.
pub fn taken(claim: &str) -> Invalid {
    Invalid {
        reason: "ClaimTaken",
        message: format!(
            "a PersistentVolumeClaim `{claim}` is there that this Dataset didn't make: delete or rename it, give the Dataset another name, or write `volume: {{claim: None}}`"
        ),
    }
}

fn labels(uid: &str) -> Value {
    json!({ names::MANAGED_BY_LABEL: names::FIELD_MANAGER, names::DATASET_LABEL: uid })
}
