//! Checks on the sources that no compiler makes: what a room must not name, lengths, links, rules and their tests.
//! Knows text only. A message tells file, line and what to write instead.

mod rooms;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source longer than this is a smell; a test file may be twice as long.
const SOURCE_LINES_MAX: usize = 500;

/// Text that a clone of this repository must never carry: folders of the machine it was written on.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];

struct File {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every text file of the repository except build output; binary files are skipped.
fn files() -> Vec<File> {
    let root = repository();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                folders.push(entry.path());
            } else if kind.is_file()
                && name != ".git"
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                let path = entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// A check whose page isn't there has checked nothing.
fn found<'a>(files: &'a [File], path: &str) -> &'a File {
    files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is not there: write it, or drop the check of it"))
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("tests.rs") || path.contains("/examples/") || path.starts_with("fuzz/")
}

fn fail_with(complaints: &[String]) {
    assert!(complaints.is_empty(), "tidy has {} complaints:\n{}\n", complaints.len(), complaints.join("\n"));
}

/// The code of a line: without its comment, and nothing at all from where a file's own unit tests begin.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests_begin = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..tests_begin].lines().enumerate().filter_map(|(at, line)| {
        let code = line.split("//").next().unwrap_or("");
        (!code.trim().is_empty()).then_some((at + 1, code))
    })
}

#[test]
fn tidy_rooms_keep_to_what_they_know() {
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with(".rs") && !is_test(&file.path)) {
        for rule in rooms::RULES.iter().filter(|rule| rule.holds_in(&file.path)) {
            for (line, code) in code_lines(&file.text) {
                if let Some(word) = rule.words.iter().find(|word| rooms::names(code, word)) {
                    complaints.push(format!("{}:{line}: `{word}` doesn't belong here: {}", file.path, rule.instead));
                }
            }
        }
    }
    fail_with(&complaints);
}

#[test]
fn tidy_files_stay_short() {
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with(".rs")) {
        let lines = file.text.lines().count();
        let most = if is_test(&file.path) { 2 * SOURCE_LINES_MAX } else { SOURCE_LINES_MAX };
        if lines > most {
            complaints.push(format!("{}:{lines}: over {most} lines: give a part of it a file and a name of its own", file.path));
        }
    }
    fail_with(&complaints);
}

#[test]
fn tidy_no_path_of_a_machine() {
    let mut complaints = Vec::new();
    for file in files() {
        for (at, line) in file.text.lines().enumerate() {
            if let Some(found) = MACHINE_PATHS.iter().find(|path| line.contains(*path)) {
                complaints.push(format!("{}:{}: `{found}` is a folder of one machine: write a relative path", file.path, at + 1));
            }
        }
    }
    fail_with(&complaints);
}

#[test]
fn tidy_links_lead_somewhere() {
    let root = repository();
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root.join(&file.path).parent().unwrap().to_path_buf();
        for (at, line) in file.text.lines().enumerate() {
            for piece in line.split("](").skip(1) {
                let Some(target) = piece.split(')').next() else { continue };
                let target = target.split('#').next().unwrap_or("");
                if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") && !folder.join(target).exists() {
                    complaints.push(format!("{}:{}: the link to `{target}` leads nowhere", file.path, at + 1));
                }
            }
        }
    }
    fail_with(&complaints);
}

