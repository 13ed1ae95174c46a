//! One data set's mount on this machine, from which all its pods are served: the held mount, its holder socket, and the task that keeps it served.
//! Knows the files of a session. Does not know what is bound where; `sessions` does.
//! Invariant: `session.json` is there for as long as the mount is, so that the next process knows what to ask back.

mod places;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use forebay_daemon::shutdown::{Shutdown, Trigger};
use forebay_mounter::device::{self, ConnectionId};
use forebay_mounter::hold::{Hold, HoldOptions};
use forebay_mounter::{MountError, abort, busy, resume};
use forebay_wire::volume_service::VolumeStat;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) use places::{NodeUser, Places, Record};

use crate::attach::{Attachment, Keeper, Limits};
use crate::cache_node::{CacheNodes, Dataset};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::volume::Uid;

/// Reports and questions of one node that wait to be read: it has four connections.
const EVENTS_MAX: usize = 64;

/// What every session of this process uses.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) places: Places,
    pub(crate) nodes: CacheNodes,
    pub(crate) limits: Limits,
    /// Let the kernel read complete files by itself, where it can.
    pub(crate) passthrough: bool,
    pub(crate) metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) uid: Uid,
    pub(crate) name: String,
    places: Places,
    hold: Arc<Hold>,
    attachment: watch::Receiver<Attachment>,
    /// To be shut down, which ends the thread that accepts.
    listener: OwnedFd,
    stop: Trigger,
    keeper: Mutex<Option<JoinHandle<()>>>,
    /// What the node last told, for the time when it doesn't answer.
    stat: Mutex<Option<VolumeStat>>,
}

impl Session {
    /// Mounts. Blocks; within a runtime.
    pub(crate) fn create(common: &Common, dataset: &Dataset) -> Result<Arc<Self>, Error> {
        let places = &common.places;
        // Of a session that could not be unmounted. Whoever is bound to it keeps it, dead as it is.
        if device::is_mounted(&places.mount_point(&dataset.uid)) {
            bury(places, &dataset.uid);
        }
        places.make(&dataset.uid)?;
        let hold = Hold::mount(options(common, &dataset.uid, &dataset.name))?;
        let made = places
            .write(&dataset.uid, &Record::new(&dataset.name, hold.connection()))
            .and_then(|()| places.listen(&dataset.uid))
            .and_then(|listener| Self::start(common, &dataset.uid, &dataset.name, Arc::clone(&hold), listener));
        if made.is_err() {
            // Nobody was told of it; the first error is the one to tell.
            let _ = hold.unmount();
            places.remove(&dataset.uid);
        }
        made
    }

    /// Takes back the mount of a former process from the node that serves it. `None`: nobody gave it back until `deadline`, or until it was
    /// `hopeless`. Blocks; within a runtime.
    pub(crate) fn resume(
        common: &Common,
        uid: &Uid,
        record: &Record,
        deadline: Instant,
        hopeless: &AtomicBool,
    ) -> Result<Option<Arc<Self>>, Error> {
        let places = &common.places;
        let listener = places.listen(uid)?;
        let peer_uid = places.node_user().map(|user| user.uid);
        let is_hopeless = || hopeless.load(Ordering::Relaxed);
        let given = resume::wait(&listener, record.connection, peer_uid, deadline, is_hopeless)
            .map_err(Error::io("listen on", &places.socket(uid)))?;
        let Some(given) = given else { return Ok(None) };
        let hold = Hold::resume(options(common, uid, &record.name), given);
        common.metrics.given_back.inc();
        Self::start(common, uid, &record.name, hold, listener).map(Some)
    }

    fn start(common: &Common, uid: &Uid, name: &str, hold: Arc<Hold>, listener: OwnedFd) -> Result<Arc<Self>, Error> {
        let socket = common.places.socket(uid);
        let same = listener.try_clone().map_err(Error::io("keep", &socket))?;
        let (raw, from_hold) = sync_channel(EVENTS_MAX);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let serving = Arc::clone(&hold);
        thread("holder", move || {
            let error = serving.serve(&listener, &raw);
            tracing::debug!(%error, "a holder socket is closed");
        })?;
        thread("events", move || {
            for event in from_hold {
                if sender.blocking_send(event).is_err() {
                    return;
                }
            }
        })?;
        let (state, attachment) = watch::channel(Attachment::Waiting { problem: None });
        let (shutdown, stop) = Shutdown::new();
        let keeper = Keeper {
            uid: uid.clone(),
            name: name.to_owned(),
            hold: Arc::clone(&hold),
            holder_socket: socket,
            nodes: common.nodes.clone(),
            limits: common.limits,
            metrics: Arc::clone(&common.metrics),
            state,
        };
        let keeper = Mutex::new(Some(tokio::spawn(keeper.keep(events, shutdown))));
        let (uid, name, places) = (uid.clone(), name.to_owned(), common.places.clone());
        Ok(Arc::new(Self { uid, name, places, hold, attachment, listener: same, stop, keeper, stat: Mutex::new(None) }))
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        self.hold.connection()
    }

