//! What a listing has got so far, for another node: read from the log while it grows, and kept there as a log of its own.
//! Knows logs and bytes. Does not know who asks whom.
//! Invariant: what is kept are whole records of one listing, in their order; so it is gone on with like a log of this node's own.
//!
//! The first record, which says when a listing was begun by this machine's clock, is each node's own; positions are counted behind it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::log::{Begun, begun_of, first_record, whole_records};
use super::log_path;

/// Where a listing is, of which the first bytes are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// 0: none.
    pub listing: u64,
    /// Bytes of its records.
    pub have: u64,
}

/// A piece of a listing's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub listing: u64,
    /// Term and sequence of the manifest that it is to become.
    pub number: (u64, u64),
    /// Seconds since 1970, by this machine's clock.
    pub began: i64,
    /// Where the bytes begin.
    pub start: u64,
    /// Perhaps with a record that is cut off at the end.
    pub bytes: Vec<u8>,
}

/// What the listing of the source at `position` has got beyond `place`, at most `bytes_max`; from its first byte on, if `place` is of another
/// listing. `None`: nothing, or there is none. Blocks on the disk.
pub fn part(folder: &Path, position: usize, place: Place, bytes_max: u64) -> io::Result<Option<Part>> {
    let file = match File::open(log_path(folder, position)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let Some((begun, first)) = begun_of(&file)? else { return Ok(None) };
    let start = if begun.listing == place.listing { place.have } else { 0 };
    let count = file.metadata()?.len().saturating_sub(first + start).min(bytes_max);
    if count == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
    file.read_exact_at(&mut bytes, first + start)?;
    // Begun anew meanwhile: these may be bytes of another one.
    let is_same = begun_of(&file)?.is_some_and(|(now, _)| now == begun);
    Ok(is_same.then_some(Part { listing: begun.listing, number: begun.number, began: begun.at, start, bytes }))
}

/// Keeps the whole records of `part`, which follows `place` or begins another listing; how far it is then. `None` where a listing of this node's own
/// goes on. Blocks on the disk.
pub fn keep(folder: &Path, position: usize, source: &str, place: Place, part: &Part) -> io::Result<Option<Place>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(log_path(folder, position))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    let known = begun_of(&file)?.filter(|(begun, _)| begun.listing == part.listing && place.listing == part.listing);
    let first = match known {
        Some((_, first)) if part.start == place.have => first,
        Some(_) | None if part.start == 0 => {
            let begun = Begun { at: part.began, name: source.to_owned(), listing: part.listing, number: part.number };
            let record = first_record(&begun);
            file.set_len(0)?;
            file.write_all_at(&record, 0)?;
            record.len() as u64
        }
        // It isn't what follows: from the first byte on again.
        Some(_) | None => return Ok(Some(Place::default())),
    };
    let count = whole_records(&part.bytes);
    file.write_all_at(&part.bytes[..count], first + part.start)?;
    file.set_len(first + part.start + count as u64)?;
    Ok(Some(Place { listing: part.listing, have: part.start + count as u64 }))
}

/// Forgets what was kept of listings: a newer list of files is here. Nothing where a listing of this node's own goes on. Blocks on the disk.
pub fn forget(folder: &Path) -> io::Result<()> {
    for position in 0.. {
        let path = log_path(folder, position);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            file => file?,
        };
        if file.try_lock().is_ok() {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}
