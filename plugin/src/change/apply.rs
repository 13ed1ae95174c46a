//! Writes what was planned: one merge patch of the spec, only onto the version that it was planned for.
//! Knows the API server. Does not know which fields.

use forebay_api::Dataset;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::{Change, Planned, plan};
use crate::error::Error;
use crate::names;

/// Somebody else wrote in between: looked at again so often.
const ATTEMPTS_MAX: usize = 5;

/// Changes the Dataset: what was said, and how it is afterwards. `datasets` is of its namespace.
pub async fn apply(datasets: &Api<Dataset>, namespace: &str, name: &str, change: &Change) -> Result<(Planned, Dataset), Error> {
    let op = || format!("change the Dataset {namespace}/{name}");
    for _ in 0..ATTEMPTS_MAX {
        let dataset = datasets
            .get_opt(name)
            .await
            .map_err(|error| Error::of(op(), &error))?
            .ok_or_else(|| Error::NoDataset { namespace: namespace.to_owned(), name: name.to_owned() })?;
        let planned = plan(&dataset, change).map_err(Error::Refused)?;
        let Some(patch) = &planned.patch else { return Ok((planned, dataset)) };
        let mut patch = patch.clone();
        // A list in a merge patch replaces the one that is there: it must be the one that was looked at.
        patch["metadata"] = json!({ "resourceVersion": dataset.metadata.resource_version, "uid": dataset.metadata.uid });
        let params = PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match datasets.patch(name, &params, &Patch::Merge(&patch)).await {
            Ok(changed) => return Ok((planned, changed)),
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return Err(Error::of(op(), &error)),
        }
    }
    Err(Error::Conflict { op: op() })
}
