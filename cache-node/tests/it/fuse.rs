//! The session through the real kernel, on a tree whose every byte is known.

pub(crate) mod child;
mod speed;
pub(crate) mod tree;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use forebay_mounter::MountError;
use forebay_mounter::{busy, device};
use tempfile::TempDir;

use child::Mount;
use tree::{Plan, first_wrong};

/// A folder with a mount point, a place for local files and a socket.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("mount")).unwrap();
        Self { folder }
    }
    pub(crate) fn mount(&self) -> Mount {
        Mount::new(&self.folder.path().join("mount"), &self.folder.path().join("holder.sock"))
    }
    pub(crate) fn local(&self, plan: Plan) -> Plan {
        let plan = Plan { local: Some(self.folder.path().join("local")), ..plan };
        plan.write_local();
        plan
    }
}

/// Whether this machine lets us mount; without it the tests here have nothing to say. Where they must run, they fail instead.
pub(crate) fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        let must = ["CI", "FOREBAY_MUST_MOUNT"].into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        assert!(must.is_none(), "{must:?} is set, so this test must run; it needs root and /dev/fuse");
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        // Past the harness, which shows what a test prints only when it fails.
        let _ = writeln!(io::stderr(), "SKIPPED: {test}: needs root and /dev/fuse");
    }
    can
}

fn check_file(plan: &Plan, mount_point: &Path, file: u64) {
    let size = plan.size(file);
    let opened = File::open(mount_point.join(plan.path(file))).unwrap();
    assert_eq!(opened.metadata().unwrap().size(), size);
    let mut bytes = vec![0; size as usize];
    opened.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(first_wrong(file, 0, &bytes), None, "file {file}");
    assert_eq!(opened.read_at(&mut [0; 8], size).unwrap(), 0, "after the end");
}

/// Reads around every page boundary, one byte before to one byte after.
fn check_page_boundaries(plan: &Plan, mount_point: &Path, file: u64) {
    let opened = File::open(mount_point.join(plan.path(file))).unwrap();
    let size = plan.size(file);
    for boundary in (0..=size + 4096).step_by(4096) {
        for offset in [boundary.saturating_sub(1), boundary, boundary + 1] {
            for len in [1, 2, 4095, 4096, 4097] {
                let mut bytes = vec![0; len];
                let read = opened.read_at(&mut bytes, offset).unwrap();
                assert_eq!(read as u64, size.saturating_sub(offset).min(len as u64), "file {file} at {offset}");
                assert_eq!(first_wrong(file, offset, &bytes[..read]), None, "file {file} at {offset}");
            }
        }
    }
}

#[test]
fn every_byte_of_the_tree_is_right_however_it_is_read() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let base = Plan { directories: 3, files_each: 9, size_base: 0, size_step: 4095, size_modulus: 40_000, ..Plan::default() };
    let plans = [
        bench.local(Plan { passthrough_every: 2, slow_every: 3, slow_ms: 1, ..base.clone() }),
        Plan { slow_every: 2, slow_ms: 1, ..base.clone() },
        Plan { no_open: true, ..base },
    ];
    for plan in plans {
        let mount = bench.mount();
        let _daemon = child::daemon(&mount.socket, &plan);
        mount.wait_until_ready();
        let mut found = 0;
        for directory in fs::read_dir(&mount.mount_point).unwrap() {
            for file in fs::read_dir(directory.unwrap().path()).unwrap() {
                let file = file.unwrap();
                let number: u64 = file.file_name().to_str().unwrap()[1..].parse().unwrap();
                assert_eq!(file.metadata().unwrap().size(), plan.size(number));
                check_file(&plan, &mount.mount_point, number);
                check_page_boundaries(&plan, &mount.mount_point, number);
                found += 1;
            }
        }
        assert_eq!(found, plan.files());
        assert_eq!(mount.hold.status().no_open, plan.no_open);
        let passed_through = (0..plan.files()).filter(|file| plan.is_passed_through(*file) && plan.local.is_some()).count();
        assert_eq!(mount.hold.status().backing_ids, passed_through, "each passed-through file is registered once");
    }
}

