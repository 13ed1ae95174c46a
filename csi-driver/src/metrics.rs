//! What the driver counts, as one table: each row its name and what it means. Names and units are stable; a row may be added, none changes its meaning.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    method: &'static str,
    /// gRPC's name of the code, `OK` among them.
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// From 1 ms, an operation that finds all done, to what kubelet waits.
const BOUNDS_SECONDS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0, 120.0];

#[derive(Debug)]
pub(crate) struct Metrics {
    operations: Family<Operation, Counter>,
    durations: Family<Method, Histogram, fn() -> Histogram>,
    pub(crate) sessions: Gauge,
    pub(crate) adoptions: Counter,
    pub(crate) deaths: Counter,
    pub(crate) hung: Counter,
    pub(crate) given_back: Counter,
    pub(crate) aborts: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let new: fn() -> Histogram = || Histogram::new(BOUNDS_SECONDS);
        let metrics = Self {
            operations: Family::default(),
            durations: Family::new_with_constructor(new),
            sessions: Gauge::default(),
            adoptions: Counter::default(),
            deaths: Counter::default(),
            hung: Counter::default(),
            given_back: Counter::default(),
            aborts: Counter::default(),
        };
        registry.register("forebay_csi_operations", "Operations of kubelet, by method and gRPC code", metrics.operations.clone());
        registry.register_with_unit(
            strip("forebay_csi_operation_duration_seconds"),
            "Time that an operation took",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("forebay_csi_sessions", "Data sets that are mounted on this machine", metrics.sessions.clone());
        registry.register("forebay_csi_adoptions", "Mounts that a cache node adopted", metrics.adoptions.clone());
        registry.register("forebay_csi_node_deaths", "Mounts whose cache node ended while it served them", metrics.deaths.clone());
        registry.register("forebay_csi_hung_nodes", "Mounts whose cache node lives and stopped to answer", metrics.hung.clone());
        registry.register(
            "forebay_csi_given_back_mounts",
            "Mounts that a cache node gave back to a new driver",
            metrics.given_back.clone(),
        );
        registry.register(
            "forebay_csi_aborted_mounts",
            "Mounts whose reads were made to fail, since nobody answered them",
            metrics.aborts.clone(),
        );
        metrics
    }

    pub(crate) fn observe(&self, method: &'static str, code: tonic::Code, took: Duration) {
        self.operations.get_or_create(&Operation { method, code: name(code) }).inc();
        self.durations.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }
}

/// The endpoint appends the unit.
fn strip(name: &'static str) -> &'static str {
    name.strip_suffix("_seconds").unwrap_or(name)
}

fn name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
