//! The user's cluster: how it is found, and what is read of it.
//! Knows kubeconfigs and the API. Does not decide.

use std::path::PathBuf;

use forebay_api::{CachePolicy, Dataset};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::Error;

/// What the command line says about where to look.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    /// Else that of the context.
    pub namespace: Option<String>,
    pub all_namespaces: bool,
    /// Where Forebay itself runs.
    pub system: String,
}

/// One cluster, as this user.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    /// `None`: all of them.
    pub namespace: Option<String>,
    pub system: String,
}

impl Cluster {
    pub async fn connect(place: Place) -> Result<Self, Error> {
        let Place { kubeconfig, context, namespace, all_namespaces, system } = place;
        let is_named = kubeconfig.is_some() || context.is_some();
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let wrong = |error: &dyn std::error::Error| Error::Kubeconfig { detail: forebay_daemon::logging::chain(error).to_string() };
        let config = match (kubeconfig, is_named) {
            (Some(path), _) => {
                let read = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| wrong(&error))?
            }
            (None, true) => Config::from_kubeconfig(&options).await.map_err(|error| wrong(&error))?,
            (None, false) => Config::infer().await.map_err(|error| wrong(&error))?,
        };
        let namespace = (!all_namespaces).then(|| namespace.unwrap_or_else(|| config.default_namespace.clone()));
        let client = Client::try_from(config).map_err(|error| wrong(&error))?;
        Ok(Self { client, namespace, system })
    }

    /// The one namespace that a command about one Dataset works in.
    pub fn one_namespace(&self) -> Result<&str, Error> {
        self.namespace
            .as_deref()
            .ok_or_else(|| Error::Refused("a name goes with one namespace: write -n NAMESPACE instead of -A".to_owned()))
    }

    pub fn datasets(&self) -> Api<Dataset> {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    pub async fn dataset(&self, name: &str) -> Result<Dataset, Error> {
        let namespace = self.one_namespace()?;
        let found = self.datasets().get_opt(name).await;
        found
            .map_err(|error| Error::of(format!("read the Dataset {namespace}/{name}"), &error))?
            .ok_or_else(|| Error::NoDataset { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The one of that name, or all; by namespace and name.
    pub async fn some_datasets(&self, name: Option<&str>) -> Result<Vec<Dataset>, Error> {
        if let Some(name) = name {
            return Ok(vec![self.dataset(name).await?]);
        }
        let found = self.datasets().list(&ListParams::default()).await.map_err(|error| Error::of("list Datasets", &error))?;
        let mut found = found.items;
        found.sort_by_key(|dataset| (dataset.metadata.namespace.clone(), dataset.metadata.name.clone()));
        Ok(found)
    }

    pub async fn policies(&self) -> Result<Vec<CachePolicy>, Error> {
        let api: Api<CachePolicy> = Api::all(self.client.clone());
        Ok(api.list(&ListParams::default()).await.map_err(|error| Error::of("list CachePolicies", &error))?.items)
    }
}
