//! How findings look on a terminal.
//! Pure.

use std::fmt::Write as _;

use super::{Finding, Level};

pub fn report(title: &str, findings: &[Finding]) -> String {
    let mut text = String::new();
    if findings.is_empty() {
        let _ = writeln!(text, "{title}: nothing wrong");
        return text;
    }
    let _ = writeln!(text, "{title}");
    for Finding { level, about, wrong, means, next } in findings {
        let level = match level {
            Level::Fail => "FAIL",
            Level::Warn => "WARN",
            Level::Note => "note",
        };
        let _ = writeln!(text, "{level} {about}: {wrong}");
        let _ = writeln!(text, "     means: {means}");
        let _ = writeln!(text, "     -> {next}");
    }
    text
}
