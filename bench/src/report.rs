//! Keeps measured rows: `docs/benchmarks.json` as a list, and the table between two marks of `docs/benchmarks.md`.
//! A row measured again replaces its older self; nothing is written that wasn't measured.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const TABLE_BEGIN: &str = "<!-- table: written by `make bench` -->";
const TABLE_END: &str = "<!-- end of table -->";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Which measure; `make bench ROWS=<row>` runs it again.
    pub(crate) row: String,
    /// What the control reached, in `unit`.
    pub(crate) control: f64,
    /// What Forebay reached, in `unit`.
    pub(crate) forebay: f64,
    pub(crate) unit: String,
    /// Median of the paired ratios, or the measure itself where there is no pair.
    pub(crate) ratio: f64,
    /// Distance between the quartiles of `samples`.
    pub(crate) spread: f64,
    pub(crate) samples: Vec<f64>,
    /// The quartiles are over a quarter of the median apart, twice: CPU time decides, not the speed.
    #[serde(default)]
    pub(crate) noise: bool,
    /// CPU per unit, Forebay's over the control's; where a speed was compared.
    #[serde(default)]
    pub(crate) cpu_ratio: Option<f64>,
    /// Resident memory of the daemon after the row, in bytes; of it anonymous.
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) commit: String,
    pub(crate) goal: Goal,
    /// What a reader must know beside the number: percentiles, noise.
    pub(crate) note: String,
}

impl Row {
    /// What the goal is held against: the ratio, or where that is noise how the CPU time per unit compares.
    fn deciding(&self) -> f64 {
        match self.cpu_ratio {
            Some(cpu_ratio) if self.noise && cpu_ratio > 0.0 => 1.0 / cpu_ratio,
            Some(_) | None => self.ratio,
        }
    }

    fn is_short(&self) -> bool {
        match self.goal {
            Goal::AtLeast(value) => self.deciding() < value,
            Goal::AtMost(value) => self.deciding() > value,
            Goal::Reported => false,
        }
    }

    fn verdict(&self) -> String {
        let word = match self.goal {
            Goal::AtLeast(_) if self.is_short() => "**short**",
            Goal::AtMost(_) if self.is_short() => "**over**",
            Goal::AtLeast(_) | Goal::AtMost(_) => "reached",
            Goal::Reported => "",
        };
        if self.noise { format!("noise; by CPU ({}) {word}", short(self.deciding())).trim_end().to_owned() } else { word.to_owned() }
    }

    /// For whoever watches the run.
    pub(crate) fn line(&self) -> String {
        let Self { row, forebay, unit, ratio, spread, goal, note, .. } = self;
        let verdict = self.verdict().replace("**", "");
        format!("{row}: {} ({} apart), {} {unit}; {}: {verdict}. {note}", short(*ratio), short(*spread), short(*forebay), goal.text())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    Reported,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtLeast(value) => format!("at least {value}"),
            Self::AtMost(value) => format!("at most {value}"),
            Self::Reported => "reported".to_owned(),
        }
    }
}

/// Begins the part of `benchmarks.md` that people write: a line `- `row`: what limits it` for each row that falls short.
const LIMITS_BEGIN: &str = "## What limits what";

/// Of `rows` those that fall short and have no line of their own below "What limits what".
pub(crate) fn unexplained(folder: &Path, rows: &[Row]) -> Result<Vec<String>> {
    let page = folder.join("benchmarks.md");
    let text = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let limits = text.split_once(LIMITS_BEGIN).map_or("", |(_, limits)| limits);
    let is_explained = |row: &Row| limits.lines().any(|line| line.starts_with("- ") && line.contains(&format!("`{}`", row.row)));
    Ok(rows.iter().filter(|row| row.is_short() && !is_explained(row)).map(|row| row.row.clone()).collect())
}