#[test]
fn s_11_what_would_change_the_mount_is_erofs() {
    if !can_mount() {
        return;
    }
    use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
    let bench = Bench::new();
    let plan = Plan::default();
    let mount = bench.mount();
    let _daemon = child::daemon(&mount.socket, &plan);
    mount.wait_until_ready();
    let (file, folder, new) = (mount.mount_point.join(plan.path(3)), mount.mount_point.join("d0000"), mount.mount_point.join("new"));
    let now = Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = Timestamps { last_access: now, last_modification: now };
    let owner = Some(rustix::fs::Uid::from_raw(1));
    let erofs = |what: &str, result: io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS), "{what}");
    let calls: [(&str, io::Result<()>); 22] = [
        ("open to write", File::options().write(true).open(&file).map(drop)),
        ("open to read and write", File::options().read(true).write(true).open(&file).map(drop)),
        ("open to append", File::options().append(true).open(&file).map(drop)),
        ("open to cut", File::options().write(true).truncate(true).open(&file).map(drop)),
        ("create", File::create(&new).map(drop)),
        ("create anew", File::create_new(&new).map(drop)),
        ("truncate", truncate(&file)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(&folder)),
        ("mkdir", fs::create_dir(&new)),
        ("mknod", rustix::fs::mknodat(CWD, &new, FileType::Fifo, Mode::RUSR, 0).map_err(Into::into)),
        ("rename", fs::rename(&file, &new)),
        ("rename over", fs::rename(&file, mount.mount_point.join(plan.path(4)))),
        ("rename a folder", fs::rename(&folder, &new)),
        ("link", fs::hard_link(&file, &new)),
        ("symlink", std::os::unix::fs::symlink("d0000", &new)),
        ("chmod", rustix::fs::chmod(&file, Mode::RWXU).map_err(Into::into)),
        ("chmod a folder", rustix::fs::chmod(&folder, Mode::RWXU).map_err(Into::into)),
        ("chown", rustix::fs::chown(&file, owner, None).map_err(Into::into)),
        ("utimens", rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()).map_err(Into::into)),
        ("setxattr", rustix::fs::setxattr(&file, "user.x", b"y", XattrFlags::empty()).map_err(Into::into)),
        ("removexattr", rustix::fs::removexattr(&file, "user.forebay.source").map_err(Into::into)),
    ];
    for (what, result) in calls {
        erofs(what, result);
    }
    let open = File::open(&file).unwrap();
    erofs("fchmod", rustix::fs::fchmod(&open, Mode::RWXU).map_err(Into::into));
    erofs("futimens", rustix::fs::futimens(&open, &times).map_err(Into::into));
    // A descriptor for reading is refused as on any filesystem.
    assert_eq!(rustix::io::write(&open, b"x"), Err(rustix::io::Errno::BADF));
    assert_eq!(rustix::fs::ftruncate(&open, 0), Err(rustix::io::Errno::INVAL));
    assert_eq!(File::open(mount.mount_point.join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    check_file(&plan, &mount.mount_point, 3);
}

fn truncate(path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends with a NUL and lives for the call.
    if unsafe { libc::truncate(path.as_ptr(), 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn s_11_locks_succeed_and_exclude_each_other_on_this_machine() {
    if !can_mount() {
        return;
    }
    use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared, NonBlockingUnlock};
    let bench = Bench::new();
    let plan = bench.local(Plan { passthrough_every: 2, ..Plan::default() });
    let mount = bench.mount();
    let mut daemon = child::daemon(&mount.socket, &plan);
    mount.wait_until_ready();
    // One that is passed through and one that isn't.
    for number in [2, 3] {
        let file = mount.mount_point.join(plan.path(number));
        let (first, second) = (File::open(&file).unwrap(), File::open(&file).unwrap());
        rustix::fs::flock(&first, NonBlockingLockExclusive).unwrap();
        assert_eq!(rustix::fs::flock(&second, NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK));
        rustix::fs::flock(&first, NonBlockingLockShared).unwrap();
        rustix::fs::flock(&second, NonBlockingLockShared).unwrap();
        rustix::fs::flock(&first, NonBlockingUnlock).unwrap();
        rustix::fs::flock(&second, NonBlockingLockExclusive).unwrap();
        // Of POSIX, on a descriptor for reading: shared ones.
        rustix::fs::fcntl_lock(&first, NonBlockingLockShared).unwrap();
        rustix::fs::fcntl_lock(&second, NonBlockingLockShared).unwrap();
        rustix::fs::fcntl_lock(&first, NonBlockingUnlock).unwrap();
        // They are the kernel's: the daemon's death frees none.
        daemon.kill();
        daemon = child::daemon(&mount.socket, &plan);
        mount.wait_until_ready();
        assert_eq!(rustix::fs::flock(&first, NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK));
        rustix::fs::flock(&second, NonBlockingUnlock).unwrap();
        rustix::fs::flock(&first, NonBlockingLockExclusive).unwrap();
    }
}

#[test]
fn the_mount_says_what_it_is() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let plan = Plan::default();
    let mount = bench.mount();
    let _daemon = child::daemon(&mount.socket, &plan);
    mount.wait_until_ready();
    let file = mount.mount_point.join(plan.path(3));
    let of = rustix::fs::statvfs(&mount.mount_point).unwrap();
    assert!(of.f_blocks * of.f_frsize >= (0..plan.files()).map(|file| plan.size(file)).sum());
    let mut value = [0; 64];
    let bytes = rustix::fs::getxattr(&file, "user.forebay.source", &mut value).unwrap();
    assert_eq!(&value[..bytes], b"memory:");
    assert_eq!(rustix::fs::getxattr(&file, "user.other", &mut value), Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_busy_mount_is_reported_with_who_holds_it() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let plan = Plan::default();
    let mount = bench.mount();
    let _daemon = child::daemon(&mount.socket, &plan);
    mount.wait_until_ready();
    let open = File::open(mount.mount_point.join(plan.path(0))).unwrap();
    assert!(matches!(mount.hold.unmount(), Err(MountError::Busy { .. })));
    let users = busy::users(&mount.mount_point);
    assert_eq!(users.len(), 1, "{users:?}");
    assert_eq!(users[0].pid, std::process::id());
    check_file(&plan, &mount.mount_point, 1);
    drop(open);
    mount.hold.unmount().unwrap();
    assert!(!device::is_mounted(&mount.mount_point));
}

#[test]
fn no_open_outlives_its_daemon() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let plan = Plan { no_open: true, ..Plan::default() };
    let mount = bench.mount();
    let mut daemon = child::daemon(&mount.socket, &plan);
    mount.wait_until_ready();
    check_file(&plan, &mount.mount_point, 0);
    assert!(mount.hold.status().no_open);
    daemon.kill();
    // The next one would answer OPEN, were it asked.
    let _daemon = child::daemon(&mount.socket, &Plan { no_open: false, ..plan.clone() });
    mount.wait_until_ready();
    let status = mount.hold.status();
    assert!(status.no_open && status.epoch == 2);
    for file in 0..plan.files() {
        check_file(&plan, &mount.mount_point, file);
    }
}

#[test]
fn reads_fail_and_show_no_zeros_when_the_holder_dies_too() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let plan = bench.local(Plan { passthrough_every: 2, ..Plan::default() });
    let (mount_point, socket) = (bench.folder.path().join("mount"), bench.folder.path().join("holder.sock"));
    let mut holder = child::holder(&mount_point, &socket);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let mut daemon = loop {
        assert!(std::time::Instant::now() < deadline, "no holder");
        if forebay_node::handover::Handover::connect(&socket).is_ok() {
            break child::daemon(&socket, &plan);
        }
    };
    // The first lookup waits in the kernel for the daemon.
    let files: Vec<(u64, File)> = (0..8).map(|file| (file, File::open(mount_point.join(plan.path(file))).unwrap())).collect();
    let mut byte = [0; 1];
    for (_, file) in &files {
        file.read_exact_at(&mut byte, 0).unwrap();
    }
    daemon.kill();
    holder.kill();
    let mut failed = 0;
    for (number, file) in &files {
        let mut bytes = vec![0; plan.size(*number) as usize];
        let mut at = 0;
        while at < bytes.len() {
            match file.read_at(&mut bytes[at..], at as u64) {
                Ok(0) => panic!("file {number} ends at {at} of {}", bytes.len()),
                Ok(read) => {
                    assert_eq!(first_wrong(*number, at as u64, &bytes[at..at + read]), None);
                    at += read;
                }
                Err(error) => {
                    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::EIO | libc::ECONNABORTED)), "{error}");
                    failed += 1;
                    break;
                }
            }
        }
    }
    // Half of the files are passed through: the kernel goes on reading those by itself.
    assert!(failed >= 1, "a read that must ask a daemon can't succeed");
    assert!(File::open(mount_point.join(plan.path(9))).is_err());
    drop(files);
    device::unmount(&mount_point).unwrap();
}
