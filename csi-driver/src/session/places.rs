//! Where the files of a session are: its mount below kubelet's folder, where the pods' machine sees it, and its socket and record in the run
//! folder, which the cache node sees, too, and which a reboot empties.
//! Invariant: the cache node can connect to a session's socket and can't write anything else here: what is read back is the driver's own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use forebay_mounter::device::ConnectionId;
use forebay_mounter::protocol;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::volume::Uid;

/// Of `session.json`; a reader takes every version up to its own, and buries the mount of a newer one.
const VERSION: u32 = 1;
const RECORD: &str = "session.json";
const SOCKET: &str = "holder.sock";

/// The user that the cache node runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Below kubelet's folder.
    state: PathBuf,
    /// `<nodes-folder>/csi`.
    run: PathBuf,
    node_user: Option<NodeUser>,
    boot: String,
}

/// `session.json`: what the next process must know to ask for the mount. Compatible: new fields with a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Of the kernel that has the mount.
    #[serde(default)]
    boot: String,
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) connection: ConnectionId,
}

impl Record {
    pub(crate) fn new(name: &str, connection: ConnectionId) -> Self {
        Self { version: VERSION, boot: String::new(), name: name.to_owned(), connection }
    }
}

impl Places {
    /// Makes the two folders.
    pub(crate) fn open(state: &Path, nodes_folder: &Path, node_user: Option<NodeUser>) -> Result<Self, Error> {
        let boot_id = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot_id).map_err(Error::io("read", boot_id))?.trim().to_owned();
        let sessions = state.join("sessions");
        make(&sessions, 0o700)?;
        let run = nodes_folder.join("csi");
        make(&run, 0o711)?;
        // As the kernel's table will name what is mounted there.
        let state = state.canonicalize().map_err(Error::io("find", state))?;
        Ok(Self { state, run, node_user, boot })
    }

    pub(crate) fn node_user(&self) -> Option<NodeUser> {
        self.node_user
    }

    pub(crate) fn mount_point(&self, uid: &Uid) -> PathBuf {
        self.state_folder(uid).join("mount")
    }

    pub(crate) fn run_folder(&self, uid: &Uid) -> PathBuf {
        self.run.join(uid.as_str())
    }

    pub(crate) fn socket(&self, uid: &Uid) -> PathBuf {
        self.run_folder(uid).join(SOCKET)
    }

    fn state_folder(&self, uid: &Uid) -> PathBuf {
        self.state.join("sessions").join(uid.as_str())
    }

    /// The folders of one session.
    pub(crate) fn make(&self, uid: &Uid) -> Result<(), Error> {
        make(&self.mount_point(uid), 0o700)?;
        let run = self.run_folder(uid);
        make(&run, 0o710)?;
        if let Some(user) = self.node_user {
            chown(&run, None, Some(user.gid)).map_err(Error::io("give the node its folder", &run))?;
        }
        Ok(())
    }

    /// The holder's socket, which the node may connect to.
    pub(crate) fn listen(&self, uid: &Uid) -> Result<OwnedFd, Error> {
        let socket = self.socket(uid);
        let listener = protocol::listen(&socket).map_err(Error::io("listen on", &socket))?;
        if let Some(user) = self.node_user {
            chown(&socket, Some(user.uid), Some(user.gid)).map_err(Error::io("give the node the socket", &socket))?;
        }
        Ok(listener)
    }

    pub(crate) fn write(&self, uid: &Uid, record: &Record) -> Result<(), Error> {
        let path = self.run_folder(uid).join(RECORD);
        let new = path.with_extension("new");
        let record = Record { boot: self.boot.clone(), ..record.clone() };
        serde_json::to_vec(&record)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(Error::io("write", &path))
    }

    /// The record of this boot, if there is one that this version reads.
    pub(crate) fn read(&self, uid: &Uid) -> Option<Record> {
        let text = fs::read(self.run_folder(uid).join(RECORD)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.version <= VERSION && record.boot == self.boot).then_some(record)
    }

    /// The data sets that have a folder, in either place.
    pub(crate) fn known(&self) -> Vec<Uid> {
        let entries = [self.state.join("sessions"), self.run.clone()].map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let mut uids: Vec<Uid> = entries.into_iter().flatten().filter_map(|entry| Uid::new(entry.file_name().to_str()?)).collect();
        uids.sort();
        uids.dedup();
        uids
    }

    /// Removes the folders of a session that has no mount. Never goes below the mount point: only what is empty there goes.
    pub(crate) fn remove(&self, uid: &Uid) {
        let warn = |path: &Path, result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "the folder of a session that ended stays");
            }
            _ => {}
        };
        for folder in [self.mount_point(uid), self.state_folder(uid)] {
            warn(&folder, fs::remove_dir(&folder));
        }
        let run = self.run_folder(uid);
        warn(&run, fs::remove_dir_all(&run));
    }
}

fn make(folder: &Path, mode: u32) -> Result<(), Error> {
    let made = match DirBuilder::new().mode(mode).recursive(true).create(folder) {
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(mode)),
        Err(error) => Err(error),
    };
    made.map_err(Error::io("make the folder", folder))
}