/// Joins `rows` with those of earlier runs in `folder` and writes both files.
pub(crate) fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    let json = folder.join("benchmarks.json");
    let mut all: Vec<Row> = match fs::read_to_string(&json) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("read {}", json.display()))?,
        Err(_) => Vec::new(),
    };
    for row in rows {
        match all.iter_mut().find(|old| old.row == row.row) {
            Some(old) => *old = row.clone(),
            None => all.push(row.clone()),
        }
    }
    fs::create_dir_all(folder)?;
    fs::write(&json, serde_json::to_string_pretty(&all)? + "\n").with_context(|| format!("write {}", json.display()))?;
    let page = folder.join("benchmarks.md");
    let text = fs::read_to_string(&page).unwrap_or_else(|_| format!("# Benchmarks\n\n{TABLE_BEGIN}\n{TABLE_END}\n"));
    let (before, rest) = text.split_once(TABLE_BEGIN).with_context(|| format!("{} lacks the line {TABLE_BEGIN}", page.display()))?;
    let (_, after) = rest.split_once(TABLE_END).with_context(|| format!("{} lacks the line {TABLE_END}", page.display()))?;
    fs::write(&page, format!("{before}{TABLE_BEGIN}\n{}{TABLE_END}{after}", table(&all)))
        .with_context(|| format!("write {}", page.display()))
}

fn table(rows: &[Row]) -> String {
    let mut text =
        "| row | control | Forebay | unit | ratio (quartiles apart) | to reach | | note |\n|---|---|---|---|---|---|---|---|\n".to_owned();
    for one in rows {
        let Row { row, control, forebay, unit, ratio, spread, samples, goal, note, .. } = one;
        let control_text = if *control == 0.0 { "–".to_owned() } else { short(*control) };
        let spread = if samples.len() > 1 { format!(" ({}, n={})", short(*spread), samples.len()) } else { String::new() };
        // Without a control the figure itself is held against the goal.
        let ratio_text = if *control == 0.0 { "–".to_owned() } else { format!("{}{spread}", short(*ratio)) };
        text += &format!(
            "| {row} | {control_text} | {} | {unit} | {ratio_text} | {} | {} | {note} |\n",
            short(*forebay),
            goal.text(),
            one.verdict()
        );
    }
    text
}

/// Three significant digits, thousands as `k`, millions as `M`.
fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ratio: f64) -> Row {
        Row {
            row: name.to_owned(),
            control: 123_456.0,
            forebay: 61_728.0,
            unit: "files/s".to_owned(),
            ratio,
            spread: 0.01,
            samples: vec![ratio; 5],
            noise: false,
            cpu_ratio: Some(2.0),
            resident: 1,
            anonymous: 1,
            commit: "abc".to_owned(),
            goal: Goal::AtLeast(0.7),
            note: String::new(),
        }
    }

    #[test]
    fn a_row_measured_again_replaces_its_older_self() -> Result<()> {
        let folder = tempfile::tempdir()?;
        write(folder.path(), &[row("steady", 0.5), row("walk", 0.9)])?;
        write(folder.path(), &[row("steady", 0.75)])?;
        let page = fs::read_to_string(folder.path().join("benchmarks.md"))?;
        assert!(page.contains("| steady | 123k | 61.7k | files/s | 0.75 (0.01, n=5) | at least 0.7 | reached |"), "{page}");
        assert!(!page.contains("**short**"), "{page}");
        let rows: Vec<Row> = serde_json::from_str(&fs::read_to_string(folder.path().join("benchmarks.json"))?)?;
        assert_eq!(rows.iter().map(|row| row.row.as_str()).collect::<Vec<_>>(), ["steady", "walk"]);
        Ok(())
    }

    #[test]
    fn noise_is_decided_by_cpu_time() {
        let noisy = |ratio: f64| Row { noise: true, ..row("steady", ratio) };
        assert_eq!(noisy(0.9).verdict(), "noise; by CPU (0.50) **short**");
        assert_eq!(Row { cpu_ratio: Some(1.25), ..noisy(0.1) }.verdict(), "noise; by CPU (0.80) reached");
        assert_eq!(row("steady", 0.9).verdict(), "reached");
    }

    #[test]
    fn a_row_that_falls_short_asks_for_what_limits_it() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let page = format!("`steady` is named here in vain\n{LIMITS_BEGIN}\n- `walk`, `large`: the disk\n");
        fs::write(folder.path().join("benchmarks.md"), page)?;
        let rows = [row("steady", 0.5), row("walk", 0.5), row("random", 0.9)];
        assert_eq!(unexplained(folder.path(), &rows)?, ["steady"]);
        Ok(())
    }
}
