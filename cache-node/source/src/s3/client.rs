//! Builds the SDK's client: transport, trust, region, credentials, role.
//! Knows how AWS is configured. Does not know which requests are made.
//! Invariant: certificates are always verified; nothing here prints a credential.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials as AwsCredentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig};
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use forebay_wire::dataset_spec::{Addressing, S3Location};
use forebay_wire::secret::{Credentials, Secret, SourceAccess};

use super::by_token::ByToken;
use super::error::Context;
use super::guard::Guard;
use crate::SourceError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// To the first byte of an answer; a busy server may queue a request for long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Sockets kept for the next request; at most as many as ever are in flight.
const IDLE_SOCKETS_MAX: usize = 256;
/// What the provider's log calls who assumed a role.
pub(super) const SESSION: &str = "forebay";
/// What a server of one's own is signed for unless it says otherwise.
const REGION_DEFAULT: &str = "us-east-1";

/// What doesn't change for the life of the source.
pub(super) struct Connector {
    options: S3Location,
    credentials: Credentials,
    http: SharedHttpClient,
    sdk: tokio::sync::OnceCell<SdkConfig>,
}

impl Connector {
    pub(super) fn new(options: &S3Location, access: &SourceAccess, context: &Context) -> Result<Self, SourceError> {
        let guard = Guard::new(access.reach.clone());
        options
            .endpoint
            .iter()
            .try_for_each(|endpoint| guard.check_endpoint(endpoint))
            .map_err(|refused| context.clone().permanent(refused.to_string()))?;
        let http = http_client(access.ca_bundle.as_deref(), guard, context)?;
        let credentials = if options.anonymous { Credentials::Anonymous } else { access.credentials.clone() };
        Ok(Self { options: options.clone(), credentials, http, sdk: tokio::sync::OnceCell::new() })
    }

    /// A client for `region`; without one, for the region that is set or found by asking.
    pub(super) async fn connect(&self, region: Option<&str>, context: &Context) -> Result<Client, SourceError> {
        let region = match region.or(self.region_set()) {
            Some(region) => region.to_owned(),
            None if self.options.endpoint.is_some() => REGION_DEFAULT.to_owned(),
            None => self.find_region(context).await?,
        };
        let sdk = self.sdk.get_or_try_init(|| self.sdk_config(&region, context)).await?;
        let mut builder = self.builder(&region);
        builder = match sdk.credentials_provider() {
            Some(provider) => builder.credentials_provider(provider),
            None => builder.allow_no_auth(),
        };
        Ok(Client::from_conf(builder.build()))
    }

    /// The region of the configuration, or of the credentials' own names.
    pub(super) fn region_set(&self) -> Option<&str> {
        let keys = match &self.credentials {
            Credentials::Keys(keys) => Some(keys),
            Credentials::Ambient | Credentials::Anonymous | Credentials::Token(_) => None,
        };
        let named = || keys.and_then(|keys| keys.get("AWS_REGION").or_else(|| keys.get("AWS_DEFAULT_REGION")));
        self.options.region.as_deref().or_else(|| named().map(Secret::expose)).filter(|region| !region.is_empty())
    }

    fn builder(&self, region: &str) -> Builder {
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .http_client(self.http.clone())
            .force_path_style(self.is_path_style())
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported)
            // Ours wrap every source: see `retry`.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(ANSWER_TIMEOUT).build());
        if let Some(endpoint) = &self.options.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        builder
    }

    /// A bucket name with dots doesn't fit the wildcard certificate of `*.s3.amazonaws.com`.
    fn is_path_style(&self) -> bool {
        match self.options.addressing {
            Addressing::Path => true,
            Addressing::VirtualHost => false,
            Addressing::Auto => self.options.endpoint.is_some() || self.options.bucket.contains('.'),
        }
    }

    /// Asks AWS unsigned: every answer about a bucket, the refusal too, names its region.
    async fn find_region(&self, context: &Context) -> Result<String, SourceError> {
        let client = Client::from_conf(self.builder(REGION_DEFAULT).allow_no_auth().build());
        let context = Context { op: "find the region of", ..context.clone() };
        let error = match client.head_bucket().bucket(&self.options.bucket).send().await {
            Ok(answer) => return Ok(answer.bucket_region().unwrap_or(REGION_DEFAULT).to_owned()),
            Err(error) => error,
        };
        let refusal = context.sdk(&error)?;
        match refusal.region {
            Some(region) => Ok(region),
            None if refusal.status == 404 => Err(context.missing("there is no such bucket; check its name")),
            None => Err(context.refused(&refusal)),
        }
    }

    async fn sdk_config(&self, region: &str, context: &Context) -> Result<SdkConfig, SourceError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.http.clone())
            .region(Region::new(region.to_owned()))
            .app_name(AppName::new("forebay").map_err(|error| context.clone().permanent(error.to_string()))?);
        loader = match &self.credentials {
            Credentials::Ambient => loader,
            // What it gives is asked for below.
            Credentials::Token(_) => loader.no_credentials(),
            Credentials::Anonymous => loader.no_credentials(),
            Credentials::Keys(keys) => loader.credentials_provider(from_keys(keys, context)?),
        };
        let base = loader.load().await;
        let mut for_role = base.to_builder();
        if let Some(endpoint) = &self.options.endpoint {
            // A server of one's own answers STS at the same address.
            for_role.set_endpoint_url(Some(endpoint.clone()));
        }
        let for_role = for_role.build();
        let provider = match (&self.credentials, &self.options.role_arn) {
            (Credentials::Token(token), _) => SharedCredentialsProvider::new(ByToken::new(&for_role, token.clone())),
            (_, None) => return Ok(base),
            (_, Some(role)) => {
                let role = aws_config::sts::AssumeRoleProvider::builder(role).session_name(SESSION).configure(&for_role).build();
                SharedCredentialsProvider::new(role.await)
            }
        };
        Ok(base.to_builder().credentials_provider(provider).build())
    }
}

fn from_keys(keys: &BTreeMap<String, Secret>, context: &Context) -> Result<SharedCredentialsProvider, SourceError> {
    let get = |name: &str| keys.get(name).map(|value| value.expose().trim()).filter(|value| !value.is_empty());
    let need = |name: &'static str| get(name).ok_or_else(|| context.clone().denied(format!("{name} is missing in the secret")));
    let token = get("AWS_SESSION_TOKEN").map(str::to_owned);
    let credentials = AwsCredentials::new(need("AWS_ACCESS_KEY_ID")?, need("AWS_SECRET_ACCESS_KEY")?, token, None, "secret");
    Ok(SharedCredentialsProvider::new(credentials))
}

fn http_client(own: Option<&str>, guard: Guard, context: &Context) -> Result<SharedHttpClient, SourceError> {
    // The transport panics on what it can't parse and, in debug builds, on a machine without authorities: look first.
    let mut trust = TrustStore::empty().with_native_roots(!rustls_native_certs::load_native_certs().certs.is_empty());
    if let Some(pem) = own {
        check_pem(pem.as_bytes()).map_err(|detail| context.clone().permanent(format!("the CA bundle is not usable: {detail}")))?;
        trust = trust.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trust).build().map_err(|error| context.clone().permanent(error.to_string()))?;
    Ok(aws_smithy_http_client::Builder::new()
        .pool_max_idle_per_host(IDLE_SOCKETS_MAX)
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_with_resolver(guard))
}

fn check_pem(pem: &[u8]) -> Result<(), String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store.add(certificate.map_err(|error| format!("{error:?}"))?).map_err(|error| error.to_string())?;
    }
    if store.is_empty() { Err("it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".into()) } else { Ok(()) }
}
