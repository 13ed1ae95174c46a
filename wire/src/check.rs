//! Collects what is wrong with a file, so that one run names every mistake.
//! Knows fields and lines. Does not know what they mean.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::id::{self, DatasetPath};
use crate::problem::{Problem, Problems};
use crate::unit::{self, ByteSize, UnitError};
use crate::yaml::Fields;

pub(crate) const API_VERSION: &str = "forebay.dev/v1alpha1";

pub(crate) struct Check {
    file: String,
    fields: Fields,
    problems: Vec<Problem>,
}

impl Check {
    pub(crate) fn new(file: &str, fields: Fields) -> Self {
        Self { file: file.to_owned(), fields, problems: Vec::new() }
    }

    /// Notes a mistake; gives `None`, so that a check can end with it.
    pub(crate) fn refuse<T>(&mut self, field: &str, message: impl Into<String>) -> Option<T> {
        self.problems.push(Problem { field: field.to_owned(), line: self.fields.line(field), message: message.into() });
        None
    }

    /// `value`, unless something was refused. Panics when a value is missing though nothing was: a bug in the checks.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        let Self { file, fields: _, mut problems } = self;
        if problems.is_empty() {
            return Ok(value.expect("a check that gives nothing refuses something"));
        }
        problems.sort_by_key(|problem| problem.line);
        Err(Problems { file, problems })
    }

    pub(crate) fn kind(&mut self, api_version: &str, kind: &str, expected: &str) {
        if api_version != API_VERSION {
            self.refuse::<()>("apiVersion", format!("this program reads `{API_VERSION}` only: write that"));
        }
        if kind != expected {
            self.refuse::<()>(
                "kind",
                format!("a file of kind `{expected}` is expected here: write `kind: {expected}`, or give the right file"),
            );
        }
    }

    fn unit<T>(&mut self, field: &str, value: Result<T, UnitError>) -> Option<T> {
        value.map_or_else(|error| self.refuse(field, error.to_string()), Some)
    }

    pub(crate) fn parse<T: FromStr<Err = UnitError>>(&mut self, field: &str, text: &str) -> Option<T> {
        self.unit(field, text.parse())
    }

    pub(crate) fn duration(&mut self, field: &str, text: &str) -> Option<Duration> {
        self.unit(field, unit::parse_duration(text))
    }

    /// A quantity that isn't zero: a zero limit would stop everything.
    pub(crate) fn positive(&mut self, field: &str, text: &str) -> Option<ByteSize> {
        let size: ByteSize = self.parse(field, text)?;
        if size.bytes() == 0 {
            self.refuse(field, "0 would stop everything: write a larger quantity, or leave it out for no limit")
        } else {
            Some(size)
        }
    }

    pub(crate) fn dataset_path(&mut self, field: &str, text: &str) -> Option<DatasetPath> {
        DatasetPath::new(text).or_else(|| {
            self.refuse(
                field,
                format!("`{text}` is no path of a data set: write it from `/`, without empty, `.` or `..` parts, as in /images/train"),
            )
        })
    }

    pub(crate) fn object_name(&mut self, field: &str, text: &str) -> Option<String> {
        if id::is_subdomain(text) {
            return Some(text.to_owned());
        }
        self.refuse(
            field,
            "this is no name of an object: use a-z, 0-9, `-` and `.`, at most 253 characters, first and last a letter or digit",
        )
    }

    pub(crate) fn absolute(&mut self, field: &str, text: &str) -> Option<PathBuf> {
        let path = PathBuf::from(text);
        let normal = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if path.is_absolute() && normal && !text.contains('\0') {
            return Some(path);
        }
        self.refuse(field, format!("`{text}` is no absolute path: write it from `/`, without `..`"))
    }
}
