//! The data set: files by number, their paths, sizes and bytes, all computed.
//! Knows numbers. Does not know who has what.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use forebay_manifest::{BuildOptions, Builder, EntryIndex, Manifest, MountedSource, SourceIndex};
use forebay_node::fs::for_each_below;
use forebay_wire::block::{BlockSize, ObjectId, ObjectRef};

use crate::chance::mix;

pub(crate) const BLOCK_BYTES: u64 = 64 << 10;
/// One file in so many has several blocks.
const LARGE_ONE_OF: u64 = 40;
pub(crate) const VERSION: &[u8] = b"v1";
pub(crate) const SOURCE: &str = "s3://simulated/";
pub(crate) const DATASET: &str = "sim/data";

/// The files.
pub(crate) struct Data {
    seed: u64,
    /// What the nodes make of the source's name: part of each object's id.
    identity: String,
    pub(crate) files: u32,
    /// Of each file, its row in the manifest.
    pub(crate) entries: Vec<EntryIndex>,
    /// The list of files as every node has it at its start.
    pub(crate) manifest: PathBuf,
    /// Of each file, the number of its first block; of one more, how many there are.
    firsts: Vec<u32>,
}

pub(crate) fn key(file: u32) -> String {
    format!("d{:04}/f{file:07}", file / 1000)
}

/// The number of a file from its key or path.
pub(crate) fn number(key: &[u8]) -> Option<u32> {
    let digits = key.rsplit(|byte| *byte == b'f').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub(crate) fn block_size() -> BlockSize {
    BlockSize::new(BLOCK_BYTES).expect("64 KiB is the least")
}

impl Data {
    /// Builds the list of files below `folder`.
    pub(crate) fn new(seed: u64, files: u32, folder: &Path) -> Result<Self> {
        let identity = format!("{SOURCE} for {DATASET}");
        let sources = vec![MountedSource { name: identity.clone(), mount_path: "/".to_owned() }];
        let options = BuildOptions { term: 1, sequence: 1, created_seconds: 0, sources };
        let mut data =
            Self { seed, identity, files, entries: vec![EntryIndex(0); files as usize], manifest: PathBuf::new(), firsts: vec![0] };
        let mut builder = Builder::new(folder, options)?;
        for file in 0..files {
            builder.push_row(SourceIndex(0), key(file).as_bytes(), data.size(file), 0, VERSION)?;
            let first = data.firsts[file as usize];
            data.firsts.push(first + block_size().count(data.size(file)));
        }
        data.manifest = builder.finish()?;
        let manifest = Manifest::open(&data.manifest)?;
        let (entries, mut outcome) = (&mut data.entries, Ok(()));
        for_each_below(&manifest, b"/", &mut |entry, _| {
            let file = manifest.path(entry).map(|path| number(&path));
            match file {
                Ok(Some(file)) => entries[file as usize] = entry,
                Ok(None) => outcome = Err(anyhow::anyhow!("a path of the list is none of ours")),
                Err(error) => outcome = Err(error.into()),
            }
        })
        .context("read the list that was built")?;
        outcome.map(|()| data)
    }

    pub(crate) fn size(&self, file: u32) -> u64 {
        let chance = mix(self.seed ^ u64::from(file));
        match chance % LARGE_ONE_OF {
            0 => BLOCK_BYTES * 2 + (chance >> 8) % (BLOCK_BYTES * 3),
            _ => 100 + (chance >> 8) % 3000,
        }
    }

    /// `[from, to)` of a file.
    pub(crate) fn bytes(&self, file: u32, from: u64, to: u64) -> Bytes {
        let mut bytes = Vec::with_capacity((to - from) as usize + 16);
        for at in from / 8..to.div_ceil(8) {
            bytes.extend_from_slice(&mix(self.seed ^ (u64::from(file) << 32) ^ at).to_le_bytes());
        }
        let begin = (from % 8) as usize;
        Bytes::from(bytes).slice(begin..begin + (to - from) as usize)
    }

    pub(crate) fn object(&self, file: u32) -> ObjectRef {
        ObjectRef { id: ObjectId::new(&self.identity, key(file).as_bytes(), VERSION), size: self.size(file) }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.firsts[self.files as usize] as usize
    }
    pub(crate) fn blocks_of(&self, file: u32) -> u32 {
        self.firsts[file as usize + 1] - self.firsts[file as usize]
    }
    /// A block's number among all.
    pub(crate) fn block(&self, file: u32, index: u32) -> usize {
        (self.firsts[file as usize] + index) as usize
    }
}
