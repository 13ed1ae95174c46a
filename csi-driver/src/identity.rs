//! CSI's Identity service: who this is, and whether it serves.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_daemon::health::{Health, State};
use forebay_wire::csi;
use forebay_wire::csi::identity_server::Identity;
use tonic::{Request, Response, Status};

use crate::volume::DRIVER;

#[derive(Debug)]
pub(crate) struct IdentityService {
    pub(crate) health: Arc<Health>,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(&self, _: Request<csi::GetPluginInfoRequest>) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    /// None: there is no controller, since volumes are made by the operator and nothing is attached.
    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities: Vec::new() }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(self.health.state() == State::Ready) }))
    }
}
