//! What every controller is given: the client, what is watched, what nodes are told, settings.
//! Invariant: made once by `run.rs`; nothing here does anything by itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_api::{CachePolicy, Dataset};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::Client;
use kube::core::DeserializeGuard;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::Store;

use crate::authority::{Keeper, Lives};
use crate::dataset::account::Tokens;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::nodes::Hub;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace: everything that isn't the user's is made there.
    pub namespace: String,
    /// This replica, for the Lease and for events.
    pub identity: String,
    pub node_image: String,
    pub operator_image: String,
    pub image_pull_policy: Option<String>,
    pub image_pull_secrets: Vec<String>,
    pub node_service_account: String,
    pub job_service_account: String,
    pub priority_class: Option<String>,
    /// Memory of a cache node beside its tiers in memory, as a quantity.
    pub node_memory: String,
    /// `None`: pods mount on nodes of policies only.
    pub clients: Option<ClientSettings>,
    pub log_level: String,
    /// Names and addresses of the API server, which no Dataset may read.
    pub api_server: Vec<String>,
    pub sync_every: Duration,
    /// How often a Secret or ConfigMap that a Dataset names is read again: how long a rotation takes.
    pub references_every: Duration,
    /// Of certificates and of what signs them.
    pub lives: Lives,
    /// A CachePolicy as YAML that every new leader applies: what the chart's values say of it.
    pub default_policy: Option<String>,
}

/// Of cache nodes that no policy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Of its one tier, which is in memory: a quantity.
    pub memory: String,
    /// Whether it may read with its node's cloud role what the data set's policy allows to be read so.
    pub ambient_credentials: bool,
}

/// What is watched, in memory.
pub struct Stores {
    pub datasets: Store<DeserializeGuard<Dataset>>,
    pub policies: Store<DeserializeGuard<CachePolicy>>,
    pub nodes: Store<Node>,
    pub pods: Store<Pod>,
    /// Of the operator's namespace, made by it or by the chart.
    pub daemon_sets: Store<DaemonSet>,
    /// Of the operator's namespace, made by it.
    pub config_maps: Store<ConfigMap>,
}

impl Stores {
    /// The policies that this version can read.
    pub fn policies(&self) -> Vec<CachePolicy> {
        self.policies.state().iter().filter_map(|guard| guard.0.as_ref().ok().cloned()).collect()
    }

    pub fn datasets(&self) -> Vec<Dataset> {
        self.datasets.state().iter().filter_map(|guard| guard.0.as_ref().ok().cloned()).collect()
    }
}

pub struct Context {
    pub client: Client,
    pub settings: Settings,
    pub stores: Stores,
    pub hub: Arc<Hub>,
    pub authority: Arc<Keeper>,
    pub events: Recorder,
    pub metrics: Metrics,
    /// UID of the leader's Lease: what the pre-delete hook marks objects with.
    pub lease_uid: String,
    pub memory: Memory,
    pub tokens: Tokens,
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
