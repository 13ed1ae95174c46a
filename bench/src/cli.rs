//! Flags and the environment, read once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::workload::{self, Workload};
use crate::{check, compare, data, get, s3_generated, serve, suite};

/// Measures a folder against another one, and serves S3 on loopback to fill it from.
#[derive(Parser)]
#[command(name = "forebay-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make deterministic data below a folder.
    Data(DataArgs),
    /// Serve the folders below a root as S3 buckets on loopback.
    Serve {
        root: PathBuf,
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Write the endpoint here once it listens.
        #[arg(long)]
        ready: Option<PathBuf>,
    },
    /// Serve generated keys as an S3 bucket on loopback: any number of objects, none stored.
    ServeGenerated {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Write the endpoint here once it listens.
        #[arg(long)]
        ready: Option<PathBuf>,
        #[arg(long, default_value_t = 10_000_000)]
        keys: u64,
        /// Nine of ten keys in one folder, instead of 1000 folders of the same size.
        #[arg(long)]
        skewed: bool,
        #[arg(long, default_value_t = 110_000)]
        object_bytes: u64,
        /// How long a page of a listing takes.
        #[arg(long, default_value_t = 0)]
        page_delay_ms: u64,
    },
    /// Run one workload over one folder and print what it took, as JSON.
    Read {
        folder: PathBuf,
        /// files:THREADS, fixed:THREADS, sequential, mmap, random:BYTES:THREADS:READS, walk
        #[arg(long)]
        workload: Workload,
        #[arg(long, default_value_t = 1)]
        epoch: u64,
    },
    /// Run one workload over two folders in turns and print the ratio, as JSON. Any mount can be the candidate.
    Compare {
        #[arg(long)]
        control: PathBuf,
        #[arg(long)]
        candidate: PathBuf,
        #[arg(long)]
        workload: Workload,
        #[arg(long, default_value_t = compare::PAIRS_MIN)]
        pairs: usize,
        /// Processes that serve the candidate: their CPU is counted to it.
        #[arg(long)]
        pid: Vec<u32>,
        /// Drop the candidate's pages before each of its passes, as if the data were larger than memory.
        #[arg(long)]
        drop_pages: bool,
    },
    /// Put the files below a folder into a bucket.
    Put {
        folder: PathBuf,
        #[arg(long)]
        endpoint: String,
        #[arg(long)]
        bucket: String,
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Read random ranges of random files from two folders in every way Linux has, until the time is over, and compare the bytes.
    Check {
        #[arg(long)]
        reference: PathBuf,
        #[arg(long)]
        candidate: PathBuf,
        #[arg(long, default_value_t = 8)]
        threads: u64,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Chosen by the clock when left out; a difference names it.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Run the rows of docs/benchmarks.md with the real `forebay-node` and write them there.
    Suite(SuiteArgs),
}

#[derive(Args)]
struct SuiteArgs {
    /// Names of rows or their beginnings; all when left out.
    rows: Vec<String>,
    /// The binary to measure.
    #[arg(long)]
    node: PathBuf,
    /// Where data and caches are kept.
    #[arg(long)]
    folder: PathBuf,
    /// The folder of benchmarks.md and benchmarks.json.
    #[arg(long, default_value = "docs")]
    report: PathBuf,
    /// Everything small: shows that each ratio is produced, says nothing about it.
    #[arg(long)]
    short: bool,
    /// Remove data and caches of earlier runs first.
    #[arg(long)]
    clean: bool,
}

#[derive(Args)]
struct DataArgs {
    folder: PathBuf,
    #[arg(long, default_value_t = 20_000)]
    small: u64,
    #[arg(long, default_value_t = 4)]
    large: u64,
    #[arg(long, default_value_t = 512)]
    large_mib: u64,
    #[arg(long, default_value_t = 0)]
    tiny: u64,
    #[arg(long, default_value_t = 0)]
    model_mib: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Data(DataArgs { folder, small, large, large_mib, tiny, model_mib, seed }) => {
            let amounts = data::Amounts { small, large, large_bytes: large_mib << 20, tiny, model_bytes: model_mib << 20 };
            data::generate(&folder, amounts, seed)
        }
        Command::Serve { root, listen, ready } => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve::serve_folder(&root, listen, ready))
        }
        Command::ServeGenerated { listen, ready, keys, skewed, object_bytes, page_delay_ms } => {
            let layout = if skewed { s3_generated::Layout::Skewed } else { s3_generated::Layout::Even };
            let options = s3_generated::Options { layout, keys, object_bytes, page_delay: Duration::from_millis(page_delay_ms) };
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(s3_generated::serve(listen, ready, options))
        }
        Command::Read { folder, workload, epoch } => {
            let pass = workload::run(&workload, &folder, &workload::files_below(&folder)?, epoch)?;
            let micros = |share| pass.latency(share).as_secs_f64() * 1e6;
            println!(
                "{}",
                json!({
                    "units": pass.units, "bytes": pass.bytes, "seconds": pass.elapsed.as_secs_f64(), "cpu_seconds": pass.cpu.as_secs_f64(),
                    "units_per_second": pass.units_per_second(), "bytes_per_second": pass.bytes_per_second(),
                    "p50_us": micros(0.5), "p99_us": micros(0.99),
                })
            );
            Ok(())
        }
        Command::Compare { control, candidate, workload, pairs, pid, drop_pages } => {
            let (control_files, candidate_files) = (workload::files_below(&control)?, workload::files_below(&candidate)?);
            let comparison = compare::compare(
                pairs,
                |epoch| suite::side::pass(&workload, &control, &control_files, epoch, &[]),
                |epoch| {
                    if drop_pages {
                        workload::drop_pages(&candidate_files)?;
                    }
                    suite::side::pass(&workload, &candidate, &candidate_files, epoch, &pid)
                },
            )?;
            println!("{}", serde_json::to_string_pretty(&comparison)?);
            Ok(())
        }
        Command::Put { folder, endpoint, bucket, prefix } => {
            let files = get::put_all(&endpoint, &bucket, &prefix, &folder, 8)?;
            println!("{files} objects put into {bucket}/{prefix}");
            Ok(())
        }
        Command::Check { reference, candidate, threads, seconds, seed } => {
            let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let check =
                check::Check { reference, candidate, threads, duration: Duration::from_secs(seconds), seed: seed.unwrap_or_else(clock) };
            let checked = check::run(&check)?;
            println!("{} reads, {} bytes equal (--threads {threads} --seed {})", checked.operations, checked.bytes, check.seed);
            Ok(())
        }
        Command::Suite(SuiteArgs { rows, node, folder, report, short, clean }) => {
            if clean {
                suite::earlier::clean(&folder)?;
            }
            std::fs::create_dir_all(&folder)?;
            suite::run(suite::Options { node_binary: node, folder: folder.canonicalize()?, report, rows, short })
        }
    }
}
