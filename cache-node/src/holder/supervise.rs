//! Mounts, keeps a daemon running, and decides when to give up.
//! Knows child processes, signals and time. Does not know the kernel's protocol.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use forebay_mounter::hold::{self, Answer, Hold, HoldOptions};
use forebay_mounter::protocol::{self, Reply};
use forebay_mounter::run_folder::MountFolder;
use forebay_mounter::{MountError, busy};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{HolderError, MountRequest, Mounted, io as io_error, shown, signals};

/// How long requests may wait without a daemon that serves; then they fail.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Pause before a daemon that died is started again: none the first time, then doubled from here.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The same for one that served, however shortly: readers wait for it.
const BACKOFF_SERVED_MAX: Duration = Duration::from_millis(200);
/// How long a report of a daemon may be on its way here once it is late. A machine that slept is no daemon that hangs.
const LATE_REPORT_WITHIN: Duration = Duration::from_secs(1);
/// A daemon that is started again may take so many times as long as the longest start did, and twice that after it was killed for it.
const START_FACTOR: u32 = 3;
/// A daemon that served for so long starts with a clean record.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// How long a daemon may flush after the mount is gone.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long readers whose reads fail may take to close their files, and how often that is looked at.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);
const LET_GO_EVERY: Duration = Duration::from_millis(20);
/// Lines of the daemon's log that a failed start tells.
const LOG_LINES: usize = 5;

/// Where the daemon's output goes.
pub(super) enum Output {
    Log(PathBuf),
    Inherited,
}

enum Event {
    Hold(hold::Event),
    Exited { pid: u32, status: io::Result<ExitStatus> },
    Signalled,
}

/// The running daemon.
struct Daemon {
    pid: u32,
    process: OwnedFd,
    started: Instant,
    /// When it said that it serves.
    ready: Option<Instant>,
    /// Until when it must report: that it serves, then again and again that it still answers. `None` of the first one before it serves, which
    /// `MountRequest::ready_within` is for, and once it was killed.
    report_by: Option<Instant>,
    /// The deadline passed once; see `LATE_REPORT_WITHIN`.
    is_late: bool,
}

struct Supervisor<'a> {
    hold: Arc<Hold>,
    request: MountRequest,
    folder: &'a MountFolder,
    output: Output,
    program: PathBuf,
    sender: SyncSender<Event>,
    events: Receiver<Event>,
    daemon: Option<Daemon>,
    /// When the next daemon is to be started, if none runs.
    start_at: Option<Instant>,
    backoff: Duration,
    /// How long a daemon may take until it serves; `None` before the first one does.
    start_within: Option<Duration>,
    /// When requests fail unless a daemon serves by then.
    give_up_at: Option<Instant>,
    signals: u32,
}

enum Next {
    GoOn,
    End,
}

/// Mounts and holds. Returns when the mount is gone; `NotReady` when its first daemon did not come up.
pub(super) fn supervise(
    request: MountRequest,
    folder: &MountFolder,
    output: Output,
    ready: impl FnOnce(&Mounted),
) -> Result<(), HolderError> {
    signals::block();
    let program = std::env::current_exe().map_err(io_error("find", "this program"))?;
    let socket = folder.holder_socket();
    let hold = Hold::mount(HoldOptions {
        mount_point: request.mount_point.clone(),
        name: request.name.clone(),
        folder: folder.path().to_owned(),
        allow_other: request.allow_other,
        passthrough: request.passthrough,
        peer_uid: None,
    })
    .map_err(|cause| HolderError::Mount { mount_point: shown(&request.mount_point), cause })?;
    let listener = protocol::listen(&socket).map_err(io_error("listen on", &socket))?;
    let (sender, events) = sync_channel(64);
    listen(&hold, listener, &sender)?;
    let signalled = sender.clone();
    thread("signals", move || signals::wait(|| signalled.send(Event::Signalled).is_ok()))?;

    let give_up_at = Some(Instant::now() + request.ready_within);
    let mut supervisor = Supervisor {
        hold,
        request,
        folder,
        output,
        program,
        sender,
        events,
        daemon: None,
        start_at: Some(Instant::now()),
        backoff: Duration::ZERO,
        start_within: None,
        give_up_at,
        signals: 0,
    };
    let first = supervisor.first_ready();
    match first {
        Ok(Some(mounted)) => ready(&mounted),
        Ok(None) => return Ok(()),
        Err(error) => {
            supervisor.undo();
            return Err(error);
        }
    }
    while let Next::GoOn = supervisor.step() {}
    supervisor.stop_daemon();
    Ok(())
}

