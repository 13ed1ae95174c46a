//! All sessions of this machine, and which pods' folders are bound to them.
//! Knows the order in which things are made and undone. Does not know requests of kubelet.
//! Invariant: a session is made, bound to and ended under its data set's lock, and whether it is used is read from the kernel's table, not remembered.

mod recover;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_mounter::device::{ConnectionId, MountRow};
use forebay_wire::volume_service::VolumeStat;
use parking_lot::Mutex;

use crate::cache_node::Dataset;
use crate::error::Error;
use crate::kubelet::{Kubelet, Target};
use crate::locks::Locks;
use crate::session::{Common, Session};
use crate::target;
use crate::volume::{Uid, Volume};

/// How long kubelet's request may wait for the node to serve a mount; kubelet gives up after two minutes, and repeats either way.
const SERVED_WITHIN: Duration = Duration::from_secs(20);
/// Behind another operation on the same data set, which itself may wait that long.
const TURN_WITHIN: Duration = Duration::from_secs(45);

#[derive(Debug)]
pub(crate) struct Sessions {
    common: Common,
    kubelet: Arc<Kubelet>,
    locks: Locks<Uid>,
    /// Guards the map; held for memory only.
    live: Mutex<HashMap<Uid, Arc<Session>>>,
}

/// What NodeGetVolumeStats tells.
#[derive(Debug)]
pub(crate) struct Stats {
    /// `None` before the node told it for the first time.
    pub(crate) stat: Option<VolumeStat>,
    /// One sentence each; empty when all is well.
    pub(crate) abnormal: Vec<String>,
}

impl Sessions {
    pub(crate) fn new(common: Common, kubelet: Arc<Kubelet>) -> Arc<Self> {
        Arc::new(Self { common, kubelet, locks: Locks::default(), live: Mutex::default() })
    }

    /// Makes `volume` readable at `target`. May be repeated.
    pub(crate) async fn bind(self: &Arc<Self>, volume: &Volume, target: &Target) -> Result<(), Error> {
        if self.is_bound(volume, target)? {
            return Ok(());
        }
        let dataset = self.common.nodes.resolve(volume).await?;
        let turn = self.locks.lock_within(&dataset.uid, TURN_WITHIN).await;
        let _turn = turn.ok_or_else(|| Error::Pending { volume: dataset.name.clone() })?;
        let bound = self.bind_in_turn(&dataset, target).await;
        if bound.is_err() {
            self.end_if_unused(&dataset.uid).await;
        }
        bound
    }

    /// Whether a live session of this volume is there already: then nobody needs to be asked, and a node that restarts fails nothing.
    fn is_bound(&self, volume: &Volume, target: &Target) -> Result<bool, Error> {
        let Some(connection) = target::bound(target)? else { return Ok(false) };
        let Some(session) = self.by_connection(connection).filter(|session| session.is_usable()) else { return Ok(false) };
        Ok(match volume {
            Volume::Persistent { uid, name: _ } => session.uid == *uid,
            // A data set of this name may have been deleted and made again, but not while this target shows the former one.
            Volume::Inline { name } => session.name == name.to_string(),
        })
    }

    async fn bind_in_turn(self: &Arc<Self>, dataset: &Dataset, target: &Target) -> Result<(), Error> {
        let session = self.ensure(dataset).await?;
        session.wait_until_served(SERVED_WITHIN).await?;
        let (this, target) = (Arc::clone(self), target.clone());
        blocking(move || {
            let is_live = |connection| this.by_connection(connection).is_some_and(|session| session.is_usable());
            target::bind(&this.kubelet, &session.mount_point(), session.connection(), &target, is_live)
        })
        .await
    }

    async fn ensure(self: &Arc<Self>, dataset: &Dataset) -> Result<Arc<Session>, Error> {
        let found = self.live.lock().get(&dataset.uid).cloned();
        if let Some(session) = found {
            if session.is_usable() {
                return Ok(session);
            }
            // Its pods keep their dead mounts until they are started again; new ones get a new session.
            self.end(&session).await?;
        }
        let (common, wanted) = (self.common.clone(), dataset.clone());
        let session = blocking(move || Session::create(&common, &wanted)).await?;
        self.keep(Arc::clone(&session));
        Ok(session)
    }

