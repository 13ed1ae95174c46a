//! The file's format: what was written by an older program still opens, and the same listing still gives the same bytes.

use super::model::{Rows, build, check, put};
use crate::Manifest;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/manifest-1.bin");
const MOUNTS: [&str; 2] = ["/", "/labels"];

fn rows() -> Rows {
    let mut rows = Rows::new();
    for number in 0..100u64 {
        let version = format!("{:032x}", u128::from(number) * 0x1234_5678_9abc_def0_1234_5678);
        put(&mut rows, 0, format!("train/n{:04}/{number:03}.JPEG", number / 25).as_bytes(), number * 1000, &version);
        put(&mut rows, 1, format!("{number}.txt").as_bytes(), number, &format!("{version}-{number}"));
    }
    for key in ["/leading", "a//b", "a/../b", "a", "a/./c", "nul\0", "empty/", "bytes/ and/", "train", "caf\u{e9}\n"] {
        put(&mut rows, 0, key.as_bytes(), u64::from(key != "empty/") * 9, "opaque-version");
    }
    put(&mut rows, 0, &[b"x".repeat(300), b"/\xff".to_vec()].concat(), 1, "");
    rows
}

#[test]
fn the_first_format_still_opens_and_is_still_written() {
    let folder = tempfile::tempdir().unwrap();
    let built = build(folder.path(), &MOUNTS, 7, &rows());
    let bytes = std::fs::read(built.file()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &bytes).unwrap();
    }
    let golden = Manifest::open(GOLDEN.as_ref()).unwrap();
    golden.verify().unwrap();
    check(&golden, &MOUNTS, &rows());
    assert_eq!(golden.summary(), built.summary());
    assert!(std::fs::read(GOLDEN).unwrap() == bytes, "a change of the bytes needs a new format version and its own golden file");
}
