//! From the Dataset as it is written to the Dataset as it is used: every rule about a field, in one place.
//! Knows what goes together. Does not know files, networks or what exists.

use std::time::Duration;

use super::file::{
    DatasetFile, DatasetSpecFile, MetadataFile, NameRefFile, PermissionsFile, PreloadFile, RuleFile, SourceFile, SyncFile, SyncMode,
};
use super::{Dataset, Permissions, Preload, Priority, SourceSpec, Sync, location};
use crate::check::Check;
use crate::id::{DatasetName, DatasetPath, is_label};
use crate::problem::Problems;
use crate::rule::{CacheMode, Copies, Rule};
use crate::yaml;

const SYNC_INTERVAL: Duration = Duration::from_secs(600);
/// A listing costs requests: more often than this nobody can want.
const SYNC_INTERVAL_MIN: Duration = Duration::from_secs(1);
const COPIES_MAX: u32 = 64;

impl Dataset {
    /// Reads a Dataset file. `file` is its name as the user gave it, for messages; every mistake in it is named.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let (raw, fields): (DatasetFile, _) = yaml::read(file, text)?;
        let mut check = Check::new(file, fields);
        let dataset = dataset(&mut check, raw);
        check.finish(dataset)
    }
}

fn dataset(check: &mut Check, file: DatasetFile) -> Option<Dataset> {
    let DatasetFile { api_version, kind, metadata, spec, status: _ } = file;
    check.kind(&api_version, &kind, "Dataset");
    let name = name(check, &metadata);
    let mut notes = Vec::new();
    let sources = sources(check, &spec, &mut notes);
    let DatasetSpecFile {
        source: _,
        secret_ref: _,
        service_account_name: _,
        s3: _,
        sources: _, // the five above: in `sources`
        policy_ref,
        rules: rule_files,
        eviction,
        quota,
        priority,
        preload: preload_file,
        sync: sync_file,
        permissions: permissions_file,
        volume,
        verify,
    } = spec;
    if let Some(NameRefFile { name }) = policy_ref {
        check.object_name("spec.policyRef.name", &name);
        notes.push("spec.policyRef means nothing outside Kubernetes: the node's own configuration (--config) is used".to_owned());
    }
    if volume.is_some() {
        notes.push("spec.volume means nothing outside Kubernetes: no claim is made".to_owned());
    }
    let quota = quota.and_then(|text| check.positive("spec.quota", &text));
    let priority = priority.map_or(Some(Priority::default()), |number| {
        notes.push("spec.priority means nothing on a node that serves one data set".to_owned());
        Priority::new(number).or_else(|| {
            let (min, max) = (Priority::MIN, Priority::MAX);
            check.refuse("spec.priority", format!("{number} is no priority: write a number from {min} to {max}, or leave it out for 0"))
        })
    });
    let rules = rules(check, &rule_files.unwrap_or_default(), &mut notes);
    let preload = preload(check, preload_file.unwrap_or_default());
    let sync = sync(check, sync_file.unwrap_or_default());
    let permissions = permissions(check, &permissions_file.unwrap_or_default());
    let sources = sources?;
    let rules = rules?;
    for rule in &rules {
        if !sources.iter().any(|source| source.path.contains(&rule.path) || rule.path.contains(&source.path)) {
            notes.push(format!("spec.rules: no source has files below {}: the rule does nothing", rule.path));
        }
    }
    Some(Dataset {
        name: name?,
        sources,
        rules,
        eviction: eviction.unwrap_or_default(),
        quota,
        priority: priority?,
        preload: preload?,
        sync: sync?,
        permissions: permissions?,
        verify: verify.unwrap_or_default(),
        notes,
    })
}

fn name(check: &mut Check, metadata: &MetadataFile) -> Option<DatasetName> {
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    for (field, text) in [("metadata.name", metadata.name.as_str()), ("metadata.namespace", namespace)] {
        if !is_label(text) {
            check.refuse::<()>(
                field,
                format!("`{text}` is no name: use a-z, 0-9 and `-`, at most 63 characters, first and last a letter or digit"),
            );
        }
    }
    DatasetName::new(namespace, &metadata.name)
}

