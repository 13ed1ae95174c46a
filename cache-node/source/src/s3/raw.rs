//! ListObjectsV2 with the SDK's signing and transport, but with the body as it came and keys that need not be UTF-8.
//! Knows the SDK's hooks. Does not read the answer.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, SdkError};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Error;
use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextMut,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::byte_stream::error::Error as ByteStreamError;
use aws_smithy_types::date_time::Format as DateTimeFormat;
use bytes::{Bytes, BytesMut};

/// A page of 1000 keys of 1 KiB each, escaped threefold, with room for the other fields.
const BODY_BYTES_MAX: usize = 8 << 20;
/// 1000 keys of some 60 bytes, with their tags.
const BODY_BYTES_USUAL: usize = 300 << 10;
/// What the SDK gets to read in place of the answer.
const EMPTY: &str = "<ListBucketResult/>";

#[derive(Debug)]
struct Hook {
    /// `prefix=..&start-after=..`, escaped.
    query: String,
    /// Holds the answer's body from the hook to the caller.
    body: Arc<Mutex<Option<SdkBody>>>,
    /// The time that the answer says it was made at; of a refusal, too.
    date: Arc<Mutex<Option<SystemTime>>>,
}

impl Intercept for Hook {
    fn name(&self) -> &'static str {
        "ForebayList"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let uri = format!("{}&{}", request.uri(), self.query);
        request.set_uri(uri)?;
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let date = response.headers().get("date").and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        *self.date.lock().map_err(|_| "the list hook's lock is poisoned")? = date.and_then(|date| date.try_into().ok());
        if response.status().as_u16() == 200 {
            let body = std::mem::replace(response.body_mut(), SdkBody::from(EMPTY));
            *self.body.lock().map_err(|_| "the list hook's lock is poisoned")? = Some(body);
        }
        Ok(())
    }
}

/// Sends `call` with `prefix` and `after`, and gives the body of a 200 answer as it came. `date` gets the server's time, whatever it answers.
pub(super) async fn list(
    call: ListObjectsV2FluentBuilder,
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    date: Arc<Mutex<Option<SystemTime>>>,
) -> Result<ByteStream, SdkError<ListObjectsV2Error, HttpResponse>> {
    let mut query = format!("prefix={}", escaped(&prefix));
    if let Some(after) = after {
        query.push_str("&start-after=");
        query.push_str(&escaped(&after));
    }
    let slot = Arc::new(Mutex::new(None));
    call.customize().interceptor(Hook { query, body: slot.clone(), date }).send().await?;
    let body = slot.lock().ok().and_then(|mut slot| slot.take()).unwrap_or_else(SdkBody::empty);
    Ok(ByteStream::new(body))
}

/// The whole of `body`; a longer one than any page is cut, so that the reader of the XML refuses it.
pub(super) async fn collect(mut body: ByteStream) -> Result<Bytes, ByteStreamError> {
    let mut bytes = BytesMut::with_capacity(BODY_BYTES_USUAL);
    while let Some(part) = body.next().await {
        bytes.extend_from_slice(&part?);
        if bytes.len() > BODY_BYTES_MAX {
            break;
        }
    }
    Ok(bytes.freeze())
}

/// Percent escapes as SigV4 wants them: everything but the unreserved characters.
fn escaped(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    text
}
