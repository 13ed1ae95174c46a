//! S3 and what speaks its protocol, by `aws-sdk-s3`.
//! Knows requests, answers and S3's error codes. Does not repeat anything, but once for a region that turned out to be another.
//! Invariant: before a byte of a body is handed on, the answer's ETag and range have been compared with what was asked.

mod body;
mod by_token;
mod checksum;
mod client;
mod error;
mod guard;
mod list_xml;
mod raw;
mod version;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Error;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, EncodingType, RequestPayer};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::Bytes;
use forebay_wire::dataset_spec::S3Location;
use forebay_wire::secret::SourceAccess;

use self::client::Connector;
use self::error::Context;
use self::list_xml::BadAnswer;
use super::{Body, Checksum, Key, ListPage, ListRequest, Object, Source, SourceError, Version};
use forebay_wire::block::Extent;

/// After a folder comes whatever is above all its keys: no key goes on with the highest code point.
const FOLDER_END: &str = "\u{10FFFF}";

pub struct S3 {
    name: String,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    payer: Option<RequestPayer>,
    connector: Connector,
    client: ArcSwapOption<Client>,
    /// One at a time looks for the region and the credentials.
    connecting: tokio::sync::Mutex<()>,
    /// Set by the first listing without ETags: from then on a head speaks the listing's language too.
    lists_without_etags: AtomicBool,
    /// How far the server's clock is from ours, in seconds, by its last answer to a listing; `i64::MIN` before there is one.
    clock_offset: AtomicI64,
}

impl S3 {
    /// Checks the CA bundle; sends nothing.
    pub fn new(location: &S3Location, access: &SourceAccess) -> Result<Self, SourceError> {
        let S3Location { bucket, prefix, .. } = location;
        let name = format!("s3://{bucket}/{prefix}");
        let context = Context { op: "open", key: String::new(), origin: name.clone(), bucket: bucket.clone() };
        let connector = Connector::new(location, access, &context)?;
        Ok(Self {
            name,
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            payer: location.requester_pays.then_some(RequestPayer::Requester),
            connector,
            client: ArcSwapOption::empty(),
            connecting: tokio::sync::Mutex::new(()),
            lists_without_etags: AtomicBool::new(false),
            clock_offset: AtomicI64::new(i64::MIN),
        })
    }

    /// How many seconds the server's clock is before ours (negative: behind), by the last answer to a listing, refusals included.
    pub fn clock_offset_seconds(&self) -> Option<i64> {
        Some(self.clock_offset.load(Relaxed)).filter(|offset| *offset != i64::MIN)
    }

    fn note_date(&self, date: SystemTime) {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok());
        if let (Some(theirs), Some(ours)) = (seconds(date), seconds(SystemTime::now())) {
            self.clock_offset.store(theirs - ours, Relaxed);
        }
    }

    fn context(&self, op: &'static str, key: &Key) -> Context {
        Context { op, key: error::show(key), origin: self.name.clone(), bucket: self.bucket.clone() }
    }

    async fn client(&self, context: &Context) -> Result<Arc<Client>, SourceError> {
        if let Some(client) = self.client.load_full() {
            return Ok(client);
        }
        let _turn = self.connecting.lock().await;
        if let Some(client) = self.client.load_full() {
            return Ok(client);
        }
        let client = Arc::new(self.connector.connect(None, context).await?);
        self.client.store(Some(client.clone()));
        Ok(client)
    }

    /// Turns an SDK error into ours; `Ok` means that the region was wrong, is right now, and the request may go again.
    async fn mend<E>(&self, error: &SdkError<E, HttpResponse>, used: &Client, context: &Context) -> Result<Arc<Client>, SourceError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let refusal = context.sdk(error)?;
        let used = used.config().region().map(|region| region.as_ref().to_owned());
        let other = refusal.region.as_deref().filter(|region| used.as_deref() != Some(*region));
        let is_region = matches!(refusal.status, 301 | 400) && self.connector.region_set().is_none();
        let Some(region) = other.filter(|_| is_region) else { return Err(context.clone().refused(&refusal)) };
        let client = Arc::new(self.connector.connect(Some(region), context).await?);
        self.client.store(Some(client.clone()));
        Ok(client)
    }

    fn full_key(&self, key: &Key, context: &Context) -> Result<String, SourceError> {
        let Ok(text) = std::str::from_utf8(&key.0) else {
            return Err(context.clone().unaskable("it is not UTF-8, and S3 keys are; rename the object"));
        };
        if self.prefix.is_empty() && text.is_empty() {
            return Err(context.clone().unaskable("it is empty"));
        }
        Ok(format!("{}{text}", self.prefix))
    }

    async fn head_answer(
        &self,
        key: &Key,
        if_match: Option<String>,
        checksums: Option<ChecksumMode>,
        context: &Context,
    ) -> Result<HeadObjectOutput, SourceError> {
        let full = self.full_key(key, context)?;
        let client = self.client(context).await?;
        let ask = |client: &Client| {
            let call = client.head_object().bucket(&self.bucket).key(&full).set_if_match(if_match.clone());
            call.set_checksum_mode(checksums.clone()).set_request_payer(self.payer.clone()).send()
        };
        let error = match ask(&client).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let client = self.mend(&error, &client, context).await?;
        ask(&client).await.map_err(|error| context.clone().failed(&error))
    }

    async fn list_once(&self, client: &Client, request: &ListRequest, encoding: Option<EncodingType>) -> Result<ByteStream, ListFailure> {
        let prefix = [self.prefix.as_bytes(), &request.prefix].concat();
        let after = request.after.as_ref().map(|after| [self.prefix.as_bytes(), after].concat());
        let call = client.list_objects_v2().bucket(&self.bucket).set_request_payer(self.payer.clone()).set_encoding_type(encoding);
        let call = call.set_delimiter(request.one_level.then(|| "/".to_owned()));
        let date = Arc::default();
        let answer = raw::list(call, prefix, after, Arc::clone(&date)).await;
        if let Some(date) = date.lock().ok().and_then(|mut date| date.take()) {
            self.note_date(date);
        }
        answer
    }

    async fn list_answer(
        &self,
        request: &ListRequest,
        encoding: Option<EncodingType>,
        context: &Context,
    ) -> Result<list_xml::Answer, SourceError> {
        let client = self.client(context).await?;
        let body = match self.list_once(&client, request, encoding.clone()).await {
            Ok(body) => body,
            Err(error) => {
                let client = self.mend(&error, &client, context).await?;
                self.list_once(&client, request, encoding).await.map_err(|error| context.clone().failed(&error))?
            }
        };
        let body = raw::collect(body).await.map_err(|error| context.clone().body(&error))?;
        list_xml::parse(&body, self.prefix.as_bytes()).map_err(|bad| match bad {
            BadAnswer::Malformed(what) => context.clone().corrupt(format!("the listing is not well formed: {what}")),
            BadAnswer::Refused { code, message } => {
                let error = context.clone().refused(&error::Refusal { status: 200, code, message, ..Default::default() });
                // An unknown error in a 200 is an answer that broke off on the server's side.
                if matches!(error, SourceError::Permanent { .. }) { context.clone().unavailable(error.to_string()) } else { error }
            }
        })
    }
}

