//! Gives a cache node its certificate: it makes a key and asks, its pod's token says who it is, our authority signs.
//! Knows tokens and pods. Does not know what is desired of a node.
//! Invariant: signed is only for the very pod that was called, by the API server's word; and only to this pod's own request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use forebay_daemon::logging::chain;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::call::{ANSWER_WITHIN, CONNECT_WITHIN, Credentials, Node};
use super::follow::Target;
use crate::context::{Context, now};
use crate::error::{During, Error};
use crate::names;

/// In what the API server tells of a token.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

#[derive(Debug, thiserror::Error)]
pub(super) enum EnrolError {
    #[error("call it")]
    Call(#[from] tonic::Status),
    #[error("connect to it")]
    Connect(#[from] tonic::transport::Error),
    #[error("use our own certificate: {0}")]
    Own(String),
    #[error("its token: {0}")]
    Token(String),
    #[error(transparent)]
    Certificate(#[from] Error),
}

/// For a node that has no certificate yet, or none that we believe: it is called without knowing who answers. What it hears is a certificate of the
/// key that it has, and it hears it only if its token is the called pod's.
pub(super) async fn enrol(ctx: &Context, target: &Target, credentials: &Credentials) -> Result<(), EnrolError> {
    let mut node = Node::over(unproven(target.address, credentials).await?);
    renew(ctx, target, &mut node).await
}

/// For a node that can be called.
pub(super) async fn renew(ctx: &Context, target: &Target, node: &mut Node) -> Result<(), EnrolError> {
    let asked = node.request_certificate().await?;
    let review = TokenReview {
        spec: TokenReviewSpec { token: asked.token, audiences: Some(vec![names::NODE_AUDIENCE.to_owned()]) },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(ctx.client.clone());
    let reviewed = reviews.create(&PostParams::default(), &review).await.during(|| "have a node's token reviewed".to_owned())?;
    let account = format!("system:serviceaccount:{}:{}", ctx.settings.namespace, ctx.settings.node_service_account);
    judge(&reviewed.status.unwrap_or_default(), &account, &target.pod_uid).map_err(EnrolError::Token)?;
    let certificate = ctx.authority.sign(&asked.request, &names::node_host(&target.policy_uid), &target.node, now())?;
    node.take_certificate(certificate).await?;
    tracing::info!(node = target.node, "a node has a new certificate");
    Ok(())
}

/// Whether the token is of a pod with `pod_uid`, and of our nodes' service account; else why not.
fn judge(status: &TokenReviewStatus, account: &str, pod_uid: &str) -> Result<(), String> {
    if status.authenticated != Some(true) {
        return Err(status.error.clone().filter(|error| !error.is_empty()).unwrap_or_else(|| "the API server doesn't know it".to_owned()));
    }
    if !status.audiences.iter().flatten().any(|audience| audience == names::NODE_AUDIENCE) {
        return Err(format!("it isn't for {}", names::NODE_AUDIENCE));
    }
    let user = status.user.as_ref();
    let name = user.and_then(|user| user.username.as_deref()).unwrap_or_default();
    if name != account {
        return Err(format!("it is of {name}, not of {account}"));
    }
    let none = BTreeMap::new();
    let extra = user.and_then(|user| user.extra.as_ref()).unwrap_or(&none);
    if extra.get(POD_UID).is_none_or(|uids| *uids != [pod_uid]) {
        return Err("it is of another pod".to_owned());
    }
    Ok(())
}

async fn unproven(address: SocketAddr, credentials: &Credentials) -> Result<Channel, EnrolError> {
    let own = |error: &dyn std::error::Error| EnrolError::Own(chain(error).to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain_of_own: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(credentials.certificate.as_bytes()).collect::<Result<_, _>>().map_err(|error| own(&error))?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(|error| own(&error))?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| own(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_client_auth_cert(chain_of_own, key)
        .map_err(|error| own(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_: http::Uri| {
        let connector = connector.clone();
        async move {
            let connection = TcpStream::connect(address).await?;
            let proven_to_it = connector.connect(ServerName::from(address.ip()), connection).await?;
            Ok::<_, std::io::Error>(TokioIo::new(proven_to_it))
        }
    });
    let endpoint = Endpoint::from_static("http://node.invalid").connect_timeout(CONNECT_WITHIN).timeout(ANSWER_WITHIN);
    Ok(endpoint.connect_with_connector(connect).await?)
}

/// Believes any certificate: for a connection over which a node is told nothing that a stranger may not know.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_token_counts_for_the_pod_that_was_called_and_for_us_alone() {
        let good = json!({
            "authenticated": true,
            "audiences": [names::NODE_AUDIENCE],
            "user": { "username": "system:serviceaccount:forebay:forebay-node", "extra": { POD_UID: ["p"] } }
        });
        let check = |pointer: &str, value: Value, expected: &str| {
            let mut status = good.clone();
            *status.pointer_mut(pointer).unwrap() = value;
            let judged = judge(&serde_json::from_value(status).unwrap(), "system:serviceaccount:forebay:forebay-node", "p");
            assert_eq!(judged.err().unwrap_or_default(), expected, "{pointer}");
        };
        check("/authenticated", json!(true), "");
        check("/authenticated", json!(false), "the API server doesn't know it");
        check("/audiences", json!(["https://kubernetes.default.svc"]), "it isn't for node.forebay.dev");
        check("/audiences", json!(null), "it isn't for node.forebay.dev");
        let other = "it is of system:serviceaccount:vision:forebay-node, not of system:serviceaccount:forebay:forebay-node";
        check("/user/username", json!("system:serviceaccount:vision:forebay-node"), other);
        check("/user/extra", json!({ POD_UID: ["q"] }), "it is of another pod");
        check("/user/extra", json!({ POD_UID: ["p", "q"] }), "it is of another pod");
        check("/user/extra", json!(null), "it is of another pod");
    }
}
