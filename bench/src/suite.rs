//! Every row of the bench, end to end: data, S3 server, mount, both sides in turns, a line in the report.
//! Knows which measure is taken how. Does not know the inside of the node.

pub(crate) mod earlier;
mod group;
pub(crate) mod node;
mod rows;
mod server;
pub(crate) mod side;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::compare::{Comparison, PAIRS_MIN};
use crate::measure::Memory;
use crate::report::{Goal, Row};
use crate::statistics::{median, spread};
use crate::workload::files_below;
use crate::{data, report};
use node::{Node, Serving, Setup};
use rows::{Data, Group};
use server::Server;

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
    /// Files and objects that exist as numbers only: in a manifest, behind the server of generated keys, in a store.
    pub(crate) generated: u64,
    pub(crate) stored: u64,
    /// Files that 64 readers read of the generated ones.
    pub(crate) generated_reads: u64,
}

impl Scale {
    fn full() -> Self {
        let amounts = data::Amounts { small: 20_000, large: 4, large_bytes: 512 << 20, tiny: 1_000_000, model_bytes: 8 << 30 };
        Self {
            amounts,
            pairs: PAIRS_MIN,
            random_reads: 100_000,
            searches: PAIRS_MIN,
            trial: Duration::from_secs(2),
            first_byte_files: 200,
            generated: 10_000_000,
            stored: 1_000_000,
            generated_reads: 10_000,
        }
    }
    fn short() -> Self {
        let amounts = data::Amounts { small: 400, large: 2, large_bytes: 32 << 20, tiny: 3000, model_bytes: 64 << 20 };
        Self {
            amounts,
            pairs: PAIRS_MIN,
            random_reads: 1000,
            searches: 1,
            trial: Duration::from_millis(300),
            first_byte_files: 20,
            generated: 100_000,
            stored: 10_000,
            generated_reads: 640,
        }
    }
}

/// A run of the suite: its server and what it has measured.
pub(crate) struct Suite {
    options: Options,
    scale: Scale,
    /// Of the folders; none when no chosen row reads them.
    server: Option<Server>,
    commit: String,
    measured: Vec<Row>,
}

