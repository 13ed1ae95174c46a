//! The hand-back of a mount, on the real kernel as root.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use forebay_mounter::device;
use forebay_mounter::hold::{Event, Hold, HoldOptions};
use forebay_mounter::protocol::{self, ProtocolError, Reply, Request};
use forebay_mounter::record::Record;
use forebay_mounter::{give_back, resume};

/// A mount point and a socket of their own; whatever is mounted goes at the end.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.mount_point()).unwrap();
        place
    }
    fn mount_point(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("mount")
    }
    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn options(&self) -> HoldOptions {
        HoldOptions {
            mount_point: self.mount_point(),
            name: "test".into(),
            folder: self.folder.path().to_owned(),
            allow_other: true,
            passthrough: true,
            peer_uid: None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while device::is_mounted(&self.mount_point()) && device::unmount(&self.mount_point()).is_ok() {}
    }
}

fn serve(hold: &Arc<Hold>, listener: OwnedFd) {
    let hold = Arc::clone(hold);
    std::thread::spawn(move || {
        // Kept: without a receiver nothing is told.
        let (sender, _events) = sync_channel(64);
        hold.serve(&listener, &sender)
    });
}

fn ask(socket: &OwnedFd, request: &Request) -> (Reply, Vec<OwnedFd>) {
    protocol::send(socket, request, &[]).unwrap();
    protocol::receive(socket, &mut Vec::new()).unwrap().expect("an answer")
}

fn adopt(socket: &Path) -> (OwnedFd, OwnedFd, Record) {
    let socket = protocol::connect(socket).unwrap();
    let (Reply::Adopted, descriptors) = ask(&socket, &Request::Adopt) else { panic!("not adopted") };
    let [device, record]: [OwnedFd; 2] = descriptors.try_into().unwrap();
    let mut bytes = Vec::new();
    std::fs::File::from(record).read_to_end(&mut bytes).unwrap();
    (socket, device, Record::decode(&bytes).unwrap())
}

fn in_a_while() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn a_mount_is_given_back_to_the_next_holder() {
    let place = Place::new();
    let hold = Hold::mount(place.options()).unwrap();
    let connection = hold.connection();
    serve(&hold, protocol::listen(&place.socket("first")).unwrap());
    let (lost, daemon, mut record) = adopt(&place.socket("first"));
    record.notified = 7;
    record.backing.insert(5, 9);
    // What a holder's death closes: its socket and its device. The thread that still listens goes with the test.
    drop(lost);
    drop(hold);

    let listener = protocol::listen(&place.socket("second")).unwrap();
    let path = place.socket("second");
    let giver = std::thread::spawn(move || {
        let early = protocol::connect(&path).unwrap();
        assert!(matches!(ask(&early, &Request::Status).0, Reply::Failed { .. }), "nothing is known before");
        let socket = protocol::connect(&path).unwrap();
        give_back(&socket, &daemon, &record).unwrap();
        // The same connection goes on, and another is an adopter's too.
        let Reply::Status(status) = ask(&socket, &Request::Status).0 else { panic!("no status") };
        let another = protocol::connect(&path).unwrap();
        assert!(matches!(ask(&another, &Request::ReadAhead { kibibytes: 512 }).0, Reply::Done));
        assert!(matches!(give_back(&another, &daemon, &record), Ok(())), "repeated by the adopter");
        status
    });
    let given = resume::wait(&listener, connection, None, in_a_while(), || false).unwrap().expect("given back");
    let hold = Hold::resume(place.options(), given);
    serve(&hold, listener);
    let status = giver.join().unwrap();
    assert_eq!((status.epoch, status.node_pid, status.ready), (1, Some(std::process::id()), true));
    assert_eq!((status.connection, status.backing_ids), (connection, 1));
    assert!(hold.is_connected() && hold.features() == status.features);
    hold.unmount().unwrap();
    assert!(!hold.is_connected());
}

#[test]
fn another_device_a_closed_one_and_no_device_are_refused() {
    let place = Place::new();
    let hold = Hold::mount(place.options()).unwrap();
    serve(&hold, protocol::listen(&place.socket("first")).unwrap());
    let (_socket, device, record) = adopt(&place.socket("first"));
    let other = Place::new();
    let other_hold = Hold::mount(other.options()).unwrap();

    let listener = protocol::listen(&place.socket("second")).unwrap();
    let path = place.socket("second");
    let (wanted, not_wanted) = (other_hold.connection(), hold.connection());
    assert_ne!(wanted, not_wanted);
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let refused = |result| matches!(result, Err(ProtocolError::Refused { .. }));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(3);
            resume::wait(&listener, wanted, None, deadline, || false).unwrap().is_some()
        });
        let connect = || protocol::connect(&path).unwrap();
        assert!(refused(give_back(connect(), &null, &record)), "not a fuse device");
        if std::fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&device)))
            .unwrap()
            .contains("fuse_connection:")
        {
            assert!(refused(give_back(connect(), &device, &record)), "the device of another mount");
        }
        hold.unmount().unwrap();
        assert!(refused(give_back(connect(), &device, &record)), "a closed one");
        let bare = connect();
        assert!(matches!(ask(&bare, &Request::GiveBack).0, Reply::Failed { .. }), "no descriptors");
        assert!(!waiting.join().unwrap(), "nothing was taken");
    });
    let begin = Instant::now();
    assert!(resume::wait(&listener, wanted, None, in_a_while(), || true).unwrap().is_none());
    assert!(begin.elapsed() < Duration::from_secs(2), "nobody was waited for who won't come");
    other_hold.unmount().unwrap();
}

#[test]
fn a_listener_that_is_shut_down_ends_its_thread() {
    let place = Place::new();
    let listener = protocol::listen(&place.socket("first")).unwrap();
    let same = listener.try_clone().unwrap();
    let waiting = std::thread::spawn(move || protocol::accept(&listener, None).map(|(_, pid)| pid));
    rustix::net::shutdown(&same, rustix::net::Shutdown::Both).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap_err().raw_os_error(), Some(22));
}

#[test]
fn an_adopter_without_connections_is_gone() {
    let place = Place::new();
    let hold = Hold::mount(place.options()).unwrap();
    let listener = protocol::listen(&place.socket("first")).unwrap();
    let (sender, events) = sync_channel(64);
    let serving = Arc::clone(&hold);
    std::thread::spawn(move || serving.serve(&listener, &sender));
    let (socket, _device, _record) = adopt(&place.socket("first"));
    let another = protocol::connect(&place.socket("first")).unwrap();
    assert!(matches!(ask(&another, &Request::Status).0, Reply::Status(_)));
    drop(socket);
    assert!(matches!(ask(&another, &Request::Status).0, Reply::Status(_)));
    drop(another);
    let told: Vec<Event> = std::iter::from_fn(|| events.recv_timeout(Duration::from_secs(20)).ok()).take(2).collect();
    let pid = std::process::id();
    assert!(matches!(told[..], [Event::Adopted { pid: adopted }, Event::Gone { pid: gone }] if adopted == pid && gone == pid), "{told:?}");
    hold.unmount().unwrap();
}
