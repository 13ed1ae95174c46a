//! A fill found that an object is not what the listing said: the name is set right at once, without waiting for the next sync.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{info, warn};

use super::adopt::removed_entry;
use super::locate::node_of;
use super::loose::{LooseFile, split};
use super::overlay::Repair;
use super::{Filesystem, Invalidation, NodeId};
use crate::fill::{FileObject, chain};
use forebay_manifest::{ContentId, PathHash, directory_id, file_id};
use forebay_source::SourceError;

/// A name whose object was replaced is right again within a second; a source slower than this is repaired by the next reader.
const REPAIR_MAX: Duration = Duration::from_millis(900);
/// So many repaired names mean that much has changed: a whole listing is due.
const REPAIRS_BEFORE_LISTING: usize = 100;

impl Filesystem {
    /// Asks the source what `path` is now and shows that. Many readers of one file share one repair.
    pub(super) async fn repair(&self, id: NodeId, path: &[u8], file: &Arc<FileObject>) {
        let content = ContentId(id.content());
        let gate = self.repairs.lock().entry(content).or_default().clone();
        let guard = gate.lock().await;
        if tokio::time::timeout(REPAIR_MAX, self.repair_now(content, path, file)).await.is_err() {
            warn!(dataset = self.name(), path = %path.escape_ascii(), "the source is slow to tell what replaced an object; the next read asks again");
        }
        drop(guard);
        self.repairs.lock().retain(|_, gate| Arc::strong_count(gate) > 1);
    }

    /// The same for whoever fills by path.
    pub async fn repair_entry(&self, path: &[u8], file: &Arc<FileObject>) {
        let (parent, name) = split(path);
        let id = file_id(PathHash::of(parent), name, &file.version);
        self.repair(NodeId(id.0), path, file).await;
    }

    async fn repair_now(&self, old: ContentId, path: &[u8], file: &Arc<FileObject>) {
        let (parent, name) = split(path);
        let parent_hash = PathHash::of(parent);
        let directory = directory_id(parent_hash);
        if self.is_shown_otherwise(directory, name, old) {
            return;
        }
        let epoch = self.listings.load(Ordering::Acquire);
        let repair = match file.origin.handle.on_demand().head(&file.key).await {
            Ok(object) if object.version == file.version => return,
            Ok(object) => {
                info!(dataset = self.name(), path = %path.escape_ascii(), bytes = object.size, "a replaced object is shown with its new version");
                let shown = LooseFile::new(parent, parent_hash, name, &file.origin, object);
                // Before the kernel can hold its id: no manifest has it yet, and the next daemon must know what an open file is.
                if let Err(error) = self.parts.removed.insert(&removed_entry(&shown)) {
                    warn!(dataset = self.name(), error = %chain(&error), "an open file of the new version will not outlive this daemon");
                }
                Repair::File(Arc::new(shown))
            }
            Err(SourceError::NotFound { .. }) => {
                info!(dataset = self.name(), path = %path.escape_ascii(), "a deleted object is no longer shown");
                Repair::Absent
            }
            Err(error) => {
                warn!(dataset = self.name(), path = %path.escape_ascii(), error = %chain(&error), "what replaced an object can't be asked");
                return;
            }
        };
        self.overlay.insert(directory, name, repair, epoch);
        if self.overlay.len() >= REPAIRS_BEFORE_LISTING {
            self.refresh_wanted.notify_one();
        }
        self.invalidate(Invalidation::Entry { parent: node_of(directory), name: name.to_vec() }).await;
    }

    /// Whether the name already leads elsewhere than to `old`.
    fn is_shown_otherwise(&self, directory: ContentId, name: &[u8], old: ContentId) -> bool {
        match self.overlay.by_name(directory, name) {
            Some(Repair::Absent) => true,
            Some(Repair::File(file)) => file.id != old,
            None => {
                let Some(current) = self.current.load_full() else { return false };
                let Ok(Some(index)) = self.directory_in(&current, node_of(directory)) else { return false };
                match current.manifest.lookup_found(index, name) {
                    Ok(Some(found)) => found.id != old,
                    // The manifest lost the name: a sync was faster.
                    Ok(None) => true,
                    Err(_) => false,
                }
            }
        }
    }

    /// Queues what the kernel must forget; waits when the queue is full. Without a kernel there is nobody to tell.
    pub(super) async fn invalidate(&self, invalidation: Invalidation) {
        if self.kernel_attached.load(Ordering::Acquire) {
            // A closed queue means that the session ended: its kernel side is gone with it.
            let _ = self.invalidations.send(invalidation).await;
        }
    }
}
