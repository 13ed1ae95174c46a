//! What is wrong with a file: field, line, cure.
//! Invariant: a problem never holds the value of a secret, since no file holds one.

use std::fmt;

/// One mistake in a file. Prints as `spec.sources[1].uri (line 9): <message>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// As in `spec.sources[1].uri`; empty for the file as a whole.
    pub field: String,
    /// From 1; `None` when the field isn't in the file.
    pub line: Option<u64>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.field.as_str(), self.line) {
            ("", None) => {}
            ("", Some(line)) => write!(f, "line {line}: ")?,
            (field, None) => write!(f, "{field}: ")?,
            (field, Some(line)) => write!(f, "{field} (line {line}): ")?,
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with one file, at least one problem. Prints one a line, each with the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file's name as the user gave it.
    pub file: String,
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}: {problem}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
