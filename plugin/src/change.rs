//! Which fields of a Dataset a wish of the user changes, and whether it makes sense.
//! Knows rules and preload. Does not know the API server: `apply` does.
//! Pure. Invariant: of the spec only the fields that are named in what it says are other than before; what a rule or the preload says
//! besides stays.

pub mod apply;
#[cfg(test)]
mod tests;

use forebay_api::{Dataset, DatasetSpec};
use forebay_wire::dataset_spec::PreloadWhen;
use forebay_wire::dataset_spec::file::{PreloadFile, RuleFile};
use forebay_wire::id::DatasetPath;
use forebay_wire::rule::CacheMode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Value, json};

use crate::names;

/// As many as the API server takes.
const PATHS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Load ahead, once more if it was loaded before.
    Preload {
        paths: Vec<DatasetPath>,
        max_bytes_per_second: Option<String>,
    },
    PausePreload,
    Pin {
        path: DatasetPath,
        max_bytes: Option<String>,
    },
    Unpin {
        path: DatasetPath,
    },
    /// Drop it from the cache, and read it through from now on.
    Free {
        path: DatasetPath,
    },
    /// Let it be cached again.
    Unfree {
        path: DatasetPath,
    },
}

/// What is to be written, and said.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// To be merged into the object; `None`: it is so already.
    pub patch: Option<Value>,
    /// One line each: what is set, then what to know about it.
    pub says: Vec<String>,
    /// The preload's revision after it.
    pub revision: i64,
}

/// What to write, or why it makes no sense.
pub fn plan(dataset: &Dataset, change: &Change) -> Result<Planned, String> {
    let name = dataset.metadata.name.as_deref().unwrap_or_default();
    if dataset.metadata.deletion_timestamp.is_some() {
        return Err(format!("the Dataset `{name}` is being deleted: nothing of it can be changed any more"));
    }
    let mut spec = dataset.spec.clone();
    let mut says = match change {
        Change::Preload { paths, max_bytes_per_second } => preload(dataset, &mut spec, paths, max_bytes_per_second.as_deref())?,
        Change::PausePreload => pause(&mut spec, name)?,
        Change::Pin { path, max_bytes } => pin(&mut spec, path, max_bytes.as_deref())?,
        Change::Unpin { path } => unset(&mut spec, path, CacheMode::Pin, name)?,
        Change::Free { path } => free(&mut spec, path)?,
        Change::Unfree { path } => unset(&mut spec, path, CacheMode::Never, name)?,
    };
    let revision = spec.preload.as_ref().and_then(|preload| preload.revision).unwrap_or(0);
    if spec == dataset.spec {
        return Ok(Planned { patch: None, says: vec!["it says so already: nothing was changed".to_owned()], revision });
    }
    says.extend(contested(dataset.metadata.managed_fields.as_deref().unwrap_or_default(), change));
    Ok(Planned { patch: Some(patch(&dataset.spec, &spec)), says, revision })
}

fn preload(dataset: &Dataset, spec: &mut DatasetSpec, paths: &[DatasetPath], rate: Option<&str>) -> Result<Vec<String>, String> {
    if paths.len() > PATHS_MAX {
        return Err(format!("{} paths are too many: name at most {PATHS_MAX}, or a folder above them", paths.len()));
    }
    for path in paths {
        if let Some(rule) = deciding(spec, path).filter(|rule| rule.cache == Some(CacheMode::Never)) {
            return Err(format!(
                "nothing below {path} is kept: the rule `{}` says `cache: Never`; take it away first, by `kubectl forebay free --undo`",
                rule.path
            ));
        }
    }
    let seen = dataset.status.as_ref().and_then(|status| status.preload.as_ref()).map_or(0, |preload| preload.revision);
    let preload = spec.preload.get_or_insert_with(PreloadFile::default);
    let before = preload.clone();
    let mut says = Vec::new();
    // Always is more than Once.
    if preload.when != Some(PreloadWhen::Always) {
        preload.when = Some(PreloadWhen::Once);
    }
    if before.when != preload.when {
        says.push("spec.preload.when: Once".to_owned());
    }
    if !paths.is_empty() {
        let mut given: Vec<String> = paths.iter().map(|path| path.as_str().to_owned()).collect();
        given.dedup();
        says.push(match &before.paths {
            Some(old) if *old != given => format!("spec.preload.paths: {} (was {})", given.join(", "), old.join(", ")),
            _ => format!("spec.preload.paths: {}", given.join(", ")),
        });
        preload.paths = Some(given);
    }
    if let Some(rate) = rate {
        says.push(format!("spec.preload.maxBytesPerSecond: {rate}"));
        preload.max_bytes_per_second = Some(rate.to_owned());
    }
    if preload.suspend == Some(true) {
        says.push("spec.preload.suspend: false".to_owned());
        preload.suspend = Some(false);
    }
    let revision = before.revision.unwrap_or(0).max(seen) + 1;
    says.push(format!("spec.preload.revision: {revision}"));
    preload.revision = Some(revision);
    if let Some(paths) = before.paths.filter(|_| paths.is_empty()) {
        says.push(format!("it loads {} only, as spec.preload.paths says; `--path /` is everything", paths.join(", ")));
    }
    Ok(says)
}

