//! Finds the segments of a folder again at the start: indexes are read, data never.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Files, IndexFile, SEGMENT_NUMBERS, Segment, SegmentEntry, Segments, Tail, decode_index, path, record_bytes};

impl Segments {
    /// At the start: every segment of the folder with its records. Leftovers and files with a damaged head are removed; `damaged` counts them.
    pub(crate) fn load(&self, damaged: &mut u64) -> io::Result<Vec<(Arc<Segment>, IndexFile)>> {
        let folder = rustix::fs::openat(
            &self.root,
            "segments",
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let mut numbers = std::collections::BTreeSet::new();
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if let Some(number) = name.split('.').next().and_then(|stem| stem.parse::<u32>().ok()).filter(|&n| n < SEGMENT_NUMBERS) {
                numbers.insert(number);
            }
        }
        self.next_number.store(numbers.last().map_or(0, |last| last + 1), Relaxed);
        let mut loaded = Vec::with_capacity(numbers.len());
        for number in numbers {
            match self.load_one(number)? {
                Some(one) => loaded.push(one),
                None => {
                    *damaged += 1;
                    self.disk.unlink(&self.root, &path(number, "index"))?;
                    self.disk.unlink(&self.root, &path(number, "data"))?;
                }
            }
        }
        Ok(loaded)
    }

    fn load_one(&self, number: u32) -> io::Result<Option<(Arc<Segment>, IndexFile)>> {
        let open = |what| match self.disk.open(&self.root, &path(number, what), true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        };
        let (Some(index), Some(data)) = (open("index")?, open("data")?) else { return Ok(None) };
        let mut bytes = vec![0; index.metadata()?.len() as usize];
        let n = self.disk.read_at(&index, &mut bytes, 0)?;
        let Some(file) = decode_index(&bytes[..n], number) else { return Ok(None) };
        // A crash may leave a record without its entry: the tail goes behind the last entry and writes over it.
        let granule = file.entries.iter().map(SegmentEntry::end).max().unwrap_or(0);
        let tail = Tail { granule, slot: file.slots, writers: 0, is_sealed: false, is_dropped: false };
        let segment = self.make(number, file.nonce, file.dataset, tail);
        let live: u64 = file.entries.iter().map(|entry| record_bytes(u64::from(entry.len))).sum();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&data.metadata()?) * 512;
        segment.live_objects.store(file.entries.len() as u32, Relaxed);
        segment.live_bytes.store(live, Relaxed);
        segment.taken_bytes.store(live.max(blocks), Relaxed);
        for entry in &file.entries {
            segment.note_expiry(entry.admission);
        }
        let segment = Arc::new(segment);
        self.handles.insert(segment.key, Arc::new(Files { data, index }));
        self.by_number.write().insert(number, segment.clone());
        // The newest of a data set goes on; the others are sealed.
        let before = self.active.lock().insert(segment.dataset, segment.clone());
        if let Some(before) = before {
            before.tail.lock().is_sealed = true;
        }
        Ok(Some((segment, file)))
    }
}
