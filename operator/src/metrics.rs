//! What the operator counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Cheap to clone: clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub reconciles: Counter,
    pub reconciles_failed: Counter,
    pub status_writes: Counter,
    pub syncs_ok: Counter,
    pub syncs_failed: Counter,
    pub gates_released: Counter,
    pub api_requests: Counter,
    pub leading: Gauge,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("forebay_operator_reconciles", "Passes over a Dataset or CachePolicy.", self.reconciles.clone());
        registry.register("forebay_operator_reconciles_failed", "Passes that failed.", self.reconciles_failed.clone());
        registry.register("forebay_operator_status_writes", "Statuses written.", self.status_writes.clone());
        registry.register("forebay_operator_syncs", "Sync calls that a node answered.", self.syncs_ok.clone());
        registry.register("forebay_operator_syncs_failed", "Sync calls that failed.", self.syncs_failed.clone());
        registry.register("forebay_operator_gates_released", "Warm gates taken off pods.", self.gates_released.clone());
        let help = "Requests to the API server, the beginnings of watches among them.";
        registry.register("forebay_operator_api_requests", help, self.api_requests.clone());
        registry.register("forebay_operator_leading", "1 in the replica that leads.", self.leading.clone());
    }
}
