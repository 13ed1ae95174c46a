//! What S3 answers when it refuses, told by name and with the cure.
//! Knows S3's error codes. Does not know when to ask again: that follows from the variant.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::by_token::NO_KEYS;
use super::guard::Refused;
use crate::{Key, SourceError};

/// Which request an error belongs to.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub op: &'static str,
    pub key: String,
    pub origin: String,
    pub bucket: String,
}

/// A refusal as S3 words it.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub request: Option<String>,
    /// Where the bucket says it lives.
    pub region: Option<String>,
}

impl Context {
    pub(super) fn not_found(self) -> SourceError {
        SourceError::NotFound { op: self.op, key: self.key, origin: self.origin }
    }
    pub(super) fn replaced(self) -> SourceError {
        SourceError::Replaced { op: self.op, key: self.key, origin: self.origin }
    }
    pub(super) fn denied(self, cure: impl Into<String>) -> SourceError {
        SourceError::Denied { op: self.op, key: self.key, origin: self.origin, cure: cure.into() }
    }
    fn no_credentials(self, detail: &str) -> SourceError {
        // Who reads as a service account has been told what that one lacks.
        let cure = if detail.contains(NO_KEYS) { "" } else { "; give the data set a secret, or let it read anonymously" };
        self.denied(format!("no usable credentials ({detail}){cure}"))
    }
    pub(super) fn archived(self, cure: impl Into<String>) -> SourceError {
        SourceError::Archived { op: self.op, key: self.key, origin: self.origin, cure: cure.into() }
    }
    pub(super) fn throttled(self, detail: impl Into<String>) -> SourceError {
        SourceError::Throttled { op: self.op, key: self.key, origin: self.origin, detail: detail.into() }
    }
    pub(super) fn unavailable(self, detail: impl Into<String>) -> SourceError {
        SourceError::Unavailable { op: self.op, key: self.key, origin: self.origin, detail: detail.into() }
    }
    pub(super) fn corrupt(self, detail: impl Into<String>) -> SourceError {
        SourceError::Corrupt { op: self.op, key: self.key, origin: self.origin, detail: detail.into() }
    }
    pub(super) fn permanent(self, detail: impl Into<String>) -> SourceError {
        SourceError::Permanent { op: self.op, key: self.key, origin: self.origin, detail: detail.into() }
    }
    pub(super) fn missing(self, detail: impl Into<String>) -> SourceError {
        SourceError::Missing { op: self.op, key: self.key, origin: self.origin, detail: detail.into() }
    }
    pub(super) fn unaskable(self, detail: impl Into<String>) -> SourceError {
        SourceError::Unaskable { op: self.op, key: self.key, origin: self.origin, detail: detail.into() }
    }

    /// An error in the middle of a body.
    pub(super) fn body(self, error: &(dyn Error + 'static)) -> SourceError {
        let detail = chain(error);
        if detail.contains("checksum mismatch") { self.corrupt(detail) } else { self.unavailable(detail) }
    }

    /// An error of the SDK; the refusal is kept apart, since a wrong region can be mended.
    pub(super) fn sdk<E>(&self, error: &SdkError<E, HttpResponse>) -> Result<Refusal, SourceError>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let context = self.clone();
        Err(match error {
            SdkError::ServiceError(service) => {
                let raw = service.raw();
                let meta = service.err().meta();
                return Ok(Refusal {
                    status: raw.status().as_u16(),
                    code: meta.code().unwrap_or_default().to_owned(),
                    message: meta.message().unwrap_or_default().to_owned(),
                    request: meta.request_id().map(str::to_owned),
                    region: raw.headers().get("x-amz-bucket-region").map(str::to_owned).or_else(|| region_in(raw)),
                });
            }
            SdkError::TimeoutError(_) => context.unavailable("no answer in time"),
            SdkError::ConstructionFailure(_) => context.no_credentials(&chain(error)),
            SdkError::ResponseError(_) => context.unavailable(chain(error)),
            SdkError::DispatchFailure(failure) => {
                if let Some(refused) = refused_in(error) {
                    return Err(context.permanent(refused.to_string()));
                }
                let detail = chain(error);
                if detail.contains("invalid peer certificate") {
                    context.permanent(format!("{detail}; if the endpoint's certificate is of a private authority, name it in caBundleRef"))
                } else if failure.is_user() || detail.contains("credentials") {
                    context.no_credentials(&detail)
                } else {
                    context.unavailable(detail)
                }
            }
            _ => context.unavailable(chain(error)),
        })
    }

