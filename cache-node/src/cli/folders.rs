//! Folders of a node's tiers: patterns of them looked up on this machine, and folders made before a node starts.
//! Knows the disk. Does not know what a tier is used for.
//! Invariant: of several folders on one filesystem a pattern gives one, and a disk that isn't mounted doesn't become a folder of the disk below it.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Component, Path, PathBuf};

use clap::Args;
use forebay_daemon::exit::Exit;
use forebay_wire::glob;
use forebay_wire::node_config::Tier;

use super::failure::Failure;

/// Makes the folders of a node's tiers and gives them to the user that the node runs as: the one thing that needs privileges, and only before it starts.
#[derive(Debug, Args)]
pub(super) struct PrepareFoldersArgs {
    /// User and group that are to own the folders
    #[arg(long)]
    owner: u32,
    /// Of a pattern, what follows its last part with a `*` is made as well
    #[arg(required = true)]
    folders: Vec<PathBuf>,
}

pub(super) fn prepare_folders(args: &PrepareFoldersArgs) -> Result<Exit, Failure> {
    for folder in &args.folders {
        for found in expand(folder)? {
            prepare(&found, args.owner).map_err(|error| {
                Failure::new(Exit::CannotCreate, format!("prepare {}: {error}; its parent must be there", found.path().display()))
            })?;
        }
    }
    Ok(Exit::Ok)
}

fn prepare(found: &Found, owner: u32) -> io::Result<()> {
    let mut folder = found.there.clone();
    let mut parts = found.below.components().peekable();
    while let Some(part) = parts.next() {
        folder.push(part);
        // The folders between are for the nodes of every policy.
        let mode = if parts.peek().is_some() { 0o755 } else { 0o700 };
        match std::fs::DirBuilder::new().mode(mode).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    chown(&folder, Some(owner), Some(owner))
}

/// Tiers with patterns as tiers with folders, in the order of their names.
pub(super) fn expand_tiers(tiers: Vec<Tier>) -> Result<Vec<Tier>, Failure> {
    let mut expanded = Vec::new();
    for tier in tiers {
        expanded.extend(expand(&tier.path)?.into_iter().map(|found| Tier { path: found.path(), ..tier.clone() }));
    }
    Ok(expanded)
}

/// A folder that may not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    there: PathBuf,
    below: PathBuf,
}

impl Found {
    fn path(&self) -> PathBuf {
        self.there.join(&self.below)
    }
}

/// What `path` stands for on this machine; itself when it is no pattern.
fn expand(path: &Path) -> Result<Vec<Found>, Failure> {
    let parts: Vec<_> = path.components().collect();
    let is_pattern = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains('*');
    let Some(last) = parts.iter().rposition(is_pattern) else {
        let (there, below) = (path.parent().unwrap_or(path).to_owned(), path.file_name().map(PathBuf::from).unwrap_or_default());
        return Ok(vec![Found { there, below }]);
    };
    let first = parts.iter().position(is_pattern).unwrap_or(last);
    let prefix: PathBuf = parts[..first].iter().collect();
    let failed = |cause: io::Error| Failure::new(Exit::CannotCreate, format!("look for {}: {cause}", path.display()));
    let mut found = vec![prefix.clone()];
    for part in &parts[first..=last] {
        found = step(&found, &part.as_os_str().to_string_lossy()).map_err(failed)?;
    }
    let devices: Vec<u64> =
        found.iter().map(|folder| std::fs::metadata(folder).map(|folder| folder.dev())).collect::<Result<_, _>>().map_err(failed)?;
    let device = std::fs::metadata(&prefix).map_err(failed)?.dev();
    let below: PathBuf = parts[last + 1..].iter().collect();
    let kept: Vec<Found> =
        one_a_filesystem(&devices, device).into_iter().map(|at| Found { there: found[at].clone(), below: below.clone() }).collect();
    if kept.is_empty() {
        return Err(Failure::new(
            Exit::CannotCreate,
            format!("no folder of this machine is {}: mount a disk there, or have the node left out", path.display()),
        ));
    }
    Ok(kept)
}

/// Folders below `folders` whose name fits, in order. A part without a star is one of its own.
fn step(folders: &[PathBuf], part: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // Between two stars: not every match has it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if glob::matches(part, &entry.file_name().to_string_lossy()) && entry.path().is_dir() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Which folders count, by the filesystem that each is on: the first of each. Those on `below`, where the folders themselves are, only when there
/// are no others: else they are places where nothing is mounted.
fn one_a_filesystem(devices: &[u64], below: u64) -> Vec<usize> {
    let has_others = devices.iter().any(|device| *device != below);
    let is_first = |at: usize| devices[..at].iter().all(|other| *other != devices[at]);
    (0..devices.len()).filter(|at| is_first(*at) && !(has_others && devices[*at] == below)).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pattern_is_looked_up_and_what_follows_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["nvme1", "nvme0", "sda"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("nvme2"), "no folder").unwrap();
        let pattern = folder.path().join("nvme*/forebay/policy");
        // All on one filesystem: one of them is enough.
        let found = expand(&pattern).unwrap();
        assert_eq!(found.iter().map(Found::path).collect::<Vec<_>>(), [folder.path().join("nvme0/forebay/policy")]);
        prepare(&found[0], std::fs::metadata(folder.path()).unwrap().uid()).unwrap();
        let mode = |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("nvme0/forebay"), mode("nvme0/forebay/policy")), (0o755, 0o700));
        let none = expand(&folder.path().join("nvme*/forebay*/policy")).unwrap();
        assert_eq!(none.len(), 1, "nvme1 lacks it");
        assert!(expand(&folder.path().join("sd?*/x")).is_err());
    }

    #[test]
    fn a_plain_folder_is_made_in_a_parent_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let owner = std::fs::metadata(folder.path()).unwrap().uid();
        let prepare = |path: PathBuf| prepare(&expand(&path).unwrap()[0], owner);
        prepare(folder.path().join("a")).unwrap();
        prepare(folder.path().join("a")).unwrap();
        assert!(prepare(folder.path().join("b/c")).is_err());
    }

    #[test]
    fn of_folders_on_one_filesystem_one_counts_and_places_without_a_disk_dont() {
        let check = |devices: &[u64], expected: &[usize]| assert_eq!(one_a_filesystem(devices, 1), expected, "{devices:?}");
        check(&[], &[]);
        check(&[1, 1], &[0]);
        check(&[2, 3, 4], &[0, 1, 2]);
        check(&[2, 1, 3], &[0, 2]);
        check(&[2, 2, 3], &[0, 2]);
    }
}
