//! Processes that this test binary starts of itself: a daemon that can be killed, a holder, readers. Each is an ignored test that
//! does nothing unless the environment says what it is to be.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use forebay_mounter::hold::{Event, Hold, HoldOptions};
use forebay_mounter::protocol;
use forebay_node::fuse::{self, Latencies, Options};
use forebay_node::handover::Handover;

use super::tree::{Plan, Tree};

const SOCKET: &str = "FOREBAY_TEST_SOCKET";
const PLAN: &str = "FOREBAY_TEST_PLAN";
const MOUNT_POINT: &str = "FOREBAY_TEST_MOUNT_POINT";
const THREADS: &str = "FOREBAY_TEST_THREADS";

/// Starts this binary again, as the ignored test `name`.
pub(crate) fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--ignored", "--nocapture", "--quiet"]).stdin(Stdio::null());
    command
}

/// A process that is killed when its test ends.
pub(crate) struct Killed(pub(crate) Child);

impl Killed {
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn daemon(socket: &Path, plan: &Plan) -> Killed {
    let threads = std::env::var(THREADS).unwrap_or_else(|_| "4".into());
    let mut command = again("fuse::child::serves");
    command.env(SOCKET, socket).env(PLAN, serde_json::to_string(plan).unwrap()).env(THREADS, threads).stdout(Stdio::null());
    Killed(command.spawn().unwrap())
}

#[test]
#[ignore = "the daemon of other tests"]
fn serves() {
    let (Ok(socket), Ok(plan)) = (std::env::var(SOCKET), std::env::var(PLAN)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tree = Arc::new(Tree::new(serde_json::from_str(&plan).unwrap()));
    let handover = Handover::connect(Path::new(&socket)).unwrap();
    let adopted = handover.adopt().unwrap();
    let threads = std::env::var(THREADS).unwrap().parse().unwrap();
    let options = Options { threads, ..Options::default() };
    let mut running = fuse::start(&handover, adopted, tree, runtime.handle().clone(), &options, Arc::new(Latencies::default())).unwrap();
    runtime.block_on(running.ended()).unwrap();
}

pub(crate) fn holder(mount_point: &Path, socket: &Path) -> Killed {
    let mut command = again("fuse::child::holds");
    command.env(SOCKET, socket).env(MOUNT_POINT, mount_point).stdout(Stdio::null());
    Killed(command.spawn().unwrap())
}

#[test]
#[ignore = "the holder of other tests"]
fn holds() {
    let (Ok(socket), Ok(mount_point)) = (std::env::var(SOCKET), std::env::var(MOUNT_POINT)) else { return };
    let mount = Mount::new(Path::new(&mount_point), Path::new(&socket));
    for _ in &mount.events {}
}

/// A mount that this process holds; unmounted, or else aborted, at the end.
pub(crate) struct Mount {
    pub(crate) hold: Arc<Hold>,
    pub(crate) mount_point: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) events: Receiver<Event>,
}

impl Mount {
    pub(crate) fn new(mount_point: &Path, socket: &Path) -> Self {
        let options = HoldOptions {
            mount_point: mount_point.canonicalize().unwrap(),
            name: "test".into(),
            folder: socket.parent().unwrap().to_owned(),
            allow_other: true,
            passthrough: true,
            peer_uid: None,
        };
        let hold = Hold::mount(options).unwrap();
        let listener = protocol::listen(socket).unwrap();
        let (sender, events) = sync_channel(1024);
        let serving = Arc::clone(&hold);
        std::thread::spawn(move || serving.serve(&listener, &sender));
        Self { hold, mount_point: mount_point.to_owned(), socket: socket.to_owned(), events }
    }

    /// Waits for a daemon to say that it serves.
    pub(crate) fn wait_until_ready(&self) {
        loop {
            if let Event::Ready { .. } = self.events.recv_timeout(Duration::from_secs(20)).expect("a daemon within 20 s") {
                return;
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.hold.unmount().is_err() {
            let _ = self.hold.abort("the test is over");
            let _ = self.hold.unmount();
        }
    }
}