/// Runs the rows that `options` name and writes the report; a row that fails is told and fails the run at its end, after the others.
pub(crate) fn run(options: Options) -> Result<()> {
    let scale = if options.short { Scale::short() } else { Scale::full() };
    let wanted: Vec<&Group> = rows::ALL.iter().filter(|group| group.is_wanted(&options.rows)).collect();
    ensure!(!wanted.is_empty(), "no row begins with one of {:?}; there are: {}", options.rows, rows::names());
    earlier::detach_mounts(&options.folder)?;
    let mut suite = Suite::start(options, scale, &wanted)?;
    let (mut failures, mut times) = (Vec::new(), Vec::new());
    for group in wanted {
        eprintln!("== {}", group.name);
        let begin = Instant::now();
        let before = suite.measured.len();
        let outcome = (group.measure)(&mut suite).and_then(|()| group.check(&suite.measured[before..]));
        // What was measured before a failure was measured.
        for row in &suite.measured[before..] {
            eprintln!("   {}", row.line());
        }
        report::write(&suite.options.report, &suite.measured[before..])?;
        if let Err(error) = outcome {
            eprintln!("   {} failed: {error:#}", group.name);
            failures.push(format!("{}: {error:#}", group.name));
        }
        eprintln!("   {:.1} s", begin.elapsed().as_secs_f64());
        times.push((group.name, begin.elapsed()));
    }
    let total: Duration = times.iter().map(|(_, time)| time).sum();
    let each: Vec<String> = times.iter().map(|(name, time)| format!("{name} {:.0}", time.as_secs_f64())).collect();
    eprintln!("== {} rows in {:.0} s: {}", suite.measured.len(), total.as_secs_f64(), each.join(", "));
    if !suite.options.short {
        for name in report::unexplained(&suite.options.report, &suite.measured)? {
            eprintln!("== {name} falls short: say in {}/benchmarks.md what limits it", suite.options.report.display());
        }
    }
    ensure!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

impl Suite {
    fn start(options: Options, scale: Scale, wanted: &[&Group]) -> Result<Self> {
        ensure!(
            options.node_binary.is_file(),
            "{} is not there: build it with `make release`, or name it with --node",
            options.node_binary.display()
        );
        let needs = |data: Data| wanted.iter().any(|group| group.data.contains(&data));
        let mut suite = Self { options, scale, server: None, commit: commit(), measured: Vec::new() };
        if wanted.iter().all(|group| group.data.is_empty()) {
            return Ok(suite);
        }
        // Kinds of data that no chosen row reads are not made: a million files take minutes.
        let none = data::Amounts { small: 0, large: 0, large_bytes: 0, tiny: 0, model_bytes: 0 };
        let mut amounts = data::Amounts { model_bytes: 0, ..scale.amounts };
        for (data, amount) in [(Data::Small, &mut amounts.small), (Data::Large, &mut amounts.large), (Data::Tiny, &mut amounts.tiny)] {
            if !needs(data) {
                *amount = 0;
            }
        }
        let root = suite.options.folder.join("buckets");
        eprintln!("== data below {}", root.display());
        let begin = Instant::now();
        let bucket = root.join(BUCKET);
        data::generate(&bucket, amounts, 1)?;
        if needs(Data::Model) {
            data::generate(&bucket.join("model"), data::Amounts { model_bytes: scale.amounts.model_bytes, ..none }, 1)?;
        }
        suite.server = Some(Server::start(&suite.options.folder, &["serve", root.to_str().context("the folder's name is UTF-8")?])?);
        eprintln!("   {:.1} s", begin.elapsed().as_secs_f64());
        Ok(suite)
    }

    /// Of the server of the folders.
    fn endpoint(&self) -> Result<&str> {
        Ok(&self.server.as_ref().context("the row names the data that it reads")?.endpoint)
    }

    /// A program that `make release` built beside the node: an example of one of its crates.
    fn example(&self, name: &str) -> Result<Command> {
        let path = self.options.node_binary.with_file_name("examples").join(name);
        ensure!(path.is_file(), "{} is not there: build it with `make release`", path.display());
        Ok(Command::new(path))
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
        Setup {
            name: name.to_owned(),
            sources,
            serving: Serving::Auto,
            capacity_bytes: None,
            dataset_lines: String::new(),
            node_lines: String::new(),
        }
    }

    /// Not mounted yet. Setups of one name share a cache over the rows of a run.
    fn node(&self, setup: &Setup) -> Result<Node> {
        Node::new(&self.options.node_binary, &self.options.folder.join("nodes").join(&setup.name), self.endpoint()?, BUCKET, setup)
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
        let Comparison { ratio, spread, samples, control, candidate, cpu_ratio, noise, .. } = comparison;
        let figures = Figures { control: *control, forebay: *candidate, ratio: *ratio, spread: *spread, samples: samples.clone() };
        self.push(name, unit, goal, figures, memory, note);
        if let Some(row) = self.measured.last_mut() {
            (row.noise, row.cpu_ratio) = (*noise, Some(*cpu_ratio));
        }
    }

    fn push(&mut self, name: &str, unit: &str, goal: Goal, figures: Figures, memory: Memory, note: String) {
        let Figures { control, forebay, ratio, spread, samples } = figures;
        let (row, unit, commit) = (name.to_owned(), unit.to_owned(), self.commit.clone());
        let Memory { resident, anonymous } = memory;
        let (noise, cpu_ratio) = (false, None);
        self.measured.push(Row {
            row,
            control,
            forebay,
            unit,
            ratio,
            spread,
            samples,
            noise,
            cpu_ratio,
            resident,
            anonymous,
            commit,
            goal,
            note,
        });
    }

    /// A measure that has no control: the goal is on the value itself.
    fn push_value(&mut self, name: &str, unit: &str, goal: Goal, value: f64, memory: Memory, note: String) {
        let figures = Figures { control: 0.0, forebay: value, ratio: value, spread: 0.0, samples: vec![value] };
        self.push(name, unit, goal, figures, memory, note);
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

impl Figures {
    /// One count held against another.
    fn quotient(control: f64, forebay: f64) -> Self {
        let ratio = forebay / control;
        Self { control, forebay, ratio, spread: 0.0, samples: vec![ratio] }
    }

    /// Pairs of the same measure, `control` and `forebay` of each: the median of the paired ratios.
    fn paired(control: &[f64], forebay: &[f64]) -> Self {
        let samples: Vec<f64> = control.iter().zip(forebay).map(|(control, forebay)| forebay / control.max(1e-3)).collect();
        Self { control: median(control), forebay: median(forebay), ratio: median(&samples), spread: spread(&samples), samples }
    }

    /// The CPU side of a comparison as figures of its own: microseconds per unit.
    fn cpu_of(comparison: &Comparison) -> Self {
        let Comparison { control_cpu_us, candidate_cpu_us, cpu_ratio, cpu_spread, cpu_samples, .. } = comparison;
        Self { control: *control_cpu_us, forebay: *candidate_cpu_us, ratio: *cpu_ratio, spread: *cpu_spread, samples: cpu_samples.clone() }
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
