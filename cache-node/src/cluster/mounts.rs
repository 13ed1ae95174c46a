//! The mounts that this node answers, one a data set, each adopted from the CSI driver.
//! Knows sessions by UID. Does not know what is mounted where: the driver does.
//! Invariant: one session a data set; who asks for one that is there gets it, if it is that of the mount which is asked for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::fill::chain;
use crate::handover::Handover;
use crate::node::{Dataset, Node, NodeError};

/// How long a session may take to notice that its mount is gone, when another mount of its data set waits to be answered.
const END_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Mounts {
    node: Arc<Node>,
    /// Guards which sessions there are; an entry appears before its session is adopted, so that two don't adopt at once.
    sessions: Arc<Mutex<HashMap<String, Arc<Session>>>>,
    /// Told after each session that ended.
    ends: Arc<Notify>,
}

#[derive(Default)]
struct Session {
    /// Guards that one caller adopts; true when requests are answered.
    serving: tokio::sync::Mutex<bool>,
    /// Cancelled when it is not among the sessions any more.
    ended: CancellationToken,
}

impl Mounts {
    /// None yet, and what is notified when one has ended.
    pub(super) fn new(node: Arc<Node>) -> (Self, Arc<Notify>) {
        let ends = Arc::new(Notify::new());
        (Self { node, sessions: Arc::default(), ends: ends.clone() }, ends)
    }

    pub(super) fn is_mounted(&self, uid: &str) -> bool {
        self.sessions.lock().contains_key(uid)
    }

    /// Adopts the mount that `holder` has; returns when its requests are answered, at once when they already are.
    pub(super) async fn attach(&self, uid: &str, dataset: &Arc<Dataset>, holder: PathBuf) -> Result<(), NodeError> {
        loop {
            let session = self.sessions.lock().entry(uid.to_owned()).or_default().clone();
            let mut serving = session.serving.lock().await;
            if session.ended.is_cancelled() {
                continue;
            }
            if !*serving {
                let adopted = self.adopt(uid, dataset, holder, &session).await;
                match adopted {
                    Ok(()) => *serving = true,
                    Err(_) => forget(&self.sessions, uid, &session),
                }
                return adopted;
            }
            if is_ours(holder.clone()).await? {
                return Ok(());
            }
            // That of a mount which is gone, and has not noticed yet: nobody would answer the one that follows it.
            drop(serving);
            if tokio::time::timeout(END_WITHIN, session.ended.cancelled()).await.is_err() {
                return Err(NodeError::FormerMount { dataset: dataset.fs.name().to_owned() });
            }
        }
    }

    async fn adopt(&self, uid: &str, dataset: &Arc<Dataset>, holder: PathBuf, session: &Arc<Session>) -> Result<(), NodeError> {
        let adopt = move || {
            let handover = Handover::lasting(&holder).map_err(|cause| NodeError::Holder { op: "connect to", cause })?;
            let adopted = handover.adopt().map_err(|cause| NodeError::Holder { op: "adopt the mount from", cause })?;
            Ok::<_, NodeError>((handover, adopted))
        };
        let (handover, adopted) = tokio::task::spawn_blocking(adopt).await.map_err(|_| NodeError::Stopping)??;
        let mut running = self.node.serve(dataset, &handover, adopted).await?;
        info!(dataset = dataset.fs.name(), uid, "answering a mount");
        let (sessions, session, ends) = (self.sessions.clone(), session.clone(), self.ends.clone());
        let (uid, name, dataset) = (uid.to_owned(), dataset.fs.name().to_owned(), dataset.clone());
        tokio::spawn(async move {
            let ended = running.ended().await;
            dataset.unmounted();
            match ended {
                Ok(()) => info!(dataset = name, uid, "the mount is gone"),
                Err(error) => warn!(dataset = name, uid, error = %chain(&error), "a mount is not answered any more"),
            }
            forget(&sessions, &uid, &session);
            ends.notify_one();
        });
        Ok(())
    }
}

/// Whether the mount that `holder` has was adopted by this process.
async fn is_ours(holder: PathBuf) -> Result<bool, NodeError> {
    let ask = move || Handover::connect(&holder).and_then(|handover| handover.status());
    let status = tokio::task::spawn_blocking(ask).await.map_err(|_| NodeError::Stopping)?;
    let status = status.map_err(|cause| NodeError::Holder { op: "ask the state of", cause })?;
    Ok(status.node_pid == Some(std::process::id()))
}

/// Only if it is still this one: another may have been adopted since.
fn forget(sessions: &Mutex<HashMap<String, Arc<Session>>>, uid: &str, session: &Arc<Session>) {
    let mut sessions = sessions.lock();
    if sessions.get(uid).is_some_and(|now| Arc::ptr_eq(now, session)) {
        sessions.remove(uid);
    }
    session.ended.cancel();
}
