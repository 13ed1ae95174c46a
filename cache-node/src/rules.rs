//! Which rule holds for a path: pin it, cache it as it comes, or never cache it, and for how long.
//! Knows the rules of one data set. Does not know clocks, disks or which files exist; it is pure.
//! Invariant: the same rules and totals give the same answer for the same object on every node.

use std::time::Duration;

use forebay_wire::rule::{CacheMode, Copies, LocalCopy, Rule as RuleSpec};

use forebay_store::{Admission, Class};
use forebay_wire::block::ObjectId;

/// What is to be done with the bytes of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Put into the store on these terms.
    Keep(Admission),
    /// Read through, never stored.
    Pass,
}

/// One rule with every field resolved: what its path does not say comes from the next shorter path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Below the data set's root, no `/` at either end; empty for the root.
    path: Vec<u8>,
    pub cache: CacheMode,
    pub ttl: Option<Duration>,
    pub local_copy: LocalCopy,
    pub copies: Copies,
    /// With `Pin`: only so many bytes are pinned, the rest below the path is `Auto`.
    pub max_bytes: Option<u64>,
    /// Objects whose hash is below this are pinned: `max_bytes` / bytes below the path, scaled to 2^64. `u64::MAX` pins all.
    pin_threshold: u64,
}

/// The rules of a data set, to be asked by path. A few rows: asked once per fill, never on the hit path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTable {
    /// Longest path first; the last one is the root's, so that every path has a rule.
    rules: Vec<Rule>,
}

impl RuleTable {
    /// Resolves what each rule leaves out. `specs` in any order, each path at most once.
    pub fn new(specs: &[RuleSpec]) -> Self {
        let mut sorted: Vec<(Vec<u8>, &RuleSpec)> =
            specs.iter().map(|spec| (trimmed(spec.path.as_str().as_bytes()).to_vec(), spec)).collect();
        sorted.sort_by_key(|(path, _)| path.len());
        let root = Rule {
            path: Vec::new(),
            cache: CacheMode::Auto,
            ttl: None,
            local_copy: LocalCopy::Hot,
            copies: Copies::ONE,
            max_bytes: None,
            pin_threshold: u64::MAX,
        };
        // Shortest first, so that a rule's parent is resolved before it.
        let mut rules = vec![root];
        for (path, spec) in sorted {
            let above = rules.iter().rev().find(|rule| is_below(&rule.path, &path)).cloned().expect("the root is above every path");
            let rule = Rule {
                cache: spec.cache.unwrap_or(above.cache),
                ttl: spec.ttl.or(above.ttl),
                local_copy: spec.local_copy.unwrap_or(above.local_copy),
                copies: spec.copies.unwrap_or(above.copies),
                // A limit belongs to the path that names it: a longer path that pins again has its own, or none.
                max_bytes: spec.max_bytes.map(|size| size.bytes()),
                pin_threshold: u64::MAX,
                path,
            };
            if rule.path.is_empty() {
                rules[0] = rule;
            } else {
                rules.push(rule);
            }
        }
        rules.reverse();
        Self { rules }
    }

    /// The rule of the longest path that is `path` or above it. `path` with or without a leading `/`. O(rules).
    pub fn resolve(&self, path: &[u8]) -> &Rule {
        let path = trimmed(path);
        self.rules.iter().find(|rule| is_below(&rule.path, path)).expect("the root's rule is above every path")
    }

    /// Paths whose pins are limited: their thresholds need `set_bytes_below` once the manifest is known.
    pub fn limited_paths(&self) -> Vec<Vec<u8>> {
        self.rules.iter().filter(|rule| rule.max_bytes.is_some()).map(|rule| rule.path.clone()).collect()
    }

    /// Chooses how much of the hash space is pinned below a limited path, from the bytes that are there.
    pub fn set_bytes_below(&mut self, path: &[u8], bytes: u64) {
        for rule in self.rules.iter_mut().filter(|rule| rule.path == trimmed(path)) {
            rule.pin_threshold = match rule.max_bytes {
                Some(max) if max < bytes => u64::try_from((u128::from(max) << 64) / u128::from(bytes.max(1))).unwrap_or(u64::MAX),
                Some(_) | None => u64::MAX,
            };
        }
    }

    /// Whether any rule asks for bytes to be loaded ahead of use.
    pub fn pins(&self) -> bool {
        self.rules.iter().any(|rule| rule.cache == CacheMode::Pin)
    }

    /// Whether any rule keeps bytes out of the cache.
    pub fn forbids(&self) -> bool {
        self.rules.iter().any(|rule| rule.cache == CacheMode::Never)
    }
}

impl Rule {
    /// On which terms `object` is kept when it is filled at `now_seconds` (since the Unix epoch).
    pub fn placement(&self, object: ObjectId, now_seconds: u32) -> Placement {
        let class = match self.cache {
            CacheMode::Never => return Placement::Pass,
            CacheMode::Auto => Class::Auto,
            CacheMode::Pin if self.is_pinned(object) => Class::Pin,
            CacheMode::Pin => Class::Auto,
        };
        let lifetime = self.ttl.map(|ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
        Placement::Keep(Admission { class, expires_at_seconds: lifetime.map(|seconds| now_seconds.saturating_add(seconds)) })
    }

    /// Whether the stable subset that `Pin` holds has this object: the lowest hashes up to the threshold.
    pub fn is_pinned(&self, object: ObjectId) -> bool {
        // The upper half of the id is as good a hash as any: the id is xxh3-128 of source, key and version.
        let hash = (object.0 >> 64) as u64;
        self.cache == CacheMode::Pin && (self.pin_threshold == u64::MAX || hash < self.pin_threshold)
    }
}

fn trimmed(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Whether `path` is `above` or below it, by whole components.
fn is_below(above: &[u8], path: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests;