    /// As the kernel's table names it; its root may be copied, nothing else may be asked of it.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.places.mount_point(&self.uid)
    }

    pub(crate) fn attachment(&self) -> Attachment {
        self.attachment.borrow().clone()
    }

    /// Whether new pods can still be bound to it.
    pub(crate) fn is_usable(&self) -> bool {
        !matches!(self.attachment(), Attachment::Aborted { .. }) && self.hold.is_connected()
    }

    /// Waits until the mount is served, for at most `limit`. A node that says why it can't ends the wait.
    pub(crate) async fn wait_until_served(&self, limit: Duration) -> Result<(), Error> {
        let mut attachment = self.attachment.clone();
        let settled = attachment.wait_for(|state| match state {
            Attachment::Waiting { problem } => problem.as_ref().is_some_and(|problem| problem.is_stated),
            Attachment::Serving | Attachment::Hung | Attachment::Aborted { .. } => true,
        });
        let waited = tokio::time::timeout(limit, settled).await.map(|settled| settled.map(|state| state.clone()));
        let volume = format!("data set {}", self.name);
        match waited {
            Ok(Ok(Attachment::Serving | Attachment::Hung)) => Ok(()),
            Ok(Ok(Attachment::Waiting { problem })) => {
                Err(Error::NotServable { volume, detail: problem.map(|problem| problem.detail).unwrap_or_default() })
            }
            Ok(Ok(Attachment::Aborted { why })) => Err(Error::Silent { volume, detail: why }),
            Ok(Err(_)) => Err(Error::Broken { detail: "the session ends".to_owned() }),
            Err(_) => {
                let detail = match self.attachment() {
                    Attachment::Waiting { problem: Some(problem) } => problem.detail,
                    _ => format!("it did not serve the mount within {} s", limit.as_secs()),
                };
                Err(Error::Silent { volume, detail })
            }
        }
    }

    /// What people should know, one sentence each; empty when all is well.
    pub(crate) fn abnormal(&self) -> Vec<String> {
        match self.attachment() {
            Attachment::Serving => Vec::new(),
            Attachment::Waiting { problem: None } => vec!["the cache node of this machine is gone: reads wait for the next one".to_owned()],
            Attachment::Waiting { problem: Some(problem) } => {
                vec![format!("no cache node of this machine serves the volume, reads wait: {}", problem.detail)]
            }
            Attachment::Hung => {
                vec!["the cache node of this machine lives and doesn't answer: delete its pod, reads wait until then".to_owned()]
            }
            Attachment::Aborted { why } => vec![format!("every read fails, start the pod again: {why}")],
        }
    }

    pub(crate) fn last_stat(&self) -> Option<VolumeStat> {
        self.stat.lock().clone()
    }

    pub(crate) fn set_stat(&self, stat: VolumeStat) {
        *self.stat.lock() = Some(stat);
    }

    /// Unmounts and forgets. Pods that still have a dead mount keep it. An error leaves the session as it was. Blocks.
    pub(crate) fn end(&self) -> Result<(), Error> {
        let mount_point = self.mount_point();
        if self.is_usable() {
            self.hold.unmount().map_err(|error| match error {
                MountError::Busy { mount_point: path } => Error::Busy { path, users: busy::users(&mount_point) },
                other => Error::Mount(other),
            })?;
        } else {
            let _ = rustix::mount::unmount(&mount_point, rustix::mount::UnmountFlags::NOFOLLOW | rustix::mount::UnmountFlags::DETACH);
        }
        self.leave();
        self.places.remove(&self.uid);
        Ok(())
    }

    /// Stops to keep it served, without unmounting: the end of the process, or of the session.
    fn leave(&self) {
        self.stop.stop();
        // Fails only where it is shut down already.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(keeper) = self.keeper.lock().take() {
            keeper.abort();
        }
    }
}

/// Ends a session whose device nobody gave back: its reads fail instead of waiting for ever, and its mount point is free again. Blocks.
pub(crate) fn bury(places: &Places, uid: &Uid) {
    let mount_point = places.mount_point(uid);
    while let Ok(connection) = device::connection(&mount_point) {
        if let Err(error) = abort::abort(connection, &mount_point) {
            tracing::warn!(%error, connection = connection.0, "a connection that nobody serves can't be aborted");
        }
        let detached = rustix::mount::unmount(&mount_point, rustix::mount::UnmountFlags::NOFOLLOW | rustix::mount::UnmountFlags::DETACH);
        if let Err(error) = detached {
            tracing::error!(%error, mount_point = %mount_point.display(), "a dead mount stays");
            break;
        }
    }
    places.remove(uid);
}

fn options(common: &Common, uid: &Uid, name: &str) -> HoldOptions {
    HoldOptions {
        mount_point: common.places.mount_point(uid),
        name: name.to_owned(),
        folder: common.places.run_folder(uid),
        // Pods run as any user; what they may read the modes say.
        allow_other: true,
        passthrough: common.passthrough,
        peer_uid: common.places.node_user().map(|user| user.uid),
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map(drop).map_err(|error| Error::Broken { detail: format!("start a thread: {error}") })
}
