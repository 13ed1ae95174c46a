//! csi-sanity, the CSI authors' own suite, against the real driver with a real cache node behind it.
//! Volumes of Forebay are made by its operator, not by a controller plugin. A STAND-IN for the latter gives the suite the handle that the operator would
//! write into a PersistentVolume; what the suite asks of the controller itself is left out.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use forebay_wire::csi;
use forebay_wire::csi::controller_server::{Controller, ControllerServer};
use forebay_wire::csi::controller_service_capability::Rpc;
use forebay_wire::csi::controller_service_capability::rpc::Type;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::cluster::{Node, UID, skip};
use crate::laptop::wait_until;

/// What the suite may have to wait for: a mount, on a busy machine.
const SUITE_LIMIT: &str = "240s";

/// Gives out the handle of the one data set.
struct StandIn;

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the stand-in of a controller only gives out a handle"))
}

#[tonic::async_trait]
impl Controller for StandIn {
    async fn create_volume(&self, request: Request<csi::CreateVolumeRequest>) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let volume = csi::Volume { volume_id: UID.to_owned(), ..csi::Volume::default() };
        assert!(!request.into_inner().name.is_empty());
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(&self, _: Request<csi::DeleteVolumeRequest>) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        let create = csi::ControllerServiceCapability {
            r#type: Some(csi::controller_service_capability::Type::Rpc(Rpc { r#type: Type::CreateDeleteVolume.into() })),
        };
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities: vec![create] }))
    }

    async fn controller_publish_volume(
        &self,
        _: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerPublishVolumeResponse>, Status> {
        no()
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<csi::ControllerUnpublishVolumeResponse>, Status> {
        no()
    }

    async fn validate_volume_capabilities(
        &self,
        _: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        no()
    }

    async fn list_volumes(&self, _: Request<csi::ListVolumesRequest>) -> Result<Response<csi::ListVolumesResponse>, Status> {
        no()
    }

    async fn get_capacity(&self, _: Request<csi::GetCapacityRequest>) -> Result<Response<csi::GetCapacityResponse>, Status> {
        no()
    }

    async fn create_snapshot(&self, _: Request<csi::CreateSnapshotRequest>) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        no()
    }

    async fn delete_snapshot(&self, _: Request<csi::DeleteSnapshotRequest>) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        no()
    }

    async fn list_snapshots(&self, _: Request<csi::ListSnapshotsRequest>) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        no()
    }

    async fn get_snapshot(&self, _: Request<csi::GetSnapshotRequest>) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        no()
    }

    async fn controller_expand_volume(
        &self,
        _: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        no()
    }

    async fn controller_get_volume(
        &self,
        _: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        no()
    }

    async fn controller_modify_volume(
        &self,
        _: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Result<Response<csi::ControllerModifyVolumeResponse>, Status> {
        no()
    }
}

/// The driver's program lies beside the node's: a build of the workspace makes both.
fn driver() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_forebay-node")).with_file_name("forebay-csi")
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn the_suite_of_the_csi_authors_passes() {
    if skip() {
        return;
    }
    let Some(suite) = std::env::var_os("FOREBAY_CSI_SANITY").filter(|path| !path.is_empty()) else {
        assert!(
            std::env::var_os("FOREBAY_MUST_MOUNT").is_none(),
            "FOREBAY_CSI_SANITY has to name the suite's program: `make unit` builds it"
        );
        eprintln!("SKIPPED: csi-sanity: FOREBAY_CSI_SANITY doesn't name it, `make unit` does");
        return;
    };
    let node = Node::start();
    node.sync("1", Some(vec![node.dataset(UID, "")]));
    let kubelet = node.path("kubelet");
    for folder in ["pods/sanity/volumes", "plugins"] {
        fs::create_dir_all(kubelet.join(folder)).unwrap();
    }
    let mut command = Command::new(driver());
    command.args(["--node-id", "here", "--kubelet-folder"]).arg(&kubelet).arg("--nodes-folder").arg(node.path(""));
    let _driver = Running(command.spawn().expect("forebay-csi is built beside forebay-node"));
    let endpoint = kubelet.join("plugins/csi.forebay.dev/csi.sock");
    wait_until("the driver", || UnixStream::connect(&endpoint).is_ok());

    let controller = node.path("controller.sock");
    let incoming = node.runtime.block_on(async { UnixListenerStream::new(UnixListener::bind(&controller).unwrap()) });
    node.runtime.spawn(tonic::transport::Server::builder().add_service(ControllerServer::new(StandIn)).serve_with_incoming(incoming));

    let run = |service: &str, more: &[(&str, &Path)]| {
        let mut command = Command::new(&suite);
        command.arg("--csi.endpoint").arg(&endpoint);
        command.args(more.iter().flat_map(|(flag, path)| [std::ffi::OsStr::new(flag), path.as_os_str()]));
        command.args(["--ginkgo.focus", service, "--ginkgo.timeout", SUITE_LIMIT, "--ginkgo.no-color"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let outcome = text.lines().find(|line| line.contains(" Passed |")).expect("the suite's outcome");
        eprintln!("csi-sanity, {service}: {outcome}");
        assert!(outcome.contains(" 0 Failed") && !outcome.contains(" 0 Passed"), "{text}");
    };
    run("Identity Service", &[]);
    let target = kubelet.join("pods/sanity/volumes/mount");
    run(
        "Node Service",
        &[("--csi.controllerendpoint", &controller), ("--csi.mountdir", &target), ("--csi.stagingdir", &node.path("staging"))],
    );
    let left: Vec<String> = fs::read_to_string("/proc/mounts").unwrap().lines().map(str::to_owned).collect();
    let left: Vec<&String> = left.iter().filter(|row| row.contains(kubelet.to_str().unwrap())).collect();
    assert!(left.is_empty(), "{left:?}");
}
