//! The start: sessions of the process before are taken back from their nodes, what can't be is buried.
//! Invariant: after it, every mount of Forebay below kubelet's folder is a live session's, or fails its reads.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay_mounter::device::ConnectionId;
use forebay_mounter::{abort, device};

use super::{Sessions, blocking};
use crate::locks::Held;
use crate::session::{self, Session};
use crate::target;
use crate::volume::Uid;

/// Between two looks whether any node has the mount.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// So many in a row find nobody: one that is ending has closed its socket already, and may give the mount back within a second.
const WITHOUT_HOLDER_LOOKS: u32 = 5;

impl Sessions {
    /// Locks what the process before has left, and aborts what no record tells of. To be called before any request is answered.
    pub(crate) async fn left_over(self: &Arc<Self>) -> Vec<Held<Uid>> {
        let mut left = Vec::new();
        let mut recorded = HashSet::new();
        for uid in self.common.places.known() {
            recorded.extend(self.common.places.read(&uid).map(|record| record.connection));
            left.push(self.locks.lock(&uid).await);
        }
        self.abort_strangers(recorded).await;
        left
    }

    /// Takes back or buries each of `left`; requests for them wait meanwhile, others don't. Returns when all is settled.
    pub(crate) async fn recover(self: &Arc<Self>, left: Vec<Held<Uid>>, deadline: Instant) {
        let recover = |turn| tokio::spawn(Arc::clone(self).recover_one(turn, deadline));
        let recovering: Vec<_> = left.into_iter().map(recover).collect();
        for one in recovering {
            if let Err(error) = one.await {
                tracing::error!(%error, "the recovery of a session broke off");
            }
        }
    }

    async fn recover_one(self: Arc<Self>, turn: Held<Uid>, deadline: Instant) {
        let uid = turn.key().clone();
        let common = self.common.clone();
        let hopeless = Arc::new(AtomicBool::new(false));
        let looks = tokio::spawn(Arc::clone(&self).look_for_holders(uid.clone(), Arc::clone(&hopeless)));
        let resumed = blocking(move || {
            let uid = turn.key();
            let mounted = device::connection(&common.places.mount_point(uid)).ok();
            let session = match common.places.read(uid).filter(|record| Some(record.connection) == mounted) {
                Some(record) => Session::resume(&common, uid, &record, deadline, &hopeless),
                None => Ok(None),
            };
            match session {
                Ok(Some(session)) => return Ok((turn, Some(session))),
                Ok(None) if mounted.is_some() => {
                    tracing::warn!(%uid, "nobody gave this mount back: its reads fail, and new pods get a new one");
                }
                Ok(None) => tracing::debug!(%uid, "the folder of a former session is removed"),
                Err(error) => tracing::error!(%error, %uid, "a session can't be taken back"),
            }
            session::bury(&common.places, uid);
            Ok((turn, None))
        })
        .await;
        looks.abort();
        match resumed {
            Ok((_turn, Some(session))) => {
                tracing::info!(dataset = session.name, "the mount was given back by its node");
                self.keep(session);
                // Its last pod may have gone while no driver ran.
                self.end_if_unused(&uid).await;
            }
            Ok((_turn, None)) => {}
            Err(error) => tracing::error!(%error, %uid, "a session can't be taken back"),
        }
    }

    /// Says in `hopeless` when no node of this machine has the mount: as when it died together with the driver, and new pods wait for this end.
    async fn look_for_holders(self: Arc<Self>, uid: Uid, hopeless: Arc<AtomicBool>) {
        let mut without = 0;
        while without < WITHOUT_HOLDER_LOOKS {
            tokio::time::sleep(LOOK_EVERY).await;
            without = if self.common.nodes.may_hold(&uid).await { 0 } else { without + 1 };
        }
        tracing::info!(%uid, "no cache node has this mount any more");
        hopeless.store(true, Ordering::Relaxed);
    }

    /// Aborts what is shown to pods and no record tells of: a read there would wait for nobody.
    async fn abort_strangers(self: &Arc<Self>, mut known: HashSet<ConnectionId>) {
        let this = Arc::clone(self);
        let result = blocking(move || {
            for row in target::mounts()? {
                if !row.is_forebay || !row.mount_point.starts_with(this.kubelet.folder()) || !known.insert(row.connection) {
                    continue;
                }
                match abort::abort(row.connection, &row.mount_point) {
                    Ok(()) => tracing::warn!(mount_point = %row.mount_point.display(), "this mount is lost: its pod must be started again"),
                    Err(error) => tracing::error!(%error, mount_point = %row.mount_point.display(), "a lost mount can't be aborted"),
                }
            }
            Ok(())
        })
        .await;
        if let Err(error) = result {
            tracing::error!(%error, "mounts of the process before can't be looked for");
        }
    }
}