fn sources(check: &mut Check, spec: &DatasetSpecFile, notes: &mut Vec<String>) -> Option<Vec<SourceSpec>> {
    let DatasetSpecFile { source, secret_ref, service_account_name, s3, sources, .. } = spec;
    match (source, sources) {
        (Some(_), Some(_)) => {
            check.refuse("spec.sources", "`source` and `sources` exclude each other: move `source` into the list, or remove one")
        }
        (None, None) => check.refuse("spec", "no source is named: write `source: s3://bucket/prefix/`, or a list `sources`"),
        (Some(uri), None) => {
            let parts = SourceParts {
                path: DatasetPath::root(),
                uri_field: "spec.source".into(),
                base: "spec".into(),
                uri,
                secret_ref,
                service_account_name,
                s3,
            };
            Some(vec![one_source(check, parts, notes)?])
        }
        (None, Some(list)) => {
            let beside =
                [("secretRef", secret_ref.is_some()), ("serviceAccountName", service_account_name.is_some()), ("s3", s3.is_some())];
            for (field, _) in beside.into_iter().filter(|(_, given)| *given) {
                check.refuse::<()>(
                    &format!("spec.{field}"),
                    format!("with `sources`, `{field}` belongs into each entry that needs it: move it there"),
                );
            }
            if list.is_empty() {
                return check.refuse("spec.sources", "the list is empty: name at least one source");
            }
            source_list(check, list, notes)
        }
    }
}

fn source_list(check: &mut Check, list: &[SourceFile], notes: &mut Vec<String>) -> Option<Vec<SourceSpec>> {
    let mut sources: Vec<SourceSpec> = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let SourceFile { path, uri, secret_ref, service_account_name, s3 } = entry;
        let base = format!("spec.sources[{index}]");
        let path_field = format!("{base}.path");
        let path = check.dataset_path(&path_field, path);
        if let Some(path) = &path {
            match sources.iter().find(|other| other.path.contains(path) || path.contains(&other.path)) {
                Some(other) if other.path == *path => {
                    check.refuse::<()>(&path_field, format!("two sources have the path {path}: give each its own"));
                }
                Some(other) => {
                    check.refuse::<()>(
                        &path_field,
                        format!("{path} and {} lie inside each other: give each source a path of its own", other.path),
                    );
                }
                None => {}
            }
        }
        let parts = SourceParts {
            path: path.clone().unwrap_or_else(DatasetPath::root),
            uri_field: format!("{base}.uri"),
            base,
            uri,
            secret_ref,
            service_account_name,
            s3,
        };
        let source = one_source(check, parts, notes);
        sources.extend(source.filter(|_| path.is_some()));
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Some(sources)
}

/// One source, whether it stands beside `source` or in `sources`.
struct SourceParts<'a> {
    path: DatasetPath,
    uri_field: String,
    base: String,
    uri: &'a str,
    secret_ref: &'a Option<NameRefFile>,
    service_account_name: &'a Option<String>,
    s3: &'a Option<super::file::S3File>,
}

fn one_source(check: &mut Check, parts: SourceParts<'_>, notes: &mut Vec<String>) -> Option<SourceSpec> {
    let SourceParts { path, uri_field, base, uri, secret_ref, service_account_name, s3 } = parts;
    let service_account = match service_account_name {
        Some(account) => Some(check.object_name(&format!("{base}.serviceAccountName"), account)?),
        None => None,
    };
    if service_account.is_some() {
        if secret_ref.is_some() {
            check
                .refuse::<()>(&format!("{base}.serviceAccountName"), "`secretRef` and `serviceAccountName` exclude each other: remove one");
        }
        notes.push(format!("{base}.serviceAccountName means nothing outside Kubernetes: the machine's own credentials are used"));
    }
    let secret = match secret_ref {
        Some(NameRefFile { name }) => Some(check.object_name(&format!("{base}.secretRef.name"), name)?),
        None => None,
    };
    let location = location::parse(check, &uri_field, &base, uri, s3.as_ref(), secret.is_some())?;
    Some(SourceSpec { path, location, secret, service_account })
}