fn pause(spec: &mut DatasetSpec, name: &str) -> Result<Vec<String>, String> {
    match &mut spec.preload {
        Some(preload) if matches!(preload.when, Some(PreloadWhen::Once | PreloadWhen::Always)) => {
            preload.suspend = Some(true);
            Ok(vec!["spec.preload.suspend: true".to_owned(), "what is loaded stays; `kubectl forebay preload` goes on".to_owned()])
        }
        _ => Err(format!("the Dataset `{name}` has no preload: there is nothing to pause")),
    }
}

fn pin(spec: &mut DatasetSpec, path: &DatasetPath, max_bytes: Option<&str>) -> Result<Vec<String>, String> {
    let above = deciding(spec, path).filter(|rule| rule.path != path.as_str()).cloned();
    let rule = rule(spec, path);
    let was = (rule.cache, rule.max_bytes.clone());
    rule.cache = Some(CacheMode::Pin);
    rule.max_bytes = max_bytes.map(str::to_owned);
    let mut says = vec![format!("spec.rules[{path}].cache: Pin{}", was_mode(was.0, CacheMode::Pin))];
    match (max_bytes, was.1) {
        (Some(bytes), _) => says.push(format!("spec.rules[{path}].maxBytes: {bytes}: a stable part of that size is loaded and kept")),
        (None, Some(old)) => says.push(format!("spec.rules[{path}].maxBytes: removed (was {old}): everything below is loaded and kept")),
        (None, None) => says.push("everything below is loaded ahead and kept".to_owned()),
    }
    match above {
        Some(above) if above.cache == Some(CacheMode::Pin) && above.max_bytes.is_none() => {
            says.push(format!("the rule `{}` pins it already", above.path));
        }
        Some(above) if above.cache == Some(CacheMode::Never) => {
            says.push(format!("the rest of what the rule `{}` names is still not cached", above.path));
        }
        _ => {}
    }
    Ok(says)
}

fn free(spec: &mut DatasetSpec, path: &DatasetPath) -> Result<Vec<String>, String> {
    let kept: Vec<String> = spec
        .rules
        .iter()
        .flatten()
        .filter(|rule| rule.path != path.as_str() && matches!(rule.cache, Some(CacheMode::Pin | CacheMode::Auto)))
        .filter(|rule| DatasetPath::new(&rule.path).is_some_and(|inner| path.contains(&inner)))
        .map(|rule| rule.path.clone())
        .collect();
    let rule = rule(spec, path);
    let was = rule.cache;
    rule.cache = Some(CacheMode::Never);
    let limit = rule.max_bytes.take();
    let mut says = vec![format!("spec.rules[{path}].cache: Never{}", was_mode(was, CacheMode::Never))];
    if let Some(limit) = limit {
        says.push(format!("spec.rules[{path}].maxBytes: removed (was {limit})"));
    }
    says.push("what is cached of it is freed, and it is read from the source from now on; the source is untouched; `--undo` lets it be cached again".to_owned());
    if !kept.is_empty() {
        says.push(format!("what has a rule of its own stays: {}", kept.join(", ")));
    }
    Ok(says)
}

