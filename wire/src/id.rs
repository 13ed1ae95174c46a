//! Names that are valid by type: a data set's, a path inside it, a node's, a zone's or rack's.
//! Knows which spellings are allowed. Does not know whether a thing of that name exists.

use std::fmt;
use std::sync::Arc;

/// Kubernetes' limit for a name that becomes a label or a DNS label.
const NAME_BYTES_MAX: usize = 63;

/// Names a data set: `namespace/name`, both DNS labels, so that they are safe in a path, a label and a metric.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatasetName {
    namespace: String,
    name: String,
}

impl DatasetName {
    /// `None` when a part is no DNS label (a-z, 0-9, `-` inside, at most 63 bytes).
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        (is_label(namespace) && is_label(name)).then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether `text` is a DNS label: a-z, 0-9 and `-`, neither first nor last a `-`, 1 to 63 bytes.
pub fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether `text` is a DNS subdomain, the name of most Kubernetes objects: labels joined by `.`, at most 253 bytes.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A folder or file inside a data set: `/`, or `/a/b` without a trailing `/`, without empty, `.` or `..` parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatasetPath(String);

impl DatasetPath {
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// A trailing `/` is dropped; `None` for anything that isn't absolute and normal, or holds a NUL or a part over 255 bytes.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('/').filter(|rest| !rest.is_empty() && !rest.ends_with('/')).unwrap_or(text);
        let inside = text.strip_prefix('/')?;
        let normal = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains('\0');
        (inside.is_empty() || inside.split('/').all(normal)).then(|| Self(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether `other` is this path or below it.
    pub fn contains(&self, other: &Self) -> bool {
        self.0 == "/" || other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for DatasetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a node of a cache: a DNS subdomain, as Kubernetes names machines. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// `None` when it is no DNS subdomain (labels of a-z, 0-9 and `-`, joined by `.`, at most 253 bytes).
    pub fn new(text: &str) -> Option<Self> {
        is_subdomain(text).then(|| Self(text.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a node stands: the name of its zone or rack, as a label of Kubernetes has it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopologyLabel(Arc<str>);

impl TopologyLabel {
    /// `None` unless 1 to 63 letters, digits, `-`, `_` or `.`, first and last a letter or digit.
    pub fn new(text: &str) -> Option<Self> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        (bytes.len() <= NAME_BYTES_MAX && bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last()))
            .then(|| Self(text.into()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopologyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for (text, good) in
            [("a", true), ("a-1", true), ("", false), ("-a", false), ("a-", false), ("A", false), ("a.b", false), ("a/b", false)]
        {
            assert_eq!(is_label(text), good, "{text}");
        }
        assert!(is_subdomain("a.b-c.d") && !is_subdomain("a..b"));
        assert_eq!(DatasetName::new("vision", "imagenet").unwrap().to_string(), "vision/imagenet");
    }

    #[test]
    fn topology_labels_are_those_of_kubernetes() {
        for (text, good) in
            [("eu-west-1a", true), ("Rack_7.b", true), ("", false), ("-a", false), ("a.", false), ("a b", false), ("a/b", false)]
        {
            assert_eq!(TopologyLabel::new(text).is_some(), good, "{text}");
        }
        assert!(TopologyLabel::new(&"a".repeat(64)).is_none());
    }

    #[test]
    fn paths_are_absolute_and_normal() {
        let check = |text: &str, path: Option<&str>| assert_eq!(DatasetPath::new(text).as_ref().map(DatasetPath::as_str), path, "{text}");
        check("/", Some("/"));
        check("/a/b/", Some("/a/b"));
        for text in ["", "a", "//", "/a//", "/a//b", "/./a", "/a/..", "/a\0"] {
            check(text, None);
        }
    }

    #[test]
    fn a_path_contains_what_is_below_it() {
        let path = |text| DatasetPath::new(text).unwrap();
        assert!(path("/").contains(&path("/a")) && path("/a").contains(&path("/a")) && path("/a").contains(&path("/a/b")));
        assert!(!path("/a").contains(&path("/ab")) && !path("/a/b").contains(&path("/a")));
    }
}
