//! Gets bytes of an object out of the store, checked.
//! Knows where the index says that they are. Does not know what becomes of them.
//! Invariant: what is damaged or moved is a miss or looked for again, never bytes.

use std::io;

use forebay_wire::block::{Extent, ObjectRef};

use super::index::{Entry, Place};
use super::segment::RecordRead;
use super::sparse::ObjectRead;
use super::types::{ReadOutcome, StoreError};
use super::{LOOKUPS_MAX, Step, Store, hash_of};

impl Store {
    /// Reads `extent` into `into` (exactly its length) and checks it. Blocks on the disk; holds no lock meanwhile.
    /// A read that races an eviction gives `Miss` or the right bytes.
    pub fn read(&self, object: &ObjectRef, extent: Extent, into: &mut [u8]) -> Result<ReadOutcome, StoreError> {
        self.read_with(object, extent, into, self.config.drop_pages_after_read)
    }

    /// The same, and leaves the bytes in this machine's page cache: for who keeps them nowhere here, and whose next one asks again.
    pub fn read_for_others(&self, object: &ObjectRef, extent: Extent, into: &mut [u8]) -> Result<ReadOutcome, StoreError> {
        self.read_with(object, extent, into, false)
    }

    fn read_with(&self, object: &ObjectRef, extent: Extent, into: &mut [u8], drop_pages: bool) -> Result<ReadOutcome, StoreError> {
        if extent.end() > object.size || extent.len() != into.len() as u64 {
            let detail = format!("[{}, {}) of {} bytes into {}", extent.start(), extent.end(), object.size, into.len());
            return Err(StoreError::Misuse { op: "read", object: object.id, detail });
        }
        let hash = hash_of(object.id);
        for _ in 0..LOOKUPS_MAX {
            let found = self.index.find(hash);
            let mut is_stale = false;
            let mut is_impostor = !found.is_empty();
            for entry in found.iter() {
                match self.read_at(object, extent, into, &entry, drop_pages) {
                    Ok(Step::Hit) => {
                        self.touch(&entry);
                        return Ok(ReadOutcome::Hit);
                    }
                    Ok(Step::Partly) => is_impostor = false,
                    Ok(Step::Other) => {}
                    Ok(Step::Stale) => is_stale = true,
                    Err(error) => {
                        is_impostor = false;
                        self.read_failed(&entry, &error);
                    }
                }
            }
            if !is_stale {
                if is_impostor {
                    self.note_impostor(object.id);
                }
                break;
            }
        }
        Ok(ReadOutcome::Miss)
    }

    fn read_at(&self, object: &ObjectRef, extent: Extent, into: &mut [u8], entry: &Entry, drop_pages: bool) -> io::Result<Step> {
        match Place::from(entry.location) {
            Place::Segment { tier, number, granule } => {
                let segments = &self.tiers[usize::from(tier)].segments;
                match segments.read(number, granule, object, extent, into, drop_pages)? {
                    RecordRead::Hit => Ok(Step::Hit),
                    RecordRead::Other => Ok(Step::Other),
                    RecordRead::Wrong | RecordRead::Gone => Ok(self.found_wrong(entry)),
                }
            }
            Place::File { .. } => {
                let Some(file) = self.object_at(entry)? else { return Ok(self.found_wrong(entry)) };
                if file.id() != object.id || file.record.size != object.size {
                    return Ok(Step::Other);
                }
                match file.read(extent, into, drop_pages) {
                    Ok(ObjectRead::Hit) => Ok(Step::Hit),
                    Ok(ObjectRead::Miss) => Ok(Step::Partly),
                    Ok(ObjectRead::Wrong(block)) => Ok(self.found_wrong_block(entry, &file, block)),
                    // Evicted before its file was opened, or somebody removed the file behind our back.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.found_wrong(entry)),
                    Err(error) => Err(error),
                }
            }
        }
    }
}
