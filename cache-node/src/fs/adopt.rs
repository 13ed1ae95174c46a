//! A new manifest begins to serve; a new daemon takes a kernel over.
//! Invariant: at every moment each id that the kernel may hold leads somewhere, or to `ESTALE`: removed files are remembered before the
//! manifest that lost them serves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use forebay_wire::node_config::ServingMode;
use tracing::{error, info};

use super::locate::node_of;
use super::loose::{LooseFile, split};
use super::{Adopted, Current, Filesystem, Invalidation};
use crate::fill::chain;
use crate::rules::RuleTable;
use forebay_manifest::{
    Change, ContentId, EntryKind, FoundKind, Manifest, ManifestError, ManifestObject, PathHash, RemovedEntry, What, diff, directory_id,
};
use forebay_wire::block::ObjectRef;

/// At most this part of a data set of "small" files is in large ones: those are read three to ten times faster when they are passed through.
const LARGE_PART_MAX: u64 = 8;
/// Objects whose blocks are freed after a sync lost them; beyond it eviction has to find them.
const LOST_MAX: usize = 1 << 20;

/// What a new manifest changed.
#[derive(Debug, Default)]
pub struct Adoption {
    pub added: u64,
    pub removed: u64,
    pub replaced: u64,
    /// Object versions that no name leads to any more; to be freed when the kernel had time to let go of them.
    pub lost: Vec<(ContentId, ObjectRef)>,
}