type ListFailure = SdkError<ListObjectsV2Error, HttpResponse>;

#[async_trait]
impl Source for S3 {
    fn name(&self) -> &str {
        &self.name
    }

    fn clock_offset_seconds(&self) -> Option<i64> {
        Self::clock_offset_seconds(self)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        let context = self.context("list", &Key(request.prefix.clone()));
        // Not escaped at first: some servers say that they escaped and didn't (s3s). Others put U+FFFD for what XML can't hold (MinIO),
        // and only escaped keys tell which it was. AWS gives character references, which the reader knows.
        let mut answer = self.list_answer(request, None, &context).await?;
        if answer.is_lossy {
            answer = self.list_answer(request, Some(EncodingType::Url), &context).await?;
        }
        for object in answer.objects.iter_mut().filter(|object| object.version.0.is_empty()) {
            self.lists_without_etags.store(true, Relaxed);
            object.version = version::from_time(object.modified, object.size);
        }
        page(answer, request).map_err(|what| context.corrupt(what))
    }

    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        let context = self.context("head", key);
        let answer = self.head_answer(key, None, None, &context).await?;
        let missing = |what: &str| context.clone().corrupt(format!("the answer has no {what}"));
        let size = answer.content_length().and_then(|size| u64::try_from(size).ok()).ok_or_else(|| missing("Content-Length"))?;
        let modified = answer.last_modified().and_then(|time| (*time).try_into().ok()).ok_or_else(|| missing("Last-Modified"))?;
        let version = match answer.e_tag() {
            Some(etag) if !self.lists_without_etags.load(Relaxed) => version::from_etag(etag),
            _ => version::from_time(modified, size),
        };
        Ok(Object { key: key.clone(), size, modified, version })
    }

    async fn checksum(&self, key: &Key, version: &Version) -> Result<Option<Checksum>, SourceError> {
        let context = self.context("head", key);
        let asked = version::Asked::new(version).ok_or_else(|| context.clone().replaced())?;
        let answer = self.head_answer(key, asked.if_match(), Some(ChecksumMode::Enabled), &context).await?;
        let total = answer.content_length().and_then(|length| u64::try_from(length).ok());
        match asked.is_met(answer.e_tag(), answer.last_modified(), total) {
            Some(true) => Ok(checksum::of(&answer)),
            Some(false) => Err(context.replaced()),
            None => Err(context.corrupt("the answer doesn't say which version it is of (no ETag)")),
        }
    }

    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        let context = self.context("read", key);
        let full = self.full_key(key, &context)?;
        let asked = version::Asked::new(version).ok_or_else(|| context.clone().replaced())?;
        let client = self.client(&context).await?;
        let ask = |client: &Client| {
            let call =
                client.get_object().bucket(&self.bucket).key(&full).set_if_match(asked.if_match()).set_request_payer(self.payer.clone());
            // A checksum covers the whole object, so it is of use only without a range.
            let call = if whole {
                call.checksum_mode(ChecksumMode::Enabled)
            } else {
                call.range(format!("bytes={}-{}", extent.start(), extent.end() - 1))
            };
            call.send()
        };
        let answer = match ask(&client).await {
            Ok(answer) => answer,
            Err(error) => {
                let client = self.mend(&error, &client, &context).await?;
                match ask(&client).await {
                    Ok(answer) => answer,
                    Err(error) => return Err(context.failed(&error)),
                }
            }
        };
        let total = total_bytes(&answer);
        match asked.is_met(answer.e_tag(), answer.last_modified(), total) {
            Some(true) => {}
            Some(false) => return Err(context.replaced()),
            None => return Err(context.corrupt("the answer doesn't say which version it is of (no ETag)")),
        }
        match (whole, answer.content_range()) {
            (true, None) => {}
            (true, Some(range)) => return Err(context.corrupt(format!("asked for the whole object, got {range}"))),
            (false, Some(range)) if is_range(range, extent) => {}
            (false, Some(range)) => {
                return Err(context.corrupt(format!("asked for bytes {}-{}, got {range}", extent.start(), extent.end() - 1)));
            }
            (false, None) => return Err(context.corrupt("the answer is not for a range")),
        }
        if let Some(length) = answer.content_length()
            && u64::try_from(length) != Ok(extent.len())
        {
            return Err(context.corrupt(format!("asked for {} bytes, {length} were announced", extent.len())));
        }
        Ok(body::exact(answer.body, extent.len(), context))
    }
}