/// `S-07` in SEMANTICS.md and `fn s_07_...` in a test belong together, both ways.
#[test]
fn tidy_each_rule_has_a_test() {
    let files = files();
    let semantics = found(&files, "SEMANTICS.md");
    let mut rules = BTreeMap::new();
    for (at, line) in semantics.text.lines().enumerate() {
        // A rule is defined where its number opens a line: `**S-07**`, `### S-07`, `- S-07` or `| S-07 |`.
        let start = line.trim_start_matches(['#', '*', '-', '|', ' ']);
        if let Some(number) = start.strip_prefix("S-").and_then(|rest| rest.get(..2)).filter(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            rules.entry(number.to_owned()).or_insert(at + 1);
        }
    }
    let mut tested = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        for (at, line) in file.text.lines().enumerate() {
            let Some(number) = line.split("fn s_").nth(1).and_then(|rest| rest.get(..2)) else { continue };
            if number.bytes().all(|b| b.is_ascii_digit()) {
                tested.entry(number.to_owned()).or_insert(format!("{}:{}", file.path, at + 1));
            }
        }
    }
    let mut complaints = Vec::new();
    for (rule, line) in rules.iter().filter(|(rule, _)| !tested.contains_key(*rule)) {
        complaints.push(format!("SEMANTICS.md:{line}: rule S-{rule} has no test: name one `s_{rule}_what_it_shows`"));
    }
    for (rule, place) in tested.iter().filter(|(rule, _)| !rules.contains_key(*rule)) {
        complaints.push(format!("{place}: tests rule S-{rule}, which SEMANTICS.md doesn't have: write the rule or rename the test"));
    }
    fail_with(&complaints);
}

/// Each metric that the code names stands in docs/metrics.md, and the reverse.
#[test]
fn tidy_metrics_are_documented() {
    let files = files();
    let named = |text: &str, quote: &str| -> BTreeSet<String> {
        let marker = format!("{quote}forebay_");
        let pieces = text.split(marker.as_str()).skip(1);
        let rests =
            pieces.map(|piece| piece.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_' || c.is_ascii_digit()).collect::<String>());
        rests.filter(|rest| !rest.is_empty()).map(|rest| format!("forebay_{rest}")).collect()
    };
    let page = found(&files, "docs/metrics.md");
    let documented = named(&page.text, "`");
    let mut complaints = Vec::new();
    let mut emitted = BTreeSet::new();
    let tables = ["cache-node/src/metrics.rs", "cache-node/src/metrics/", "csi-driver/src/metrics.rs", "operator/src/metrics.rs"];
    for file in files.iter().filter(|file| tables.iter().any(|table| file.path.starts_with(table))) {
        emitted.extend(named(&file.text, "\""));
    }
    complaints.extend(emitted.difference(&documented).map(|name| format!("docs/metrics.md: add a row for `{name}`")));
    complaints
        .extend(documented.difference(&emitted).map(|name| format!("docs/metrics.md: `{name}` is in no table of metrics: drop the row")));
    fail_with(&complaints);
}

/// What the dashboard asks for is on docs/metrics.md, in the form that Prometheus has it.
#[test]
fn tidy_the_dashboard_shows_metrics_that_there_are() {
    // Beside the tables: see docs/metrics.md.
    const OF_FUSE: [&str; 2] = ["forebay_fuse_request_duration_seconds", "forebay_fuse_errors"];
    let files = files();
    let page = found(&files, "docs/metrics.md");
    let dashboard = found(&files, "charts/forebay/dashboards/forebay.json");
    let is_named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let shown: BTreeSet<&str> = dashboard.text.split(|c: char| !is_named(c)).filter(|word| word.starts_with("forebay_")).collect();
    let row = |name: &str| page.text.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
    let is_there = |name: &&&str| {
        if let Some(counter) = name.strip_suffix("_total") {
            return OF_FUSE.contains(&counter) || row(counter).is_some_and(|row| row.contains("| counter |"));
        }
        match ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)) {
            Some(histogram) => {
                let seconds = histogram.strip_suffix("_seconds").and_then(row).or_else(|| row(histogram));
                OF_FUSE.contains(&histogram) || seconds.is_some_and(|row| row.contains("| histogram"))
            }
            None => row(name).is_some_and(|row| row.contains("| gauge |")),
        }
    };
    assert!(!shown.is_empty());
    let strange = shown.iter().filter(|name| !is_there(name));
    let complaints: Vec<String> = strange.map(|name| format!("{}: `{name}` is no metric of docs/metrics.md", dashboard.path)).collect();
    fail_with(&complaints);
}