/// Takes `mode` off the path's own rule, and the rule with it if it says nothing else.
fn unset(spec: &mut DatasetSpec, path: &DatasetPath, mode: CacheMode, name: &str) -> Result<Vec<String>, String> {
    let done = if mode == CacheMode::Pin { "pinned" } else { "kept from the cache" };
    let deciding = deciding(spec, path).filter(|rule| rule.cache == Some(mode)).map(|rule| rule.path.clone());
    let rules = spec.rules.as_deref_mut().unwrap_or_default();
    let Some(at) = rules.iter().position(|rule| same_path(rule, path) && rule.cache == Some(mode)) else {
        return Err(match deciding {
            Some(above) => format!("{path} is {done} by the rule `{above}`: name that path, or give {path} a rule of its own"),
            None => format!("no rule of the Dataset `{name}` says that {path} is {done}: there is nothing to undo"),
        });
    };
    let rule = &mut rules[at];
    (rule.cache, rule.max_bytes) = (None, None);
    let RuleFile { path: own, cache: _, max_bytes: _, ttl, copies, local_copy } = rule;
    let own = own.clone();
    let is_empty = ttl.is_none() && copies.is_none() && local_copy.is_none();
    if is_empty {
        spec.rules = spec.rules.take().map(|rules| rules.into_iter().filter(|rule| rule.path != own).collect());
        spec.rules = spec.rules.take().filter(|rules: &Vec<RuleFile>| !rules.is_empty());
    }
    let mut says = vec![match is_empty {
        true => format!("spec.rules[{own}]: removed, it said nothing else"),
        false => format!("spec.rules[{own}].cache: removed; the rest of the rule stays"),
    }];
    let now = self::deciding(spec, path).and_then(|rule| Some((rule.path.clone(), rule.cache?)));
    says.push(match now {
        Some((above, mode)) => format!("from now on the rule `{above}` decides, which says {mode:?}"),
        None if mode == CacheMode::Pin => "what is cached stays until its room is needed".to_owned(),
        None => "it is cached when it is read".to_owned(),
    });
    Ok(says)
}

fn was_mode(was: Option<CacheMode>, is: CacheMode) -> String {
    was.filter(|was| *was != is).map(|was| format!(" (was {was:?})")).unwrap_or_default()
}

/// The rule of exactly that path, made if there is none.
fn rule<'a>(spec: &'a mut DatasetSpec, path: &DatasetPath) -> &'a mut RuleFile {
    let rules = spec.rules.get_or_insert_default();
    let at = rules.iter().position(|rule| same_path(rule, path)).unwrap_or_else(|| {
        let path = path.as_str().to_owned();
        rules.push(RuleFile { path, cache: None, max_bytes: None, ttl: None, copies: None, local_copy: None });
        rules.len() - 1
    });
    &mut rules[at]
}

fn same_path(rule: &RuleFile, path: &DatasetPath) -> bool {
    DatasetPath::new(&rule.path).as_ref() == Some(path)
}

/// The rule whose `cache` holds for `path`: the longest path that says something.
fn deciding<'a>(spec: &'a DatasetSpec, path: &DatasetPath) -> Option<&'a RuleFile> {
    let holds = |rule: &&RuleFile| rule.cache.is_some() && DatasetPath::new(&rule.path).is_some_and(|above| above.contains(path));
    spec.rules.iter().flatten().filter(holds).max_by_key(|rule| rule.path.len())
}

/// The fields of `preload` that differ, and the list of rules if one does. Of the list the API server finds out by itself, key by key, what changed.
fn patch(old: &DatasetSpec, new: &DatasetSpec) -> Value {
    let [old, new] = [old, new].map(|spec| serde_json::to_value(spec).unwrap_or_default());
    let mut fields = json!({});
    if old["rules"] != new["rules"] {
        fields["rules"] = new["rules"].clone();
    }
    for (name, value) in new["preload"].as_object().into_iter().flatten() {
        if old["preload"][name] != *value {
            fields["preload"][name] = value.clone();
        }
    }
    json!({ "spec": fields })
}

/// Warns of who applies the same fields: he will put them back.
fn contested(managers: &[ManagedFieldsEntry], change: &Change) -> Option<String> {
    let owns = |fields: &Value| match change {
        Change::Preload { .. } | Change::PausePreload => !fields["f:preload"].is_null(),
        Change::Pin { path, .. } | Change::Unpin { path } | Change::Free { path } | Change::Unfree { path } => {
            !fields["f:rules"][format!("k:{}", json!({ "path": path.as_str() }))].is_null()
        }
    };
    let others: Vec<&str> = managers
        .iter()
        .filter(|entry| entry.operation.as_deref() == Some("Apply") && entry.manager.as_deref() != Some(names::FIELD_MANAGER))
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| owns(&fields.0["f:spec"])))
        .filter_map(|entry| entry.manager.as_deref())
        .collect();
    (!others.is_empty()).then(|| format!("{} applies this field too and may put it back: change it there as well", others.join(" and ")))
}
