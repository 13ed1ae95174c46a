//! The list of a preload: which files of which paths are wanted here, how much that is, and which of it the store would keep.
//! Knows manifest, rules, which blocks are this node's, and the store's forecast. Does not know progress.
//! Invariant: the list is walked in the same order each time, so the plan that was counted is the plan that is loaded.

use super::PreloadError;
use crate::fill::Fill;
use crate::fs::for_each_below;
use crate::rules::{Placement, RuleTable};
use forebay_manifest::{EntryIndex, Manifest, ManifestError};
use forebay_store::{Class, DatasetSlot, Plan, Store};
use forebay_wire::block::{BlockId, BlockIndex, BlockSize, ObjectRef};
use forebay_wire::rule::LocalCopy;

/// Files and bytes of a list: what is to be loaded, and what the store would not keep.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) files_passed: u64,
    pub(super) bytes_passed: u64,
    /// Of these, what only the quota keeps out.
    pub(super) bytes_over_quota: u64,
}

/// Whose the blocks of a list are: other nodes load their own.
#[derive(Clone, Copy)]
pub(super) struct Share<'a> {
    pub(super) fill: &'a Fill,
    pub(super) block_size: BlockSize,
}

impl Share<'_> {
    /// The blocks of an object that are to be here.
    pub(super) fn blocks(self, object: ObjectRef, local_copy: LocalCopy) -> impl Iterator<Item = BlockIndex> {
        let wanted = move |index: &BlockIndex| self.fill.wants(local_copy, BlockId { object: object.id, index: *index });
        (0..self.block_size.count(object.size)).map(BlockIndex).filter(wanted)
    }

    /// Bytes of them.
    pub(super) fn bytes(self, object: ObjectRef, local_copy: LocalCopy) -> u64 {
        self.blocks(object, local_copy).filter_map(|index| self.block_size.extent(index, object.size)).map(|extent| extent.len()).sum()
    }
}

/// Counts what is wanted of `dataset`, and chooses from it where the store would not keep all.
pub(super) fn count(
    manifest: &Manifest,
    rules: &RuleTable,
    share: Share<'_>,
    (store, dataset): (&Store, DatasetSlot),
    paths: &[String],
) -> Result<(Totals, Option<Plan>), PreloadError> {
    let mut totals = Totals::default();
    let mut charge = 0;
    each_wanted(manifest, rules, share, paths, &mut |_, size| {
        totals.files += 1;
        totals.bytes += size;
        charge += store.charge_of(size);
        Ok(())
    })?;
    if store.has_room_for(dataset, charge) {
        return Ok((totals, None));
    }
    let mut forecast = store.forecast(dataset);
    each_wanted(manifest, rules, share, paths, &mut |entry, size| {
        let (object, class) = object_of(rules, manifest, entry, size)?;
        forecast.add(&object, class);
        Ok(())
    })?;
    let plan = forecast.settle();
    // Once through the list for the totals; the plan that loads begins anew and so chooses the same.
    let mut ahead = plan.clone();
    totals = Totals::default();
    each_wanted(manifest, rules, share, paths, &mut |entry, size| {
        let (object, class) = object_of(rules, manifest, entry, size)?;
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
    totals.bytes_over_quota = ahead.over_quota_bytes();
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

/// Calls `visit` with each file at or below `paths` that rules let into the cache, and the bytes of it that are to be here; always in the same order.
pub(super) fn each_wanted(
    manifest: &Manifest,
    rules: &RuleTable,
    share: Share<'_>,
    paths: &[String],
    visit: &mut dyn FnMut(EntryIndex, u64) -> Result<(), ManifestError>,
) -> Result<(), PreloadError> {
    for path in paths {
        let mut failed = None;
        let found = for_each_below(manifest, path.as_bytes(), &mut |entry, size| {
            let visited = wanted_bytes(rules, share, manifest, entry, size).and_then(|wanted| match wanted {
                Some(bytes) => visit(entry, bytes),
                None => Ok(()),
            });
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

/// Bytes of the file that are to be here; `None` when rules keep it out of the cache, or all of it is for other nodes. Cheap where one rule holds for
/// all and there are no others.
fn wanted_bytes(
    rules: &RuleTable,
    share: Share<'_>,
    manifest: &Manifest,
    entry: EntryIndex,
    size: u64,
) -> Result<Option<u64>, ManifestError> {
    if !rules.forbids() && share.fill.is_alone() {
        return Ok(Some(size));
    }
    let path = manifest.path(entry)?;
    let object = manifest.object(entry)?.object;
    let rule = rules.resolve(&path);
    if rule.placement(object.id, 0) == Placement::Pass {
        return Ok(None);
    }
    let bytes = share.bytes(object, rule.local_copy);
    Ok((bytes > 0 || size == 0).then_some(bytes))
}

/// What the store has to know of the file to say whether it would keep it, as if it had only its `bytes` that are to be here.
pub(super) fn object_of(
    rules: &RuleTable,
    manifest: &Manifest,
    entry: EntryIndex,
    bytes: u64,
) -> Result<(ObjectRef, Class), ManifestError> {
    let object = ObjectRef { size: bytes, ..manifest.object(entry)?.object };
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