impl Supervisor<'_> {
    /// Runs until the first daemon serves. `None`: told to end before that.
    fn first_ready(&mut self) -> Result<Option<Mounted>, HolderError> {
        loop {
            if let Next::End = self.wait_and(|supervisor, event| match event {
                // The first daemon is not started twice: what stops it now would stop it again.
                Some(Event::Exited { status, .. }) => {
                    supervisor.daemon = None;
                    supervisor.give_up_at = None;
                    Err(supervisor.not_ready(&describe(&status), status.ok().and_then(|status| status.code())))
                }
                None if supervisor.is_overdue() => Err(supervisor.not_ready("it did not serve in time", None)),
                event => Ok(supervisor.handle(event)),
            })? {
                return Ok(None);
            }
            if let Some(Daemon { pid, ready: Some(_), .. }) = self.daemon {
                return Ok(Some(Mounted {
                    mount_point: self.request.mount_point.clone(),
                    folder: self.folder.path().to_owned(),
                    holder_pid: std::process::id(),
                    node_pid: pid,
                }));
            }
        }
    }

    fn step(&mut self) -> Next {
        let next = self.wait_and(|supervisor, event| Ok(supervisor.handle(event)));
        next.unwrap_or(Next::GoOn)
    }

    /// The next event, or `None` when a deadline has passed; starts the daemon when it is time.
    fn wait_and(&mut self, then: impl FnOnce(&mut Self, Option<Event>) -> Result<Next, HolderError>) -> Result<Next, HolderError> {
        if self.daemon.is_none() && self.start_at.is_some_and(|at| at <= Instant::now()) {
            self.start_at = None;
            if let Err(error) = self.start_daemon() {
                tracing::error!(error = %super::chain(&error), "the daemon can't be started");
                self.start_later();
            }
        }
        let report_by = self.daemon.as_ref().and_then(|daemon| daemon.report_by);
        let deadline = [self.start_at, self.give_up_at, report_by].into_iter().flatten().min();
        let event = match deadline {
            None => self.events.recv().ok(),
            Some(at) => match self.events.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(Next::End),
            },
        };
        then(self, event)
    }

    fn handle(&mut self, event: Option<Event>) -> Next {
        match event {
            None if self.is_overdue() => self.give_up("no daemon served it in time"),
            None => self.check_report(),
            Some(Event::Hold(hold::Event::Alive { pid })) => self.reported(pid),
            Some(Event::Hold(hold::Event::Adopted { pid })) => tracing::debug!(pid, "the mount is adopted"),
            // Its end is seen by `Exited`: it is our child.
            Some(Event::Hold(hold::Event::Gone { pid })) => tracing::debug!(pid, "the daemon's connections are closed"),
            Some(Event::Hold(hold::Event::Ready { pid })) => self.became_ready(pid),
            Some(Event::Hold(hold::Event::Unmount { answer })) => return self.unmount(answer),
            Some(Event::Exited { pid, status }) => return self.exited(pid, &status),
            Some(Event::Signalled) => return self.signalled(),
        }
        Next::GoOn
    }

    fn is_overdue(&self) -> bool {
        self.give_up_at.is_some_and(|at| at <= Instant::now())
    }

    fn became_ready(&mut self, pid: u32) {
        self.give_up_at = None;
        if let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.pid == pid) {
            daemon.ready = Some(Instant::now());
            let longest = self.start_within.unwrap_or(self.request.hung_after).max(daemon.started.elapsed() * START_FACTOR);
            self.start_within = Some(longest);
            // The first report is due as every later one: a daemon that hangs before it has no other deadline.
            daemon.report_by = Some(Instant::now() + self.request.hung_after);
        }
        tracing::info!(pid, epoch = self.hold.status().epoch, "the mount is served");
    }

    fn reported(&mut self, pid: u32) {
        // One that was just killed may still have a report on its way.
        if let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.pid == pid) {
            daemon.report_by = Some(Instant::now() + self.request.hung_after);
            daemon.is_late = false;
        }
    }

    /// Kills a daemon that lives and doesn't answer: its requests are sent again to the next one.
    fn check_report(&mut self) {
        let now = Instant::now();
        let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.report_by.is_some_and(|at| at <= now)) else { return };
        if !daemon.is_late {
            daemon.is_late = true;
            daemon.report_by = Some(now + LATE_REPORT_WITHIN);
            return;
        }
        daemon.report_by = None;
        if daemon.ready.is_some() {
            tracing::error!(pid = daemon.pid, hung_after = ?self.request.hung_after, "the daemon lives and doesn't answer: killed");
        } else {
            tracing::error!(pid = daemon.pid, start_within = ?self.start_within, "the daemon lives and doesn't come to serve: killed");
            self.start_within = self.start_within.map(|within| within * 2);
        }
        self.kill(Signal::KILL);
    }

    fn exited(&mut self, pid: u32, status: &io::Result<ExitStatus>) -> Next {
        let Some(daemon) = self.daemon.take_if(|daemon| daemon.pid == pid) else { return Next::GoOn };
        if !self.hold.is_connected() {
            if self.hold.status().aborted.is_some() || forebay_mounter::device::is_mounted(&self.request.mount_point) {
                self.give_up("the kernel's connection is closed");
                return Next::GoOn;
            }
            tracing::info!("unmounted by somebody else");
            return Next::End;
        }
        tracing::warn!(pid, status = describe(status), "the daemon is gone: requests wait for the next one");
        if !self.hold.features().resend {
            // What the dead daemon had read would never be answered.
            self.give_up("the daemon died, and this kernel can't send its requests again (Linux 6.9 can)");
            return Next::GoOn;
        }
        if daemon.ready.is_some_and(|since| since.elapsed() >= STEADY_AFTER) {
            self.backoff = Duration::ZERO;
        } else if daemon.ready.is_some() {
            self.backoff = self.backoff.min(BACKOFF_SERVED_MAX);
        }
        self.give_up_at.get_or_insert(Instant::now() + READY_WITHIN);
        self.start_later();
        Next::GoOn
    }

    fn start_later(&mut self) {
        self.start_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
    }

    /// From now on every read fails, until somebody unmounts and mounts again.
    fn give_up(&mut self, why: &str) {
        tracing::error!(why, "reads of the mount fail from now on: unmount it and mount it again");
        self.give_up_at = None;
        self.start_at = None;
        if let Err(error) = self.hold.abort(why) {
            tracing::error!(%error, "the connection can't be aborted: reads may hang");
        }
        self.kill(Signal::KILL);
    }

    fn unmount(&mut self, answer: Answer) -> Next {
        match self.hold.unmount() {
            Ok(()) => {
                self.stop_daemon();
                answer.send(&Reply::Done);
                Next::End
            }
            Err(MountError::Busy { .. }) => {
                answer.send(&Reply::Busy { users: busy::users(&self.request.mount_point) });
                Next::GoOn
            }
            Err(error) => {
                answer.send(&Reply::Failed { errno: None, detail: super::chain(&error) });
                Next::GoOn
            }
        }
    }

    /// The first signal unmounts; a second one while the mount is busy lets reads fail first.
    fn signalled(&mut self) -> Next {
        self.signals += 1;
        if self.signals > 1 {
            self.give_up("the holder was told twice to end");
        }
        match self.unmount_by_signal() {
            Ok(()) => Next::End,
            Err(error) => {
                let users: Vec<String> = busy::users(&self.request.mount_point).iter().map(ToString::to_string).collect();
                tracing::error!(
                    error = super::chain(&error),
                    users = users.join(", "),
                    "the mount stays; a second signal makes its reads fail"
                );
                Next::GoOn
            }
        }
    }

    /// After an abort, whoever was waiting needs a moment to let go.
    fn unmount_by_signal(&mut self) -> Result<(), MountError> {
        let deadline = Instant::now() + LET_GO_WITHIN;
        loop {
            match self.hold.unmount() {
                Err(MountError::Busy { .. }) if self.signals > 1 && Instant::now() < deadline => {}
                other => return other,
            }
            if let Ok(Event::Exited { pid, .. }) = self.events.recv_timeout(LET_GO_EVERY) {
                self.daemon.take_if(|daemon| daemon.pid == pid);
            }
        }
    }

    fn start_daemon(&mut self) -> Result<(), HolderError> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--holder").arg(self.folder.holder_socket()).args(&self.request.serve_arguments).stdin(Stdio::null());
        if let Output::Log(path) = &self.output {
            let log = || File::options().create(true).append(true).open(path).map_err(io_error("open", path));
            command.stdout(log()?).stderr(log()?);
        }
        // SAFETY: both make async-signal-safe calls only.
        unsafe {
            command.pre_exec(signals::clear_mask);
            command.pre_exec(super::inherit_no_descriptor);
        }
        let child = command.spawn().map_err(io_error("start", &self.program))?;
        let pid = child.id();
        let process = rustix::process::Pid::from_raw(pid.cast_signed())
            .ok_or(io::ErrorKind::InvalidInput.into())
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from))
            .map_err(io_error("watch", &self.program))?;
        wait_for(child, self.sender.clone()).map_err(io_error("watch", &self.program))?;
        let started = Instant::now();
        let report_by = self.start_within.map(|within| started + within);
        self.daemon = Some(Daemon { pid, process, started, ready: None, report_by, is_late: false });
        Ok(())
    }

    fn kill(&self, signal: Signal) {
        if let Some(daemon) = &self.daemon {
            // One that is gone already is what is wanted.
            let _ = pidfd_send_signal(&daemon.process, signal);
        }
    }

    /// Lets the daemon flush and end; the mount is gone.
    fn stop_daemon(&mut self) {
        self.kill(Signal::TERM);
        let deadline = Instant::now() + STOP_WITHIN;
        while let Some(daemon) = &self.daemon {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Exited { pid, .. }) if pid == daemon.pid => self.daemon = None,
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!(pid = daemon.pid, "the daemon does not end: killed");
                    self.kill(Signal::KILL);
                    self.daemon = None;
                }
            }
        }
    }

    /// Takes the mount back after a start that failed.
    fn undo(&mut self) {
        self.kill(Signal::KILL);
        let _ = self.hold.abort("the daemon did not become ready");
        if let Err(error) = self.hold.unmount() {
            tracing::error!(error = %super::chain(&error), "the dead mount stays");
        }
    }

    fn not_ready(&self, detail: &str, code: Option<i32>) -> HolderError {
        let (last, log) = match &self.output {
            Output::Log(path) => (last_lines(path), shown(path)),
            Output::Inherited => (String::new(), "above".to_owned()),
        };
        let detail = if last.is_empty() { detail.to_owned() } else { format!("{detail}: {last}") };
        HolderError::NotReady { mount_point: shown(&self.request.mount_point), detail, code, log }
    }
}

fn describe(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn listen(hold: &Arc<Hold>, listener: OwnedFd, sender: &SyncSender<Event>) -> Result<(), HolderError> {
    let (raw, from_hold) = sync_channel(64);
    let (hold, sender) = (Arc::clone(hold), sender.clone());
    thread("listen", move || {
        let error = hold.serve(&listener, &raw);
        tracing::error!(%error, "the holder's socket is broken: no daemon can adopt the mount any more");
    })?;
    thread("events", move || {
        for event in from_hold {
            if sender.send(Event::Hold(event)).is_err() {
                return;
            }
        }
    })
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), HolderError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop).map_err(io_error("start a thread of", "the holder"))
}

fn wait_for(mut child: Child, sender: SyncSender<Event>) -> io::Result<()> {
    let pid = child.id();
    let waiter = move || {
        let status = child.wait();
        // The supervisor may have ended meanwhile.
        let _ = sender.send(Event::Exited { pid, status });
    };
    std::thread::Builder::new().name("wait".to_owned()).spawn(waiter).map(drop)
}