/// For `probe`.
pub(crate) fn read_listing(body: &[u8], prefix: &[u8]) -> Option<usize> {
    let answer = list_xml::parse(body, prefix).ok()?;
    let told = |object: &Object| 1 + object.key.0.len() + object.version.0.len();
    let told_bytes = answer.objects.iter().map(told).sum::<usize>() + answer.folders.iter().map(|folder| 1 + folder.len()).sum::<usize>();
    let request = ListRequest { prefix: Bytes::new(), after: None, before: None, one_level: true };
    // Whatever order the keys have, what comes out of it is in order.
    if let Ok(page) = page(answer, &request) {
        assert!(page.objects.is_sorted_by(|left, right| left.key < right.key));
    }
    Some(told_bytes)
}

/// `bytes 0-99/1234`, where the total may be `*`.
fn is_range(text: &str, extent: Extent) -> bool {
    let parts =
        text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')).and_then(|(range, total)| Some((range.split_once('-')?, total)));
    parts.is_some_and(|((first, last), _)| first.parse() == Ok(extent.start()) && last.parse() == Ok(extent.end() - 1))
}

/// Bytes of the whole object, as the answer to a part of it says.
fn total_bytes(answer: &GetObjectOutput) -> Option<u64> {
    match answer.content_range() {
        Some(range) => range.rsplit_once('/')?.1.parse().ok(),
        None => answer.content_length().and_then(|length| u64::try_from(length).ok()),
    }
}

/// Checks the order of an answer and cuts it at the end of what was asked for.
fn page(answer: list_xml::Answer, request: &ListRequest) -> Result<ListPage, String> {
    let list_xml::Answer { mut objects, mut folders, is_truncated, is_lossy: _ } = answer;
    let after = request.after.as_deref().unwrap_or_default();
    let has_after = request.after.is_some();
    if !objects.is_sorted_by(|left, right| left.key < right.key) || !folders.is_sorted_by(|left, right| left < right) {
        return Err("the keys are not in ascending order (a directory bucket? those can't be listed by range)".into());
    }
    if has_after && objects.first().is_some_and(|object| object.key.0[..] <= *after) {
        return Err("the listing begins before the key it should begin after".into());
    }
    // A folder holds keys on both sides of `after`: it was told of already.
    folders.retain(|folder| !has_after || (folder[..] > *after && !after.starts_with(folder)));
    let outside = |key: &[u8]| !key.starts_with(&request.prefix);
    if objects.iter().any(|object| outside(&object.key.0)) || folders.iter().any(|folder| outside(folder)) {
        return Err("the listing holds a key outside the prefix".into());
    }
    let last_object = objects.last().map(|object| object.key.0.clone());
    let last_folder = folders.last().map(|folder| Bytes::from([folder, FOLDER_END.as_bytes()].concat()));
    let mut next = if is_truncated { last_object.max(last_folder) } else { None };
    if is_truncated && next.as_deref().is_none_or(|next| has_after && next <= after) {
        return Err("the listing says that there is more, but has no next key".into());
    }
    if let Some(before) = &request.before {
        if next.as_ref().is_some_and(|next| next >= before) {
            next = None;
        }
        objects.truncate(objects.partition_point(|object| object.key.0 < *before));
        folders.truncate(folders.partition_point(|folder| folder < before));
    }
    Ok(ListPage { objects, folders, next })
}

#[cfg(test)]
mod tests;
