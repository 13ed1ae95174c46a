//! The command line: which runs, how large, from which seed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand};

use crate::chance;
use crate::scale;
use crate::trial::{self, Report, Size};

#[derive(Parser)]
#[command(name = "forebay-sim", about = "Many nodes of one cache, simulated: the same seed gives the same run")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Whole nodes over a simulated network, clock and source, with faults
    Cluster {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Runs, each with the next seed
        #[arg(long, default_value_t = 1)]
        runs: u64,
        #[arg(long, default_value_t = 12)]
        nodes: usize,
        #[arg(long, default_value_t = 600)]
        files: u32,
        /// Files that each node reads in an epoch; all, when there are fewer
        #[arg(long, default_value_t = u32::MAX)]
        reads: u32,
        /// For how many seconds of the simulation's time things go wrong
        #[arg(long, default_value_t = 120)]
        faults: u64,
        /// What the nodes log, on standard error, such as `forebay_node=debug`
        #[arg(long, default_value = "off")]
        log: String,
    },
    /// Placement and copies of many blocks over many nodes, without their bytes
    Scale {
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        #[arg(long, default_value_t = 100_000_000)]
        blocks: u64,
    },
}

pub(crate) fn run() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(wrong) => {
            println!("{wrong} things are wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("forebay-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many things are wrong.
fn execute(command: Command) -> Result<usize> {
    match command {
        Command::Cluster { seed, runs, nodes, files, reads, faults, log } => {
            let filter = tracing_subscriber::EnvFilter::try_new(&log)?;
            tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
            let size = Size { nodes, files, reads: reads.min(files), faults: Duration::from_secs(faults) };
            let mut wrong = 0;
            for seed in seed..seed + runs {
                wrong += cluster(seed, size)?;
            }
            Ok(wrong)
        }
        Command::Scale { seed, nodes, blocks } => scale::run(seed, nodes, blocks).map(|report| show(&report, "")),
    }
}

/// One run, on a thread of its own: its hash maps begin with this seed's numbers.
fn cluster(seed: u64, size: Size) -> Result<usize> {
    chance::seed_system(seed);
    let begin = Instant::now();
    let run = move || -> Result<Report> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
        runtime.block_on(trial::run(seed, size))
    };
    let report = std::thread::Builder::new().name("simulation".to_owned()).spawn(run)?.join();
    let report = report.map_err(|_| anyhow!("seed {seed}: the run panicked"))??;
    let again = format!(
        "again: forebay-sim cluster --seed {seed} --nodes {} --files {} --reads {} --faults {}",
        size.nodes,
        size.files,
        size.reads,
        size.faults.as_secs()
    );
    let wrong = show(&report, &again);
    // On the other stream: it is this machine's, and no two runs have the same.
    eprintln!("seed {seed}: {:.1} s on this machine, {} MiB", begin.elapsed().as_secs_f64(), peak_mebibytes());
    Ok(wrong)
}

fn show(report: &Report, again: &str) -> usize {
    print!("{}", report.text);
    for wrong in &report.wrong {
        println!("WRONG: {wrong}");
    }
    if !report.wrong.is_empty() && !again.is_empty() {
        println!("{again}");
    }
    println!();
    report.wrong.len()
}

/// Memory of this process at its most.
fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()).unwrap_or(0) >> 10
}
