//! A thousand odd keys through the filesystem: each object is read back once at a path that POSIX can name, or is counted. Whether a key has
//! the path that its rule states is the manifest's own test.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use forebay_manifest::key::{DEPTH_MAX, KEY_BYTES_MAX};
use forebay_node::fs::{Attempt, Kind, NodeId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::memory_source::MemorySource;
use crate::semantics::{Rig, serve};

const KEYS: usize = 1000;

/// A part of a key: most that a filesystem, a shell or a decoder stumbles over.
fn part(rng: &mut StdRng) -> Vec<u8> {
    let odd: [&[u8]; 20] = [
        b"",
        b".",
        b"..",
        b"...",
        b"a",
        b"b",
        b"a%file",
        b"%2F",
        b"%2E%2E",
        b"\n",
        b"\0",
        b"a\0b",
        b" ",
        b"\xff\xfe",
        b"\xc3",
        "ä".as_bytes(),
        b"-rf",
        b"\\",
        b"*",
        b"a%00b",
    ];
    match rng.random_range(0..10) {
        0 => vec![b'x'; rng.random_range(250..=300)],
        // Characters of three bytes, so that a cut may fall into one.
        1 => "語".repeat(rng.random_range(84..=90)).into_bytes(),
        _ => odd.choose(rng).expect("not empty").to_vec(),
    }
}

fn key(rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..100) {
        0 => vec![b'/'; rng.random_range(DEPTH_MAX - 2..=DEPTH_MAX + 2)],
        1 => vec![b'k'; rng.random_range(KEY_BYTES_MAX - 1..=KEY_BYTES_MAX + 1)],
        _ => {
            let parts: Vec<Vec<u8>> = (0..rng.random_range(1..=4)).map(|_| part(rng)).collect();
            parts.join(&b'/')
        }
    }
}

/// Contents of every file of the tree, each with its path.
async fn files(rig: &Rig) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![(NodeId::ROOT, Vec::new())];
    while let Some((folder, path)) = folders.pop() {
        rig.fs().prepare_directory(folder).await.unwrap();
        let mut rows = Vec::new();
        let listed = rig.fs().try_read_directory(folder, 0, &mut |row| {
            rows.push((row.name.to_vec(), row.node));
            ControlFlow::Continue(())
        });
        assert!(matches!(listed, Attempt::Ready(Ok(()))));
        for (name, row) in rows.split_off(2) {
            let path = [&path[..], b"/", &name].concat();
            let shown = path.escape_ascii().to_string();
            assert!(!name.is_empty() && name.len() <= 255 && name != b"." && name != b"..", "{shown}");
            assert!(!name.contains(&0) && !name.contains(&b'/'), "{shown}");
            let node = rig.fs().lookup(folder, &name).await.unwrap_or_else(|error| panic!("{shown} is listed: {error}"));
            assert_eq!(node.id.content(), row.id.content(), "{shown}");
            match node.attributes.kind {
                Kind::Directory => folders.push((node.id, path)),
                Kind::File => {
                    let size = usize::try_from(node.attributes.size).unwrap();
                    found.push((path, rig.read(node.id, 0, size + 1).await.unwrap_or_else(|error| panic!("{shown}: {error}"))));
                }
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_key_is_read_back_at_one_path_or_counted() {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (source, folder) = (MemorySource::new(), tempfile::tempdir().unwrap());
    let mut keys = BTreeSet::new();
    while keys.len() < KEYS {
        keys.insert(key(&mut rng));
    }
    for (number, key) in keys.iter().enumerate() {
        // The contents tell which object it was; a folder marker is one without.
        let marker = key.ends_with(b"/") && rng.random_range(0..2) == 0;
        source.put(key, if marker { Vec::new() } else { format!("{number}").into_bytes() });
    }
    let rig = serve(&source, folder.path(), "").await;
    rig.listed().await;
    let found = files(&rig).await;
    let paths: BTreeSet<_> = found.iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), found.len(), "a path each");
    let contents: BTreeSet<_> = found.iter().map(|(_, bytes)| bytes).filter(|bytes| !bytes.is_empty()).collect();
    let full = found.iter().filter(|(_, bytes)| !bytes.is_empty()).count();
    assert_eq!(contents.len(), full, "an object shows at one path only");
    let manifest = rig.fs().manifest().unwrap();
    let unreachable = manifest.summary().problems.unreachable();
    let markers = source.empty();
    // A marker is no file, whether or not it was counted as having another key's path.
    let objects = (KEYS - markers) as u64;
    assert!(full as u64 + unreachable >= objects && full as u64 <= objects, "{full} of {objects} found, {unreachable} counted");
    assert!(unreachable > 0 && unreachable < KEYS as u64 / 2, "{unreachable} unreachable: the keys are odd, not hopeless");
    rig.stop().await;
}
