//! Where the files of a mount live: `ROOT/mounts/HASH/{holder.sock,node.sock,mount.json,log,lock}`; the log of a start that failed: `ROOT/failed/HASH.log`.
//! ROOT is `$FOREBAY_RUN`, else `/run/forebay` as root, else `$XDG_RUNTIME_DIR/forebay`; the caller reads the environment.
//! Invariant: a folder whose `lock` can be taken belongs to no live holder and may be removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder below which all mounts of one user have theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRoot(PathBuf);

/// The folder of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFolder(PathBuf);

/// Held by a living holder; the kernel lets go of it when the holder dies.
#[derive(Debug)]
pub struct FolderLock(File);

impl FolderLock {
    /// The descriptor that is the lock: whoever inherits it keeps the lock.
    pub fn into_file(self) -> File {
        self.0
    }
}

impl RunRoot {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Picks the folder from the three values that the caller read: `$FOREBAY_RUN`, the effective uid, `$XDG_RUNTIME_DIR`.
    pub fn choose(forebay_run: Option<PathBuf>, effective_uid: u32, runtime: Option<PathBuf>) -> Self {
        match (forebay_run, runtime) {
            (Some(path), _) => Self(path),
            (None, _) if effective_uid == 0 => Self(PathBuf::from("/run/forebay")),
            (None, Some(path)) => Self(path.join("forebay")),
            (None, None) => Self(PathBuf::from(format!("/tmp/forebay-{effective_uid}"))),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of the mount on `mount_point` (absolute), whether it exists or not.
    pub fn mount(&self, mount_point: &Path) -> MountFolder {
        use std::os::unix::ffi::OsStrExt;
        let hash = xxhash_rust::xxh3::xxh3_64(mount_point.as_os_str().as_bytes());
        MountFolder(self.0.join("mounts").join(format!("{hash:016x}")))
    }

    /// All mount folders, of living and dead holders.
    pub fn mounts(&self) -> io::Result<Vec<MountFolder>> {
        let entries = match fs::read_dir(self.0.join("mounts")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries.map(|entry| Ok(MountFolder(entry?.path()))).collect()
    }
}

impl MountFolder {
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn holder_socket(&self) -> PathBuf {
        self.0.join("holder.sock")
    }
    pub fn node_socket(&self) -> PathBuf {
        self.0.join("node.sock")
    }
    pub fn request(&self) -> PathBuf {
        self.0.join("mount.json")
    }
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Creates the folder (mode 0700) and its parents.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Takes the lock of a living holder; `None`: another process has it.
    pub fn lock(&self) -> io::Result<Option<FolderLock>> {
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(self.0.join("lock"))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(FolderLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a holder lives here.
    pub fn is_alive(&self) -> bool {
        self.path().join("lock").exists() && matches!(self.lock(), Ok(None))
    }

    /// Removes the folder after a start that failed, but for its log, and gives where that is now. One log a mount point is kept.
    pub fn remove_but_log(&self) -> io::Result<PathBuf> {
        let name = self.0.file_name().unwrap_or_default();
        let logs = self.0.parent().and_then(Path::parent).unwrap_or(&self.0).join("failed");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs)?;
        let kept = logs.join(name).with_extension("log");
        fs::rename(self.log(), &kept)?;
        self.remove()?;
        Ok(kept)
    }

    /// Removes the folder of a dead holder; the log of the last one goes, too.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
