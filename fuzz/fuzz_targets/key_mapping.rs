//! Any key maps to a path without a part that could leave the mount, or to none.
#![no_main]

use forebay_manifest::key::{DEPTH_MAX, Mapped, NAME_BYTES_MAX, beside_folder, to_path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (size, key) = input;
    let path = match to_path(key, size) {
        Mapped::Plain(path) => {
            assert_eq!(path, key);
            path.to_vec()
        }
        Mapped::Renamed(path, problem) => {
            assert!(!problem.is_unreachable() && path != key);
            path
        }
        Mapped::Folder(path) if path.is_empty() => return,
        Mapped::Folder(path) => path.into_owned(),
        Mapped::Unreachable(problem) => return assert!(problem.is_unreachable()),
    };
    let mut depth = 0;
    for part in path.split(|byte| *byte == b'/') {
        depth += 1;
        assert!(!part.is_empty() && part != b"." && part != b".." && part.len() <= NAME_BYTES_MAX && !part.contains(&0));
        assert!(beside_folder(part).len() <= NAME_BYTES_MAX && beside_folder(part) != part);
    }
    assert!(depth <= DEPTH_MAX);
});