impl Filesystem {
    /// A listing begins: repairs made before it are superseded by what it finds. Its number goes to `accept`.
    pub fn begin_listing(&self) -> u64 {
        self.listings.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Lets `manifest`, the result of listing `number`, serve, and tells the kernel what changed. Blocks: run it off the runtime's threads.
    pub fn accept(&self, manifest: Arc<Manifest>, number: u64) -> Result<Adoption, ManifestError> {
        let before = self.current.load_full();
        let next = Arc::new(self.with_origins(manifest));
        self.measure_limited_rules(&next)?;
        let mut adoption = Adoption::default();
        let mut told = Told::default();
        match &before {
            // It can't be read: nothing is remembered of it, and the kernel is told to forget everything.
            Some(before) if self.is_damaged(&before.manifest) => {}
            Some(before) => match self.remember_changes(before, &next) {
                Ok(found) => adoption = found,
                // Found out only now: the same as above.
                Err(error) if error.is_damage_of(&before.manifest) => self.damaged(before),
                Err(error) => return Err(error),
            },
            None => self.remember_on_demand(&next)?,
        }
        if before.as_ref().is_none_or(|before| !Arc::ptr_eq(&before.manifest, &next.manifest)) {
            self.previous.store(before.clone());
        }
        self.current.store(Some(next.clone()));
        self.decide_serving(&next.manifest);
        if let Some(before) = &before {
            if self.is_damaged(&before.manifest) {
                self.previous.store(None);
                self.tell_all(&next)?;
            } else {
                diff(&before.manifest, &next.manifest, |change| self.tell(&change, &mut told))?;
            }
        } else {
            self.tell_on_demand(&next, &mut told)?;
        }
        let (names, files) = self.overlay.drain_before(number);
        for file in files {
            if next.manifest.find_found(file.id)?.is_none() {
                self.parts.removed.insert(&removed_entry(&file))?;
            }
        }
        for (directory, name) in names {
            self.send(Invalidation::Entry { parent: node_of(directory), name });
        }
        self.send(Invalidation::Notified { sequence: next.manifest.summary().sequence });
        Ok(adoption)
    }

    /// What `next` changes, with what the kernel may still hold of it remembered.
    fn remember_changes(&self, before: &Current, next: &Current) -> Result<Adoption, ManifestError> {
        let (mut adoption, mut failed) = (Adoption::default(), None);
        diff(&before.manifest, &next.manifest, |change| {
            adoption.count(&change);
            if failed.is_none() {
                failed = self.remember_lost(before, &change, &mut adoption).err();
            }
        })?;
        failed.map_or(Ok(adoption), Err)
    }

    /// Lets a manifest of an earlier run serve, before the first request.
    pub fn resume(&self, manifest: Arc<Manifest>, previous: Option<Arc<Manifest>>) -> Result<(), ManifestError> {
        let next = Arc::new(self.with_origins(manifest));
        self.measure_limited_rules(&next)?;
        self.previous.store(previous.map(|previous| Arc::new(self.with_origins(previous))));
        self.decide_serving(&next.manifest);
        self.current.store(Some(next));
        Ok(())
    }

    /// Takes over what the last daemon told the kernel, before the first request.
    pub fn adopt(&self, adopted: Adopted) {
        if adopted.no_open {
            self.no_open.store(true, Ordering::Release);
        }
    }

    /// Tells the kernel what changed since the last daemon notified it, once, with the session at work. Blocks while the queue is full: run
    /// it off the runtime's threads.
    pub fn replay(&self, adopted: Adopted) {
        let Some(current) = self.current.load_full() else { return };
        let sequence = current.manifest.summary().sequence;
        // A kernel without a past knows nothing that could be wrong; from here on it knows this manifest.
        let Some(notified) = adopted.notified else { return self.send(Invalidation::Notified { sequence }) };
        if notified == sequence {
            return;
        }
        let previous = self.previous.load_full().filter(|previous| previous.manifest.summary().sequence == notified);
        let mut told = Told::default();
        let outcome = match previous {
            Some(previous) => diff(&previous.manifest, &current.manifest, |change| self.tell(&change, &mut told)),
            // What the kernel knows is older than anything we have: forgetting the top names makes it forget everything below.
            None => self.tell_all(&current),
        };
        if let Err(error) = outcome {
            error!(dataset = self.name(), error = %chain(&error), "what changed while no daemon ran can't be told");
            return;
        }
        self.send(Invalidation::Notified { sequence });
    }

    /// A page of the manifest is damaged: another listing is the cure.
    pub(super) fn damaged(&self, current: &Current) {
        self.damaged_sequence.store(current.manifest.summary().sequence, Ordering::Release);
        self.refresh_wanted.notify_one();
    }

    /// The same for whoever reads the manifest that serves on its own: a preload must not wait for a reader to find the page.
    pub fn note_damage(&self, error: &ManifestError) {
        if let Some(current) = &*self.current.load()
            && error.is_damage_of(&current.manifest)
        {
            self.damaged(current);
        }
    }

    /// Whether a page of `manifest` was found damaged since it serves.
    pub fn is_damaged(&self, manifest: &Manifest) -> bool {
        self.damaged_sequence.load(Ordering::Acquire) == manifest.summary().sequence
    }

    fn with_origins(&self, manifest: Arc<Manifest>) -> Current {
        let find = |source: &forebay_manifest::MountedSource| {
            let same = |(mount, origin): &&(Vec<u8>, Arc<crate::fill::Origin>)| {
                origin.identity == source.name && mount.as_slice() == source.mount_path.as_bytes()
            };
            self.parts.sources.iter().find(same).map(|(_, origin)| origin.clone())
        };
        let origins = manifest.summary().sources.iter().map(find).collect();
        Current { manifest, origins }
    }

    /// Opens are worth answering where files are passed through; small files that fit into memory are better opened by the kernel alone.
    fn decide_serving(&self, manifest: &Manifest) {
        let summary = manifest.summary();
        let fits = summary.bytes <= self.parts.memory_bytes / 2;
        let small = summary.files > 0 && summary.large_bytes <= summary.bytes / LARGE_PART_MAX;
        if self.parts.serving == ServingMode::Auto && fits && small && !self.no_open.swap(true, Ordering::AcqRel) {
            info!(
                dataset = self.name(),
                files = summary.files,
                bytes = summary.bytes,
                "small files that fit into memory: opens are left to the kernel"
            );
        }
    }

    fn measure_limited_rules(&self, next: &Current) -> Result<(), ManifestError> {
        let rules = self.rules.load_full();
        if !rules.limited_paths().is_empty() {
            self.rules.store(Arc::new(measured((*rules).clone(), &next.manifest)?));
        }
        Ok(())
    }

    /// Goes by other rules from the next fill on. What is cached already is brought in line by whoever changes them.
    pub fn set_rules(&self, rules: RuleTable) -> Result<(), ManifestError> {
        let rules = match self.manifest() {
            Some(manifest) => measured(rules, &manifest)?,
            None => rules,
        };
        self.rules.store(Arc::new(rules));
        Ok(())
    }

    fn remember_lost(&self, before: &Current, change: &Change<'_>, adoption: &mut Adoption) -> Result<(), ManifestError> {
        let Some((old, object)) = lost_file(&before.manifest, change)? else { return Ok(()) };
        if adoption.lost.len() < LOST_MAX {
            adoption.lost.push((old, object.object));
        }
        if !self.kernel_attached.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(source) = before.manifest.summary().sources.get(usize::from(object.source.0)) else { return Ok(()) };
        self.parts.removed.insert(&RemovedEntry {
            id: old,
            path: super::loose::join(change.directory_path, change.name),
            source_name: source.name.clone(),
            key: object.key,
            size: object.object.size,
            modified_seconds: object.modified_seconds,
            version: object.version,
        })
    }

    /// Files that were shown before there was a manifest, and that it has otherwise or not at all.
    fn remember_on_demand(&self, next: &Current) -> Result<(), ManifestError> {
        for file in self.on_demand.files() {
            if next.manifest.find_found(file.id)?.is_none() {
                self.parts.removed.insert(&removed_entry(&file))?;
            }
        }
        Ok(())
    }

    fn tell_on_demand(&self, next: &Current, told: &mut Told) -> Result<(), ManifestError> {
        for file in self.on_demand.files() {
            if next.manifest.find_found(file.id)?.is_none() {
                let (parent, name) = split(&file.path);
                self.tell_name(directory_id(PathHash::of(parent)), name, told);
            }
        }
        Ok(())
    }

    /// The kernel forgets every name below the root with the top ones.
    fn tell_all(&self, current: &Current) -> Result<(), ManifestError> {
        current.manifest.entries(current.manifest.root(), 0).try_for_each(|entry| {
            self.send(Invalidation::Entry { parent: super::NodeId::ROOT, name: entry?.name });
            Ok(())
        })
    }

    fn tell(&self, change: &Change<'_>, told: &mut Told) {
        match change.what {
            What::Added { .. } | What::Removed { .. } | What::Replaced { .. } => self.tell_name(change.directory, change.name, told),
            What::Touched { id } => self.send(Invalidation::Inode { id: node_of(id) }),
        }
    }

    fn tell_name(&self, directory: ContentId, name: &[u8], told: &mut Told) {
        if told.listing.replace(directory) != Some(directory) {
            self.send(Invalidation::Listing { directory: node_of(directory) });
        }
        self.send(Invalidation::Entry { parent: node_of(directory), name: name.to_vec() });
    }

    fn send(&self, invalidation: Invalidation) {
        if self.kernel_attached.load(Ordering::Acquire) {
            let _ = self.invalidations.blocking_send(invalidation);
        }
    }
}

/// The folder whose listing was invalidated last: changes come folder by folder.
#[derive(Default)]
struct Told {
    listing: Option<ContentId>,
}

impl Adoption {
    fn count(&mut self, change: &Change<'_>) {
        match change.what {
            What::Added { .. } => self.added += 1,
            What::Removed { .. } => self.removed += 1,
            What::Replaced { .. } => self.replaced += 1,
            What::Touched { .. } => {}
        }
    }
}

/// The file version that a change took away, if it was a file's.
fn lost_file(before: &Manifest, change: &Change<'_>) -> Result<Option<(ContentId, ManifestObject)>, ManifestError> {
    let old = match change.what {
        What::Removed { id } => id,
        What::Replaced { old, .. } => old,
        What::Added { .. } | What::Touched { .. } => return Ok(None),
    };
    match before.find_found(old)?.filter(|found| matches!(found.kind, FoundKind::File { .. })) {
        Some(found) => Ok(Some((old, before.object(found.index)?))),
        None => Ok(None),
    }
}

/// The object version that a change took away, if it was a file's.
pub fn lost_by(before: &Manifest, change: &Change<'_>) -> Result<Option<(ContentId, ObjectRef)>, ManifestError> {
    Ok(lost_file(before, change)?.map(|(id, object)| (id, object.object)))
}

pub(super) fn removed_entry(file: &LooseFile) -> RemovedEntry {
    RemovedEntry {
        id: file.id,
        path: file.path.clone(),
        source_name: file.origin.identity.clone(),
        key: file.key.clone(),
        size: file.object.size,
        modified_seconds: file.modified_seconds,
        version: file.version.clone(),
    }
}

/// Bytes of all files at or below `path`; 0 when there is no such path. O(files below).
pub fn bytes_below(manifest: &Manifest, path: &[u8]) -> Result<u64, ManifestError> {
    let mut total = 0;
    for_each_below(manifest, path, &mut |_, size| total += size)?;
    Ok(total)
}

/// Whether the manifest has a file or folder at `path`.
pub fn exists(manifest: &Manifest, path: &[u8]) -> Result<bool, ManifestError> {
    let mut directory = Some(manifest.root());
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let Some(above) = directory else { return Ok(false) };
        match manifest.lookup_found(above, part)?.map(|found| found.kind) {
            None => return Ok(false),
            Some(FoundKind::Directory(below)) => directory = Some(below),
            Some(FoundKind::File { .. }) => directory = None,
        }
    }
    Ok(true)
}

