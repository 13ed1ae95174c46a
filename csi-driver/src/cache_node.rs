//! The cache nodes of this machine, asked over their sockets: one folder a CachePolicy, each with a `node.sock`.
//! Knows `volume.proto`. Does not know mounts. A connection lives for one question: the node behind a socket may be another one next time.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_wire::volume_service as wire;
use forebay_wire::volume_service::volumes_client::VolumesClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::Error;
use crate::volume::{Uid, Volume};

/// What a node knows without asking anybody.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The node may list a bucket before it answers requests, and reads what it had on disk.
const ATTACH_WITHIN: Duration = Duration::from_secs(60);
const SOCKET: &str = "node.sock";

/// Where the nodes' folders are.
#[derive(Clone, Debug)]
pub(crate) struct CacheNodes {
    folder: PathBuf,
}

/// A data set that a node knows.
#[derive(Clone, Debug)]
pub(crate) struct Dataset {
    pub(crate) uid: Uid,
    /// `namespace/name`.
    pub(crate) name: String,
}

/// Why a mount isn't served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The node said that it can't; asking again at once is no use.
    pub(crate) is_stated: bool,
    pub(crate) detail: String,
}

impl CacheNodes {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The data set that `volume` means: the first node that knows it wins.
    pub(crate) async fn resolve(&self, volume: &Volume) -> Result<Dataset, Error> {
        self.find(volume).await.map(|(dataset, _)| dataset)
    }

    /// Lets the node that knows `uid` adopt the mount of the holder at `holder`. Returns when it answers requests. Not by `resolve`: a data set
    /// that is being deleted takes no new volumes, and is still served to pods that have one.
    pub(crate) async fn attach(&self, uid: &Uid, holder: &Path) -> Result<(), Problem> {
        let mut problem = None;
        for socket in self.sockets() {
            let Some(mut client) = connect(&socket).await else { continue };
            let request = wire::AttachRequest { uid: uid.to_string(), holder: holder.display().to_string() };
            match tokio::time::timeout(ATTACH_WITHIN, client.attach(request)).await {
                Ok(Ok(_)) => return Ok(()),
                // Another's, or not told of it yet.
                Ok(Err(status)) if status.code() == Code::NotFound => {
                    problem.get_or_insert_with(|| Problem { is_stated: false, detail: said(&status) });
                }
                Ok(Err(status)) => {
                    let is_stated = matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied);
                    problem = Some(Problem { is_stated, detail: said(&status) });
                }
                Err(_) => {
                    let detail = format!("the cache node did not serve the mount within {} s", ATTACH_WITHIN.as_secs());
                    problem = Some(Problem { is_stated: false, detail });
                }
            }
        }
        Err(problem.unwrap_or_else(|| Problem { is_stated: false, detail: self.absent().to_string() }))
    }

    pub(crate) async fn stat(&self, uid: &Uid) -> Result<wire::VolumeStat, Error> {
        let volume = Volume::Persistent { uid: uid.clone(), name: None };
        let (_, mut client) = self.find(&volume).await?;
        let silent = |detail: String| Error::Silent { volume: volume.to_string(), detail };
        match tokio::time::timeout(ANSWER_WITHIN, client.stat(reference(&volume))).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(silent(said(&status))),
            Err(_) => Err(silent(late())),
        }
    }

    /// Whether some node may still have the mount of `uid`, which it adopted from the driver before. `false` is certain: who has a mount listens, and
    /// says so; only one that is ending may have closed its socket a moment before it lets go.
    pub(crate) async fn may_hold(&self, uid: &Uid) -> bool {
        let volume = Volume::Persistent { uid: uid.clone(), name: None };
        for socket in self.sockets() {
            match tokio::time::timeout(ANSWER_WITHIN, UnixStream::connect(&socket)).await {
                Ok(Ok(_)) => {}
                // What a dead node left.
                Ok(Err(error)) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => continue,
                Ok(Err(_)) | Err(_) => return true,
            }
            let Some(mut client) = connect(&socket).await else { return true };
            match tokio::time::timeout(ANSWER_WITHIN, client.stat(reference(&volume))).await {
                Ok(Ok(reply)) if reply.get_ref().mounted == Some(false) => {}
                Ok(Err(status)) if status.code() == Code::NotFound => {}
                // One that doesn't say, of an older release, may have it.
                Ok(Ok(_) | Err(_)) | Err(_) => return true,
            }
        }
        false
    }

    async fn find(&self, volume: &Volume) -> Result<(Dataset, VolumesClient<Channel>), Error> {
        let mut runs = false;
        let (mut refused, mut unservable, mut silent) = (None, None, None);
        for socket in self.sockets() {
            // One that can't be connected to is what a dead node left.
            let Some(mut client) = connect(&socket).await else { continue };
            runs = true;
            match tokio::time::timeout(ANSWER_WITHIN, client.resolve(reference(volume))).await {
                Ok(Ok(reply)) => match dataset(volume, reply.into_inner()) {
                    Some(dataset) => return Ok((dataset, client)),
                    None => silent = Some("it named another data set than was asked for".to_owned()),
                },
                Ok(Err(status)) if status.code() == Code::NotFound => {}
                Ok(Err(status)) if status.code() == Code::InvalidArgument => refused = Some(said(&status)),
                Ok(Err(status)) if status.code() == Code::FailedPrecondition => unservable = Some(said(&status)),
                Ok(Err(status)) => silent = Some(said(&status)),
                Err(_) => silent = Some(late()),
            }
        }
        Err(match (refused, unservable, silent) {
            (Some(detail), _, _) => Error::Refused { detail },
            (None, Some(detail), _) => Error::NotServable { volume: volume.to_string(), detail },
            (None, None, Some(detail)) => Error::Silent { volume: volume.to_string(), detail },
            (None, None, None) if runs => Error::Unknown { volume: volume.to_string() },
            (None, None, None) => self.absent(),
        })
    }

    fn absent(&self) -> Error {
        Error::NoCacheNode { folder: self.folder.display().to_string() }
    }

    /// In the order of their names, so that two answers don't alternate.
    fn sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut sockets: Vec<PathBuf> = entries.map(|entry| entry.path().join(SOCKET)).filter(|socket| socket.exists()).collect();
        sockets.sort();
        sockets
    }
}

