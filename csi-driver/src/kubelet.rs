//! kubelet's folder, and the paths in it that requests may name.
//! Knows text and descriptors of paths. Does not know what is mounted there.
//! Invariant: what is opened lies below the folder, reached without a symbolic link: a path of a request can lead nowhere else.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The kernel's own limit, with the NUL.
const PATH_BYTES_MAX: usize = 4095;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("{field} `{path}` must be an absolute path below kubelet's folder {folder} (see --kubelet-folder)")]
    Outside { field: &'static str, path: String, folder: String },
    #[error("{field} `{path}` has a `..`: write the path without it")]
    Parent { field: &'static str, path: String },
    #[error("{field} is longer than {PATH_BYTES_MAX} bytes or has a NUL")]
    Unusable { field: &'static str },
    #[error("{field} `{path}` lies in the driver's own folder")]
    Ours { field: &'static str, path: String },
    #[error("`{path}` leads through a symbolic link or out of kubelet's folder")]
    Escapes { path: String },
}

/// kubelet's folder. The same path inside the driver's container and outside.
#[derive(Debug)]
pub(crate) struct Kubelet {
    /// As requests write it.
    given: PathBuf,
    /// As the kernel's table of mounts writes it.
    folder: PathBuf,
    root: OwnedFd,
    /// The driver's own folder below it, which no request may name.
    ours: PathBuf,
}

/// A path below kubelet's folder, by text only: nothing is known about what lies there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    absolute: PathBuf,
    /// Below the folder; at least one part.
    relative: PathBuf,
}

impl Target {
    /// As the kernel's table of mounts names it.
    pub(crate) fn path(&self) -> &Path {
        &self.absolute
    }
}

impl Kubelet {
    /// `folder` must exist, and so must `ours`.
    pub(crate) fn open(given: &Path, ours: &Path) -> std::io::Result<Self> {
        let (folder, ours) = (given.canonicalize()?, ours.canonicalize()?);
        let root = rustix::fs::open(&folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { given: given.to_owned(), folder, root, ours })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The target that `field` of a request names. Asks nothing of the disk.
    pub(crate) fn target(&self, field: &'static str, text: &str) -> Result<Target, PathError> {
        if text.len() > PATH_BYTES_MAX || text.contains('\0') {
            return Err(PathError::Unusable { field });
        }
        let outside = || PathError::Outside { field, path: text.to_owned(), folder: self.given.display().to_string() };
        let path = Path::new(text);
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(PathError::Parent { field, path: text.to_owned() });
        }
        // Both sides by components, so that `//` and `/./` mean nothing.
        let relative: PathBuf = path.strip_prefix(&self.given).map_err(|_| outside())?.components().collect();
        if relative.as_os_str().is_empty() {
            return Err(outside());
        }
        let absolute = self.folder.join(&relative);
        if absolute.starts_with(&self.ours) || self.ours.starts_with(&absolute) {
            return Err(PathError::Ours { field, path: text.to_owned() });
        }
        Ok(Target { absolute, relative })
    }

    /// The folder that `target` is, with whatever is mounted on it. Nothing is asked of a FUSE daemon.
    pub(crate) fn open_target(&self, target: &Target) -> Result<OwnedFd, OpenError> {
        self.open_below(&target.relative, target)
    }

    /// The folder that `target` lies in, and its name there.
    pub(crate) fn open_parent<'a>(&self, target: &'a Target) -> Result<(OwnedFd, &'a Path), OpenError> {
        let name = target.relative.file_name().map(Path::new).unwrap_or(&target.relative);
        let parent = match target.relative.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => self.open_below(parent, target)?,
            None => self.root.try_clone().map_err(|cause| OpenError::Io { path: target.absolute.clone(), cause })?,
        };
        Ok((parent, name))
    }

    fn open_below(&self, relative: &Path, target: &Target) -> Result<OwnedFd, OpenError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            return match rustix::fs::openat2(self.root.as_fd(), relative, flags, Mode::empty(), resolve) {
                Ok(opened) => Ok(opened),
                // A rename or mount ran beside it.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(Errno::LOOP | Errno::XDEV) => {
                    Err(OpenError::Escapes(PathError::Escapes { path: target.absolute.display().to_string() }))
                }
                Err(Errno::NOENT) => Err(OpenError::Absent),
                Err(error) => Err(OpenError::Io { path: target.absolute.clone(), cause: error.into() }),
            };
        }
    }
}

#[derive(Debug)]
pub(crate) enum OpenError {
    Absent,
    Escapes(PathError),
    Io { path: PathBuf, cause: std::io::Error },
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn kubelet() -> (tempfile::TempDir, Kubelet) {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("pods/a")).unwrap();
        std::fs::create_dir_all(real.join("plugins/csi.forebay.dev")).unwrap();
        let kubelet = Kubelet::open(&real, &real.join("plugins/csi.forebay.dev")).unwrap();
        (folder, kubelet)
    }

    #[test]
    fn a_path_below_the_folder_is_taken_and_others_are_refused() {
        let (_folder, kubelet) = kubelet();
        let check = |below: &str| kubelet.target("target_path", &format!("{}{below}", kubelet.folder().display()));
        assert_eq!(check("/pods/a").unwrap().path(), kubelet.folder().join("pods/a"));
        assert_eq!(check("//pods/./a/").unwrap().path(), kubelet.folder().join("pods/a"));
        for wrong in ["", "/", "x/pods/a", "/pods/../../etc", "/pods/a/..", "/pods/a\0", "/plugins/csi.forebay.dev", "/plugins"] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        assert!(check("/plugins/csi.forebay.dev/sessions/x").is_err() && check("/plugins/other").is_ok());
        assert!(check(&"/a".repeat(3000)).is_err());
        for wrong in ["", "pods/a", "/etc", "../etc", "/"] {
            assert!(kubelet.target("target_path", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_symbolic_link_on_the_way_is_refused() {
        let (folder, kubelet) = kubelet();
        let root = folder.path();
        std::fs::create_dir(root.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("pods/out")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", root.join("pods/in")).unwrap();
        let open =
            |below: &str| kubelet.open_target(&kubelet.target("t", root.canonicalize().unwrap().join(below).to_str().unwrap()).unwrap());
        assert!(open("pods/a").is_ok());
        assert!(matches!(open("pods/b"), Err(OpenError::Absent)));
        for wrong in ["pods/out", "pods/out/ssl", "pods/in", "pods/in/x"] {
            assert!(matches!(open(wrong), Err(OpenError::Escapes(_))), "{wrong}: {:?}", open(wrong));
        }
    }
}
