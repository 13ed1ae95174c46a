//! Every row of the bench, end to end: data, S3 server, mount, both sides in turns, a line in the report.
//! Knows which measure is taken how. Does not know the inside of the node.

pub(crate) mod node;
mod rows;
pub(crate) mod side;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::compare::Comparison;
use crate::measure::Memory;
use crate::report::{Goal, Row};
use crate::workload::files_below;
use crate::{data, report};
use node::{Node, Serving, Setup};

const BUCKET: &str = "bench";
/// The kernel asks again for the name of a file that was not complete after a second (SEMANTICS.md): from then on a file is served in the form it
/// keeps.
const SETTLED_AFTER: Duration = Duration::from_millis(1100);

/// What to run and how big.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) node_binary: PathBuf,
    /// Data and caches; kept, so that the next run needn't make the data again.
    pub(crate) folder: PathBuf,
    /// Where `benchmarks.json` and `benchmarks.md` are.
    pub(crate) report: PathBuf,
    /// Names of rows, or the beginnings of names; empty: all.
    pub(crate) rows: Vec<String>,
    /// Everything small, for CI: that a ratio comes out, not which.
    pub(crate) short: bool,
}

/// Amounts of one size of the bench.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) amounts: data::Amounts,
    pub(crate) pairs: usize,
    pub(crate) random_reads: usize,
    /// Pairs of searches for the number of accelerators that are fed, and how long one trial of a search is.
    pub(crate) searches: usize,
    pub(crate) trial: Duration,
    pub(crate) first_byte_files: usize,
}

impl Scale {
    fn full() -> Self {
        let amounts = data::Amounts { small: 20_000, large: 4, large_bytes: 512 << 20, tiny: 1_000_000, model_bytes: 8 << 30 };
        Self { amounts, pairs: 7, random_reads: 100_000, searches: 5, trial: Duration::from_secs(3), first_byte_files: 200 }
    }
    fn short() -> Self {
        let amounts = data::Amounts { small: 400, large: 2, large_bytes: 32 << 20, tiny: 3000, model_bytes: 64 << 20 };
        Self { amounts, pairs: 5, random_reads: 1000, searches: 1, trial: Duration::from_millis(300), first_byte_files: 20 }
    }
}

/// A run of the suite: its server and what it has measured.
pub(crate) struct Suite {
    options: Options,
    scale: Scale,
    endpoint: String,
    server: Child,
    commit: String,
    measured: Vec<Row>,
}

/// Runs the rows that `options` name and writes the report; a row that fails is told and fails the run at its end, after the others.
pub(crate) fn run(options: Options) -> Result<()> {
    let scale = if options.short { Scale::short() } else { Scale::full() };
    let mut suite = Suite::start(options, scale)?;
    let mut failures = Vec::new();
    for (name, measure) in rows::ALL {
        if !suite.is_wanted(name) {
            continue;
        }
        eprintln!("== {name}");
        let begin = Instant::now();
        let before = suite.measured.len();
        match measure(&mut suite) {
            Ok(()) => {
                for row in &suite.measured[before..] {
                    eprintln!("   {}: {:.3} ({:?}) {}", row.row, row.ratio, row.goal, row.note);
                }
                report::write(&suite.options.report, &suite.measured[before..])?;
            }
            Err(error) => {
                eprintln!("   {name} failed: {error:#}");
                failures.push(format!("{name}: {error:#}"));
            }
        }
        eprintln!("   {:.1} s", begin.elapsed().as_secs_f64());
    }
    ensure!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
    ensure!(!suite.measured.is_empty(), "no row has one of the names {:?}; there are: {}", suite.options.rows, rows::names());
    let odd = suite.measured.iter().find(|row| !(row.ratio.is_finite() && row.ratio > 0.0 || row.goal == Goal::Reported));
    if let Some(row) = odd {
        bail!("row {} has no ratio: {}", row.row, row.ratio);
    }
    Ok(())
}