/// Each value of the chart, or what it is part of, has a row in the chart's README.
#[test]
fn tidy_values_of_the_chart_are_documented() {
    let files = files();
    let values = found(&files, "charts/forebay/values.yaml");
    let readme = found(&files, "charts/forebay/README.md");
    let rows: Vec<&str> = readme.text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let mut known = BTreeSet::new();
    let mut path: Vec<&str> = Vec::new();
    let mut complaints = Vec::new();
    for (at, line) in values.text.lines().enumerate() {
        let text = line.trim_start();
        let Some((key, rest)) = text.split_once(':').filter(|_| !text.starts_with(['#', '-'])) else { continue };
        path.truncate((line.len() - text.len()) / 2);
        path.push(key);
        // The upper ones hold others and say nothing by themselves.
        let names: Vec<String> = (2..=path.len()).map(|depth| path[..depth].join(".")).collect();
        match names.iter().find(|name| rows.contains(&name.as_str())) {
            Some(name) => drop(known.insert(name.clone())),
            None if path.len() > 1 || !rest.trim().is_empty() => {
                complaints.push(format!("{}:{}: `{}` has no row in {}", values.path, at + 1, path.join("."), readme.path));
            }
            None => {}
        }
    }
    complaints
        .extend(rows.iter().filter(|row| !known.contains(**row)).map(|row| format!("{}: `{row}` is no value: drop the row", readme.path)));
    fail_with(&complaints);
}

/// A row of the table that falls short has a line below "What limits what" in docs/benchmarks.md. There is no such row before a run.
#[test]
fn tidy_what_falls_short_is_explained() {
    let files = files();
    let page = &found(&files, "docs/benchmarks.md").text;
    let (table, limits) = page.split_once("## What limits what").unwrap();
    let is_short = |line: &&str| line.starts_with("| ") && (line.contains("**short**") || line.contains("**over**"));
    let short = table.lines().filter(is_short).filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let is_explained = |row: &str| limits.lines().any(|line| line.starts_with("- ") && line.contains(&format!("`{row}`")));
    let complaints: Vec<String> = short
        .filter(|row| !is_explained(row))
        .map(|row| format!("docs/benchmarks.md: {row} falls short: write a line `- `{row}`: ...` below \"What limits what\""))
        .collect();
    fail_with(&complaints);
}

/// Each test that docs/tests.md names is there.
#[test]
fn tidy_tests_of_the_page_exist() {
    let files = files();
    let page = found(&files, "docs/tests.md");
    let sources: Vec<&File> = files.iter().filter(|file| file.path.ends_with(".rs")).collect();
    let is_test_name = |name: &&str| name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let rows = page.text.lines().filter(|line| line.starts_with("| "));
    let names: BTreeSet<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(is_test_name).collect();
    assert!(!names.is_empty());
    let is_there = |name: &str| sources.iter().any(|file| file.text.contains(&format!("fn {name}(")));
    let complaints: Vec<String> =
        names.iter().filter(|name| !is_there(name)).map(|name| format!("docs/tests.md: there is no test `{name}`")).collect();
    fail_with(&complaints);
}

/// Each `make` target that a page names is there, and so is each script that a target runs.
#[test]
fn tidy_commands_of_the_pages_exist() {
    let files = files();
    let makefile = &found(&files, "Makefile").text;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (at, line) in file.text.lines().enumerate() {
            // As a command: at the beginning of a line, or in backticks.
            let commands = line.split('`').filter_map(|piece| piece.strip_prefix("make "));
            for command in commands.chain(line.strip_prefix("make ")) {
                let target: String = command.chars().take_while(|c| is_name(*c)).collect();
                if !target.is_empty() && !makefile.contains(&format!("\n{target}:")) {
                    complaints.push(format!("{}:{}: there is no `make {target}`", file.path, at + 1));
                }
            }
        }
    }
    for script in makefile.split_whitespace().filter(|word| word.starts_with("bench/") && word.ends_with(".sh")) {
        if !files.iter().any(|file| file.path == script) {
            complaints.push(format!("Makefile: {script} is not there"));
        }
    }
    fail_with(&complaints);
}
