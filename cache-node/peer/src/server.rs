//! Answers peers: accepts them, makes sure of who they are, and gives them what `Blocks` has.
//! Knows connections and requests. Does not know where blocks come from.
//! Invariant: nothing is given before both sides proved themselves and agreed on a version.

mod conversation;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::blocks::Blocks;
use super::connection;
use super::error::ConnectError;
use super::handshake::{self, Introduction, NotWelcome};
use super::metrics::ServerMetrics;
use super::transport::{Caller, Listener, Security};
use conversation::{Conversation, Ended};

/// A caller that doesn't finish its handshakes is let go.
const GREETING_WITHIN: Duration = Duration::from_secs(10);

/// Limits of the side that answers.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Each costs a task and some 50 KiB; more callers than that are let go.
    pub connections_max: usize,
    /// A sign of life to who waits, this often. Well below the callers' patience.
    pub heartbeat: Duration,
    /// A connection over which nothing is asked for so long is closed; callers give theirs up before.
    pub idle: Duration,
    /// A caller that takes nothing for so long is let go.
    pub write_stall: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            heartbeat: Duration::from_millis(250),
            idle: Duration::from_secs(300),
            write_stall: Duration::from_secs(30),
        }
    }
}

/// All that answering needs.
pub struct Server {
    pub blocks: Arc<dyn Blocks>,
    pub own: Introduction,
    pub security: Security,
    pub limits: ServerLimits,
    pub metrics: Arc<ServerMetrics>,
}

/// Answers who connects to `listener` until `shutdown`; then what is under way is cut off, and its callers ask elsewhere.
pub async fn run(listener: impl Into<Listener>, server: Server, shutdown: impl Future<Output = ()>) {
    let (server, mut listener) = (Arc::new(server), listener.into());
    let places = Arc::new(Semaphore::new(server.limits.connections_max));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (caller, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a peer's connection could not be accepted");
                // Out of descriptors: it passes, or it is seen elsewhere.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            server.metrics.refused_busy.add(1);
            continue;
        };
        let server = server.clone();
        connections.spawn(async move {
            serve(&server, caller, &from).await;
            drop(place);
        });
    }
}

/// One connection, from its handshakes to its end.
async fn serve(server: &Server, caller: Caller, from: &str) {
    let greeted = async {
        let stream = server.security.accept(caller).await.map_err(Uninvited::Connect)?;
        let (mut reader, mut writer) = connection::split(stream);
        let agreed = handshake::welcome(&server.own, &mut reader, &mut writer).await.map_err(Uninvited::NotWelcome)?;
        Ok((reader, writer, agreed))
    };
    let (reader, writer, agreed) = match timeout(GREETING_WITHIN, greeted).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(why)) => return note(server, &why, from),
        Err(_) => {
            warn!(%from, "a peer was let go: it didn't finish its handshake");
            return;
        }
    };
    server.metrics.connections.add(1);
    let peer = agreed.peer.clone();
    match Conversation::new(server, reader, writer, agreed).run().await {
        Ended::Closed => {}
        Ended::Broken(error) => debug!(%peer, %error, "a peer's connection broke"),
        Ended::Malformed(why) => {
            server.metrics.malformed.add(1);
            warn!(%peer, why, "a peer said what means nothing; its connection was closed");
        }
    }
}

enum Uninvited {
    Connect(ConnectError),
    NotWelcome(NotWelcome),
}

fn note(server: &Server, why: &Uninvited, from: &str) {
    match why {
        Uninvited::Connect(ConnectError::Untrusted(error)) => {
            server.metrics.refused_identity.add(1);
            warn!(%from, %error, "a caller was refused: it didn't prove that it is of this cache");
        }
        Uninvited::Connect(error) => warn!(%from, error = %chain(error), "a peer's connection could not be accepted"),
        Uninvited::NotWelcome(NotWelcome::Incompatible(why)) => {
            server.metrics.refused_incompatible.add(1);
            warn!(%from, why, "a peer was refused");
        }
        Uninvited::NotWelcome(NotWelcome::Malformed(why)) => {
            server.metrics.malformed.add(1);
            warn!(%from, %why, "a peer's greeting made no sense");
        }
        Uninvited::NotWelcome(NotWelcome::Frame(error)) => {
            server.metrics.malformed.add(1);
            debug!(%from, %error, "a peer's greeting broke off");
        }
    }
}

/// An error with all its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
