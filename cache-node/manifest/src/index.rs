//! Builds the index from ids back to entries: partitioned to a file, then sorted partition by partition.
//! Knows ids and numbers. Does not know names; of entries with equal ids it asks for salted ones.
//! Invariant: no two entries of a finished index have one id.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::{SALT_BYTES, bucket_of, buckets, fingerprint_of};
use super::spill::{SectionWriter, unnamed_file};

/// By the top 8 bits of the id: 40,000 rows a partition at 10M entries, 400,000 (6 MiB) at 100M.
const PARTITIONS: usize = 256;
const ROW_BYTES: usize = 12;
/// 256 of these are 4 MiB.
const PARTITION_BUFFER_BYTES: usize = 1365 * ROW_BYTES;
/// Buffer of each of the three streams that are written.
const WRITE_BYTES: usize = 256 << 10;
/// Rounds of salting; a second one is needed once in 10^18 entries.
const SALT_MAX: u8 = 64;

pub(super) struct IndexBuilder {
    file: File,
    end: u64,
    partitions: Vec<Partition>,
    entries: u64,
}

#[derive(Default)]
struct Partition {
    buffer: Vec<u8>,
    /// Offset and length of what was written.
    stretches: Vec<(u64, u32)>,
}

/// Where the three sections begin in the file, each with room for what `buckets` says.
pub(super) struct IndexPlaces {
    pub(super) buckets: u64,
    pub(super) fingerprints: u64,
    pub(super) numbers: u64,
}

impl IndexBuilder {
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let partitions = std::iter::repeat_with(Partition::default).take(PARTITIONS).collect();
        Ok(Self { file: unnamed_file(directory)?, end: 0, partitions, entries: 0 })
    }

    pub(super) fn push(&mut self, id: u64, entry: u32) -> io::Result<()> {
        let partition = &mut self.partitions[(id >> 56) as usize];
        if partition.buffer.len() + ROW_BYTES > PARTITION_BUFFER_BYTES {
            self.file.write_all_at(&partition.buffer, self.end)?;
            partition.stretches.push((self.end, partition.buffer.len() as u32));
            self.end += partition.buffer.len() as u64;
            partition.buffer.clear();
        }
        partition.buffer.extend_from_slice(&id.to_le_bytes());
        partition.buffer.extend_from_slice(&entry.to_le_bytes());
        self.entries += 1;
        Ok(())
    }

    fn load(&self, number: usize, rows: &mut Vec<(u64, u32)>, bytes: &mut Vec<u8>) -> io::Result<()> {
        let partition = &self.partitions[number];
        rows.clear();
        let parse = |bytes: &[u8], rows: &mut Vec<(u64, u32)>| {
            rows.extend(bytes.as_chunks::<ROW_BYTES>().0.iter().map(|row| {
                let [a, b, c, d, e, f, g, h, w, x, y, z] = *row;
                (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes([w, x, y, z]))
            }));
        };
        for (offset, length) in &partition.stretches {
            bytes.resize(*length as usize, 0);
            self.file.read_exact_at(bytes, *offset)?;
            parse(bytes, rows);
        }
        parse(&partition.buffer, rows);
        Ok(())
    }

    /// Writes the three sections and gives back the salts section. `salted(entry, salt)` is the entry's id under a salt.
    pub(super) fn finish(
        self,
        file: &File,
        places: &IndexPlaces,
        mut salted: impl FnMut(u32, u8) -> io::Result<u64>,
    ) -> io::Result<Vec<u8>> {
        // Entry -> salt and id, of those whose plain id isn't theirs alone. Empty but for one data set in a hundred thousand.
        let mut salts: BTreeMap<u32, (u8, u64)> = BTreeMap::new();
        loop {
            let equal = self.write(file, places, &salts)?;
            if equal.is_empty() {
                break;
            }
            for entry in equal {
                let salt = salts.get(&entry).map_or(0, |(salt, _)| *salt) + 1;
                if salt > SALT_MAX {
                    return Err(io::Error::other(format!("entry {entry} has the id of another under {SALT_MAX} salts")));
                }
                salts.insert(entry, (salt, salted(entry, salt)?));
            }
        }
        let mut section = Vec::with_capacity(salts.len() * SALT_BYTES as usize);
        for (entry, (salt, _)) in salts {
            section.extend_from_slice(&entry.to_le_bytes());
            section.extend_from_slice(&u32::from(salt).to_le_bytes());
        }
        Ok(section)
    }

    /// One pass over all partitions; returns the entries that share an id with another one (then what was written is void).
    fn write(&self, file: &File, places: &IndexPlaces, salts: &BTreeMap<u32, (u8, u64)>) -> io::Result<BTreeSet<u32>> {
        let bucket_count = buckets(self.entries);
        let mut bucket_writer = SectionWriter::new(file, places.buckets, WRITE_BYTES);
        let mut fingerprint_writer = SectionWriter::new(file, places.fingerprints, WRITE_BYTES);
        let mut number_writer = SectionWriter::new(file, places.numbers, WRITE_BYTES);
        let mut equal = BTreeSet::new();
        let (mut rows, mut bytes) = (Vec::new(), Vec::new());
        let (mut position, mut next_bucket) = (0u32, 0u64);
        for partition in 0..PARTITIONS {
            self.load(partition, &mut rows, &mut bytes)?;
            if !salts.is_empty() {
                rows.retain(|(_, entry)| !salts.contains_key(entry));
                rows.extend(salts.iter().filter(|(_, (_, id))| (id >> 56) as usize == partition).map(|(entry, (_, id))| (*id, *entry)));
            }
            rows.sort_unstable();
            for pair in rows.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
                equal.extend([pair[0].1, pair[1].1]);
            }
            for (id, entry) in &rows {
                let bucket = bucket_of(*id, bucket_count);
                while next_bucket <= bucket {
                    bucket_writer.write(&position.to_le_bytes())?;
                    next_bucket += 1;
                }
                fingerprint_writer.write(&[fingerprint_of(*id)])?;
                number_writer.write(&entry.to_le_bytes())?;
                position += 1;
            }
        }
        while next_bucket <= bucket_count {
            bucket_writer.write(&position.to_le_bytes())?;
            next_bucket += 1;
        }
        bucket_writer.flush()?;
        fingerprint_writer.flush()?;
        number_writer.flush()?;
        Ok(equal)
    }
}
