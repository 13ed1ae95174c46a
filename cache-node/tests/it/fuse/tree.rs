//! A data set in memory whose every byte can be recomputed: what a session serves in these tests.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_node::fs::{
    Attempt, Attributes, DirectoryRow, Error, Invalidation, IoMode, KeptFile, Kind, LocalFile, Node, NodeId, Opened, Serving, Statistics,
};
use forebay_node::fuse::Serve;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// How a tree is made; the same everywhere from the same plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) directories: u64,
    pub(crate) files_each: u64,
    /// File `n` has `size_base + (n * size_step) % size_modulus` bytes.
    pub(crate) size_base: u64,
    pub(crate) size_step: u64,
    pub(crate) size_modulus: u64,
    /// Where files lie as local ones (see `write_local`), if any do.
    pub(crate) local: Option<PathBuf>,
    /// Every n-th file is passed through; 0: none.
    pub(crate) passthrough_every: u64,
    pub(crate) no_open: bool,
    /// Lifetime of names and attributes.
    pub(crate) ttl_ms: u64,
    /// Every n-th read waits this long first, as a miss would; 0: none.
    pub(crate) slow_every: u64,
    pub(crate) slow_ms: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            directories: 4,
            files_each: 16,
            size_base: 1,
            size_step: 7919,
            size_modulus: 300_000,
            local: None,
            passthrough_every: 0,
            no_open: false,
            ttl_ms: 60_000,
            slow_every: 0,
            slow_ms: 0,
        }
    }
}

impl Plan {
    pub(crate) fn files(&self) -> u64 {
        self.directories * self.files_each
    }
    pub(crate) fn size(&self, file: u64) -> u64 {
        self.size_base + file * self.size_step % self.size_modulus
    }
    /// Path of a file below the mount.
    pub(crate) fn path(&self, file: u64) -> String {
        format!("d{:04}/f{file:06}", file / self.files_each)
    }
    pub(crate) fn is_passed_through(&self, file: u64) -> bool {
        self.passthrough_every != 0 && file.is_multiple_of(self.passthrough_every)
    }
    fn local_path(&self, folder: &Path, file: u64) -> PathBuf {
        folder.join(format!("{file:06}"))
    }
    /// Writes all files into `local`, for passthrough and for reads by `pread`.
    pub(crate) fn write_local(&self) {
        let folder = self.local.as_ref().unwrap();
        std::fs::create_dir_all(folder).unwrap();
        let mut bytes = Vec::new();
        let mut segment = File::create(folder.join("segment")).unwrap();
        for file in 0..self.files() {
            bytes.resize(self.size(file) as usize, 0);
            fill(file, 0, &mut bytes);
            segment.write_all(&bytes).unwrap();
            std::fs::write(self.local_path(folder, file), &bytes).unwrap();
        }
    }
}

/// The bytes of `file` from `offset` on. Never a zero byte, so that zeros from elsewhere show.
pub(crate) fn fill(file: u64, offset: u64, into: &mut [u8]) {
    let mut at = offset;
    let mut rest = into;
    while !rest.is_empty() {
        let word = word(file, at / 8).to_le_bytes();
        let skip = (at % 8) as usize;
        let take = (8 - skip).min(rest.len());
        rest[..take].copy_from_slice(&word[skip..skip + take]);
        at += take as u64;
        rest = &mut rest[take..];
    }
}

fn word(file: u64, index: u64) -> u64 {
    let mut mixed = (file << 32 ^ index).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 29;
    mixed | 0x0101_0101_0101_0101
}

/// Where `bytes`, read from `offset` of `file`, first differ.
pub(crate) fn first_wrong(file: u64, offset: u64, bytes: &[u8]) -> Option<usize> {
    let mut expected = vec![0; bytes.len()];
    fill(file, offset, &mut expected);
    (expected != bytes).then(|| expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap())
}

pub(crate) struct Tree {
    plan: Plan,
    /// All files, one after another, as a segment of the store has them.
    segment: Option<File>,
    starts: Vec<u64>,
    reads: std::sync::atomic::AtomicU64,
}

