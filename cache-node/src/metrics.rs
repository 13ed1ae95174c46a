//! What the node counts, as one table: name, help, unit, and where the number comes from.
//! Knows names for the metrics endpoint. Does not count anything itself: each room keeps its own counters.
//! FUSE's latencies come from `fuse::Latencies`, which encodes itself. Names and units are stable; a row may be added, none changes its meaning.

use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::node::{Dataset, Node};
use forebay_peer::{ClientMetrics, ServerMetrics};
use forebay_source::SourceMetrics;
use forebay_source::metrics::{Histogram, LATENCY_BOUNDS_MS};
use forebay_store::{Health, TierKind, TierUsage, Usage};

/// A number of the whole node, of a data set, or of a tier.
enum Read {
    Node(fn(&Node) -> u64),
    Store(fn(&Usage) -> u64),
    Dataset(fn(&Dataset) -> u64),
    Tier(fn(&TierUsage) -> u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only grows; the endpoint appends `_total`.
    Counter,
    Gauge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RowUnit {
    None,
    Bytes,
}

/// One metric.
struct Row {
    /// With its unit, as the endpoint shows it, but for `_total`.
    name: &'static str,
    help: &'static str,
    kind: Kind,
    unit: RowUnit,
    read: Read,
}

/// Every metric but the histograms, in the endpoint's order.
const TABLE: &[Row] = &[
    counter("forebay_reader_hits", "Reads answered from the store", Read::Dataset(|d| d.fs.reader().metrics().hits.get())),
    counter("forebay_reader_misses", "Reads that needed the source", Read::Dataset(|d| d.fs.reader().metrics().misses.get())),
    bytes(
        "forebay_reader_store_bytes",
        "Bytes handed to readers from the store",
        Read::Dataset(|d| d.fs.reader().metrics().bytes_store.get()),
    ),
    bytes(
        "forebay_reader_source_bytes",
        "Bytes handed to readers while they came from the source",
        Read::Dataset(|d| d.fs.reader().metrics().bytes_source.get()),
    ),
    bytes(
        "forebay_reader_peer_bytes",
        "Bytes handed to readers while they came from other nodes",
        Read::Dataset(|d| d.fs.reader().metrics().bytes_peer.get()),
    ),
    counter("forebay_fill_blocks", "Blocks whose fill began", Read::Node(|n| n.fill().metrics().started.get())),
    counter("forebay_fill_failed_blocks", "Blocks whose fill failed after all retries", Read::Node(|n| n.fill().metrics().failed.get())),
    counter("forebay_fill_refused_blocks", "Blocks that were served and not kept", Read::Node(|n| n.fill().metrics().refused.get())),
    counter("forebay_fill_ahead_blocks", "Blocks filled ahead of use", Read::Node(|n| n.fill().metrics().ahead.get())),
    counter(
        "forebay_fill_direct_reads",
        "Random reads that went to the source without filling a block",
        Read::Node(|n| n.fill().metrics().direct.get()),
    ),
    counter(
        "forebay_fill_verified_objects",
        "Objects larger than a block that agreed with the source's checksum",
        Read::Node(|n| n.fill().metrics().verified.get()),
    ),
    counter(
        "forebay_fill_mismatched_objects",
        "Objects larger than a block that did not agree with the source's checksum: nothing of them is kept",
        Read::Node(|n| n.fill().metrics().mismatched.get()),
    ),
    bytes("forebay_fill_bytes", "Bytes taken from sources by fills and direct reads", Read::Node(|n| n.fill().metrics().bytes.get())),
    bytes("forebay_fill_peer_bytes", "Bytes taken from other nodes", Read::Node(|n| n.fill().metrics().peer_bytes.get())),
    counter(
        "forebay_fill_turned_blocks",
        "Blocks and reads that no other node gave, for which this one asked the source",
        Read::Node(|n| n.fill().metrics().turned.get()),
    ),
    counter(
        "forebay_fill_guessed_blocks",
        "Blocks of this node's that it lacked and took from the next in rank instead of the source",
        Read::Node(|n| n.fill().metrics().guessed.get()),
    ),
    counter("forebay_copies_sent_blocks", "Copies of blocks that other nodes took", Read::Node(|n| n.fill().metrics().copies.sent.get())),
    bytes("forebay_copies_sent_bytes", "Bytes of copies that other nodes took", Read::Node(|n| n.fill().metrics().copies.sent_bytes.get())),
    counter(
        "forebay_copies_lent_blocks",
        "Copies of blocks that other nodes took for as long as many ask for them",
        Read::Node(|n| n.fill().metrics().copies.lent.get()),
    ),
    counter(
        "forebay_copies_refused_blocks",
        "Copies that another node did not take, because it is away or has no room",
        Read::Node(|n| n.fill().metrics().copies.refused.get()),
    ),
    counter(
        "forebay_copies_skipped_blocks",
        "Blocks whose copies were left for later, because as many waited as may",
        Read::Node(|n| n.fill().metrics().copies.skipped.get()),
    ),
    counter(
        "forebay_copies_brought_blocks",
        "Copies brought here because this node is to have them",
        Read::Node(|n| n.fill().metrics().copies.brought.get()),
    ),
    counter(
        "forebay_copies_trimmed_blocks",
        "Copies dropped because the nodes that are to have them do",
        Read::Node(|n| n.fill().metrics().copies.trimmed.get()),
    ),
    gauge(
        "forebay_copies_lacking_blocks",
        "Blocks that this node is to have, that another has, and that could not be brought",
        Read::Dataset(|d| d.copies.as_ref().map_or(0, |copies| copies.lacking())),
    ),
    counter("forebay_peer_requests", "Requests sent to other nodes", Read::Node(|n| asked(n, |m| m.requests.get()))),
    counter(
        "forebay_peer_failures",
        "Requests that failed because another node was away, silent or not of the cache",
        Read::Node(|n| asked(n, |m| m.failures.get())),
    ),
    counter(
        "forebay_peer_sent_on_requests",
        "Requests that a busy node sent on to another one that has the block",
        Read::Node(|n| asked(n, |m| m.sent_on.get())),
    ),
    counter(
        "forebay_peer_failovers",
        "Requests that went to a later node of a block, because an earlier one failed or refused",
        Read::Node(|n| asked(n, |m| m.failovers.get())),
    ),
    counter("forebay_peer_hedges", "Second requests, for what a node was slow to answer", Read::Node(|n| asked(n, |m| m.hedges.get()))),
    gauge(
        "forebay_peer_bypassed_nodes",
        "Other nodes that failed and are not asked now",
        Read::Node(|n| n.shared().map_or(0, |(neighbours, _)| neighbours.peers().bypassed().len() as u64)),
    ),
    counter("forebay_peer_answered_requests", "Requests of other nodes", Read::Node(|n| given(n, |m| m.requests.get()))),
    bytes("forebay_peer_given_bytes", "Bytes given to other nodes", Read::Node(|n| given(n, |m| m.bytes.get()))),
    counter(
        "forebay_peer_refused_callers",
        "Callers without a certificate of this cache, of another version, or too many",
        Read::Node(|n| given(n, |m| m.refused_identity.get() + m.refused_incompatible.get() + m.refused_busy.get())),
    ),
    counter(
        "forebay_peer_refused_requests",
        "Requests for a data set that this node doesn't serve",
        Read::Node(|n| given(n, |m| m.refused_dataset.get())),
    ),
    counter(
        "forebay_peer_malformed_connections",
        "Connections ended because what came over them meant nothing",
        Read::Node(|n| given(n, |m| m.malformed.get())),
    ),
    gauge(
        "forebay_fill_in_flight_blocks",
        "Blocks on their way now, the queued ones included",
        Read::Node(|n| n.fill().metrics().in_flight.get()),
    ),
    counter("forebay_source_list_requests", "Listing requests sent, repeated ones included", Read::Dataset(|d| sum(d, |s| s.lists.get()))),
    counter("forebay_source_head_requests", "Head requests sent, repeated ones included", Read::Dataset(|d| sum(d, |s| s.heads.get()))),
    counter("forebay_source_read_requests", "Read requests sent, repeated ones included", Read::Dataset(|d| sum(d, |s| s.reads.get()))),
    bytes(
        "forebay_source_bytes",
        "Bytes of bodies that arrived, the ones thrown away included",
        Read::Dataset(|d| sum(d, |s| s.bytes.get())),
    ),
    counter("forebay_source_retries", "Requests sent again after a failure", Read::Dataset(|d| sum(d, |s| s.retries.get()))),
    counter("forebay_source_throttles", "Answers that asked for fewer requests", Read::Dataset(|d| sum(d, |s| s.throttles.get()))),
    counter("forebay_source_errors", "Attempts that failed", Read::Dataset(|d| sum(d, |s| s.errors.get()))),
    counter("forebay_source_corrupt_answers", "Answers that contradicted themselves", Read::Dataset(|d| sum(d, |s| s.corrupt.get()))),
    gauge("forebay_source_in_flight_requests", "Requests that run now", Read::Dataset(|d| sum(d, |s| s.in_flight.get()))),
    gauge("forebay_dataset_files", "Files of the data set, as far as it is listed", Read::Dataset(|d| d.fs.statistics().files)),
    Row {
        name: "forebay_dataset_size_bytes",
        help: "Sum of the sizes of all files",
        kind: Kind::Gauge,
        unit: RowUnit::Bytes,
        read: Read::Dataset(|d| d.fs.statistics().bytes),
    },
    Row {
        name: "forebay_dataset_stored_bytes",
        help: "Bytes that the store holds of the data set, as they count to its quota",
        kind: Kind::Gauge,
        unit: RowUnit::Bytes,
        read: Read::Dataset(|d| d.stored().used_bytes),
    },
    Row {
        name: "forebay_dataset_quota_bytes",
        help: "This node's share of the data set's quota, 0 where there is none",
        kind: Kind::Gauge,
        unit: RowUnit::Bytes,
        read: Read::Dataset(|d| d.stored().terms.quota_bytes.unwrap_or(0)),
    },
    gauge("forebay_dataset_listed", "1 when a complete manifest serves", Read::Dataset(|d| u64::from(d.fs.statistics().complete))),
    gauge("forebay_refresh_failing", "1 when the last listing failed", Read::Dataset(|d| u64::from(d.refresh.error().is_some()))),
    gauge("forebay_store_objects", "Objects in the store, complete or not", Read::Store(|u| u.objects)),
    Row {
        name: "forebay_store_index_bytes",
        help: "Memory of the store's index",
        kind: Kind::Gauge,
        unit: RowUnit::Bytes,
        read: Read::Store(|u| u.index_bytes),
    },
    counter("forebay_store_evictions", "Objects and blocks evicted", Read::Store(|u| u.evictions)),
    counter("forebay_store_expired_objects", "Objects freed because their time was over", Read::Store(|u| u.expired)),
    counter("forebay_store_corrupt_blocks", "Blocks whose checksum was wrong: dropped and fetched again", Read::Store(|u| u.corrupt)),
    counter("forebay_store_refused_puts", "Blocks that were not kept", Read::Store(|u| u.refused_puts)),
    counter("forebay_store_read_errors", "Reads that the disk failed", Read::Store(|u| u.read_errors)),
    counter("forebay_store_write_errors", "Writes that the disk failed", Read::Store(|u| u.write_errors)),
    Row {
        name: "forebay_store_used_bytes",
        help: "Bytes on the tier, those of evicted files still open included",
        kind: Kind::Gauge,
        unit: RowUnit::Bytes,
        read: Read::Tier(|t| t.used_bytes),
    },
    Row {
        name: "forebay_store_pinned_bytes",
        help: "Bytes on the tier that are never evicted",
        kind: Kind::Gauge,
        unit: RowUnit::Bytes,
        read: Read::Tier(|t| t.pinned_bytes),
    },
    Row {
        name: "forebay_store_capacity_bytes",
        help: "What the tier may use now",
        kind: Kind::Gauge,
        unit: RowUnit::Bytes,
        read: Read::Tier(|t| t.capacity_bytes),
    },
    gauge("forebay_store_degraded", "1 when the tier takes no new blocks", Read::Tier(|t| u64::from(t.health != Health::Good))),
];

const fn counter(name: &'static str, help: &'static str, read: Read) -> Row {
    Row { name, help, kind: Kind::Counter, unit: RowUnit::None, read }
}
const fn gauge(name: &'static str, help: &'static str, read: Read) -> Row {
    Row { name, help, kind: Kind::Gauge, unit: RowUnit::None, read }
}
const fn bytes(name: &'static str, help: &'static str, read: Read) -> Row {
    Row { name, help, kind: Kind::Counter, unit: RowUnit::Bytes, read }
}

/// Name (with `_total` for a counter), unit and help of every row, for docs and dashboards to be checked against.
pub fn rows() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    let histograms = [FILL_DURATION, SOURCE_LATENCY].map(|(name, help)| (format!("{name}_seconds"), "seconds", help));
    let table = TABLE.iter().map(|row| {
        let suffix = if row.kind == Kind::Counter { "_total" } else { "" };
        let unit = if row.unit == RowUnit::Bytes { "bytes" } else { "" };
        (format!("{}{suffix}", row.name), unit, row.help)
    });
    table.chain(histograms)
}

const FILL_DURATION: (&str, &str) = ("forebay_fill_duration", "Time from a fill's first request to its last byte");
const SOURCE_LATENCY: (&str, &str) = ("forebay_source_latency", "Time to the first byte of a read, or to the answer of a list or head");

/// Lets the endpoint show what `node` counts, for as long as the node lives.
pub fn register(registry: &mut Registry, node: &Arc<Node>) {
    registry.register_collector(Box::new(Exported(Arc::downgrade(node))));
    registry.register_collector(Box::new(SharedLatencies(node.latencies().clone())));
}

#[derive(Debug)]
struct SharedLatencies(Arc<crate::fuse::Latencies>);

impl Collector for SharedLatencies {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

struct Exported(Weak<Node>);

impl std::fmt::Debug for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exported")
    }
}

