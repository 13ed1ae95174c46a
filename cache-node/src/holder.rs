//! The small process that keeps a mount alive on a laptop: it mounts, keeps the fd, starts `forebay-node serve` and starts it again when it dies.
//! Knows `mounter`, child processes and the run folder. Does not know data sets, sources or blocks: what `serve` is told travels as plain arguments.
//! Invariant: a read of the mount is answered by a daemon or fails; it never hangs for longer than `READY_WITHIN` and never sees zeros.

mod signals;
mod supervise;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay_mounter::busy::{self, User};
use forebay_mounter::protocol::{HolderStatus, ProtocolError, Reply, Request};
use forebay_mounter::run_folder::{FolderLock, MountFolder, RunRoot};
use forebay_mounter::{MountError, device};

use crate::handover::Handover;

/// The kernel drops the inodes of a large mount for some seconds, the daemon flushes.
const HOLDER_ENDS_WITHIN: Duration = Duration::from_secs(30);
const HOLDER_ENDS_POLL: Duration = Duration::from_millis(5);

/// What `forebay-node mount` asks of a holder. Is written to `mount.json` in the run folder, so it must hold no secret.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct MountRequest {
    /// Of an existing folder, as `canonical` gives it.
    pub mount_point: PathBuf,
    /// Shown as the mount's source: `forebay:NAME` in /proc/mounts.
    pub name: String,
    /// What follows `forebay-node serve --holder SOCKET`; the holder never reads it.
    pub serve_arguments: Vec<OsString>,
    /// Other users may read, too (as root always possible; else needs `user_allow_other` in /etc/fuse.conf).
    pub allow_other: bool,
    /// Register complete files with the kernel, where it can.
    pub passthrough: bool,
    /// How long `start` waits for the first `serve` to be ready.
    pub ready_within: Duration,
    /// A daemon that lives and doesn't answer for so long is killed, and the next one started.
    /// The same of one that was started again and doesn't come to serve, if no start before it took longer.
    pub hung_after: Duration,
}

/// A mount that answers.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Mounted {
    pub mount_point: PathBuf,
    /// `holder.sock`, `node.sock`, `mount.json` and `log` of this mount.
    pub folder: PathBuf,
    pub holder_pid: u32,
    pub node_pid: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    #[error(
        "mount {mount_point}: already a mount of Forebay, held by pid {pid}; unmount it first with `forebay-node unmount {mount_point}`"
    )]
    AlreadyMounted { mount_point: String, pid: u32 },
    #[error("unmount {mount_point}: in use by {}; close these first, then unmount again", Users(.users))]
    Busy { mount_point: String, users: Vec<User> },
    #[error("{mount_point} is not a mount of Forebay: `forebay-node status` lists them")]
    NotMounted { mount_point: String },
    #[error("mount {mount_point}")]
    Mount {
        mount_point: String,
        #[source]
        cause: forebay_mounter::MountError,
    },
    /// `code` is the exit code of the daemon, if it ended by itself.
    #[error("mount {mount_point}: the daemon did not become ready: {detail}; its log is {log}")]
    NotReady { mount_point: String, detail: String, code: Option<i32>, log: String },
    #[error(transparent)]
    Holder(ProtocolError),
    #[error("{op} {path}")]
    Io {
        op: &'static str,
        path: String,
        #[source]
        cause: std::io::Error,
    },
}

struct Users<'a>(&'a [User]);

impl std::fmt::Display for Users<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, user) in self.0.iter().enumerate() {
            write!(f, "{}{user}", if i == 0 { "" } else { ", " })?;
        }
        if self.0.is_empty() {
            f.write_str("a process that this user can't see")?;
        }
        Ok(())
    }
}

