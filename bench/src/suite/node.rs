//! Runs `forebay-node` as a user would: a Dataset file, a node file, `mount`, `status -o json`, `unmount`.
//! Knows the command line and the files. Does not know how the node works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::earlier;
use super::group::Group;
use crate::measure::{self, Memory};
use crate::serve;

/// A listing of ten million keys from a server on loopback takes less.
const READY_WITHIN: Duration = Duration::from_secs(300);
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// The folder of a former cache begins so.
const ASIDE: &str = "aside-";
const POLL_FIRST: Duration = Duration::from_millis(20);
const POLL_LAST: Duration = Duration::from_millis(320);

/// How opens are answered; `Auto` is what a user gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    Auto,
    /// For data that is larger than memory, which a bench on smaller data must say itself.
    Open,
}

/// One data set and the settings of the node that serves it.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) name: String,
    /// Path in the data set, prefix in the bucket.
    pub(crate) sources: Vec<(String, String)>,
    pub(crate) serving: Serving,
    /// Most bytes of the cache; `None`: as much as the disk allows.
    pub(crate) capacity_bytes: Option<u64>,
    /// More of the Dataset's spec and of the node's file, as they stand there.
    pub(crate) dataset_lines: String,
    pub(crate) node_lines: String,
}

/// One mount, its cache and its files, all below one folder of its own.
pub(crate) struct Node {
    binary: PathBuf,
    folder: PathBuf,
    mounted: bool,
    /// How many former caches lie beside this one.
    aside: u32,
    /// Where its processes live; `None`: where this one does.
    group: Option<Arc<Group>>,
}

