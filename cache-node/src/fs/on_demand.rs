//! The tree before the first manifest is complete: a folder is listed when somebody looks into it, a name when somebody asks for it.
//! Knows keys below prefixes, and the same rules for odd keys as the manifest. Does not know what is cached.
//! Invariant: a file and a folder have the same ids here as in the manifest that comes, so what the kernel holds stays good.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::loose::{LooseFile, join};
use crate::fill::Origin;
use forebay_manifest::key::{Mapped, beside_folder, to_path};
use forebay_manifest::{ContentId, PathHash, directory_id};
use forebay_source::{ListRequest, Object, SourceError};

/// Names kept in memory at most, about 300 bytes each. Beyond it the oldest folders' names are forgotten and listed again.
const NAMES_MAX: usize = 500_000;
/// How long a listing or a single answer stands.
const FRESH: Duration = Duration::from_secs(30);

/// A name of the tree.
#[derive(Clone)]
pub(super) enum LooseNode {
    File(Arc<LooseFile>),
    Directory(ContentId),
}

/// One folder's names, complete, sorted. Never changes: another listing is another value.
pub(super) struct Listing {
    pub(super) generation: u64,
    pub(super) rows: Vec<(Vec<u8>, LooseNode)>,
    at: Instant,
}

/// A folder's path, its hash, and the sources that may have files in it, each with the prefix of its keys there.
type FolderPlace = (Vec<u8>, PathHash, Vec<(usize, Bytes)>);

struct Folder {
    path: Vec<u8>,
    hash: PathHash,
    parent: ContentId,
    /// Which keys of which source are below it: `(source, prefix)`; empty where the folder only leads to a mount path.
    prefixes: Vec<(usize, Bytes)>,
    listing: Option<Arc<Listing>>,
    /// The one before, for readers in the middle of it.
    older: Option<Arc<Listing>>,
    /// Answers to single questions.
    names: HashMap<Vec<u8>, (LooseNode, Instant)>,
}

#[derive(Default)]
struct Tree {
    folders: HashMap<ContentId, Folder>,
    files: HashMap<ContentId, Arc<LooseFile>>,
    names: usize,
    generation: u64,
}

pub(super) struct OnDemand {
    /// Where each source's files appear: `/` or `/a/b`, and the source.
    sources: Vec<(Vec<u8>, Arc<Origin>)>,
    /// Guards the tree; never held while a source is asked.
    tree: RwLock<Tree>,
    /// One listing of a folder at a time.
    flights: Mutex<HashMap<ContentId, Arc<tokio::sync::Mutex<()>>>>,
}

impl OnDemand {
    pub(super) fn new(sources: Vec<(Vec<u8>, Arc<Origin>)>) -> Self {
        let prefixes = sources.iter().enumerate().filter(|(_, (mount, _))| mount == b"/").map(|(at, _)| (at, Bytes::new())).collect();
        let id = directory_id(PathHash::ROOT);
        let root =
            Folder { path: b"/".to_vec(), hash: PathHash::ROOT, parent: id, prefixes, listing: None, older: None, names: HashMap::new() };
        let tree = Tree { folders: HashMap::from([(id, root)]), ..Tree::default() };
        Self { sources, tree: RwLock::new(tree), flights: Mutex::default() }
    }

    pub(super) fn file(&self, id: ContentId) -> Option<Arc<LooseFile>> {
        self.tree.read().files.get(&id).cloned()
    }
    /// The parent of a folder that is known.
    pub(super) fn parent(&self, id: ContentId) -> Option<ContentId> {
        self.tree.read().folders.get(&id).map(|folder| folder.parent)
    }
    pub(super) fn files_known(&self) -> (u64, u64, u64) {
        let tree = self.tree.read();
        (tree.files.len() as u64, tree.folders.len() as u64, tree.files.values().map(|file| file.object.size).sum())
    }
    /// Every file that was ever shown.
    pub(super) fn files(&self) -> Vec<Arc<LooseFile>> {
        self.tree.read().files.values().cloned().collect()
    }
    /// Path of a folder that is known.
    pub(super) fn path(&self, id: ContentId) -> Option<Vec<u8>> {
        self.tree.read().folders.get(&id).map(|folder| folder.path.clone())
    }

    /// From memory; `None` when the source must be asked. `Some(None)`: there is no such name.
    pub(super) fn known(&self, directory: ContentId, name: &[u8]) -> Option<Option<LooseNode>> {
        let tree = self.tree.read();
        let folder = tree.folders.get(&directory)?;
        if let Some(listing) = folder.listing.as_ref().filter(|listing| listing.at.elapsed() < FRESH) {
            let found = listing.rows.binary_search_by(|(row, _)| row.as_slice().cmp(name));
            return Some(found.ok().map(|at| listing.rows[at].1.clone()));
        }
        folder.names.get(name).filter(|(_, at)| at.elapsed() < FRESH).map(|(node, _)| Some(node.clone()))
    }