impl Suite {
    fn start(options: Options, scale: Scale) -> Result<Self> {
        ensure!(
            options.node_binary.is_file(),
            "{} is not there: build it with `make release`, or name it with --node",
            options.node_binary.display()
        );
        let root = options.folder.join("buckets");
        let wanted =
            |names: &[&str]| options.rows.is_empty() || options.rows.iter().any(|row| names.iter().any(|name| row.starts_with(name)));
        // Kinds of data that no chosen row reads are not made: a million files take minutes.
        let mut amounts = scale.amounts;
        if !wanted(&["walk"]) {
            amounts.tiny = 0;
        }
        if !wanted(&["mmap"]) {
            amounts.model_bytes = 0;
        }
        eprintln!("== data below {}", root.display());
        let bucket = root.join(BUCKET);
        data::generate(&bucket, data::Amounts { model_bytes: 0, ..amounts }, 1)?;
        data::generate(
            &bucket.join("model"),
            data::Amounts { small: 0, large: 0, large_bytes: 0, tiny: 0, model_bytes: amounts.model_bytes },
            1,
        )?;
        let ready = options.folder.join("endpoint");
        let _ = fs::remove_file(&ready);
        let server = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg(&root)
            .arg("--ready")
            .arg(&ready)
            .stdout(Stdio::null())
            .spawn()
            .context("start the S3 server")?;
        let mut suite = Self { options, scale, endpoint: String::new(), server, commit: commit(), measured: Vec::new() };
        let begin = Instant::now();
        while !ready.exists() {
            ensure!(begin.elapsed() < Duration::from_secs(300), "the S3 server did not listen within five minutes");
            ensure!(suite.server.try_wait()?.is_none(), "the S3 server ended before it listened");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        suite.endpoint = fs::read_to_string(&ready)?;
        Ok(suite)
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.options.rows.is_empty() || self.options.rows.iter().any(|row| name.starts_with(row.as_str()))
    }

    /// The local folder with the same files as the prefix: the control, and what the server hands out.
    fn local(&self, prefix: &str) -> PathBuf {
        self.options.folder.join("buckets").join(BUCKET).join(prefix)
    }

    fn setup(&self, name: &str, prefixes: &[&str]) -> Setup {
        let sources = match prefixes {
            [one] => vec![("/".to_owned(), format!("{one}/"))],
            several => several.iter().map(|prefix| (format!("/{prefix}"), format!("{prefix}/"))).collect(),
        };
        Setup { name: name.to_owned(), sources, serving: Serving::Auto, capacity_bytes: None }
    }

    /// Not mounted yet. Setups of one name share a cache over the rows of a run.
    fn node(&self, setup: &Setup) -> Result<Node> {
        Node::new(&self.options.node_binary, &self.options.folder.join("nodes").join(&setup.name), &self.endpoint, BUCKET, setup)
    }

    /// Mounted, with every byte in the store.
    fn warm(&self, setup: &Setup) -> Result<Node> {
        let mut node = self.node(setup)?;
        node.mount()?;
        let files = files_below(&node.mount_point())?;
        crate::workload::run(
            &crate::workload::Workload::Files { threads: 8, order: crate::workload::Order::Shuffled },
            &node.mount_point(),
            &files,
            0,
        )?;
        let filled = Instant::now();
        while let Some(left) = SETTLED_AFTER.checked_sub(filled.elapsed()) {
            std::thread::park_timeout(left);
        }
        Ok(node)
    }

    fn row(&mut self, name: &str, unit: &str, goal: Goal, comparison: &Comparison, memory: Memory, note: String) {
        let Comparison { ratio, spread, samples, control, candidate, cpu_ratio, noise, p50_us: _, p99_us: _, .. } = comparison;
        let noise = if *noise { format!("noise; CPU ratio {cpu_ratio:.2} decides. ") } else { String::new() };
        let figures = Figures { control: *control, forebay: *candidate, ratio: *ratio, spread: *spread, samples: samples.clone() };
        self.push(name, unit, goal, figures, memory, noise + &note);
    }

    fn push(&mut self, name: &str, unit: &str, goal: Goal, figures: Figures, memory: Memory, note: String) {
        let Figures { control, forebay, ratio, spread, samples } = figures;
        let (row, unit, commit) = (name.to_owned(), unit.to_owned(), self.commit.clone());
        let (resident, anonymous) = (memory.resident, memory.anonymous);
        self.measured.push(Row { row, control, forebay, unit, ratio, spread, samples, resident, anonymous, commit, goal, note });
    }
}

#[derive(Clone, Debug)]
struct Figures {
    control: f64,
    forebay: f64,
    ratio: f64,
    spread: f64,
    samples: Vec<f64>,
}

impl Drop for Suite {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The commit that is measured, with a `+` when the tree has changes.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    git(&["rev-parse", "--short=12", "HEAD"])
        .map(|commit| if dirty { commit + "+" } else { commit })
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Removes the data, caches and nodes of earlier runs below `folder`.
pub(crate) fn clean(folder: &Path) -> Result<()> {
    for part in ["buckets", "nodes", "endpoint"] {
        let path = folder.join(part);
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