async fn connect(socket: &Path) -> Option<VolumesClient<Channel>> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is never used: the connector knows the socket.
    let endpoint = Endpoint::from_static("http://node.invalid");
    let channel = tokio::time::timeout(ANSWER_WITHIN, endpoint.connect_with_connector(connector)).await.ok()?.ok()?;
    Some(VolumesClient::new(channel))
}

fn reference(volume: &Volume) -> wire::VolumeRef {
    let (uid, name) = match volume {
        // The name is for people only: a PersistentVolume means the object that it was made for, not a later one of the same name.
        Volume::Persistent { uid, name: _ } => (uid.to_string(), None),
        Volume::Inline { name } => (String::new(), Some(name)),
    };
    wire::VolumeRef {
        uid,
        namespace: name.map(|name| name.namespace().to_owned()).unwrap_or_default(),
        name: name.map(|name| name.name().to_owned()).unwrap_or_default(),
    }
}

/// The answer, if it is one to the question. Its UID becomes the name of a folder.
fn dataset(asked: &Volume, answer: wire::Volume) -> Option<Dataset> {
    let uid = Uid::new(&answer.uid)?;
    let fits = match asked {
        Volume::Persistent { uid: wanted, name: _ } => uid == *wanted,
        Volume::Inline { name } => answer.name == name.to_string(),
    };
    fits.then_some(Dataset { uid, name: answer.name })
}

fn late() -> String {
    format!("no answer within {} s", ANSWER_WITHIN.as_secs())
}

/// A node's own sentence, or the code where it has none.
fn said(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() }
}
