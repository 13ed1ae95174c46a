//! The checks of the fuzz targets, over a small corpus that is changed at random: what they find is found in every `make test`, only less of it.

use forebay_source::probe::read_listing;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/config_decode.rs"]
mod config_decode;
#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/key_mapping.rs"]
mod key_mapping;
#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/manifest_decode.rs"]
mod manifest_decode;
#[expect(unreachable_pub, reason = "a fuzz target includes it, too")]
#[path = "../../../fuzz/checks/segment_decode.rs"]
mod segment_decode;

/// Runs `check` on each of `corpus`, then on `rounds` changed copies (a hundred times as many in the long form).
fn smoke(corpus: &[&[u8]], rounds: u32, check: impl Fn(&[u8])) {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    corpus.iter().for_each(|bytes| check(bytes));
    let rounds = if std::env::var_os("FOREBAY_TORTURE").is_some() { rounds * 100 } else { rounds };
    for _ in 0..rounds {
        let mut bytes = corpus[random.random_range(0..corpus.len())].to_vec();
        for _ in 0..random.random_range(1..8) {
            change(&mut bytes, corpus, &mut random);
        }
        check(&bytes);
    }
}

fn change(bytes: &mut Vec<u8>, corpus: &[&[u8]], random: &mut SmallRng) {
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
            let other = corpus[random.random_range(0..corpus.len())];
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
    let corpus: [&[u8]; 6] =
        [b"\0\0\0\0\0\0\0\0a/b", b"\x01\0\0\0\0\0\0\0/a//b/", b"\0\0\0\0\0\0\0\0a/../..", &[b'x'; 300], b"12345678a\0b/.", b""];
    smoke(&corpus, 20_000, key_mapping::check);
}

#[test]
fn manifests_of_any_bytes_are_read_or_refused() {
    smoke(&[include_bytes!("../../manifest/tests/golden/manifest-1.bin")], 300, manifest_decode::check);
}

#[test]
fn files_of_any_text_are_read_or_refused() {
    let corpus: [&[u8]; 5] = [
        include_bytes!("../../../examples/dataset.yaml"),
        include_bytes!("../../../examples/node.yaml"),
        include_bytes!("../../../examples/private-server.yaml"),
        include_bytes!("../../../examples/public-bucket.yaml"),
        include_bytes!("../../../examples/several-sources.yaml"),
    ];
    smoke(&corpus, 2000, config_decode::check);
}

#[test]
fn a_store_changed_at_will_gives_right_bytes_or_none() {
    let corpus: [&[u8]; 3] = [b"", b"\x05\x10\x00\x00\x02\xff\x06\x00\x00\x00\x03\x01", &[7; 60]];
    smoke(&corpus, 100, segment_decode::check);
}

#[test]
fn listings_of_any_bytes_are_read_or_refused() {
    let corpus: [&[u8]; 4] = [
        b"<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a/b&amp;c</Key><ETag>&quot;x&quot;</ETag>\
          <Size>5</Size><LastModified>2009-10-12T17:50:30.000Z</LastModified></Contents><CommonPrefixes><Prefix>a/d/</Prefix>\
          </CommonPrefixes></ListBucketResult>",
        b"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated><Contents><Key>a/%41+b</Key><Size>0</Size>\
          </Contents></ListBucketResult>",
        b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
        b"",
    ];
    smoke(&corpus, 20_000, |bytes| {
        for prefix in [&b""[..], b"a/"] {
            assert!(read_listing(bytes, prefix).is_none_or(|keys| keys <= bytes.len()));
        }
    });
}
