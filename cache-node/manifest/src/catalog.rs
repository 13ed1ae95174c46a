//! The folder of a data set's manifests: the current one and the one before.
//! Knows files' names and their order. Does not know who lists, or when.
//! Invariant: what is current never goes back: (term, sequence) strictly grows, over restarts and damage too, as long as the folder stands.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tracing::warn;

use super::{Builder, Manifest, ManifestError};

/// A damaged file keeps its number under this ending, so that nothing older or equal is accepted after it.
const DAMAGED: &str = "damaged";

pub struct Catalog {
    directory: PathBuf,
    current: ArcSwapOption<Manifest>,
    /// The highest (term, sequence) ever accepted here. Its lock also keeps changes of the folder apart.
    newest: Mutex<(u64, u64)>,
}

impl Catalog {
    /// Opens the newest manifest of `directory` that is whole; creates the folder if it is absent, and removes what a killed builder left. Blocks.
    ///
    /// One process at a time may have the folder open.
    pub fn open(directory: &Path) -> Result<Self, ManifestError> {
        let io = |cause| ManifestError::Io { op: "list", path: directory.to_owned(), cause };
        std::fs::create_dir_all(directory).map_err(io)?;
        for row in std::fs::read_dir(directory).map_err(io)? {
            let path = row.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "partial") {
                std::fs::remove_file(&path).map_err(io)?;
            }
        }
        let catalog = Self { directory: directory.to_owned(), current: ArcSwapOption::empty(), newest: Mutex::new((0, 0)) };
        let mut files = catalog.files().map_err(io)?;
        if let Some((number, ..)) = files.last() {
            *catalog.newest.lock() = *number;
        }
        while let Some((number, path, is_damaged)) = files.pop() {
            if is_damaged {
                continue;
            }
            match Manifest::open(&path) {
                Ok(manifest) if number_of(&manifest) == number => {
                    catalog.current.store(Some(Arc::new(manifest)));
                    break;
                }
                Ok(_) => catalog.put_aside(&path),
                Err(error) if error.is_damage() => {
                    warn!(%error, "manifest set aside");
                    catalog.put_aside(&path);
                }
                Err(error) => return Err(error),
            }
        }
        catalog.remove_older();
        Ok(catalog)
    }

    /// Where `Builder` should put its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The manifest that serves; `None` before the first listing is complete. Never waits.
    pub fn current(&self) -> Option<Arc<Manifest>> {
        self.current.load_full()
    }

    /// The term and sequence that a next manifest must exceed; (0, 0) for none.
    pub fn newest(&self) -> (u64, u64) {
        *self.newest.lock()
    }

    /// Makes the file at `path` current, if it is whole at first sight and newer (else it is deleted); keeps the one before, deletes older ones.
    /// The path is on the file system of this folder; the file moves into it. Blocks.
    pub fn accept(&self, path: &Path) -> Result<Arc<Manifest>, ManifestError> {
        let mut newest = self.newest.lock();
        let opened = Manifest::open(path);
        let number = match &opened {
            Ok(manifest) => number_of(manifest),
            Err(_) => (0, 0),
        };
        if opened.is_err() || number <= *newest {
            // The file that serves may have just this name: it stays.
            if self.current().is_none_or(|current| current.file() != path) {
                let _ = std::fs::remove_file(path);
            }
            opened?;
            let (term, sequence) = number;
            return Err(ManifestError::NotNewer {
                path: path.to_owned(),
                term,
                sequence,
                current_term: newest.0,
                current_sequence: newest.1,
            });
        }
        let place = self.directory.join(Builder::file_name(number.0, number.1));
        if place != path {
            std::fs::rename(path, &place).map_err(|cause| ManifestError::Io { op: "accept", path: path.to_owned(), cause })?;
        }
        let manifest = Arc::new(Manifest::open(&place)?);
        *newest = number;
        self.current.store(Some(Arc::clone(&manifest)));
        self.remove_older();
        Ok(manifest)
    }

    /// The newest whole manifest below `manifest`: what a kernel or a reader of a folder may know. Blocks.
    pub fn before(&self, manifest: &Manifest) -> Option<Arc<Manifest>> {
        let files = self.files().unwrap_or_default();
        let mut older = files.into_iter().rev().filter(|(number, _, is_damaged)| !is_damaged && *number < number_of(manifest));
        older.find_map(|(_, path, _)| Manifest::open(&path).ok()).map(Arc::new)
    }

    /// After `ManifestError::is_damage` of `damaged`: sets its file aside; if it was the current one, the one before is, if that is there. What is
    /// accepted next must still exceed the damaged one. Blocks.
    pub fn set_aside(&self, damaged: &Manifest) {
        let newest = self.newest.lock();
        self.put_aside(damaged.file());
        if self.current().is_some_and(|current| current.file() == damaged.file()) {
            self.current.store(self.before(damaged));
        }
        drop(newest);
    }

    fn put_aside(&self, path: &Path) {
        if let Err(error) = std::fs::rename(path, path.with_extension(DAMAGED)) {
            warn!(%error, manifest = %path.display(), "damaged manifest could not be renamed");
        }
    }

    /// Number, path, whether it is damaged; oldest first.
    #[expect(clippy::type_complexity, reason = "private, named in the comment")]
    fn files(&self) -> std::io::Result<Vec<((u64, u64), PathBuf, bool)>> {
        let mut files = Vec::new();
        for row in std::fs::read_dir(&self.directory)? {
            let path = row?.path();
            let is_damaged = path.extension().is_some_and(|extension| extension == DAMAGED);
            if !is_damaged && path.extension().is_none_or(|extension| extension != "manifest") {
                continue;
            }
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.split_once('-'));
            let Some((term, sequence)) = number else { continue };
            if let (Ok(term), Ok(sequence)) = (u64::from_str_radix(term, 16), u64::from_str_radix(sequence, 16)) {
                files.push(((term, sequence), path, is_damaged));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Keeps the current file, the whole one before it, and of damaged ones the newest if it is above both.
    fn remove_older(&self) {
        let current = self.current().map_or((0, 0), |manifest| number_of(&manifest));
        let Ok(files) = self.files() else { return };
        let before = files.iter().filter(|(number, _, is_damaged)| !is_damaged && *number < current).map(|(number, ..)| *number).max();
        for (number, path, is_damaged) in &files {
            let is_kept = if *is_damaged { *number > current } else { *number >= current || Some(*number) == before };
            if !is_kept && let Err(error) = std::fs::remove_file(path) {
                warn!(%error, manifest = %path.display(), "old manifest could not be removed");
            }
        }
    }
}

fn number_of(manifest: &Manifest) -> (u64, u64) {
    (manifest.summary().term, manifest.summary().sequence)
}
