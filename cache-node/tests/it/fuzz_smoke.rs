//! The checks of the fuzz targets, over what the targets begin with (an input that broke one is there, too),
//! changed at random: what they find is found in every `make test`, only less of it.

use std::path::Path;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/config_decode.rs"]
mod config_decode;
#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/key_mapping.rs"]
mod key_mapping;
#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/listing_xml.rs"]
mod listing_xml;
#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/manifest_decode.rs"]
mod manifest_decode;
#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/segment_decode.rs"]
mod segment_decode;

/// The inputs that the target begins with, as `fuzz/run.sh` takes them, and an empty one.
fn corpus(target: &str, more: &[&str]) -> Vec<Vec<u8>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = [repository.join("fuzz/seeds").join(target)].into_iter().chain(more.iter().map(|folder| repository.join(folder)));
    let rows = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let mut paths: Vec<_> = rows.map(|row| row.unwrap().path()).filter(|path| path.is_file()).collect();
    assert!(!paths.is_empty(), "{target} begins with nothing");
    paths.sort();
    [Vec::new()].into_iter().chain(paths.iter().map(|path| std::fs::read(path).unwrap())).collect()
}

/// Runs `check` on each input of `target` and of the folders `more`, then on `rounds` changed copies (a hundred times as many in the long form).
fn smoke(target: &str, more: &[&str], rounds: u32, check: impl Fn(&[u8])) {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let corpus = corpus(target, more);
    println!("FOREBAY_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    corpus.iter().for_each(|bytes| check(bytes));
    let rounds = if std::env::var_os("FOREBAY_TORTURE").is_some() { rounds * 100 } else { rounds };
    for _ in 0..rounds {
        let mut bytes = corpus[random.random_range(0..corpus.len())].to_vec();
        for _ in 0..random.random_range(1..8) {
            change(&mut bytes, &corpus, &mut random);
        }
        check(&bytes);
    }
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut SmallRng) {
    let at = random.random_range(0..=bytes.len());
    match random.random_range(0..6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.random()),
        2 if at < bytes.len() => bytes[at] = random.random(),
        3 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        4 if at < bytes.len() => {
            let end = (at + random.random_range(1..20)).min(bytes.len());
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            let other = &corpus[random.random_range(0..corpus.len())];
            if !other.is_empty() {
                let start = random.random_range(0..other.len());
                let end = (start + random.random_range(1..40)).min(other.len());
                bytes.splice(at..at, other[start..end].iter().copied());
            }
        }
    }
}

#[test]
fn keys_of_any_bytes_map_to_paths_inside_the_mount() {
    smoke("key_mapping", &[], 20_000, key_mapping::check);
}

#[test]
fn manifests_of_any_bytes_are_read_or_refused() {
    smoke("manifest_decode", &["cache-node/manifest/tests/golden"], 300, manifest_decode::check);
}

#[test]
fn files_of_any_text_are_read_or_refused() {
    smoke("config_decode", &["examples"], 2000, config_decode::check);
}

#[test]
fn a_store_changed_at_will_gives_right_bytes_or_none() {
    smoke("segment_decode", &[], 100, segment_decode::check);
}

#[test]
fn listings_of_any_bytes_are_read_or_refused() {
    smoke("listing_xml", &[], 20_000, listing_xml::check);
}
