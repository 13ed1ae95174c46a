//! A machine of a cluster: kubelet's folder, a driver, a cache node, and questions as kubelet asks them.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use forebay_mounter::device::{self, MountRow};
use forebay_wire::csi;
use forebay_wire::csi::node_client::NodeClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::stand_in;

const LIMIT: Duration = Duration::from_secs(30);

/// Waits for a condition, with a limit.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

pub(crate) struct Machine {
    folder: tempfile::TempDir,
    driver: Option<Child>,
    node: Option<Child>,
}

impl Machine {
    /// With a driver and a cache node that run.
    pub(crate) fn new() -> Self {
        let mut machine = Self::without_node();
        machine.start_node();
        machine
    }

    pub(crate) fn without_node() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Pods run as other users.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut machine = Self { folder, driver: None, node: None };
        for made in [machine.kubelet().join("pods"), machine.kubelet().join("plugins"), machine.nodes().join("policy")] {
            std::fs::create_dir_all(made).unwrap();
        }
        machine.start_driver();
        machine
    }

    pub(crate) fn kubelet(&self) -> PathBuf {
        self.folder.path().join("k")
    }

    pub(crate) fn nodes(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn endpoint(&self) -> PathBuf {
        self.kubelet().join("plugins/csi.forebay.dev/csi.sock")
    }

    pub(crate) fn start_driver(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_forebay-csi"))
            .args([
                "--node-id",
                "here",
                "--log",
                "info,forebay_csi=debug",
                "--hung-after",
                "2",
                "--give-back-within",
                "3",
                "--kubelet-folder",
            ])
            .arg(self.kubelet())
            .arg("--nodes-folder")
            .arg(self.nodes())
            .spawn()
            .unwrap();
        self.driver = Some(child);
        let endpoint = self.endpoint();
        until("the driver answers", || std::os::unix::net::UnixStream::connect(&endpoint).is_ok());
    }

    /// As the kernel or a person kills it: nothing is said good-bye to.
    pub(crate) fn kill_driver(&mut self) {
        kill(self.driver.take());
    }

    /// SIGTERM, as kubelet stops it.
    pub(crate) fn stop_driver(&mut self) {
        let mut child = self.driver.take().expect("a driver");
        signal(&child, rustix::process::Signal::TERM);
        assert!(child.wait().unwrap().success());
    }

    pub(crate) fn start_node(&mut self) {
        self.node = Some(stand_in::start(&self.nodes().join("policy/node.sock")));
    }

    pub(crate) fn kill_node(&mut self) {
        kill(self.node.take());
    }

    pub(crate) fn signal_node(&self, what: rustix::process::Signal) {
        signal(self.node.as_ref().expect("a node"), what);
    }

    pub(crate) fn driver_pid(&self) -> u32 {
        self.driver.as_ref().expect("a driver").id()
    }

    /// A pod's folder for a volume; its parent is made, as kubelet does.
    pub(crate) fn target(&self, pod: &str) -> PathBuf {
        let parent = self.kubelet().join("pods").join(pod).join("volumes");
        std::fs::create_dir_all(&parent).unwrap();
        parent.join("mount")
    }

    /// Mounts of Forebay below this machine's folder.
    pub(crate) fn mounts(&self) -> Vec<MountRow> {
        let root = self.folder.path().canonicalize().unwrap();
        device::mounts().unwrap().into_iter().filter(|row| row.is_forebay && row.mount_point.starts_with(&root)).collect()
    }

    /// What a machine without volumes has, soon: no mount, no folder of a session. A session that is being taken back from its node while its last pod
    /// goes ends only then.
    pub(crate) fn assert_nothing_is_left(&self) {
        let begun = Instant::now();
        let left = || (self.mounts(), self.folders_of_sessions());
        while begun.elapsed() < LIMIT && left() != (vec![], vec![]) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        assert_eq!(left(), (vec![], vec![]));
    }

    fn folders_of_sessions(&self) -> Vec<PathBuf> {
        let folders = [self.kubelet().join("plugins/csi.forebay.dev/state/sessions"), self.nodes().join("csi")];
        folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
    }

    pub(crate) async fn client(&self) -> Client {
        let path = self.endpoint();
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://csi.invalid").connect_with_connector(connector).await.unwrap();
        Client(NodeClient::new(channel))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill(self.node.take());
        kill(self.driver.take());
        for row in self.mounts() {
            let _ = forebay_mounter::abort::abort(row.connection, &row.mount_point);
            let _ = rustix::mount::unmount(&row.mount_point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn signal(child: &Child, what: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), what).unwrap();
}

/// kubelet's side. Clones ask in parallel.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) NodeClient<Channel>);

pub(crate) fn capability() -> csi::VolumeCapability {
    csi::VolumeCapability {
        access_type: Some(csi::volume_capability::AccessType::Mount(csi::volume_capability::MountVolume::default())),
        access_mode: None,
    }
}

pub(crate) fn context(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What kubelet and a pod's author say of an inline volume in the namespace `vision`.
pub(crate) fn inline(attributes: &[(&str, &str)]) -> HashMap<String, String> {
    let mut all = context(attributes);
    all.extend(context(&[("csi.storage.k8s.io/ephemeral", "true"), ("csi.storage.k8s.io/pod.namespace", "vision")]));
    all
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl Client {
    pub(crate) async fn publish(&mut self, uid: &str, target: &Path) -> Result<(), Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: uid.to_owned(),
            target_path: text(target),
            volume_capability: Some(capability()),
            ..Default::default()
        };
        self.0.node_publish_volume(request).await.map(drop)
    }

    pub(crate) async fn publish_inline(&mut self, id: &str, target: &Path, context: HashMap<String, String>) -> Result<(), Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            target_path: text(target),
            volume_capability: Some(capability()),
            volume_context: context,
            ..Default::default()
        };
        self.0.node_publish_volume(request).await.map(drop)
    }

    pub(crate) async fn unpublish(&mut self, id: &str, target: &Path) -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: text(target) };
        self.0.node_unpublish_volume(request).await.map(drop)
    }

    pub(crate) async fn stats(&mut self, id: &str, path: &Path) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let request =
            csi::NodeGetVolumeStatsRequest { volume_id: id.to_owned(), volume_path: text(path), staging_target_path: String::new() };
        self.0.node_get_volume_stats(request).await.map(tonic::Response::into_inner)
    }
}