/// Starts a detached holder (`forebay-node holder --folder F`) and waits until its daemon serves the mount. Blocking.
/// Cleans up after dead holders first: their run folders, and a dead mount on the same mount point.
pub fn start(root: &RunRoot, request: &MountRequest) -> Result<Mounted, HolderError> {
    let (folder, lock) = prepare(root, request)?;
    let program = std::env::current_exe().map_err(io("find", "this program"))?;
    let log = folder.log();
    let log_file = File::options().create(true).append(true).open(&log).map_err(io("open", &log))?;
    let mut command = Command::new(&program);
    command.arg("holder").arg("--folder").arg(folder.path());
    // The lock lives on in the holder, as its standard input; it is never free in between, so nobody takes the folder for a dead one.
    command.stdin(lock.into_file()).stdout(Stdio::piped()).stderr(log_file);
    // SAFETY: all three make async-signal-safe calls only.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
        command.pre_exec(signals::clear_mask);
        command.pre_exec(inherit_no_descriptor);
    }
    let spawned = command.spawn().map_err(io("start", &program));
    // With it goes our copy of the lock: the holder alone has it now.
    drop(command);
    let mut holder = match spawned {
        Ok(holder) => holder,
        Err(error) => {
            put_aside(&folder);
            return Err(error);
        }
    };
    let mut line = String::new();
    if let Some(stdout) = holder.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(io("read the report of", &program))?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Mounted(mounted)) => Ok(mounted),
        Ok(Report::Failed { detail, code }) => {
            // It ends right after its report.
            let _ = holder.wait();
            Err(HolderError::NotReady { mount_point: shown(&request.mount_point), detail, code, log: shown(put_aside(&folder)) })
        }
        Err(_) => {
            let status = holder.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            let detail = format!("the holder ended without a word ({status})");
            Err(HolderError::NotReady { mount_point: shown(&request.mount_point), detail, code: None, log: shown(put_aside(&folder)) })
        }
    }
}

/// What the caller has open without close-on-exec (a lock of its script, a pipe) must not live as long as the mount. For `pre_exec`: async-signal-safe.
fn inherit_no_descriptor() -> std::io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // Before Linux 5.11 there is no such call: then they are inherited.
    // SAFETY: nothing is closed in this process, which is about to become another program; the flag closes them there.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

/// The same for a process that becomes a holder by itself. To be called first in it.
pub fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // Before Linux 5.9 there is no such call: then they stay open.
    // SAFETY: this process has opened none yet, so nothing in it owns what is closed.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
}

/// Removes what a start that failed left, and gives where its log is now.
fn put_aside(folder: &MountFolder) -> PathBuf {
    match folder.lock() {
        // Whoever has it is a mount of somebody else, made meanwhile.
        Ok(None) | Err(_) => folder.log(),
        Ok(Some(_lock)) => folder.remove_but_log().unwrap_or_else(|error| {
            tracing::warn!(%error, folder = %folder.path().display(), "the folder of a start that failed stays");
            folder.log()
        }),
    }
}

/// The same in this process, until SIGTERM or SIGINT, which unmount, or until it is unmounted otherwise: `mount --foreground`.
/// To be called before the process has other threads, whose signals it would take.
pub fn run_foreground(root: &RunRoot, request: &MountRequest, ready: impl FnOnce(&Mounted)) -> Result<(), HolderError> {
    let (folder, lock) = prepare(root, request)?;
    let result = supervise::supervise(request.clone(), &folder, supervise::Output::Inherited, ready);
    clean_up(&folder, lock);
    result
}

/// The body of the hidden `forebay-node holder --folder F`: mounts what `F/mount.json` says, reports one line on stdout, holds until it is unmounted.
/// To be called before the process has other threads. Standard input is the folder's lock.
pub fn run(folder: &Path) -> Result<(), HolderError> {
    let folder = MountFolder::at(folder);
    let path = folder.request();
    let text = std::fs::read(&path).map_err(io("read", &path))?;
    let request: MountRequest =
        serde_json::from_slice(&text).map_err(|error| HolderError::Io { op: "read", path: shown(&path), cause: error.into() })?;
    let result =
        supervise::supervise(request, &folder, supervise::Output::Log(folder.log()), |mounted| report(&Report::Mounted(mounted.clone())));
    match &result {
        // The log stays for whoever looks for the reason.
        Err(HolderError::NotReady { detail, code, .. }) => report(&Report::Failed { detail: detail.clone(), code: *code }),
        Err(error) => report(&Report::Failed { detail: crate::holder::chain(error), code: None }),
        Ok(()) => drop(folder.remove()),
    }
    result
}

/// Unmounts, then stops the daemon and the holder. `Busy` leaves everything as it was. Gives why reads of the mount failed until now, if they did.
pub fn unmount(root: &RunRoot, mount_point: &Path) -> Result<Option<String>, HolderError> {
    let mount_point = canonical(mount_point)?;
    let folder = root.mount(&mount_point);
    if !folder.is_alive() {
        unmount_dead(&mount_point, &folder)?;
        return Ok(Some("its holder died, and its daemon with it".to_owned()));
    }
    let handover = Handover::connect(&folder.holder_socket()).map_err(HolderError::Holder)?;
    let aborted = handover.status().map_err(HolderError::Holder)?.aborted;
    match handover.ask("unmount through", &Request::Unmount, &[]).map_err(HolderError::Holder)?.0 {
        Reply::Done => {
            wait_until_ended(&folder);
            Ok(aborted)
        }
        Reply::Busy { users } => Err(HolderError::Busy { mount_point: shown(&mount_point), users }),
        other => Err(HolderError::Holder(ProtocolError::Malformed { op: "unmount through", detail: format!("{other:?}") })),
    }
}

