//! Files whose sizes lie at the boundaries of pages and blocks, one byte less and one more, through the real program and the real kernel:
//! whole, and read at each boundary, by calls and through mappings, in each way that files are served.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use memmap2::{Advice, Mmap};

use crate::fuse::can_mount;
use crate::fuse::tree::{fill, first_wrong};
use crate::laptop::Laptop;

const PAGE: u64 = 4096;
/// The smallest that a node may have.
const BLOCK: u64 = 64 << 10;

fn sizes() -> Vec<u64> {
    let boundaries = (0..=18).map(|pages| pages * PAGE).chain((1..=5).map(|blocks| blocks * BLOCK)).chain([31 * PAGE, 33 * PAGE]);
    let mut sizes: Vec<u64> = boundaries.flat_map(|at| [at.saturating_sub(1), at, at + 1]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn check(laptop: &Laptop, number: u64, size: u64, how: &str) {
    let path = laptop.path("data").join(format!("f{number}"));
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, size, "{how}: file {number}");
    assert_eq!(first_wrong(number, 0, &whole), None, "{how}: file {number} of {size} bytes");
    let file = File::open(&path).unwrap();
    let mut bytes = [0; 2 * PAGE as usize];
    for boundary in (0..=size + PAGE).step_by(PAGE as usize) {
        for offset in [boundary.saturating_sub(1), boundary, boundary + 1] {
            for len in [1, 2, PAGE - 1, PAGE, PAGE + 1] {
                // From the daemon or the disk, not from the pages of the read before.
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                let read = file.read_at(&mut bytes[..len as usize], offset).unwrap();
                assert_eq!(read as u64, size.saturating_sub(offset).min(len), "{how}: file {number} of {size} bytes at {offset}");
                assert_eq!(first_wrong(number, offset, &bytes[..read]), None, "{how}: file {number} of {size} bytes at {offset}");
            }
        }
    }
}

/// Through a mapping: whole, and the bytes around each boundary, each time by page faults of their own.
fn check_mapped(laptop: &Laptop, number: u64, size: u64, how: &str) {
    let file = File::open(laptop.path("data").join(format!("f{number}"))).unwrap();
    let map = || {
        // A page that is mapped stays: the mapping before this one is gone.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        // SAFETY: nothing changes the file while it is mapped, and the mapping is read only here.
        unsafe { Mmap::map(&file) }
    };
    if size == 0 {
        assert!(map().is_ok_and(|mapping| mapping.is_empty()), "{how}: an empty file");
        return;
    }
    assert_eq!(first_wrong(number, 0, &map().unwrap()), None, "{how}: file {number} of {size} bytes, mapped");
    for boundary in (0..=size).step_by(PAGE as usize) {
        let mapping = map().unwrap();
        mapping.advise(Advice::Random).unwrap();
        for offset in boundary.saturating_sub(1)..(boundary + 2).min(size) {
            let byte = &mapping[offset as usize..][..1];
            assert_eq!(first_wrong(number, offset, byte), None, "{how}: file {number} of {size} bytes at {offset}, mapped");
        }
    }
}

#[test]
fn every_byte_at_every_boundary_is_right_in_every_serving_mode() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::with("");
    let sizes = sizes();
    let mut bytes = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        bytes.resize(*size as usize, 0);
        fill(number as u64, 0, &mut bytes);
        fs::write(laptop.path("bucket").join(format!("f{number}")), &bytes).unwrap();
    }
    for (mode, more) in [("Open", ""), ("Open", "passthrough: { enabled: false }\n"), ("NoOpen", "")] {
        laptop.configure("1Gi", &format!("blockSize: 64Ki\nserving: {mode}\n{more}"));
        laptop.mount_configured();
        for pass in ["cold", "warm"] {
            let how = format!("{mode} {more} {pass}");
            for (number, size) in sizes.iter().enumerate() {
                check(&laptop, number as u64, *size, &how);
                check_mapped(&laptop, number as u64, *size, &how);
            }
        }
        assert_eq!(laptop.status().no_open, mode == "NoOpen");
        laptop.free();
        laptop.unmount();
    }
}