const DIRECTORY: u64 = 2;

/// A file that nobody evicts.
struct Local(File);

impl AsFd for Local {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl LocalFile for Local {
    fn keep(&self) -> Box<dyn KeptFile> {
        Box::new(Kept)
    }
}

struct Kept;

impl KeptFile for Kept {
    fn is_evicted(&self) -> bool {
        false
    }
}

impl Tree {
    pub(crate) fn new(plan: Plan) -> Self {
        let starts = (0..plan.files())
            .scan(0, |at, file| {
                *at += plan.size(file);
                Some(*at - plan.size(file))
            })
            .collect();
        let segment = plan.local.as_ref().map(|folder| File::open(folder.join("segment")).unwrap());
        Self { plan, segment, starts, reads: std::sync::atomic::AtomicU64::new(0) }
    }

    fn file_of(&self, id: NodeId) -> Result<u64, Error> {
        let file = (id.content() >> 2).checked_sub(1 << 20).filter(|file| *file < self.plan.files());
        if id.is_directory() { Err(Error::IsADirectory { id }) } else { file.ok_or(Error::Stale { id }) }
    }

    fn attributes_of(&self, id: NodeId, kind: Kind, size: u64) -> Attributes {
        let permissions = if kind == Kind::File { 0o444 } else { 0o555 };
        Attributes {
            id,
            kind,
            size,
            modified_seconds: 1_700_000_000,
            permissions,
            uid: 0,
            gid: 0,
            ttl: Duration::from_millis(self.plan.ttl_ms),
        }
    }

    fn node(&self, attributes: Attributes) -> Node {
        Node { id: attributes.id, attributes, entry_ttl: Duration::from_millis(self.plan.ttl_ms) }
    }

    fn file_node(&self, file: u64) -> Node {
        let mode = if self.plan.is_passed_through(file) { IoMode::Passthrough } else { IoMode::Cached };
        let id = NodeId((file + (1 << 20)) << 2).with_mode(mode);
        self.node(self.attributes_of(id, Kind::File, self.plan.size(file)))
    }

    fn directory_node(&self, directory: u64) -> Node {
        self.node(self.attributes_of(NodeId((directory + 1) << 2 | DIRECTORY), Kind::Directory, 0))
    }

    fn children(&self, id: NodeId) -> Result<Vec<(String, Node)>, Error> {
        let own = self.node(self.attributes_of(id, Kind::Directory, 0));
        let mut rows = vec![(".".to_owned(), own), ("..".to_owned(), own)];
        if id == NodeId::ROOT {
            rows.extend((0..self.plan.directories).map(|d| (format!("d{d:04}"), self.directory_node(d))));
        } else if id.is_directory() {
            let directory = (id.0 >> 2) - 1;
            let first = directory * self.plan.files_each;
            rows.extend((first..first + self.plan.files_each).map(|file| (format!("f{file:06}"), self.file_node(file))));
        } else {
            return Err(Error::NotADirectory { id });
        }
        Ok(rows)
    }

    fn look_up(&self, parent: NodeId, name: &[u8]) -> Result<Node, Error> {
        let name = std::str::from_utf8(name).map_err(|_| Error::NotFound)?;
        let number: u64 = name.get(1..).and_then(|digits| digits.parse().ok()).ok_or(Error::NotFound)?;
        if parent == NodeId::ROOT {
            return if number < self.plan.directories { Ok(self.directory_node(number)) } else { Err(Error::NotFound) };
        }
        let directory = (parent.0 >> 2) - 1;
        if number < self.plan.files() && number / self.plan.files_each == directory {
            Ok(self.file_node(number))
        } else {
            Err(Error::NotFound)
        }
    }