/// The mount is gone, its holder about to be: who mounts again at once must not find its lock. One that takes longer is somebody else's news.
fn wait_until_ended(folder: &MountFolder) {
    let begun = Instant::now();
    while folder.is_alive() && begun.elapsed() < HOLDER_ENDS_WITHIN {
        std::thread::park_timeout(HOLDER_ENDS_POLL);
    }
}

/// A mount whose holder died: every read fails already, only the mount point is still taken.
fn unmount_dead(mount_point: &Path, folder: &MountFolder) -> Result<(), HolderError> {
    if !device::is_mounted(mount_point) {
        return Err(HolderError::NotMounted { mount_point: shown(mount_point) });
    }
    unmount_or_tell(mount_point)?;
    folder.remove().map_err(io("remove", folder.path()))
}

fn unmount_or_tell(mount_point: &Path) -> Result<(), HolderError> {
    device::unmount(mount_point).map_err(|error| match error {
        MountError::Busy { mount_point: shown } => HolderError::Busy { mount_point: shown, users: busy::users(mount_point) },
        cause => HolderError::Mount { mount_point: shown(mount_point), cause },
    })
}

/// The mounts of this run folder; those of dead holders are left out.
pub fn list(root: &RunRoot) -> Result<Vec<HolderStatus>, HolderError> {
    let mut found = Vec::new();
    for folder in root.mounts().map_err(io("list", root.path()))? {
        // One that ends while it is asked is gone, not an error.
        if folder.is_alive()
            && let Ok(status) = Handover::connect(&folder.holder_socket()).and_then(|holder| holder.status())
        {
            found.push(status);
        }
    }
    found.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    Ok(found)
}

/// Where the control socket of the daemon that serves `mount_point` is; `NotMounted` without a live holder.
pub fn node_socket(root: &RunRoot, mount_point: &Path) -> Result<PathBuf, HolderError> {
    let mount_point = canonical(mount_point)?;
    let folder = root.mount(&mount_point);
    if folder.is_alive() { Ok(folder.node_socket()) } else { Err(HolderError::NotMounted { mount_point: shown(&mount_point) }) }
}

/// What the holder tells its parent, once.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Report {
    Mounted(Mounted),
    Failed { detail: String, code: Option<i32> },
}

/// Writes the report and lets go of standard output, which the parent waits on.
fn report(report: &Report) {
    let line = serde_json::to_string(report).unwrap_or_default();
    // The parent may be gone: then nobody waits for the report.
    let _ = writeln!(std::io::stdout(), "{line}");
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Folder and lock of a new mount, with everything that is dead out of the way.
fn prepare(root: &RunRoot, request: &MountRequest) -> Result<(MountFolder, FolderLock), HolderError> {
    let mount_point = &request.mount_point;
    for stale in root.mounts().map_err(io("list", root.path()))? {
        if let Ok(Some(lock)) = stale.lock() {
            clean_up(&stale, lock);
        }
    }
    let folder = root.mount(mount_point);
    folder.create().map_err(io("create", folder.path()))?;
    let Some(lock) = folder.lock().map_err(io("lock", folder.path()))? else {
        let holder = Handover::connect(&folder.holder_socket()).and_then(|holder| holder.status());
        return Err(HolderError::AlreadyMounted { mount_point: shown(mount_point), pid: holder.map_or(0, |status| status.holder_pid) });
    };
    if device::is_mounted(mount_point)
        && let Err(error) = unmount_or_tell(mount_point)
    {
        clean_up(&folder, lock);
        return Err(error);
    }
    let path = folder.request();
    let text =
        serde_json::to_vec_pretty(request).map_err(|error| HolderError::Io { op: "write", path: shown(&path), cause: error.into() })?;
    std::fs::write(&path, text).map_err(io("write", &path))?;
    Ok((folder, lock))
}

/// Removes a folder whose lock we have.
fn clean_up(folder: &MountFolder, lock: FolderLock) {
    if let Err(error) = folder.remove() {
        tracing::warn!(%error, folder = %folder.path().display(), "a folder of a dead mount stays");
    }
    drop(lock);
}

/// The absolute path without symbolic links; asks nothing of a mount that may be dead.
pub fn canonical(mount_point: &Path) -> Result<PathBuf, HolderError> {
    device::canonical(mount_point).map_err(io("find", mount_point))
}

fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

fn io(op: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> HolderError {
    let path = shown(path);
    move |cause| HolderError::Io { op, path, cause }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}
