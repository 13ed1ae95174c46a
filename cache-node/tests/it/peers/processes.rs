//! Three machines of one cache, as far as one kernel allows: the real program three times, each with its own mount, folders and port.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::process::Signal;

use super::Cache;
use crate::fuse::can_mount;
use crate::laptop::{Laptop, signal, wait_until};
use crate::memory_source::pattern;

const FILES: usize = 300;
const BYTES: usize = 90_000;

/// Mounts the data set on each of three nodes.
fn mount_all(cache: &Cache, bucket: &str) -> Vec<Laptop> {
    let nodes: Vec<String> = cache.list.iter().map(|node| format!("{{ name: {}, address: \"{}\" }}", node.name, node.address)).collect();
    let nodes = nodes.join(", ");
    let mount = |number: usize| {
        let laptop = Laptop::with("");
        let dataset = format!(
            "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: {{ name: t }}\nspec:\n  source: \"file://{bucket}\"\n  sync: {{ mode: Never }}\n"
        );
        fs::write(laptop.path("dataset.yaml"), dataset).unwrap();
        let node = &cache.list[number];
        let tls = cache.folder.path().join("tls");
        let peers = format!(
            "blockSize: 64Ki\npeers: {{ name: {}, listen: \"{}\", cache: {}, certificates: \"{}\", nodes: [{nodes}] }}\n",
            node.name,
            node.address,
            super::CACHE,
            tls.display()
        );
        laptop.configure("1Gi", &peers);
        laptop.mount_configured();
        laptop
    };
    (0..cache.list.len()).map(mount).collect()
}

/// Three nodes with one cache over a bucket of files.
fn three() -> (Cache, Vec<Laptop>) {
    let cache = Cache::new(3);
    let bucket = cache.folder.path().canonicalize().unwrap().join("bucket");
    fs::create_dir(&bucket).unwrap();
    for file in 0..FILES {
        fs::write(bucket.join(format!("f{file}")), pattern(file as u64, BYTES)).unwrap();
    }
    let laptops = mount_all(&cache, &bucket.display().to_string());
    (cache, laptops)
}

#[test]
fn s_13_kill_9_of_a_node_costs_the_readers_of_the_others_no_error() {
    if !can_mount() {
        return;
    }
    let (_cache, laptops) = three();
    let read = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for laptop in &laptops[..2] {
            for part in 0..4 {
                let (data, read) = (laptop.path("data"), read.clone());
                scope.spawn(move || {
                    for file in (part..FILES).step_by(4) {
                        let bytes = fs::read(data.join(format!("f{file}"))).unwrap_or_else(|error| panic!("f{file}: {error}"));
                        assert!(bytes == pattern(file as u64, BYTES), "f{file} has other bytes");
                        read.fetch_add(1, Relaxed);
                    }
                });
            }
        }
        wait_until("some are read", || read.load(Relaxed) > 100);
        signal(laptops[2].status().node_pid.unwrap(), Signal::KILL);
    });
    assert_eq!(read.load(Relaxed), 2 * FILES as u64);
    // Its holder starts it again, and it finds what it had and reads like the others.
    wait_until("it is back", || laptops[2].status().ready);
    for file in 0..FILES {
        assert!(fs::read(laptops[2].path("data").join(format!("f{file}"))).unwrap() == pattern(file as u64, BYTES));
    }
}

#[test]
fn s_16_a_node_is_drained_from_the_command_line_and_goes() {
    if !can_mount() {
        return;
    }
    let (_cache, laptops) = three();
    let read_all = |laptop: &Laptop| {
        for file in 0..FILES {
            assert!(fs::read(laptop.path("data").join(format!("f{file}"))).unwrap() == pattern(file as u64, BYTES), "f{file}");
        }
    };
    read_all(&laptops[0]);
    let output = laptops[2].run(&["drain", "data", "-o", "json"]);
    let told = String::from_utf8(output.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!((output.status.code(), &last["done"], &last["left"]), (Some(0), &true.into(), &0.into()), "{told}");
    assert!(last["moved"].as_u64().unwrap() > 0, "{told}");
    let output = laptops[2].run(&["drain", "data"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("nothing is here only"), "{told}");
    laptops[2].unmount();
    read_all(&laptops[1]);
    // A node alone has nobody to give to.
    let alone = Laptop::new();
    alone.mount();
    let output = alone.run(&["drain", "data"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("the only one of its cache"), "{told}");
}
