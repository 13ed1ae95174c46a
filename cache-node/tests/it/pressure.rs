//! Two data sets that share a cache smaller than both, read through real mounts of the real program, on terms that the operator changes meanwhile.

use std::fs;
use std::path::Path;

use forebay_wire::control_service::{DesiredDataset, ObservedDataset};
use forebay_wire::node_service::PreloadState;
use forebay_wire::volume_service::AttachRequest;

use crate::cluster::{Node, UID, skip};
use crate::fuse::child::Mount;
use crate::laptop::wait_until;

const OTHER: &str = "0d9a4b1c-0000-4000-8000-000000000002";
const FILES: u64 = 40;
const BYTES: usize = 100_000;
/// Of a file: whole pages.
const CHARGE: u64 = 102_400;
/// So many files of both fit.
const FIT: u64 = 40;

/// A node with two data sets of 40 files each and room for 40.
struct Pair {
    // Unmounted before the node ends.
    mounts: Vec<Mount>,
    node: Node,
    generation: u32,
}

fn bytes_of(dataset: usize, file: u64) -> Vec<u8> {
    (0..BYTES).map(|at| (at as u64 * 31 + file * 7 + dataset as u64 * 101) as u8).collect()
}

impl Pair {
    fn start(terms: [&str; 2], config: &str) -> Self {
        let node = Node::start_with(&format!(", capacity: {}", FIT * CHARGE + FIT * CHARGE / 1000), config);
        for dataset in 0..2 {
            let bucket = node.path(&format!("bucket{dataset}"));
            fs::create_dir(&bucket).unwrap();
            (0..FILES).for_each(|file| fs::write(bucket.join(format!("f{file}")), bytes_of(dataset, file)).unwrap());
        }
        let mut pair = Self { mounts: Vec::new(), node, generation: 0 };
        pair.tell(terms);
        for (dataset, uid) in [UID, OTHER].into_iter().enumerate() {
            let (mount, holder) = (pair.node.path(&format!("mount{dataset}")), pair.node.path(&format!("holder{dataset}.sock")));
            fs::create_dir(&mount).unwrap();
            pair.mounts.push(Mount::new(&mount, &holder));
            let request = AttachRequest { uid: uid.to_owned(), holder: holder.display().to_string() };
            pair.node.runtime.block_on(pair.node.volumes().attach(request)).unwrap();
        }
        pair
    }

    /// What the operator says of each, as JSON behind the source.
    fn tell(&mut self, terms: [&str; 2]) {
        self.generation += 1;
        let of = |dataset: usize, uid: &str, rest: &str| {
            let told = self.node.dataset(uid, rest);
            let object = told
                .object
                .replace("/bucket\"", &format!("/bucket{dataset}\""))
                .replace(r#""name":"t""#, &format!(r#""name":"t{dataset}""#));
            DesiredDataset { object, ..told }
        };
        let datasets = vec![of(0, UID, terms[0]), of(1, OTHER, terms[1])];
        self.node.sync(&self.generation.to_string(), Some(datasets));
    }

    /// Reads all files of a data set, by a fresh open each; all bytes are right.
    fn read(&self, dataset: usize) {
        for file in 0..FILES {
            let path = self.node.path(&format!("mount{dataset}/f{file}"));
            assert!(fs::read(&path).unwrap() == bytes_of(dataset, file), "{}", path.display());
            forget(&path);
        }
    }

    fn observed(&self) -> [ObservedDataset; 2] {
        let datasets = self.node.sync("", None).datasets;
        [UID, OTHER].map(|uid| datasets.iter().find(|dataset| dataset.uid == uid).unwrap().clone())
    }

    /// How many files the store holds of each.
    fn held(&self) -> [u64; 2] {
        self.observed().map(|observed| observed.status.unwrap().stored_bytes / CHARGE)
    }

    /// Reads both again and again until each has what it is to have.
    fn settle(&self, what: &str, is_right: impl Fn([u64; 2]) -> bool) {
        wait_until(what, || {
            self.read(0);
            self.read(1);
            is_right(self.held())
        });
    }
}

/// Has the kernel ask again for its bytes.
fn forget(path: &Path) {
    let file = fs::File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn s_19_two_data_sets_under_pressure_have_what_priority_and_quota_say_in_each_policy() {
    if skip() {
        return;
    }
    for eviction in ["Hold", "LRU", "S3FIFO"] {
        let terms = |rest: &str| format!(r#","eviction":"{eviction}"{rest}"#);
        let (plain, first, small) = (terms(""), terms(r#","priority":10"#), terms(r#","priority":10,"quota":1048576"#));
        let mut pair = Pair::start([&plain, &plain], "");
        pair.settle("both to share", |held| held[0] + held[1] >= FIT - 1 && held[0] >= 8 && held[1] >= 8);
        pair.tell([&plain, &first]);
        pair.settle("the first to have given way", |held| held == [0, FIT]);
        // Ten files fit into the quota, and are all that leaves no room to the other.
        pair.tell([&plain, &small]);
        wait_until("the quota to be brought about, without a read", || pair.held() == [0, 10]);
        pair.settle("the other to have the rest", |held| held == [30, 10]);
        pair.tell([&plain, &first]);
        pair.settle("all of it again", |held| held == [0, FIT]);
        assert_eq!(pair.node.log().matches("ready").count(), 1, "{eviction}: in the same process");
        let [_, other] = pair.observed();
        let status = other.status.unwrap();
        assert_eq!((status.priority, status.quota_bytes), (10, None));
    }
}

#[test]
fn a_preload_of_more_than_the_quota_says_so_and_goes_on_when_it_is_raised() {
    if skip() {
        return;
    }
    let pin = |rest: &str| format!(r#","rules":[{{"path":"/","cache":"Pin"}}]{rest}"#);
    let (whole, small) = (pin(""), pin(r#","quota":"1Mi""#));
    // What the kernel reads by itself keeps its room for a while when it leaves, and a preload doesn't wait for that.
    let mut pair = Pair::start(["", &small], "passthrough: { enabled: false }\n");
    let done = |pair: &Pair| {
        let [_, observed] = pair.observed();
        let preload = observed.status.clone().unwrap().preload.unwrap_or_default();
        (preload.state() == PreloadState::Done).then_some((observed, preload))
    };
    wait_until("the preload", || done(&pair).is_some());
    let (observed, preload) = done(&pair).unwrap();
    let status = observed.status.unwrap();
    assert_eq!((observed.wanted_bytes, observed.wanted_held_bytes), (10 * BYTES as u64, 10 * BYTES as u64));
    assert_eq!((status.quota_bytes, status.stored_bytes), (Some(1 << 20), 10 * CHARGE));
    assert_eq!(
        (preload.bytes_over_quota, status.source_bytes),
        (30 * BYTES as u64, 10 * BYTES as u64),
        "nothing was fetched to be refused"
    );
    pair.read(0);
    pair.read(1);
    assert_eq!(pair.held(), [30, 10], "what is over the quota is read through");
    pair.tell(["", &whole]);
    wait_until("all of it", || pair.held() == [0, FIT]);
    wait_until("the preload to be told as done", || done(&pair).is_some_and(|(_, preload)| preload.bytes_over_quota == 0));
    pair.tell(["", &small]);
    wait_until("the quota to hold for pins too", || pair.held()[1] == 10);
    let [_, observed] = pair.observed();
    assert!(observed.status.unwrap().quota_bytes.is_some());
}