impl Collector for Exported {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(node) = self.0.upgrade() else { return Ok(()) };
        let usage = node.store().usage();
        let datasets = node.datasets();
        for row in TABLE {
            // The endpoint appends the unit by itself.
            let (name, unit) = match row.unit {
                RowUnit::None => (row.name, None),
                RowUnit::Bytes => (row.name.strip_suffix("_bytes").unwrap_or(row.name), Some(&Unit::Bytes)),
            };
            let kind = if row.kind == Kind::Counter { MetricType::Counter } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(name, row.help, unit, kind)?;
            match row.read {
                Read::Node(read) => encode(row.kind, read(&node), metric)?,
                Read::Store(read) => encode(row.kind, read(&usage), metric)?,
                Read::Dataset(read) => {
                    for dataset in &datasets {
                        encode(row.kind, read(dataset), metric.encode_family(&[("dataset", dataset.fs.name())])?)?;
                    }
                }
                Read::Tier(read) => {
                    for (at, tier) in usage.tiers.iter().enumerate() {
                        let kind = match tier.kind {
                            TierKind::Memory => "memory",
                            TierKind::Disk => "disk",
                        };
                        let labels = [("tier", at.to_string()), ("kind", kind.to_owned())];
                        encode(row.kind, read(tier), metric.encode_family(&labels)?)?;
                    }
                }
            }
        }
        let mut fills = encoder.encode_descriptor(FILL_DURATION.0, FILL_DURATION.1, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram(&node.fill().metrics().duration, &mut fills)?;
        let mut latency = encoder.encode_descriptor(SOURCE_LATENCY.0, SOURCE_LATENCY.1, Some(&Unit::Seconds), MetricType::Histogram)?;
        for dataset in &datasets {
            for source in dataset.sources() {
                let labels = [("dataset", dataset.fs.name()), ("source", source.name())];
                histogram(&source.metrics().latency, &mut latency.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(kind: Kind, value: u64, metric: prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(metric),
        Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric),
    }
}

fn histogram(histogram: &Histogram, metric: &mut prometheus_client::encoding::MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    let bounds = LATENCY_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1000.0).chain([f64::MAX]);
    let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets.iter().map(|bucket| bucket.get())).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric.encode_histogram::<prometheus_client::encoding::NoLabelSet>(histogram.sum_us.get() as f64 / 1e6, count, &buckets, None)
}

/// Of the side that asks other nodes; 0 where there are none.
fn asked(node: &Node, count: fn(&ClientMetrics) -> u64) -> u64 {
    node.shared().map_or(0, |(neighbours, _)| count(neighbours.peers().metrics()))
}

/// Of the side that answers them.
fn given(node: &Node, count: fn(&ServerMetrics) -> u64) -> u64 {
    node.shared().map_or(0, |(_, metrics)| count(metrics))
}

fn sum(dataset: &Dataset, count: fn(&SourceMetrics) -> u64) -> u64 {
    dataset.sources().iter().map(|source| count(source.metrics())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        for row in TABLE {
            assert_eq!(row.unit == RowUnit::Bytes, row.name.ends_with("_bytes"), "{}", row.name);
            assert!(row.name.starts_with("forebay_") && !row.help.ends_with('.'), "{}", row.name);
        }
    }
}
