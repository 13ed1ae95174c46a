//! Calls to one cache node, over mutual TLS.
//! Knows addresses and certificates. Does not know what is desired.
//! Invariant: what is desired (it holds secrets) is sent only to who shows a certificate of this policy.

use std::net::SocketAddr;
use std::time::Duration;

use forebay_wire::control_service::control_client::ControlClient;
use forebay_wire::control_service::{CertificateOffer, CertificateRequest, CertificateRequestReply, SyncReply, SyncRequest};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::names;

/// A node in the same cluster answers in milliseconds; one that needs longer is asked again at the next round.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(3);
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A thousand data sets with their samples are some megabytes.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Who we are, and whom we trust.
#[derive(Clone)]
pub struct Credentials {
    pub certificate: String,
    pub key: String,
    /// Certificates of every authority in force.
    pub authorities: String,
}

/// Connected, or connecting at the first call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node(ControlClient<Channel>);

impl Node {
    /// Does not connect yet.
    pub fn new(address: SocketAddr, policy_uid: &str, credentials: &Credentials) -> Result<Self, tonic::transport::Error> {
        let tls = ClientTlsConfig::new()
            .domain_name(names::node_host(policy_uid))
            .ca_certificate(Certificate::from_pem(&credentials.authorities))
            .identity(Identity::from_pem(&credentials.certificate, &credentials.key));
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls)?
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .http2_keep_alive_interval(Duration::from_secs(30));
        Ok(Self::over(endpoint.connect_lazy()))
    }

    pub(super) fn over(channel: Channel) -> Self {
        Self(ControlClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX).max_encoding_message_size(REPLY_BYTES_MAX))
    }

    pub async fn sync(&mut self, request: SyncRequest) -> Result<SyncReply, tonic::Status> {
        Ok(self.0.sync(request).await?.into_inner())
    }

    pub(super) async fn request_certificate(&mut self) -> Result<CertificateRequestReply, tonic::Status> {
        Ok(self.0.request_certificate(CertificateRequest {}).await?.into_inner())
    }

    pub(super) async fn take_certificate(&mut self, certificate: String) -> Result<(), tonic::Status> {
        self.0.take_certificate(CertificateOffer { certificate }).await.map(drop)
    }
}
