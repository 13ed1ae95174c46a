//! What earlier runs left in the suite's folder: mounts of one that was killed, data, caches.
//! Invariant: nothing is removed through a mount.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::UnmountFlags;

/// The places below `folder` where something is mounted, the last one mounted first.
pub(super) fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).map(unescaped);
    Ok(places.filter(|place| place.starts_with(folder)).collect())
}

/// A suite that was killed leaves its mounts behind, with or without the processes that answer there.
pub(super) fn detach_mounts(folder: &Path) -> Result<()> {
    for place in mounts_below(folder)? {
        eprintln!("{} is still mounted by an earlier run: detached", place.display());
        detach(&place)?;
    }
    Ok(())
}

/// Takes a mount away, whoever uses it.
pub(super) fn detach(place: &Path) -> Result<()> {
    rustix::mount::unmount(place, UnmountFlags::DETACH).with_context(|| format!("unmount {}", place.display()))
}

/// Removes the data, caches and nodes of earlier runs below `folder`.
pub(crate) fn clean(folder: &Path) -> Result<()> {
    match folder.canonicalize() {
        Ok(folder) => detach_mounts(&folder)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", folder.display())),
    }
    for part in ["buckets", "nodes", "endpoint"] {
        let path = folder.join(part);
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The kernel writes what would end a field there as `\` and three octal digits.
fn unescaped(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_with_a_space_and_a_backslash_is_read_as_it_is() {
        assert_eq!(unescaped(r"/mnt/a\040b\134c"), Path::new(r"/mnt/a b\c"));
        assert_eq!(unescaped("/mnt/plain"), Path::new("/mnt/plain"));
    }

    #[test]
    fn a_mount_that_was_left_is_gone_and_what_it_showed_is_still_there() -> Result<()> {
        let shown = tempfile::tempdir()?;
        fs::write(shown.path().join("kept"), "kept")?;
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("nodes/one");
        fs::create_dir_all(&place)?;
        if rustix::mount::mount_bind(shown.path(), &place).is_err() {
            assert!(std::env::var_os("FOREBAY_MUST_MOUNT").is_none(), "this test mounts: run it as root");
            return Ok(());
        }
        clean(folder.path())?;
        assert!(!folder.path().join("nodes").exists());
        assert_eq!(fs::read_to_string(shown.path().join("kept"))?, "kept");
        Ok(())
    }
}
