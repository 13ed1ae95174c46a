//! Random operations on a filesystem over a source that changes behind its back, against a model of what may be seen.
//!
//! The model keeps every version that a name ever had, with the moment it went. A name may show a version that is current, or that was current
//! when the last sync began; after a fill found it gone, no older one. Bytes of an open file are of its version, or `ESTALE`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use forebay_node::fs::{Error, NodeId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::memory_source::{MemorySource, pattern};
use crate::semantics::{Rig, config, serve_with, settle};

/// Contents are a function of the version's number, so a read tells which version it saw.
pub(crate) fn contents(version: u64) -> Vec<u8> {
    let len = match version % 7 {
        0 => 0,
        1..=4 => version * 37 % 5000 + 1,
        5 => 65_536 + version % 3 - 1,
        _ => 100_000 + version * 101 % 100_000,
    };
    pattern(version, usize::try_from(len).unwrap()).to_vec()
}

/// An inode that was looked up: which version its bytes must be of.
struct Open {
    id: NodeId,
    version: u64,
}

struct Model {
    rng: StdRng,
    source: std::sync::Arc<MemorySource>,
    /// What the source has now.
    now: BTreeMap<String, u64>,
    /// What it had when the last sync began.
    synced: BTreeMap<String, u64>,
    /// Versions that a name may show besides: what a fill's repair may have found since the sync.
    since: BTreeMap<String, BTreeSet<u64>>,
    /// Names that may also be absent: deleted at some time since the sync.
    gone: BTreeSet<String>,
    open: Vec<Open>,
    next: u64,
}

impl Model {
    fn key(&mut self) -> String {
        format!("d{}/f{}", self.rng.random_range(0..4), self.rng.random_range(0..12))
    }

    fn put(&mut self) {
        let key = self.key();
        self.next += 1;
        // The source numbers its versions the same way.
        let version = self.source.put(key.as_bytes(), contents(self.next));
        assert_eq!(version, self.next);
        self.now.insert(key.clone(), version);
        self.since.entry(key).or_default().insert(version);
    }

    fn delete(&mut self) {
        let key = self.key();
        self.source.delete(key.as_bytes());
        self.now.remove(&key);
        self.gone.insert(key);
    }

    async fn sync(&mut self, rig: &Rig) {
        rig.sync().await;
        self.synced = self.now.clone();
        self.since.clear();
        self.gone.clear();
    }

    fn may_show(&self, key: &str, version: u64) -> bool {
        self.synced.get(key) == Some(&version) || self.since.get(key).is_some_and(|versions| versions.contains(&version))
    }

    async fn look_up(&mut self, rig: &Rig) {
        let key = self.key();
        match rig.find(&key).await {
            Ok(found) => {
                let version = rig.fs().extended_attribute(found.id, b"user.forebay.version").unwrap();
                let version: u64 = String::from_utf8(version).unwrap()[1..].parse().unwrap();
                assert!(self.may_show(&key, version), "{key} shows v{version}");
                assert_eq!(found.attributes.size, contents(version).len() as u64);
                self.open.push(Open { id: found.id, version });
            }
            Err(Error::NotFound | Error::Stale { .. }) => {
                let certain = self.synced.get(&key).is_some_and(|version| self.now.get(&key) == Some(version)) && !self.gone.contains(&key);
                assert!(!certain, "{key} is hidden");
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }

    async fn read(&mut self, rig: &Rig) {
        if self.open.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.open.len());
        let (id, version) = (self.open[at].id, self.open[at].version);
        let whole = contents(version);
        let offset = self.rng.random_range(0..=whole.len() + 10);
        let len = self.rng.random_range(1..=70_000);
        let expected = &whole[offset.min(whole.len())..(offset + len).min(whole.len())];
        match rig.read(id, offset as u64, len).await {
            Ok(bytes) => assert!(bytes == expected, "v{version} at {offset}: {} bytes, {} expected", bytes.len(), expected.len()),
            Err(Error::Stale { .. }) => {
                assert!(!self.now.values().any(|now| *now == version), "v{version} is in the source and can be read");
                self.open.swap_remove(at);
            }
            Err(error) => panic!("v{version}: {error}"),
        }
    }

    async fn list(&mut self, rig: &Rig) {
        let folder = format!("d{}", self.rng.random_range(0..4));
        let Ok(found) = rig.find(&folder).await else { return };
        let names = rig.names(found.id).await;
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once: {names:?}");
        for (key, version) in &self.synced {
            if let Some(name) = key.strip_prefix(&format!("{folder}/"))
                && self.now.get(key) == Some(version)
                && !self.gone.contains(key)
            {
                assert!(names.iter().any(|other| other == name), "{key} is not listed");
            }
        }
    }
}

pub(crate) fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_seen_is_what_the_model_allows() {
    // `FOREBAY_TORTURE=1` and other small numbers only switch the long form on.
    let operations = from_environment("FOREBAY_TORTURE").map_or(5000, |count| if count > 1 { count } else { 100_000 });
    let seed = from_environment("FOREBAY_SEED").unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed} operations={operations}");
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let mut model = Model {
        rng: StdRng::seed_from_u64(seed),
        source: source.clone(),
        now: BTreeMap::new(),
        synced: BTreeMap::new(),
        since: BTreeMap::new(),
        gone: BTreeSet::new(),
        open: Vec::new(),
        next: 0,
    };
    for _ in 0..40 {
        model.put();
    }
    // So small that blocks are refused and evicted all the time.
    let small = || config(folder.path(), 2 << 20);
    let mut rig = serve_with(&source, small(), "").await;
    let mut kernel = rig.fs().invalidations().unwrap();
    rig.listed().await;
    model.sync(&rig).await;
    for step in 0..operations {
        match model.rng.random_range(0..1000) {
            0..60 => model.put(),
            60..90 => model.delete(),
            90..95 => model.sync(&rig).await,
            95..97 => {
                settle(&rig).await;
                let _ = forebay_node::control::Control::free(&*rig.node, vec!["/".into()]).await;
            }
            97 if step % 7 == 0 => {
                settle(&rig).await;
                rig.stop().await;
                rig = serve_with(&source, small(), "").await;
                kernel = rig.fs().invalidations().unwrap();
                // Repairs are not kept over a restart, inodes that only they knew answer ESTALE; the listing at the start is a sync.
                model.open.clear();
                model.sync(&rig).await;
            }
            97..500 => model.look_up(&rig).await,
            500..550 => model.list(&rig).await,
            _ => model.read(&rig).await,
        }
        // The kernel takes what it is told.
        while kernel.try_recv().is_ok() {}
        if model.open.len() > 200 {
            model.open.drain(..100);
        }
    }
    rig.stop().await;
}
