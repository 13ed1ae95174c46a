//! Reading ahead: within a file as its window says, and over the files of a folder that are read in the order of their names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::locate::FileAt;
use super::{Filesystem, NodeId};
use crate::fill::FileObject;
use crate::fill::window::FileStreams;
use forebay_manifest::{EntryIndex, EntryKind};
use forebay_wire::block::{BlockIndex, Extent};

/// Bytes of the files read ahead at one time: a quarter of a second at 250 Mbit/s, so what a change of mind wastes is small.
const FILES_AHEAD_BYTES_MAX: u64 = 8 << 20;
/// Reads of files' beginnings after a miss that are still looked at for order: without misses there is nothing to read ahead.
const HEAT: u32 = 256;

#[derive(Default)]
pub(super) struct FilesAhead {
    streams: FileStreams,
    heat: AtomicU32,
}

impl Filesystem {
    /// A read that the store answered: keeps a window going. Costs a load where there is nothing to keep going.
    pub(super) fn note_hit(&self, id: NodeId, file: &FileAt, extent: Extent) {
        let reader = &self.parts.reader;
        if let Some(advice) = reader.observe(&file.object, extent) {
            let missing = |index| !reader.store().contains(&file.object, BlockIndex(index));
            if advice.ahead.clone().any(missing)
                && let Ok((object, _)) = self.file_object(id)
            {
                reader.ahead(&object, advice.ahead);
            }
        }
        if extent.start() == 0 && self.ahead.heat.load(Relaxed) > 0 {
            self.ahead.heat.fetch_sub(1, Relaxed);
            self.note_file(file);
        }
    }

    /// A read that goes to a flight or to the source; whether what is around it will most likely be read too.
    pub(super) fn note_miss(&self, at: &FileAt, file: &Arc<FileObject>, extent: Extent) -> bool {
        self.ahead.heat.store(HEAT, Relaxed);
        if extent.start() == 0 {
            self.note_file(at);
        }
        let Some(advice) = self.parts.reader.observe(&at.object, extent) else { return true };
        self.parts.reader.ahead(file, advice.ahead);
        advice.sequential
    }

    fn note_file(&self, file: &FileAt) {
        let Some(position) = file.position else { return };
        let ahead = self.ahead.streams.observe(position);
        if !ahead.is_empty() {
            let this = self.shared();
            self.parts.runtime.spawn(async move { this.fill_files(ahead) });
        }
    }

    fn fill_files(&self, positions: std::ops::Range<u32>) {
        let Some(current) = self.current.load_full() else { return };
        let mut budget = FILES_AHEAD_BYTES_MAX;
        let mut folder = None;
        for position in positions {
            let Ok(entry) = current.manifest.entry(EntryIndex(position)) else { return };
            // The entries of a folder are neighbours; behind its last one another folder begins.
            if *folder.get_or_insert(entry.directory) != entry.directory {
                return;
            }
            let EntryKind::File { size, .. } = entry.kind else { continue };
            let first = size.min(self.parts.reader.block_size().bytes());
            if size == 0 || first > budget {
                continue;
            }
            let Ok(path) = current.manifest.path(entry.index) else { return };
            let Ok(Some(file)) = self.entry_object(&current, entry.index, &path) else { return };
            if !self.parts.reader.store().contains(&file.object, BlockIndex(0)) {
                budget -= first;
                self.ahead.heat.store(HEAT, Relaxed);
                self.parts.reader.ahead(&file, 0..1);
            }
        }
    }
}