impl Node {
    /// Writes the files; nothing runs yet.
    pub(crate) fn new(binary: &Path, folder: &Path, endpoint: &str, bucket: &str, setup: &Setup) -> Result<Self> {
        let Setup { name, sources, serving, capacity_bytes, dataset_lines, node_lines } = setup;
        let node = Self { binary: binary.to_path_buf(), folder: folder.to_path_buf(), mounted: false, aside: 0, group: None };
        for part in ["cache", "run", "mount"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let sources = sources.iter().map(|(path, prefix)| {
            let s3 = format!("{{ endpoint: \"{endpoint}\", region: us-east-1, addressing: Path }}");
            format!("    - {{ path: {path}, uri: \"s3://{bucket}/{prefix}\", s3: {s3} }}\n")
        });
        let dataset = format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: {name} }}\nspec:\n  sources:\n{}{dataset_lines}",
            sources.collect::<String>()
        );
        fs::write(node.dataset_file(), dataset)?;
        let capacity = capacity_bytes.map(|bytes| format!(", capacity: \"{bytes}\"")).unwrap_or_default();
        let config = format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: NodeConfig\ntiers:\n  - {{ path: \"{}\"{capacity}, keepFreePercent: 2 }}\nserving: {serving:?}\n{node_lines}",
            node.folder.join("cache").display()
        );
        fs::write(node.config_file(), config)?;
        Ok(node)
    }

    /// Its next mount has its processes in `group`.
    pub(super) fn inside(mut self, group: Arc<Group>) -> Self {
        self.group = Some(group);
        self
    }

    fn dataset_file(&self) -> PathBuf {
        self.folder.join("dataset.yaml")
    }
    fn config_file(&self) -> PathBuf {
        self.folder.join("node.yaml")
    }
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.folder.join("mount")
    }
    fn run_folder(&self) -> PathBuf {
        self.folder.join("run")
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = match &self.group {
            Some(group) if verb == "mount" => group.command(&self.binary),
            Some(_) | None => Command::new(&self.binary),
        };
        command.arg(verb).stdin(Stdio::null());
        command
            .env("FOREBAY_RUN", self.run_folder())
            .env("AWS_ACCESS_KEY_ID", serve::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", serve::SECRET_KEY);
        command
    }

    /// Mounts, and returns once the list of files is complete.
    pub(crate) fn mount(&mut self) -> Result<()> {
        self.begin()?;
        self.wait_listed()
    }

    /// Mounts; the listing goes on.
    pub(super) fn begin(&mut self) -> Result<()> {
        let mut command = self.command("mount");
        command.arg(self.dataset_file()).arg(self.mount_point()).arg("--config").arg(self.config_file());
        run(command, "mount")?;
        self.mounted = true;
        Ok(())
    }

    pub(super) fn wait_listed(&self) -> Result<()> {
        let (begin, mut pause) = (Instant::now(), POLL_FIRST);
        while !self.is_listed()? {
            ensure!(
                begin.elapsed() < READY_WITHIN,
                "{}: no manifest within {READY_WITHIN:?}: see `forebay-node status`",
                self.mount_point().display()
            );
            // Asking starts a process: where the listing takes long, often would be a load of its own.
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(POLL_LAST);
        }
        Ok(())
    }

    pub(crate) fn unmount(&mut self) -> Result<()> {
        if self.mounted {
            let mut command = self.command("unmount");
            command.arg(self.mount_point());
            run(command, "unmount")?;
            self.mounted = false;
            self.wait_gone()?;
        }
        Ok(())
    }

    /// `unmount` answers when the mount is gone; one that answers earlier is told, and doesn't cost the rows that follow.
    fn wait_gone(&self) -> Result<()> {
        let place = self.mount_point();
        let is_there = || -> Result<bool> { Ok(earlier::mounts_below(&place)?.contains(&place)) };
        let begin = Instant::now();
        if !is_there()? {
            return Ok(());
        }
        while is_there()? {
            ensure!(begin.elapsed() < GONE_WITHIN, "{} is still mounted {GONE_WITHIN:?} after `unmount` answered", place.display());
            std::thread::park_timeout(POLL_FIRST);
        }
        eprintln!("   {} was still mounted for {:?} after `unmount` had answered", place.display(), begin.elapsed());
        Ok(())
    }

    /// A fresh mount: the kernel knows nothing of it, the cache is kept, and so are its pages in memory.
    pub(crate) fn remount(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Brings what the store holds into memory, through its own files: the node lets go of pages that the mount holds too.
    pub(crate) fn warm_store_pages(&self) -> Result<()> {
        read_below(&self.folder.join("cache"))
    }

    /// A fresh mount over an empty cache. The former one is put aside until the row ends: ext4 hands out inodes that were freed a moment ago
    /// at a third of its speed, and deleting would be measured instead of filling.
    pub(crate) fn remount_empty(&mut self) -> Result<()> {
        self.empty()?;
        self.mount()
    }

    /// The same without the mount.
    pub(super) fn empty(&mut self) -> Result<()> {
        self.unmount()?;
        let cache = self.folder.join("cache");
        let aside = self.folder.join(format!("{ASIDE}{}", self.aside));
        fs::rename(&cache, &aside).with_context(|| format!("put {} aside", cache.display()))?;
        self.aside += 1;
        fs::create_dir_all(&cache)?;
        Ok(())
    }

    /// Ends it as a machine that is lost does: holder and daemon at once, by SIGKILL. What is left of the mount is taken away.
    pub(super) fn kill(&mut self) -> Result<()> {
        let pids = self.pids();
        ensure!(!pids.is_empty(), "{} tells no process", self.mount_point().display());
        // The holder last in the list would start another daemon.
        for pid in pids.iter().rev() {
            let pid = i32::try_from(*pid).ok().and_then(rustix::process::Pid::from_raw).context("a pid is positive")?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("kill a process of a mount")?;
        }
        self.mounted = false;
        earlier::detach(&self.mount_point())
    }

    fn remove_caches_aside(&self) -> Result<()> {
        for number in 0..self.aside {
            let aside = self.folder.join(format!("{ASIDE}{number}"));
            fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let mut command = self.command("status");
        command.arg(self.mount_point()).args(["-o", "json"]);
        serde_json::from_str(&run(command, "status")?).context("read the status as JSON")
    }

    fn is_listed(&self) -> Result<bool> {
        let status = self.status()?;
        let version = find(&status, "manifest").and_then(|manifest| find(manifest, "version")).and_then(Value::as_str).unwrap_or_default();
        Ok(!version.is_empty())
    }

    /// Every process of this mount, daemon and holder, as its status names them; none when it can't be asked.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let Ok(status) = self.status() else { return Vec::new() };
        let pid = |name: &str| find(&status, name).and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
        ["nodePid", "holderPid"].into_iter().filter_map(pid).collect()
    }

    /// The largest of its processes: the daemon.
    pub(crate) fn memory(&self) -> Memory {
        let each = self.pids().into_iter().filter_map(|pid| measure::memory_of(pid).ok());
        each.max_by_key(|memory| memory.resident).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.unmount().and_then(|()| self.remove_caches_aside()) {
            tracing::warn!("{error:#}");
        }
    }
}

/// Reads every file below `path` once. A living store renames and removes files meanwhile: what is gone needs no reading.
fn read_below(path: &Path) -> Result<()> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        if path.is_dir() {
            return fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
        }
        std::io::copy(&mut fs::File::open(path)?, &mut std::io::sink()).map(|_| Vec::new())
    };
    match read() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        Ok(below) => below.iter().try_for_each(|path| read_below(path)),
    }
}

/// The first field called `name`, at any depth.
pub(super) fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields.get(name).or_else(|| fields.values().find_map(|field| find(field, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn run(mut command: Command, verb: &str) -> Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("forebay-node {verb}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
