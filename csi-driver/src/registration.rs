//! Makes the driver known to kubelet, by the socket that kubelet watches for. In place of a sidecar.

use std::path::{Path, PathBuf};

use forebay_wire::csi::registration as wire;
use forebay_wire::csi::registration::registration_server::Registration;
use tonic::{Request, Response, Status};

use crate::volume::DRIVER;

/// The version of CSI whose meaning the driver keeps; kubelet asks for at least 1.0.
const CSI_VERSION: &str = "1.12.0";

/// What answers kubelet's registration.
#[derive(Debug)]
pub(crate) struct RegistrationService {
    /// Of the CSI socket, as kubelet sees it.
    pub(crate) endpoint: PathBuf,
}

/// Where kubelet looks for new plugins.
///
/// The `@` is needed: kubelet's registration names the socket's path as the host that it calls, its `/` as `%2F`, and our HTTP library takes a `%` only
/// in what stands before an `@`.
pub(crate) fn socket(kubelet_folder: &Path) -> PathBuf {
    kubelet_folder.join("plugins_registry").join(format!("kubelet@{DRIVER}-reg.sock"))
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<wire::InfoRequest>) -> Result<Response<wire::PluginInfo>, Status> {
        Ok(Response::new(wire::PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec![CSI_VERSION.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<wire::RegistrationStatus>,
    ) -> Result<Response<wire::RegistrationStatusResponse>, Status> {
        let wire::RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!("kubelet knows the driver");
        } else {
            tracing::error!(error, "kubelet doesn't take the driver: no pod of this machine gets a volume; kubelet tries again");
        }
        Ok(Response::new(wire::RegistrationStatusResponse {}))
    }
}
