//! Reads one YAML document into a type, and remembers on which line each field lies.
//! Knows YAML and serde's errors. Does not know what a field means.
//! Invariant: no message repeats a value, since somebody may have written a secret where it doesn't belong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Options, Spanned};

use crate::problem::{Problem, Problems};

/// Larger files aren't configuration: 1 MiB is what Kubernetes takes for an object.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Reads `text`, which the user knows as `file`.
pub(crate) fn read<T: DeserializeOwned>(file: &str, text: &str) -> Result<(T, Fields), Problems> {
    let one = |problem: Problem| Problems { file: file.to_owned(), problems: vec![problem] };
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes, more than the {FILE_BYTES_MAX} allowed; is it the right file?", text.len());
        return Err(one(Problem { field: String::new(), line: None, message }));
    }
    // A snippet would repeat lines of the file.
    let options = || {
        let mut options = Options::default();
        options.with_snippet = false;
        options.strict_booleans = true;
        options
    };
    let tree: Spanned<Tree> =
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| one(problem(&error, &Fields::default())))?;
    let mut fields = Fields::default();
    fields.add(String::new(), None, &tree);
    let value = serde_saphyr::from_str_with_options(text, options()).map_err(|error| one(problem(&error, &fields)))?;
    Ok((value, fields))
}

/// Where each field of a file lies, by path (`spec.sources[1].uri`).
#[derive(Debug, Default)]
pub(crate) struct Fields {
    lines: BTreeMap<String, u64>,
    by_location: BTreeMap<(u64, u64), String>,
    maps: BTreeSet<String>,
}

impl Fields {
    /// The line of `field`, or of the nearest field around it that is in the file.
    pub(crate) fn line(&self, field: &str) -> Option<u64> {
        let mut field = field;
        loop {
            if let Some(line) = self.lines.get(field) {
                return Some(*line);
            }
            field = &field[..field.rfind(['.', '['])?];
        }
    }

    /// The map that is `field` or holds it.
    fn map_around<'a>(&self, field: &'a str) -> &'a str {
        let mut field = field;
        while !self.maps.contains(field) {
            field = &field[..field.rfind(['.', '[']).unwrap_or(0)];
            if field.is_empty() {
                break;
            }
        }
        field
    }

    fn add(&mut self, path: String, key: Option<&Location>, node: &Spanned<Tree>) {
        let value = &node.referenced;
        let spots = [key, Some(value)];
        for spot in spots.into_iter().flatten().rev() {
            self.by_location.insert((spot.line(), spot.column()), path.clone());
        }
        match &node.value {
            Tree::Scalar => {}
            Tree::Map(entries) => {
                self.maps.insert(path.clone());
                for (name, child) in entries {
                    let inside = if path.is_empty() { name.value.clone() } else { format!("{path}.{}", name.value) };
                    self.add(inside, Some(&name.referenced), child);
                }
            }
            Tree::List(items) => {
                for (index, child) in items.iter().enumerate() {
                    self.add(format!("{path}[{index}]"), None, child);
                }
            }
        }
        // Last, so that an item which begins where its first field begins keeps its own name.
        self.by_location.insert((value.line(), value.column()), path.clone());
        if !path.is_empty() {
            self.lines.insert(path, key.unwrap_or(value).line());
        }
    }
}

/// The shape of a document, without its values.
#[derive(Debug)]
enum Tree {
    Scalar,
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_bytes<E>(self, _: &[u8]) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}

/// A field that is accepted and not looked at.
pub(crate) type Ignored = IgnoredAny;

fn problem(error: &Error, fields: &Fields) -> Problem {
    let location = error.location();
    let line = location.map(|location| location.line());
    let at = location.and_then(|location| fields.by_location.get(&(location.line(), location.column()))).cloned().unwrap_or_default();
    let (field, message) = match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => {
            let closest = closest(field, expected).map(|name| format!("did you mean `{name}`? ")).unwrap_or_default();
            (at, format!("unknown field `{field}`; {closest}known here: {}", expected.join(", ")))
        }
        // Found out after the last field of the map: that is where the error points.
        Error::SerdeMissingField { field, .. } => {
            (fields.map_around(&at).to_owned(), format!("the field `{field}` is missing here: add it"))
        }
        Error::SerdeUnknownVariant { expected, .. } => (at, format!("unknown value: write one of {}", expected.join(", "))),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            (at, format!("a value of the wrong kind: {} is expected", plain(expected)))
        }
        Error::DuplicateMappingKey { key, .. } => (at, format!("the field `{}` is there twice: remove one", key.as_deref().unwrap_or("?"))),
        Error::Unexpected { expected: "mapping start", .. } => (at, "a value of the wrong kind: a map of fields is expected".to_owned()),
        Error::Unexpected { expected: "sequence start", .. } => (at, "a value of the wrong kind: a list is expected".to_owned()),
        Error::InvalidBooleanStrict { .. } => (at, "a value of the wrong kind: true or false is expected".to_owned()),
        Error::InvalidScalar { ty, .. } => (at, format!("a value of the wrong kind: {} is expected", plain(ty))),
        Error::MultipleDocuments { .. } => (at, "the file holds more than one document: keep one, without `---` lines".to_owned()),
        Error::Eof { .. } => (at, "the file is empty: write a document into it".to_owned()),
        other => (at, format!("this is not the YAML expected here: {}", first_line(&describe(other)))),
    };
    Problem { field, line, message }
}

/// serde's names of types in words.
fn plain(expected: &str) -> String {
    match expected.strip_prefix("struct ") {
        Some(_) => "a map of fields".to_owned(),
        None => expected.to_owned(),
    }
}

/// Errors of the parser (not of serde) talk about YAML's own signs; they are safe to print.
fn describe(error: &Error) -> String {
    match error {
        Error::Message { .. } => "a value of the wrong kind".to_owned(),
        other => other.to_string(),
    }
}

fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    // The line number stands in front of the message already.
    line.split(" at line ").next().unwrap_or(line)
}

/// The known name that differs from `field` by the fewest edits, if at most a third of it differs.
fn closest(field: &str, known: &[&'static str]) -> Option<&'static str> {
    known
        .iter()
        .map(|name| (distance(&field.to_lowercase(), &name.to_lowercase()), *name))
        .filter(|(distance, name)| distance * 3 <= name.len().max(field.len()))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
