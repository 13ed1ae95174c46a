//! The node's file as it is written, and the checks that make it a `NodeConfig`.
//! Changes: a new optional field is safe; renaming, removing or requiring one is breaking.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::peers::{PeersFile, peers};
use super::{
    AmbientCredentials, BLOCK_SIZE, CAPACITY_PERCENT, FILL_BUFFER, FILLS_MAX, KEEP_FREE_PERCENT, LogConfig, LogFormat, NodeConfig,
    PASSTHROUGH_MIN, ServingMode, SourceLimits, Tier,
};
use crate::check::Check;
use crate::problem::Problems;
use crate::unit::{ByteSize, Capacity, Percent};
use crate::yaml;

/// The settings of one node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "NodeConfig")]
pub struct NodeConfigFile {
    /// `forebay.dev/v1alpha1`.
    pub api_version: String,
    /// `NodeConfig`.
    pub kind: String,
    /// Folders that hold cached blocks, fastest first.
    pub tiers: Option<Vec<TierFile>>,
    /// Bytes of a block: a power of two from `64Ki` to `16Mi`; `4Mi` when left out.
    pub block_size: Option<String>,
    pub passthrough: Option<PassthroughFile>,
    pub fills: Option<FillsFile>,
    pub source: Option<SourceLimitsFile>,
    /// How opens are answered.
    pub serving: Option<ServingMode>,
    pub metrics: Option<MetricsFile>,
    /// Folder of secrets as Kubernetes mounts them: the file `<secret>/<KEY>` holds one value, such as `s3/AWS_SECRET_ACCESS_KEY`.
    pub secrets: Option<String>,
    /// Whether a source without a secret may use the machine's own credentials.
    pub ambient_credentials: Option<AmbientCredentials>,
    /// Other nodes that share a cache with this one; none when left out.
    pub peers: Option<PeersFile>,
    pub log: Option<LogFile>,
}

/// A folder that holds cached blocks.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TierFile {
    /// Absolute.
    pub path: String,
    /// Bytes, or a part of the filesystem; `80%` when left out.
    pub capacity: Option<String>,
    /// The share of the filesystem that is always left free, 0 to 99; 10 when left out.
    pub keep_free_percent: Option<u8>,
}

/// Files that the kernel reads by itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PassthroughFile {
    /// `true` when left out.
    pub enabled: Option<bool>,
    /// From this size up an object is a file of its own in the store; `64Ki` when left out.
    pub min_bytes: Option<String>,
}

/// What is on its way from the sources.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FillsFile {
    /// At once, 1 to 4096; 64 when left out.
    pub max: Option<u32>,
    /// Memory for bytes on their way, at least four blocks; `96Mi` when left out.
    pub buffer_bytes: Option<String>,
}

/// What the sources may be asked for, all together, by all nodes of a cache together.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceLimitsFile {
    /// Such as `1Gi`; no limit when left out.
    pub max_bytes_per_second: Option<String>,
    /// No limit when left out.
    pub max_requests_per_second: Option<u32>,
}

/// Where metrics and health are answered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsFile {
    /// An IP address and a port, such as `127.0.0.1:9464`; port 0 takes a free one.
    pub address: String,
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogFile {
    pub format: Option<LogFormat>,
    /// `info`, or directives such as `info,forebay_node=debug`.
    pub level: Option<String>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            tiers: Vec::new(),
            block_size: BLOCK_SIZE,
            passthrough: true,
            passthrough_min: PASSTHROUGH_MIN,
            fills_max: FILLS_MAX,
            fill_buffer: FILL_BUFFER,
            source_limits: SourceLimits::default(),
            serving: ServingMode::Auto,
            metrics: None,
            secrets: None,
            ambient_credentials: AmbientCredentials::Allow,
            peers: None,
            log: LogConfig { format: LogFormat::Text, level: "info".to_owned() },
        }
    }
}

impl Default for Tier {
    /// In no folder yet: the caller sets `path`.
    fn default() -> Self {
        let percent = |value| Percent::new(value).expect("a constant below 100");
        Self { path: "/".into(), capacity: Capacity::Percent(percent(CAPACITY_PERCENT)), keep_free: percent(KEEP_FREE_PERCENT) }
    }
}

impl NodeConfig {
    /// Reads a node's file. `file` is its name as the user gave it, for messages; every mistake in it is named.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let (raw, fields): (NodeConfigFile, _) = yaml::read(file, text)?;
        let mut check = Check::new(file, fields);
        let config = config(&mut check, raw);
        check.finish(config)
    }
}

