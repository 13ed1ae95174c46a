//! GetObject and HeadObject as requests of our own: by the SDK's transport, endpoint rules, credentials and signer, without what it does around
//! them for each request, which costs more than all of these together (docs/decisions/0019-requests-for-objects-are-our-own.md).
//! Knows how a request for one object is made, signed and sent. Does not know what an answer has to say, or what follows a refusal.
//! Invariant: nothing is sent unsigned but for who reads anonymously, and nothing here prints a credential.

use std::time::SystemTime;

use aws_sdk_s3::config::endpoint::{DefaultResolver, Endpoint, Params, ResolveEndpoint};
use aws_sdk_s3::error::BoxError;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::Document;
use forebay_wire::block::Extent;

use super::error::{Context, Refusal};
use super::escape;
use super::identity::IdentityCache;
use crate::SourceError;

const USER_AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));
/// The SHA-256 of no bytes, which is the body of each request here.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Requests for objects of one bucket, in one region.
pub(super) struct Objects {
    transport: SharedHttpConnector,
    /// Of the bucket, without a slash at its end: the endpoint's rules say whether the bucket is in the host's name or in the path.
    url: String,
    /// `None` for who reads anonymously.
    signer: Option<Signer>,
    requester_pays: bool,
}

/// Where the bucket is, and what requests are signed for.
pub(super) struct Place {
    url: String,
    region: String,
    service: String,
}

struct Signer {
    identities: IdentityCache,
    region: String,
    service: String,
    settings: SigningSettings,
}

#[derive(Clone, Copy)]
pub(super) enum Method {
    Get,
    Head,
}

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub method: Method,
    /// With the source's prefix.
    pub key: &'a str,
    pub if_match: Option<&'a str>,
    /// `None` is the whole object.
    pub extent: Option<Extent>,
    /// Whether the answer is to say the object's checksums.
    pub with_checksums: bool,
}

/// What came back. Of a success the body hasn't been read.
pub(super) enum Answered {
    Given(HttpResponse),
    Refused(Refusal),
}

impl Place {
    /// By the SDK's rules. Sends nothing.
    pub(super) async fn find(params: Params, context: &Context) -> Result<Self, SourceError> {
        let region = params.region().unwrap_or_default().to_owned();
        let found = ResolveEndpoint::resolve_endpoint(&DefaultResolver::new(), &params).await;
        let wrong = |detail: String| context.clone().permanent(format!("{detail}; check the bucket's name, the endpoint and the region"));
        let endpoint = found.map_err(|error| wrong(format!("there is no endpoint for this bucket ({error})")))?;
        let (service, region) = match endpoint.auth_schemes() {
            [] => ("s3".to_owned(), region),
            schemes => match schemes.iter().find(|scheme| scheme.name() == "sigv4") {
                Some(scheme) => {
                    let named = |name: &str| scheme.get(name).and_then(Document::as_string).map(str::to_owned);
                    (named("signingName").unwrap_or_else(|| "s3".to_owned()), named("signingRegion").unwrap_or(region))
                }
                None => return Err(wrong("a bucket of this kind wants signatures that are not supported (a directory bucket?)".into())),
            },
        };
        Ok(Self { url: url_of(&endpoint), region, service })
    }
}

fn url_of(endpoint: &Endpoint) -> String {
    endpoint.url().trim_end_matches('/').to_owned()
}

impl Objects {
    pub(super) fn new(transport: SharedHttpConnector, place: Place, identities: Option<IdentityCache>, requester_pays: bool) -> Self {
        let Place { url, region, service } = place;
        let signer = identities.map(|identities| Signer { identities, region, service, settings: settings() });
        Self { transport, url, signer, requester_pays }
    }

    /// Sends one request. An error is one of the transport or of the credentials.
    pub(super) async fn ask(&self, ask: Ask<'_>, context: &Context) -> Result<Answered, SourceError> {
        let now = SystemTime::now();
        // The identity is in hand before anything is built, so that what is built needn't live over a wait.
        let identity = match &self.signer {
            Some(signer) => Some((signer, signer.identities.get(now).await.map_err(|error| context.clone().no_credentials(&error))?)),
            None => None,
        };
        let request = || -> Result<HttpRequest, BoxError> {
            let mut request = self.request(ask)?;
            if let Some((signer, kept)) = &identity {
                signer.sign(&mut request, &kept.identity, now)?;
            }
            Ok(request)
        };
        let request = request().map_err(|error| context.clone().unaskable(format!("the request can't be built: {error}")))?;
        let response = self.transport.call(request).await.map_err(|error| context.clone().dispatch(&error))?;
        if response.status().is_success() {
            return Ok(Answered::Given(response));
        }
        Refusal::read(response).await.map(Answered::Refused).map_err(|error| context.clone().body(&error))
    }

    fn request(&self, ask: Ask<'_>) -> Result<HttpRequest, BoxError> {
        let mut uri = String::with_capacity(self.url.len() + ask.key.len() + 32);
        uri.push_str(&self.url);
        uri.push('/');
        escape::push_path(&mut uri, ask.key.as_bytes());
        let mut request = HttpRequest::empty();
        request.set_uri(uri)?;
        request.set_method(match ask.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
        })?;
        let headers = request.headers_mut();
        headers.try_insert("user-agent", USER_AGENT)?;
        if let Some(etag) = ask.if_match {
            headers.try_insert("if-match", etag.to_owned())?;
        }
        if let Some(extent) = ask.extent {
            headers.try_insert("range", format!("bytes={}-{}", extent.start(), extent.end() - 1))?;
        }
        if ask.with_checksums {
            headers.try_insert("x-amz-checksum-mode", "ENABLED")?;
        }
        if self.requester_pays {
            headers.try_insert("x-amz-request-payer", "requester")?;
        }
        Ok(request)
    }
}

impl Signer {
    fn sign(&self, request: &mut HttpRequest, identity: &Identity, now: SystemTime) -> Result<(), BoxError> {
        let params = SigningParams::builder().identity(identity).region(&self.region).name(&self.service).time(now);
        let params = params.settings(self.settings.clone()).build()?.into();
        let body = SignableBody::Precomputed(EMPTY_SHA256.to_owned());
        let signable = SignableRequest::new(request.method(), request.uri(), request.headers().iter(), body)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        let (headers, _) = instructions.into_parts();
        for header in headers {
            request.headers_mut().try_insert(header.name(), header.value().to_owned())?;
        }
        Ok(())
    }
}

/// As S3 has them: the path is escaped once, and never normalized.
fn settings() -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings
}

#[cfg(test)]
mod tests;