fn rules(check: &mut Check, files: &[RuleFile], notes: &mut Vec<String>) -> Option<Vec<Rule>> {
    let mut rules: Vec<(String, Rule)> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let RuleFile { path, cache, max_bytes, ttl, copies, local_copy } = file;
        let base = format!("spec.rules[{index}]");
        let path = check.dataset_path(&format!("{base}.path"), path);
        let max_bytes = max_bytes.as_ref().and_then(|text| check.positive(&format!("{base}.maxBytes"), text));
        let ttl = ttl.as_ref().and_then(|text| {
            let field = format!("{base}.ttl");
            let ttl = check.duration(&field, text)?;
            if ttl < Duration::from_secs(1) {
                check.refuse(&field, "a ttl is at least 1s: for no caching at all write `cache: Never`")
            } else {
                Some(ttl)
            }
        });
        let copies = copies.as_ref().and_then(|copies| {
            notes.push(format!("{base}.copies means nothing on one node"));
            let min = copies.min.unwrap_or(1);
            let max = copies.max.unwrap_or(min);
            if min >= 1 && min <= max && max <= COPIES_MAX {
                return Some(Copies { min, max });
            }
            check.refuse(&format!("{base}.copies"), format!("1 <= min <= max <= {COPIES_MAX} must hold: mend the two numbers"))
        });
        let Some(path) = path else { continue };
        if rules.iter().any(|(_, other)| other.path == path) {
            check.refuse::<()>(&format!("{base}.path"), format!("two rules have the path {path}: join them into one"));
            continue;
        }
        rules.push((base, Rule { path, cache: *cache, max_bytes, ttl, copies, local_copy: *local_copy }));
    }
    // Only now: a rule may inherit its `cache` from a shorter path that comes later in the file.
    for (base, rule) in rules.iter().filter(|(_, rule)| rule.max_bytes.is_some()) {
        let nearest = rules.iter().filter(|(_, other)| other.cache.is_some() && other.path.contains(&rule.path));
        let mode = nearest.max_by_key(|(_, other)| other.path.as_str().len()).and_then(|(_, other)| other.cache).unwrap_or_default();
        if mode != CacheMode::Pin {
            check.refuse::<()>(&format!("{base}.maxBytes"), "maxBytes says how much to pin: add `cache: Pin`, or remove maxBytes");
        }
    }
    let mut rules: Vec<Rule> = rules.into_iter().map(|(_, rule)| rule).collect();
    rules.sort_by(|a, b| a.path.cmp(&b.path));
    Some(rules)
}

fn preload(check: &mut Check, file: PreloadFile) -> Option<Preload> {
    let PreloadFile { when, paths, max_bytes_per_second, revision, suspend, verify } = file;
    let paths = match paths {
        None => Some(vec![DatasetPath::root()]),
        Some(list) if list.is_empty() => {
            check.refuse("spec.preload.paths", "the list is empty: name a path, or leave `paths` out for everything")
        }
        Some(list) => list
            .iter()
            .enumerate()
            .map(|(index, text)| check.dataset_path(&format!("spec.preload.paths[{index}]"), text))
            .collect::<Vec<_>>()
            .into_iter()
            .collect(),
    };
    let max_bytes_per_second = max_bytes_per_second.and_then(|text| check.positive("spec.preload.maxBytesPerSecond", &text));
    if revision.is_some_and(|revision| revision < 0) {
        check.refuse::<()>("spec.preload.revision", "a revision is 0 or more");
    }
    Some(Preload {
        when: when.unwrap_or_default(),
        paths: paths?,
        max_bytes_per_second,
        revision: revision.unwrap_or(0),
        suspend: suspend.unwrap_or(false),
        verify: verify.unwrap_or(false),
    })
}

fn sync(check: &mut Check, file: SyncFile) -> Option<Sync> {
    let SyncFile { mode, interval } = file;
    const FIELD: &str = "spec.sync.interval";
    match (mode.unwrap_or_default(), interval) {
        (SyncMode::Never, None) => Some(Sync::Never),
        (SyncMode::Never, Some(_)) => check.refuse(FIELD, "`mode: Never` has no interval: remove it, or write `mode: Interval`"),
        (SyncMode::Interval, None) => Some(Sync::Interval(SYNC_INTERVAL)),
        (SyncMode::Interval, Some(text)) => match check.duration(FIELD, &text)? {
            interval if interval < SYNC_INTERVAL_MIN => {
                check.refuse(FIELD, "an interval is at least 1s; for none at all write `mode: Never`")
            }
            interval => Some(Sync::Interval(interval)),
        },
    }
}

fn permissions(check: &mut Check, file: &PermissionsFile) -> Option<Permissions> {
    let PermissionsFile { uid, gid, file_mode, directory_mode } = file;
    let mut mode = |field: &str, text: &Option<String>, default: u16| match text {
        None => Some(default),
        Some(text) => match u16::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && text.bytes().all(|byte| byte.is_ascii_digit()) => Some(mode),
            _ => {
                check.refuse(&format!("spec.permissions.{field}"), format!("`{text}` is no mode: write three octal digits, as in \"0444\""))
            }
        },
    };
    let file_mode = mode("fileMode", file_mode, 0o444);
    let directory_mode = mode("directoryMode", directory_mode, 0o555);
    // The kernel's "no change" value is no owner.
    for (field, id) in [("uid", uid), ("gid", gid)] {
        if *id == Some(u32::MAX) {
            check.refuse::<()>(&format!("spec.permissions.{field}"), "4294967295 means `no owner`: write a smaller number");
        }
    }
    Some(Permissions { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), file_mode: file_mode?, directory_mode: directory_mode? })
}
