//! Names that a fill found changed since the listing: shown as they are now, until a listing that began later serves.
//! Invariant: a repair is dropped only by a manifest whose listing began after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::loose::LooseFile;
use forebay_manifest::ContentId;

/// Beyond this a whole listing is cheaper; the caller asks for one long before.
pub(super) const REPAIRS_MAX: usize = 65_536;

/// What a name is now.
#[derive(Clone)]
pub(super) enum Repair {
    File(Arc<LooseFile>),
    Absent,
}

/// A folder and a name in it.
pub(super) type FolderName = (ContentId, Vec<u8>);

#[derive(Default)]
struct Table {
    /// By folder and name.
    names: HashMap<(ContentId, Vec<u8>), (Repair, u64)>,
    files: HashMap<ContentId, Arc<LooseFile>>,
}

#[derive(Default)]
pub(super) struct Overlay {
    /// Guards both maps together.
    table: RwLock<Table>,
    /// So that the usual case, none, costs one load.
    len: AtomicUsize,
}

impl Overlay {
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn by_name(&self, directory: ContentId, name: &[u8]) -> Option<Repair> {
        if self.len() == 0 {
            return None;
        }
        self.table.read().names.get(&(directory, name.to_vec())).map(|(repair, _)| repair.clone())
    }

    pub(super) fn by_id(&self, id: ContentId) -> Option<Arc<LooseFile>> {
        if self.len() == 0 {
            return None;
        }
        self.table.read().files.get(&id).cloned()
    }

    /// Sets what `name` is from now on; `epoch` is the number of the last listing that began. The file that it showed before, if any.
    pub(super) fn insert(&self, directory: ContentId, name: &[u8], repair: Repair, epoch: u64) -> Option<Arc<LooseFile>> {
        let mut table = self.table.write();
        if table.names.len() >= REPAIRS_MAX && !table.names.contains_key(&(directory, name.to_vec())) {
            return None;
        }
        if let Repair::File(file) = &repair {
            table.files.insert(file.id, file.clone());
        }
        let before = table.names.insert((directory, name.to_vec()), (repair, epoch));
        self.len.store(table.names.len(), Ordering::Release);
        match before {
            // Its id stays known: the kernel may hold it, and only `drain_before` forgets.
            Some((Repair::File(file), _)) => Some(file),
            Some((Repair::Absent, _)) | None => None,
        }
    }

    /// Takes out what was repaired before listing `epoch` began: the new manifest knows better. All files it ever showed for those names.
    pub(super) fn drain_before(&self, epoch: u64) -> (Vec<FolderName>, Vec<Arc<LooseFile>>) {
        let mut table = self.table.write();
        let old: Vec<_> = table.names.iter().filter(|(_, (_, made))| *made < epoch).map(|(name, _)| name.clone()).collect();
        for name in &old {
            table.names.remove(name);
        }
        let kept: std::collections::HashSet<ContentId> = table
            .names
            .values()
            .filter_map(|(repair, _)| match repair {
                Repair::File(file) => Some(file.id),
                Repair::Absent => None,
            })
            .collect();
        let gone: Vec<_> = table.files.values().filter(|file| !kept.contains(&file.id)).cloned().collect();
        table.files.retain(|id, _| kept.contains(id));
        self.len.store(table.names.len(), Ordering::Release);
        (old, gone)
    }
}