    /// `sdk` and `refused` in one.
    pub(super) fn failed<E>(self, error: &SdkError<E, HttpResponse>) -> SourceError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match self.sdk(error) {
            Ok(refusal) => self.refused(&refusal),
            Err(error) => error,
        }
    }

    /// The error for a refusal.
    pub(super) fn refused(self, refusal: &Refusal) -> SourceError {
        let Refusal { status, code, message, request, region } = refusal;
        let said = said(*status, code, message, request.as_deref());
        match (code.as_str(), *status) {
            ("NoSuchBucket", _) => {
                let bucket = self.bucket.clone();
                self.missing(format!("there is no bucket {bucket} at this endpoint; check the name, the endpoint and the region ({said})"))
            }
            ("NoSuchKey" | "NoSuchVersion", _) => self.not_found(),
            ("PreconditionFailed", _) | (_, 412) => self.replaced(),
            ("InvalidObjectState", _) => self.archived(format!("restore it first (RestoreObject), or read another storage class ({said})")),
            ("SignatureDoesNotMatch", _) => {
                self.denied(format!("the secret key does not belong to the access key, or a proxy changes requests ({said})"))
            }
            ("InvalidAccessKeyId", _) => self.denied(format!("the access key is not known there; check the key and the endpoint ({said})")),
            ("ExpiredToken" | "TokenRefreshRequired", _) => self.denied(format!("the session token has expired; get a new one ({said})")),
            ("InvalidToken", _) => {
                self.denied(format!("the session token is wrong; AWS_SESSION_TOKEN must belong to the access key ({said})"))
            }
            ("RequestTimeTooSkewed", _) => {
                self.denied(format!("this machine's clock is off by more than 15 minutes; set it, with NTP ({said})"))
            }
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException", _) | (_, 301 | 302 | 308) => {
                let cure = match region {
                    Some(region) => format!("the bucket lives in {region}: set s3.region to it"),
                    None => "the endpoint sends elsewhere, which is not followed: set s3.endpoint and s3.region to where the bucket lives"
                        .into(),
                };
                self.permanent(format!("{cure} ({said})"))
            }
            ("TemporaryRedirect", _) | (_, 307) => self.unavailable(format!("redirected elsewhere, which is not followed ({said})")),
            ("SlowDown" | "Throttling" | "ThrottlingException" | "TooManyRequests" | "RequestLimitExceeded", _) | (_, 429 | 503) => {
                self.throttled(said)
            }
            ("RequestTimeout" | "InternalError", _) | (_, 408 | 500..) => self.unavailable(said),
            (code, _) if code.starts_with("KMS.") => {
                self.denied(format!("the object's KMS key can't be used: enable it and allow kms:Decrypt ({said})"))
            }
            (_, 403 | 401) if message.contains("kms:") || message.contains("KMS") || message.contains("ciphertext") => {
                self.denied(format!("allow kms:Decrypt on the key that encrypts the object ({said})"))
            }
            (_, 403 | 401) => {
                let cure = match self.op {
                    "list" => "allow s3:ListBucket on the bucket",
                    _ => "allow s3:GetObject on the object (without s3:ListBucket an object that is gone is refused too)",
                };
                self.denied(format!("{cure} ({said})"))
            }
            (_, 404) if self.op != "list" => self.not_found(),
            (_, 416) => self.corrupt(format!("the range is outside the object ({said})")),
            _ => self.permanent(said),
        }
    }
}

fn said(status: u16, code: &str, message: &str, request: Option<&str>) -> String {
    let mut text = format!("HTTP {status}");
    for part in [code, message] {
        if !part.is_empty() {
            text.push_str(", ");
            // A server's text goes into logs: one line of a sane length.
            text.extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300));
        }
    }
    if let Some(request) = request {
        text.push_str(", request ");
        text.push_str(request);
    }
    text
}

/// `<Region>` in the body of AuthorizationHeaderMalformed.
fn region_in(raw: &HttpResponse) -> Option<String> {
    let body = std::str::from_utf8(raw.body().bytes()?).ok()?;
    let (_, rest) = body.split_once("<Region>")?;
    let (region, _) = rest.split_once("</Region>")?;
    (region.len() < 64 && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')).then(|| region.to_owned())
}

/// A name that may not be asked, somewhere among the causes.
fn refused_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Refused> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// A key for people: its bytes as text, what is not text escaped.
pub(super) fn show(key: &Key) -> String {
    key.0.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.extend(chunk.valid().escape_debug());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        text
    })
}