    fn keep(&self, session: Arc<Session>) {
        let mut live = self.live.lock();
        live.insert(session.uid.clone(), session);
        self.common.metrics.sessions.set(live.len() as i64);
    }

    /// Takes `target` off whatever session it shows, which ends with its last one. May be repeated.
    pub(crate) async fn unbind(self: &Arc<Self>, target: &Target) -> Result<(), Error> {
        let connection = target::bound(target)?;
        let (this, wanted) = (Arc::clone(self), target.clone());
        blocking(move || {
            target::unbind(&this.kubelet, &wanted)?;
            target::remove(&this.kubelet, &wanted)
        })
        .await?;
        if let Some(session) = connection.and_then(|connection| self.by_connection(connection)) {
            // Somebody else's turn on this data set ends with the same look.
            if let Some(_turn) = self.locks.lock_within(&session.uid, TURN_WITHIN).await {
                self.end_if_unused(&session.uid).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn stats(&self, target: &Target) -> Result<Stats, Error> {
        let connection = target::bound(target)?.ok_or_else(|| Error::NotMounted { path: target.path().display().to_string() })?;
        let Some(session) = self.by_connection(connection) else {
            let dead = "every read fails, start the pod again: its mount was lost when driver and cache node ended together";
            return Ok(Stats { stat: None, abnormal: vec![dead.to_owned()] });
        };
        let mut abnormal = session.abnormal();
        match self.common.nodes.stat(&session.uid).await {
            Ok(stat) => session.set_stat(stat),
            Err(error) if abnormal.is_empty() => abnormal.push(error.to_string()),
            Err(_) => {}
        }
        let stat = session.last_stat();
        abnormal.extend(stat.iter().flat_map(|stat| stat.abnormal.iter().cloned()));
        Ok(Stats { stat, abnormal })
    }

    /// Ends what nobody uses: after an end that failed, or when kubelet took the last bind off by itself.
    pub(crate) async fn sweep(self: &Arc<Self>) {
        let uids: Vec<Uid> = self.live.lock().keys().cloned().collect();
        for uid in uids {
            let _turn = self.locks.lock(&uid).await;
            self.end_if_unused(&uid).await;
        }
    }

    /// Under the data set's lock. At once, not after a while: what the kernel's table shows is then all there is, and neither the end of a
    /// Dataset nor of Forebay waits for an idle mount. The price is the mount's page cache, which the next pod starts without.
    async fn end_if_unused(self: &Arc<Self>, uid: &Uid) {
        let Some(session) = self.live.lock().get(uid).cloned() else { return };
        match target::mounts() {
            Ok(mounts) if is_used(&session, &mounts) => {}
            Ok(_) => {
                if let Err(error) = self.end(&session).await {
                    tracing::warn!(%error, dataset = session.name, "a session that no pod uses stays; it is tried again");
                }
            }
            Err(error) => tracing::warn!(%error, "whether a session is used can't be told; it stays"),
        }
    }

    /// Under the data set's lock.
    async fn end(self: &Arc<Self>, session: &Arc<Session>) -> Result<(), Error> {
        let ended = Arc::clone(session);
        blocking(move || ended.end()).await?;
        let mut live = self.live.lock();
        live.remove(&session.uid);
        self.common.metrics.sessions.set(live.len() as i64);
        drop(live);
        tracing::info!(dataset = session.name, "the session ended");
        Ok(())
    }

    fn by_connection(&self, connection: ConnectionId) -> Option<Arc<Session>> {
        self.live.lock().values().find(|session| session.connection() == connection).cloned()
    }
}

/// Whether anything but the session's own mount point shows its connection: targets, kubelet's binds for subPath.
fn is_used(session: &Session, mounts: &[MountRow]) -> bool {
    let own = session.mount_point();
    mounts.iter().any(|row| row.is_forebay && row.connection == session.connection() && row.mount_point != own)
}

async fn blocking<T: Send + 'static>(body: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(body).await {
        Ok(result) => result,
        Err(error) => Err(Error::Broken { detail: error.to_string() }),
    }
}