    /// The listing to go on with: a fresh one to start, the one with `generation` to continue.
    pub(super) fn listing(&self, directory: ContentId, generation: Option<u64>) -> Option<Arc<Listing>> {
        let tree = self.tree.read();
        let folder = tree.folders.get(&directory)?;
        match generation {
            None => folder.listing.clone().filter(|listing| listing.at.elapsed() < FRESH),
            Some(generation) => {
                [&folder.listing, &folder.older].into_iter().flatten().find(|listing| listing.generation == generation).cloned()
            }
        }
    }

    /// Asks the sources for one name: two small requests instead of a whole folder's listing.
    pub(super) async fn look_up(&self, directory: ContentId, name: &[u8]) -> Result<Option<LooseNode>, SourceError> {
        let Some((path, hash, prefixes)) = self.place(directory) else { return Ok(None) };
        // A name that may stand for an odd key: only the folder's listing tells.
        if name.contains(&b'%') {
            self.list(directory).await?;
            return Ok(self.known(directory, name).flatten());
        }
        let below = join(&path, name);
        let mut folder_prefixes = Vec::new();
        let mut file = None;
        for (source, prefix) in prefixes {
            let origin = &self.sources[source].1;
            let client = origin.handle.on_demand();
            let key = Bytes::from([&prefix[..], name].concat());
            let inside = Bytes::from([&prefix[..], name, b"/"].concat());
            let ask = |prefix: Bytes| ListRequest { prefix, after: None, before: None, one_level: true };
            let (exact_request, inside_request) = (ask(key.clone()), ask(inside.clone()));
            let (exact, inside_page) = tokio::try_join!(client.list(&exact_request), client.list(&inside_request))?;
            if !inside_page.objects.is_empty() || !inside_page.folders.is_empty() {
                folder_prefixes.push((source, inside));
            }
            if let Some(object) = exact.objects.into_iter().find(|object| object.key.0 == key)
                && file.as_ref().is_none_or(|(best, _)| self.is_deeper(source, *best))
            {
                file = Some((source, object));
            }
        }
        let node = if !folder_prefixes.is_empty() || self.leads_to_a_mount(&below) {
            Some(LooseNode::Directory(self.note_folder(directory, &below, hash.child(name), folder_prefixes)))
        } else {
            file.map(|(source, object)| LooseNode::File(Arc::new(LooseFile::new(&path, hash, name, &self.sources[source].1, object))))
        };
        if let Some(node) = &node {
            self.note_name(directory, name, node);
        }
        Ok(node)
    }

    /// Lists the folder at its sources, unless that is fresh. Readers of one folder share one listing.
    pub(super) async fn list(&self, directory: ContentId) -> Result<(), SourceError> {
        let flight = self.flights.lock().entry(directory).or_default().clone();
        let guard = flight.lock().await;
        let outcome = match self.listing(directory, None) {
            Some(_) => Ok(()),
            None => self.list_now(directory).await,
        };
        drop(guard);
        self.flights.lock().retain(|_, flight| Arc::strong_count(flight) > 1);
        outcome
    }

