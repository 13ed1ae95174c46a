//! The short form of the simulation, by its program: `make simulate` is the long one.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

/// One run's text; panics when it found anything wrong.
fn cluster(seed: u64, nodes: u32, files: u32, faults: u32) -> String {
    println!("FOREBAY_SEED={seed}");
    let arguments = [("--seed", seed), ("--nodes", nodes.into()), ("--files", files.into()), ("--faults", faults.into())];
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-sim"));
    command.arg("cluster").args(arguments.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()]));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None if std::env::var_os("FOREBAY_TORTURE").is_some() => 1..200,
        None => 1..6,
    }
}

#[test]
fn no_fetch_is_lost_or_doubled_whatever_goes_wrong() {
    for seed in seeds() {
        cluster(seed, 8, 200, 60);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (once, again) = (cluster(7, 8, 150, 40), cluster(7, 8, 150, 40));
    assert_eq!(once, again);
    assert_ne!(once, cluster(8, 8, 150, 40));
}
