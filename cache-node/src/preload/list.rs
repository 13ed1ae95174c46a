//! The list of a preload: which files of which paths are wanted, how much that is, and which of it the store would keep.
//! Knows manifest, rules and the store's forecast. Does not know fills or progress.
//! Invariant: the list is walked in the same order each time, so the plan that was counted is the plan that is loaded.

use super::PreloadError;
use crate::fs::for_each_below;
use crate::rules::{Placement, RuleTable};
use forebay_manifest::{EntryIndex, Manifest, ManifestError};
use forebay_store::{Class, Plan, Store};
use forebay_wire::block::ObjectRef;

/// Files and bytes of a list: what is to be loaded, and what the store would not keep.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) files_passed: u64,
    pub(super) bytes_passed: u64,
}

/// Counts what is wanted, and chooses from it where the store would not keep all.
pub(super) fn count(
    manifest: &Manifest,
    rules: &RuleTable,
    store: &Store,
    paths: &[String],
) -> Result<(Totals, Option<Plan>), PreloadError> {
    let mut totals = Totals::default();
    let mut charge = 0;
    each_wanted(manifest, rules, paths, &mut |_, size| {
        totals.files += 1;
        totals.bytes += size;
        charge += store.charge_of(size);
        Ok(())
    })?;
    if store.has_room_for(charge) {
        return Ok((totals, None));
    }
    let mut forecast = store.forecast();
    each_wanted(manifest, rules, paths, &mut |entry, _| {
        let (object, class) = object_of(rules, manifest, entry)?;
        forecast.add(&object, class);
        Ok(())
    })?;
    let plan = forecast.settle();
    // Once through the list for the totals; the plan that loads begins anew and so chooses the same.
    let mut ahead = plan.clone();
    totals = Totals::default();
    each_wanted(manifest, rules, paths, &mut |entry, size| {
        let (object, class) = object_of(rules, manifest, entry)?;
        match ahead.take(&object, class) {
            Some(blocks) => {
                let bytes = store.bytes_of(&object, blocks);
                totals.files += 1;
                totals.bytes += bytes;
                totals.bytes_passed += size - bytes;
            }
            None => {
                totals.files_passed += 1;
                totals.bytes_passed += size;
            }
        }
        Ok(())
    })?;
    Ok((totals, Some(plan)))
}

/// So that each file is in the list once.
pub(super) fn without_paths_below_others(mut paths: Vec<String>) -> Vec<String> {
    for path in &mut paths {
        path.truncate(path.trim_end_matches('/').len());
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        if path == "/" {
            path.clear();
        }
    }
    paths.sort();
    let mut kept: Vec<String> = Vec::new();
    for path in paths {
        if !kept.iter().any(|above| path.strip_prefix(above.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
            kept.push(path);
        }
    }
    kept.into_iter().map(|path| if path.is_empty() { "/".to_owned() } else { path }).collect()
}

/// Calls `visit` with each file at or below `paths` that rules let into the cache, and its size; always in the same order.
pub(super) fn each_wanted(
    manifest: &Manifest,
    rules: &RuleTable,
    paths: &[String],
    visit: &mut dyn FnMut(EntryIndex, u64) -> Result<(), ManifestError>,
) -> Result<(), PreloadError> {
    for path in paths {
        let mut failed = None;
        let found = for_each_below(manifest, path.as_bytes(), &mut |entry, size| {
            let visited = is_wanted(rules, manifest, entry).and_then(|is_wanted| if is_wanted { visit(entry, size) } else { Ok(()) });
            if let Err(error) = visited {
                failed = Some(error);
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if !found {
            return Err(PreloadError::NotFound { path: path.clone() });
        }
    }
    Ok(())
}

/// Whether rules let the file into the cache. Cheap where one rule holds for all.
fn is_wanted(rules: &RuleTable, manifest: &Manifest, entry: EntryIndex) -> Result<bool, ManifestError> {
    if !rules.forbids() {
        return Ok(true);
    }
    let path = manifest.path(entry)?;
    let object = manifest.object(entry)?;
    Ok(rules.resolve(&path).placement(object.object.id, 0) != Placement::Pass)
}

/// What the store has to know of the file to say whether it would keep it.
pub(super) fn object_of(rules: &RuleTable, manifest: &Manifest, entry: EntryIndex) -> Result<(ObjectRef, Class), ManifestError> {
    let object = manifest.object(entry)?.object;
    if !rules.pins() {
        return Ok((object, Class::Auto));
    }
    match rules.resolve(&manifest.path(entry)?).placement(object.id, 0) {
        Placement::Keep(admission) => Ok((object, admission.class)),
        Placement::Pass => Ok((object, Class::Auto)),
    }
}

#[cfg(test)]
mod tests {
    use super::without_paths_below_others;

    #[test]
    fn a_path_below_another_is_left_out() {
        let check = |paths: &[&str], kept: &[&str]| {
            assert_eq!(without_paths_below_others(paths.iter().map(|path| (*path).to_owned()).collect()), kept);
        };
        check(&["/a/b", "/a", "/ab", "/a/"], &["/a", "/ab"]);
        check(&["/a", "/"], &["/"]);
        check(&["a/b", "/a/c"], &["/a/b", "/a/c"]);
    }
}