    async fn list_now(&self, directory: ContentId) -> Result<(), SourceError> {
        let Some((path, hash, prefixes)) = self.place(directory) else { return Ok(()) };
        let mut files: BTreeMap<Vec<u8>, (usize, Object)> = BTreeMap::new();
        let mut folders: BTreeMap<Vec<u8>, Vec<(usize, Bytes)>> = BTreeMap::new();
        for (source, prefix) in prefixes {
            let client = self.sources[source].1.handle.on_demand();
            let mut after = None;
            loop {
                let page = client.list(&ListRequest { prefix: prefix.clone(), after, before: None, one_level: true }).await?;
                for object in page.objects {
                    let Some(name) = file_name(&object) else { continue };
                    let better = files.get(&name).is_none_or(|(best, _)| self.is_deeper(source, *best));
                    if better {
                        files.insert(name, (source, object));
                    }
                }
                for folder in page.folders {
                    if let Mapped::Folder(mapped) = to_path(&folder, 0) {
                        let name = mapped.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
                        folders.entry(name).or_default().push((source, folder));
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        for (mount, _) in &self.sources {
            if let Some(name) = first_part_below(&path, mount) {
                folders.entry(name.to_vec()).or_default();
            }
        }
        let mut rows = Vec::with_capacity(files.len() + folders.len());
        for (name, prefixes) in &folders {
            let id = self.note_folder(directory, &join(&path, name), hash.child(name), prefixes.clone());
            rows.push((name.clone(), LooseNode::Directory(id)));
        }
        for (name, (source, object)) in files {
            let name = if folders.contains_key(&name) { beside_folder(&name) } else { name };
            let file = LooseFile::new(&path, hash, &name, &self.sources[source].1, object);
            rows.push((name, LooseNode::File(Arc::new(file))));
        }
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        self.note_listing(directory, rows);
        Ok(())
    }

    fn place(&self, directory: ContentId) -> Option<FolderPlace> {
        let tree = self.tree.read();
        tree.folders.get(&directory).map(|folder| (folder.path.clone(), folder.hash, folder.prefixes.clone()))
    }

    fn is_deeper(&self, source: usize, than: usize) -> bool {
        self.sources[source].0.len() > self.sources[than].0.len()
    }

    /// Whether a source is mounted at `path` or below.
    fn leads_to_a_mount(&self, path: &[u8]) -> bool {
        self.sources.iter().any(|(mount, _)| mount == path || first_part_below(path, mount).is_some())
    }

    fn note_folder(&self, parent: ContentId, path: &[u8], hash: PathHash, mut prefixes: Vec<(usize, Bytes)>) -> ContentId {
        let id = directory_id(hash);
        prefixes.extend(self.sources.iter().enumerate().filter(|(_, (mount, _))| mount == path).map(|(at, _)| (at, Bytes::new())));
        let mut tree = self.tree.write();
        let folder = tree.folders.entry(id).or_insert_with(|| Folder {
            path: path.to_vec(),
            hash,
            parent,
            prefixes: Vec::new(),
            listing: None,
            older: None,
            names: HashMap::new(),
        });
        for prefix in prefixes {
            if !folder.prefixes.contains(&prefix) {
                folder.prefixes.push(prefix);
            }
        }
        id
    }

    fn note_name(&self, directory: ContentId, name: &[u8], node: &LooseNode) {
        let mut tree = self.tree.write();
        tree.make_room(1, directory);
        if let LooseNode::File(file) = node {
            tree.files.insert(file.id, file.clone());
        }
        tree.names += 1;
        if let Some(folder) = tree.folders.get_mut(&directory) {
            folder.names.insert(name.to_vec(), (node.clone(), Instant::now()));
        }
    }

    fn note_listing(&self, directory: ContentId, rows: Vec<(Vec<u8>, LooseNode)>) {
        let mut tree = self.tree.write();
        tree.make_room(rows.len(), directory);
        tree.names += rows.len();
        tree.generation += 1;
        for (_, node) in &rows {
            if let LooseNode::File(file) = node {
                tree.files.insert(file.id, file.clone());
            }
        }
        let listing = Arc::new(Listing { generation: tree.generation, rows, at: Instant::now() });
        if let Some(folder) = tree.folders.get_mut(&directory) {
            folder.older = folder.listing.replace(listing);
            folder.names.clear();
        }
    }
}

impl Tree {
    /// Over the limit everything but `busy`'s names is forgotten. Folders stay known; a file's id that is asked for again is `ESTALE`, and
    /// its path is looked up again.
    fn make_room(&mut self, more: usize, busy: ContentId) {
        if self.names + more <= NAMES_MAX {
            return;
        }
        for (_, folder) in self.folders.iter_mut().filter(|(id, _)| **id != busy) {
            folder.listing = None;
            folder.older = None;
            folder.names.clear();
        }
        self.files.clear();
        self.names = 0;
    }
}

/// The name of a key's file in its folder; `None` for what isn't shown or isn't in this folder.
fn file_name(object: &Object) -> Option<Vec<u8>> {
    match to_path(&object.key.0, object.size) {
        Mapped::Plain(path) => Some(path.rsplit(|byte| *byte == b'/').next()?.to_vec()),
        Mapped::Renamed(path, _) => Some(path.rsplit(|byte| *byte == b'/').next()?.to_vec()),
        Mapped::Folder(_) | Mapped::Unreachable(_) => None,
    }
}

/// The part of `mount` that follows `path`: `b` for `/a` and `/a/b/c`; `None` when `mount` isn't strictly below.
fn first_part_below<'a>(path: &[u8], mount: &'a [u8]) -> Option<&'a [u8]> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let rest = mount.strip_prefix(path)?.strip_prefix(b"/")?;
    rest.split(|byte| *byte == b'/').next().filter(|part| !part.is_empty())
}
