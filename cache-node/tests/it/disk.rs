//! Others fill the disk under the cache of a mount: reads go on from the source, status says it, and it heals by itself.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use crate::fuse::can_mount;
use crate::fuse::tree::{fill, first_wrong};
use crate::laptop::{Laptop, wait_until};

const FILES: u64 = 30;
const BYTES: usize = 600_000;
const DISK: &str = "24m";

/// A filesystem of its own, so that filling it harms nobody.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let size = format!("size={DISK}");
        assert!(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn is_right(laptop: &Laptop, number: u64) -> bool {
    let mut file = File::open(laptop.path("data").join(format!("f{number}"))).unwrap();
    // From the daemon, not from the pages of the read before.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes.len() == BYTES && first_wrong(number, 0, &bytes).is_none()
}

/// As `status -o json` tells it.
fn tier(laptop: &Laptop) -> serde_json::Value {
    let output = laptop.run(&["status", "data", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status[0]["node"]["tiers"][0].clone()
}

#[test]
fn a_disk_that_others_fill_costs_hits_only_is_told_and_heals() {
    if !can_mount() {
        return;
    }
    let laptop = Laptop::with("");
    let disk = Disk::mount(laptop.path("cache"));
    let mut bytes = vec![0; BYTES];
    for file in 0..FILES {
        fill(file, 0, &mut bytes);
        fs::write(laptop.path("bucket").join(format!("f{file}")), &bytes).unwrap();
    }
    laptop.configure("1Gi", "blockSize: 256Ki\n");
    laptop.mount_configured();
    laptop.refresh();
    assert!((0..5).all(|file| is_right(&laptop, file)));

    let ballast = disk.0.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write_all(&bytes).is_ok() {}
    assert!((0..FILES).all(|file| is_right(&laptop, file)), "what can't be kept is read through");
    let full = tier(&laptop);
    // What it may use now is what it has: a tier that others fill is small, and not ill.
    let figure = |name: &str| full[name].as_u64().unwrap();
    assert!(figure("freeBytes") < 1 << 20 && figure("capacityBytes") < 10 << 20, "{full}");
    assert!((0..FILES).all(|file| is_right(&laptop, file)));

    drop(file);
    fs::remove_file(&ballast).unwrap();
    wait_until("a cache that takes blocks again", || {
        assert!((0..FILES).all(|file| is_right(&laptop, file)));
        tier(&laptop)["usedBytes"].as_u64().unwrap() > FILES * BYTES as u64 / 2
    });
    laptop.unmount();
}
