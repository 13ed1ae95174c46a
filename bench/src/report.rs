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
    /// Resident memory of the daemon after the row, in bytes; of it anonymous.
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) commit: String,
    pub(crate) goal: Goal,
    /// What a reader must know beside the number: percentiles, noise.
    pub(crate) note: String,
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
    fn verdict(self, ratio: f64) -> &'static str {
        match self {
            Self::AtLeast(value) if ratio < value => "**short**",
            Self::AtMost(value) if ratio > value => "**over**",
            Self::AtLeast(_) | Self::AtMost(_) => "reached",
            Self::Reported => "",
        }
    }
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
    for Row { row, control, forebay, unit, ratio, spread, samples, resident: _, anonymous: _, commit: _, goal, note } in rows {
        let (control, forebay, ratio_text) = (short(*control), short(*forebay), short(*ratio));
        let spread = if samples.len() > 1 { format!(" ({}, n={})", short(*spread), samples.len()) } else { String::new() };
        text += &format!(
            "| {row} | {control} | {forebay} | {unit} | {ratio_text}{spread} | {} | {} | {note} |\n",
            goal.text(),
            goal.verdict(*ratio)
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
}