    fn read_into(&self, id: NodeId, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let file = self.file_of(id)?;
        let bytes = self.plan.size(file).saturating_sub(offset).min(into.len() as u64) as usize;
        match &self.segment {
            Some(segment) => segment.read_exact_at(&mut into[..bytes], self.starts[file as usize] + offset).unwrap(),
            None => fill(file, offset, &mut into[..bytes]),
        }
        Ok(bytes)
    }
}

impl Serve for Tree {
    fn try_lookup(&self, parent: NodeId, name: &[u8]) -> Attempt<Node> {
        Attempt::Ready(self.look_up(parent, name))
    }
    async fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Node, Error> {
        self.look_up(parent, name)
    }
    fn negative_ttl(&self) -> Duration {
        Duration::from_millis(self.plan.ttl_ms)
    }
    fn try_attributes(&self, id: NodeId) -> Attempt<Attributes> {
        Attempt::Ready(if id.is_directory() {
            Ok(self.attributes_of(id, Kind::Directory, 0))
        } else {
            self.file_of(id).map(|file| self.attributes_of(id, Kind::File, self.plan.size(file)))
        })
    }
    async fn attributes(&self, id: NodeId) -> Result<Attributes, Error> {
        match self.try_attributes(id) {
            Attempt::Ready(result) => result,
            Attempt::Wait => unreachable!(),
        }
    }
    fn try_open(&self, id: NodeId) -> Attempt<Opened> {
        if self.plan.no_open {
            return Attempt::Ready(Ok(Opened::NoOpen));
        }
        Attempt::Ready(self.file_of(id).map(|file| match (id.mode(), &self.plan.local) {
            (IoMode::Passthrough, Some(folder)) => {
                Opened::Passthrough(Arc::new(Local(File::open(self.plan.local_path(folder, file)).unwrap())))
            }
            _ => Opened::Cached,
        }))
    }
    async fn open(&self, id: NodeId) -> Result<Opened, Error> {
        match self.try_open(id) {
            Attempt::Ready(result) => result,
            Attempt::Wait => unreachable!(),
        }
    }
    fn try_read(&self, id: NodeId, offset: u64, into: &mut [u8]) -> Attempt<usize> {
        let reads = self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if self.plan.slow_every != 0 && reads.is_multiple_of(self.plan.slow_every) {
            return Attempt::Wait;
        }
        Attempt::Ready(self.read_into(id, offset, into))
    }
    async fn read(&self, id: NodeId, offset: u64, len: usize) -> Result<Bytes, Error> {
        tokio::time::sleep(Duration::from_millis(self.plan.slow_ms)).await;
        let mut bytes = vec![0; len];
        let read = self.read_into(id, offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }
    fn try_read_directory(&self, id: NodeId, cookie: u64, sink: &mut dyn FnMut(DirectoryRow<'_>) -> ControlFlow<()>) -> Attempt<()> {
        let rows = match self.children(id) {
            Ok(rows) => rows,
            Err(error) => return Attempt::Ready(Err(error)),
        };
        for (i, (name, node)) in rows.iter().enumerate().skip(cookie as usize) {
            if sink(DirectoryRow { cookie: i as u64 + 1, name: name.as_bytes(), node: *node }).is_break() {
                break;
            }
        }
        Attempt::Ready(Ok(()))
    }
    async fn prepare_directory(&self, _: NodeId) -> Result<(), Error> {
        Ok(())
    }
    fn statistics(&self) -> Statistics {
        let bytes = (0..self.plan.files()).map(|file| self.plan.size(file)).sum();
        Statistics { bytes, files: self.plan.files(), directories: self.plan.directories, complete: true }
    }
    fn extended_attribute_names(&self, _: NodeId) -> Result<Vec<&'static str>, Error> {
        Ok(vec!["user.forebay.source"])
    }
    fn extended_attribute(&self, _: NodeId, name: &[u8]) -> Result<Vec<u8>, Error> {
        if name == b"user.forebay.source" { Ok(b"memory:".to_vec()) } else { Err(Error::NoAttribute) }
    }
    fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        None
    }
    fn serving(&self) -> Serving {
        if self.plan.no_open { Serving::NoOpen } else { Serving::Open }
    }
}