fn config(check: &mut Check, file: NodeConfigFile) -> Option<NodeConfig> {
    let NodeConfigFile {
        api_version,
        kind,
        tiers,
        block_size,
        passthrough,
        fills,
        source,
        serving,
        metrics,
        secrets,
        ambient_credentials,
        peers,
        log,
    } = file;
    check.kind(&api_version, &kind, "NodeConfig");
    let tiers = self::tiers(check, tiers.unwrap_or_default());
    let block_size = block_size.map_or(Some(BLOCK_SIZE), |text| {
        let size: ByteSize = check.parse("blockSize", &text)?;
        let good = size.bytes().is_power_of_two() && (64 << 10..=16 << 20).contains(&size.bytes());
        if good {
            Some(size)
        } else {
            check.refuse("blockSize", format!("{size} is no block size: write a power of two from 64Ki to 16Mi"))
        }
    });
    let PassthroughFile { enabled, min_bytes } = passthrough.unwrap_or_default();
    let passthrough_min = min_bytes.map_or(Some(PASSTHROUGH_MIN), |text| {
        let size: ByteSize = check.parse("passthrough.minBytes", &text)?;
        if size.bytes() >= 4096 {
            Some(size)
        } else {
            check.refuse("passthrough.minBytes", "a file below 4Ki wastes a block of the disk: write 4Ki or more")
        }
    });
    let FillsFile { max, buffer_bytes } = fills.unwrap_or_default();
    let fills_max = match max.unwrap_or(FILLS_MAX) {
        max @ 1..=4096 => Some(max),
        _ => check.refuse("fills.max", "write a number from 1 to 4096"),
    };
    let fill_buffer = buffer_bytes.map_or(Some(FILL_BUFFER), |text| check.parse("fills.bufferBytes", &text));
    if let (Some(buffer), Some(block)) = (fill_buffer, block_size)
        && buffer.bytes() < 4 * block.bytes()
    {
        check.refuse::<()>("fills.bufferBytes", format!("{buffer} is less than four blocks of {block}: write a larger quantity"));
    }
    let SourceLimitsFile { max_bytes_per_second, max_requests_per_second } = source.unwrap_or_default();
    let max_bytes_per_second = max_bytes_per_second.and_then(|text| check.positive("source.maxBytesPerSecond", &text));
    if max_requests_per_second == Some(0) {
        check.refuse::<()>("source.maxRequestsPerSecond", "0 would stop everything: write a larger number, or leave it out for no limit");
    }
    let metrics = metrics.and_then(|MetricsFile { address }| match address.parse::<SocketAddr>() {
        Ok(address) => Some(address),
        Err(_) => check.refuse("metrics.address", "this is no address: write an IP address and a port, as in 127.0.0.1:9464"),
    });
    let secrets = secrets.and_then(|text| check.absolute("secrets", &text));
    let peers = peers.map_or(Some(None), |file| self::peers(check, file).map(Some));
    let LogFile { format, level } = log.unwrap_or_default();
    let level = level.unwrap_or_else(|| "info".to_owned());
    if level.is_empty() {
        check.refuse::<()>("log.level", "an empty level logs nothing: write one of error, warn, info, debug, trace");
    }
    Some(NodeConfig {
        tiers: tiers?,
        block_size: block_size?,
        passthrough: enabled.unwrap_or(true),
        passthrough_min: passthrough_min?,
        fills_max: fills_max?,
        fill_buffer: fill_buffer?,
        source_limits: SourceLimits { max_bytes_per_second, max_requests_per_second },
        serving: serving.unwrap_or_default(),
        metrics,
        secrets,
        ambient_credentials: ambient_credentials.unwrap_or_default(),
        peers: peers?,
        log: LogConfig { format: format.unwrap_or_default(), level },
    })
}

fn tiers(check: &mut Check, files: Vec<TierFile>) -> Option<Vec<Tier>> {
    let mut tiers: Vec<Tier> = Vec::new();
    for (index, TierFile { path, capacity, keep_free_percent }) in files.into_iter().enumerate() {
        let Tier { capacity: capacity_default, keep_free: keep_free_default, .. } = Tier::default();
        let field = format!("tiers[{index}].path");
        let path = check.absolute(&field, &path);
        let capacity = capacity.map_or(Some(capacity_default), |text| {
            let field = format!("tiers[{index}].capacity");
            let capacity: Capacity = check.parse(&field, &text)?;
            if capacity.of(u64::MAX) == 0 {
                check.refuse(&field, "a tier of 0 holds nothing: write a larger capacity, or remove the tier")
            } else {
                Some(capacity)
            }
        });
        let keep_free = match keep_free_percent {
            None => Some(keep_free_default),
            Some(percent @ 0..=99) => Percent::new(percent),
            Some(_) => check.refuse(&format!("tiers[{index}].keepFreePercent"), "write a number from 0 to 99"),
        };
        let (Some(path), Some(capacity), Some(keep_free)) = (path, capacity, keep_free) else { continue };
        if tiers.iter().any(|other| other.path.starts_with(&path) || path.starts_with(&other.path)) {
            check.refuse::<()>(&field, "this folder and another tier's lie inside each other: give each tier a folder of its own");
            continue;
        }
        tiers.push(Tier { path, capacity, keep_free });
    }
    Some(tiers)
}