/// Calls `visit` with number and size of each file at or below `path` (with or without a leading `/`). The stack is the tree's depth.
pub fn for_each_below(
    manifest: &Manifest,
    path: &[u8],
    visit: &mut dyn FnMut(forebay_manifest::EntryIndex, u64),
) -> Result<bool, ManifestError> {
    let mut directory = manifest.root();
    let mut parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        match manifest.lookup(directory, part)? {
            None => return Ok(false),
            Some(entry) => match entry.kind {
                EntryKind::Directory(below) => directory = below,
                EntryKind::File { size, .. } => {
                    if parts.peek().is_some() {
                        return Ok(false);
                    }
                    visit(entry.index, size);
                    return Ok(true);
                }
            },
        }
    }
    let mut folders = vec![directory];
    while let Some(folder) = folders.pop() {
        manifest.visit(folder, 0, |_, found| {
            match found.kind {
                FoundKind::Directory(below) => folders.push(below),
                FoundKind::File { size, .. } => visit(found.index, size),
            }
            std::ops::ControlFlow::Continue(())
        })?;
    }
    Ok(true)
}

/// Sets how much of the hash space a limited pin takes, from the bytes below its path.
fn measured(mut rules: RuleTable, manifest: &Manifest) -> Result<RuleTable, ManifestError> {
    for path in rules.limited_paths() {
        rules.set_bytes_below(&path, bytes_below(manifest, &path)?);
    }
    Ok(rules)
}
