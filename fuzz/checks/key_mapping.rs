//! Any key maps to a path without a part that could leave the mount, or to none. The first eight bytes are the object's size.

use forebay_manifest::key::{DEPTH_MAX, Mapped, NAME_BYTES_MAX, beside_folder, to_path};

pub fn check(bytes: &[u8]) {
    let Some((size, key)) = bytes.split_first_chunk() else { return };
    let path = match to_path(key, u64::from_le_bytes(*size)) {
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
}
