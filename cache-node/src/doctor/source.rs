//! Asks a source as `mount` would: is it there, does it let us in, how large is it, does its clock agree.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_daemon::logging::chain;
use forebay_wire::dataset_spec::{Dataset, Location, SourceSpec};
use forebay_wire::node_config::NodeConfig;
use indicatif::{HumanBytes, HumanCount};

use super::Finding;
use crate::access::{self, AccessError};
use forebay_source::file::FileSource;
use forebay_source::s3::S3;
use forebay_source::{ListPage, ListRequest, Source, SourceError};

/// A source that doesn't answer the first request by then is taken for unreachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long the size is counted: enough for some hundred thousand keys.
const COUNT_WITHIN: Duration = Duration::from_secs(10);
/// AWS refuses requests that are further off.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
const SKEW_WARN: Duration = Duration::from_secs(60);

/// Why a source can't be mounted.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Lists one page of the source, without retries: a bucket that is missing, refuses or can't be reached is told at once. An empty one is fine.
pub async fn probe(spec: &SourceSpec, config: &NodeConfig) -> Result<(), ProbeError> {
    page(spec, open(spec, config)?.as_source(), None).await?;
    Ok(())
}

/// A source without limits and retries.
enum Opened {
    S3(Box<S3>),
    File(FileSource),
}

impl Opened {
    fn as_source(&self) -> &dyn Source {
        match self {
            Self::S3(s3) => &**s3,
            Self::File(file) => file,
        }
    }
}

fn open(spec: &SourceSpec, config: &NodeConfig) -> Result<Opened, ProbeError> {
    let access = access::resolve(spec, config)?;
    Ok(match &spec.location {
        Location::S3(s3) => Opened::S3(Box::new(S3::new(s3, &access)?)),
        Location::File(folder) => Opened::File(FileSource::new(folder)?),
    })
}

async fn page(spec: &SourceSpec, source: &dyn Source, after: Option<Bytes>) -> Result<ListPage, SourceError> {
    let request = ListRequest { prefix: Bytes::new(), after, before: None, one_level: false };
    match tokio::time::timeout(ANSWER_WITHIN, source.list(&request)).await {
        Ok(Err(SourceError::Unavailable { op, key, origin, detail })) => {
            let detail = format!("{detail}{}; check the network, and the endpoint's name and port", endpoint(spec));
            Err(SourceError::Unavailable { op, key, origin, detail })
        }
        Ok(answer) => answer,
        Err(_) => {
            let detail = format!(
                "no answer in {} s{}; check the network, and the endpoint's name and port",
                ANSWER_WITHIN.as_secs(),
                endpoint(spec)
            );
            Err(SourceError::Unavailable { op: "list", key: String::new(), origin: spec.to_string(), detail })
        }
    }
}

fn endpoint(spec: &SourceSpec) -> String {
    match &spec.location {
        Location::S3(s3) => s3.endpoint.as_ref().map(|endpoint| format!(" from {endpoint}")).unwrap_or_default(),
        Location::File(_) => String::new(),
    }
}

/// Findings about every source of `dataset`; `room_bytes` is what the cache can take.
pub(super) async fn examine(dataset: &Dataset, config: &NodeConfig, room_bytes: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut total = Some(0_u64);
    for spec in &dataset.sources {
        let counted = match open(spec, config) {
            Ok(source) => {
                let counted = count(spec, source.as_source()).await;
                findings.extend(clock(&source));
                counted.map_err(ProbeError::from)
            }
            Err(error) => Err(error),
        };
        match counted {
            Ok(counted) => {
                let Counted { files, bytes, is_all } = counted;
                let more = if is_all { "" } else { "more than " };
                findings.push(Finding::ok("source", format!("{spec}: {more}{} files, {more}{}", HumanCount(files), HumanBytes(bytes))));
                total = total.filter(|_| is_all || total.is_some()).map(|total| total + bytes);
            }
            Err(error) => {
                total = None;
                let cure = match &error {
                    ProbeError::Access(_) => "put the secret where the message says".to_owned(),
                    ProbeError::Source(SourceError::Denied { .. }) => {
                        "check the credentials and the permissions s3:ListBucket and s3:GetObject".to_owned()
                    }
                    ProbeError::Source(SourceError::Unavailable { .. }) => format!("check the network and spec.source{}", endpoint(spec)),
                    ProbeError::Source(SourceError::Missing { .. }) => "check the name of the bucket or folder in spec.source".to_owned(),
                    ProbeError::Source(_) => "check the bucket's name, region and endpoint in the Dataset".to_owned(),
                };
                findings.push(Finding::fail("source", chain(&error).to_string(), cure));
            }
        }
    }
    if let Some(bytes) = total {
        findings.push(match bytes > room_bytes {
            true => Finding::warn(
                "size",
                format!("the data set has {} or more, the cache has room for {}", HumanBytes(bytes), HumanBytes(room_bytes)),
                "a part stays cached, the rest is read through each time; for all of it give a larger disk with --cache-dir FOLDER",
            ),
            false => Finding::ok("size", format!("{} fit into the cache", HumanBytes(bytes))),
        });
    }
    findings
}

struct Counted {
    files: u64,
    bytes: u64,
    is_all: bool,
}

async fn count(spec: &SourceSpec, source: &dyn Source) -> Result<Counted, SourceError> {
    let end = Instant::now() + COUNT_WITHIN;
    let mut counted = Counted { files: 0, bytes: 0, is_all: false };
    let mut after = None;
    loop {
        let page = page(spec, source, after).await?;
        counted.files += page.objects.len() as u64;
        counted.bytes += page.objects.iter().map(|object| object.size).sum::<u64>();
        match page.next {
            Some(next) if Instant::now() < end => after = Some(next),
            Some(_) => return Ok(counted),
            None => return Ok(Counted { is_all: true, ..counted }),
        }
    }
}

/// How far this machine's clock is off, by what the source last answered; nothing where it didn't (its own finding says so).
fn clock(source: &Opened) -> Option<Finding> {
    const CHECK: &str = "clock";
    let Opened::S3(s3) = source else { return None };
    let offset = s3.clock_offset_seconds()?;
    let skew = Duration::from_secs(offset.unsigned_abs());
    let found = match offset {
        0 => "it agrees with the source's".to_owned(),
        1.. => format!("{offset} s behind the source's"),
        ..0 => format!("{} s before the source's", offset.unsigned_abs()),
    };
    let cure = "set the clock (timedatectl set-ntp true)";
    Some(match skew {
        skew if skew >= SKEW_MAX => Finding::fail(CHECK, found, format!("{cure}: the source refuses requests that are 15 minutes off")),
        skew if skew >= SKEW_WARN => Finding::warn(CHECK, found, cure),
        _ => Finding::ok(CHECK, found),
    })
}
