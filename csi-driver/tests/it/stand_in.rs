//! A cache node that knows three data sets and serves one file of each, as the body of a test that only a child process runs.
//! Speaks FUSE in the raw: what a real node does more is not what the driver sees.

mod fuse;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forebay_mounter::protocol::{self, ProtocolError, Reply, Request as Ask};
use forebay_mounter::record::Record;
use forebay_mounter::{give_back, notify};
use forebay_wire::volume_service as wire;
use forebay_wire::volume_service::volumes_server::{Volumes, VolumesServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

pub(crate) const IMAGENET: &str = "0b4d3f5e-8f4c-4a41-9a36-0c3a5d6c7e8f";
pub(crate) const LAION: &str = "5a1f2c3d-0000-4000-8000-000000000002";
/// Its bucket doesn't exist.
pub(crate) const BROKEN: &str = "5a1f2c3d-0000-4000-8000-00000000000b";
const DATASETS: [(&str, &str); 3] = [(IMAGENET, "vision/imagenet"), (LAION, "vision/laion"), (BROKEN, "vision/broken")];

/// The one file that each data set has.
pub(crate) const FILE: &str = "data.bin";
pub(crate) const FILE_BYTES: usize = 1 << 20;

/// Its byte at `offset`.
pub(crate) fn byte(uid: &str, offset: usize) -> u8 {
    let seed: usize = uid.bytes().map(usize::from).sum();
    ((offset * 31 + offset / 4096 + seed) % 251) as u8
}

/// Starts it, listening at `socket`; returns when it answers.
pub(crate) fn start(socket: &Path) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["stand_in::the_process", "--exact", "--ignored", "--nocapture"])
        .env("FOREBAY_STAND_IN", socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    super::machine::until("the stand-in answers", || std::os::unix::net::UnixStream::connect(socket).is_ok());
    child
}

#[test]
#[ignore = "the body of a child process"]
fn the_process() {
    let socket = PathBuf::from(std::env::var_os("FOREBAY_STAND_IN").expect("started by `start`"));
    drop(std::fs::remove_file(&socket));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tonic::transport::Server::builder().add_service(VolumesServer::new(Service));
        server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
    });
}

struct Service;

#[tonic::async_trait]
impl Volumes for Service {
    async fn resolve(&self, request: Request<wire::VolumeRef>) -> Result<Response<wire::Volume>, Status> {
        let asked = request.into_inner();
        if asked.name == "never" {
            return Err(Status::invalid_argument("data set vision/never: its source is `file:`, which this cluster doesn't allow"));
        }
        let wanted = format!("{}/{}", asked.namespace, asked.name);
        let found = DATASETS.iter().find(|(uid, name)| *uid == asked.uid || (asked.uid.is_empty() && *name == wanted));
        let (uid, name) = found.ok_or_else(|| Status::not_found("not told of it"))?;
        Ok(Response::new(wire::Volume { uid: (*uid).to_owned(), name: (*name).to_owned(), ready: true }))
    }

    async fn attach(&self, request: Request<wire::AttachRequest>) -> Result<Response<wire::AttachReply>, Status> {
        let wire::AttachRequest { uid, holder } = request.into_inner();
        if uid == BROKEN {
            return Err(Status::failed_precondition("the bucket doesn't exist: create it, or mend spec.source"));
        }
        let adopted = tokio::task::spawn_blocking(move || adopt(&uid, Path::new(&holder))).await.unwrap();
        adopted.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(wire::AttachReply { pid: std::process::id() }))
    }

    async fn stat(&self, _: Request<wire::VolumeRef>) -> Result<Response<wire::VolumeStat>, Status> {
        Ok(Response::new(wire::VolumeStat { bytes: FILE_BYTES as u64, files: 1, cached_bytes: 0, abnormal: Vec::new(), mounted: None }))
    }

    async fn report(&self, _: Request<wire::ReportRequest>) -> Result<Response<wire::ReportReply>, Status> {
        Err(Status::unimplemented("no driver asks for it"))
    }
}

fn adopt(uid: &str, holder: &Path) -> Result<(), ProtocolError> {
    let broken = |cause| ProtocolError::Socket { op: "adopt from", path: holder.display().to_string(), cause };
    let socket = protocol::connect(holder).map_err(broken)?;
    protocol::send(&socket, &Ask::Adopt, &[]).map_err(broken)?;
    let (device, record) = match protocol::receive(&socket, &mut Vec::new()).map_err(broken)? {
        Some((Reply::Adopted, descriptors)) => <[OwnedFd; 2]>::try_from(descriptors).unwrap().into(),
        other => return Err(ProtocolError::Malformed { op: "adopt from", detail: format!("{other:?}") }),
    };
    let mut bytes = Vec::new();
    std::fs::File::from(record).read_to_end(&mut bytes).map_err(broken)?;
    let record = Record::decode(&bytes)?;
    if record.epoch > 1 {
        notify::resend(&device).map_err(broken)?;
    }
    let (uid, theirs) = (uid.to_owned(), device.try_clone().map_err(broken)?);
    std::thread::spawn(move || fuse::serve(&theirs, &uid));
    protocol::send(&socket, &Ask::Ready, &[]).map_err(broken)?;
    let holder = holder.to_owned();
    std::thread::spawn(move || keep(&holder, socket, &device, &record));
    Ok(())
}

/// Reports, and gives the mount back whenever its holder is gone.
fn keep(holder: &Path, mut socket: OwnedFd, device: &OwnedFd, record: &Record) {
    loop {
        let is_mounted = || forebay_mounter::device::is_connected(device);
        while is_mounted() && protocol::send(&socket, &Ask::Alive, &[]).is_ok() {
            std::thread::park_timeout(Duration::from_millis(200));
        }
        if !is_mounted() {
            return;
        }
        loop {
            std::thread::park_timeout(Duration::from_millis(50));
            let Ok(again) = protocol::connect(holder) else { continue };
            match give_back(&again, device, record) {
                Ok(()) => socket = again,
                Err(ProtocolError::Refused { .. }) => return,
                Err(_) => continue,
            }
            break;
        }
    }
}
