//! An S3 service over a folder: each folder below the root is a bucket, each file below that an object.
//! Listings come from a sorted index in memory, so that a page costs a page also at a million objects; ETags are in listings, answers and
//! `If-Match`, as S3 has them, and change with size, mtime or inode of the file.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};
use std::task::{Context as TaskContext, Poll};
use std::time::SystemTime;

use anyhow::{Context, Result};
use async_trait::async_trait;
use futures::{Stream, StreamExt};
use hyper::body::Bytes;
use s3s::dto::{
    CommonPrefix, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
    HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp,
};
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::Counters;
use crate::workload::files_below;

/// Bytes of one piece of an answer's body.
const PIECE_BYTES: usize = 256 << 10;
const PAGE_KEYS_MAX: usize = 1000;

pub(crate) struct FolderServer {
    root: PathBuf,
    /// Guards the buckets' keys; held for one page at most, never across I/O or an await.
    buckets: RwLock<BTreeMap<String, BTreeMap<String, Row>>>,
    counters: Arc<Counters>,
}

#[derive(Clone, Copy)]
struct Row {
    size: u64,
    modified: SystemTime,
    /// Hash of what tells two contents of one file apart.
    stamp: (u64, u64),
}

impl Row {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let stamp = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino()).hash(&mut hasher);
            hasher.finish()
        };
        Self { size: metadata.len(), modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), stamp: (stamp(0), stamp(1)) }
    }
    fn etag(&self) -> ETag {
        ETag::Strong(format!("{:016x}{:016x}", self.stamp.0, self.stamp.1))
    }
}

impl FolderServer {
    /// Reads the whole tree once.
    pub(crate) fn open(root: &Path, counters: Arc<Counters>) -> Result<Self> {
        let mut buckets = BTreeMap::new();
        for bucket in std::fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
            let bucket = bucket?;
            let mut keys = BTreeMap::new();
            for (path, _) in files_below(&bucket.path())? {
                let key =
                    path.strip_prefix(bucket.path())?.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned();
                keys.insert(key, Row::of(&path.metadata()?));
            }
            buckets.insert(bucket.file_name().to_string_lossy().into_owned(), keys);
        }
        Ok(Self { root: root.to_path_buf(), buckets: RwLock::new(buckets), counters })
    }

    fn path(&self, bucket: &str, key: &str) -> S3Result<PathBuf> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !plain(bucket) || !key.split('/').all(plain) {
            return Err(s3_error!(InvalidArgument, "this server keeps no such key"));
        }
        Ok(self.root.join(bucket).join(key))
    }

    fn has_bucket(&self, bucket: &str) -> bool {
        self.buckets.read().is_ok_and(|buckets| buckets.contains_key(bucket))
    }

    fn stat(&self, bucket: &str, key: &str, condition: Option<&ETagCondition>) -> S3Result<(std::fs::File, Row)> {
        if !self.has_bucket(bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let file = std::fs::File::open(self.path(bucket, key)?).map_err(|_| s3_error!(NoSuchKey))?;
        let metadata = file.metadata().map_err(|_| s3_error!(InternalError))?;
        if metadata.is_dir() {
            return Err(s3_error!(NoSuchKey));
        }
        let row = Row::of(&metadata);
        match condition {
            Some(ETagCondition::ETag(asked)) if !row.etag().strong_cmp(asked) => Err(s3_error!(PreconditionFailed)),
            Some(ETagCondition::ETag(_) | ETagCondition::Any) | None => Ok((file, row)),
        }
    }
}

#[async_trait]
impl S3 for FolderServer {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.counters.gets.fetch_add(1, Ordering::Relaxed);
        let (file, row) = self.stat(&input.bucket, &input.key, input.if_match.as_ref())?;
        let range = input.range.map(|range| range.check(row.size)).transpose()?;
        let extent = range.clone().unwrap_or(0..row.size);
        let body = FileBody { file, at: extent.start, left: extent.end - extent.start, counters: self.counters.clone() };
        let output = GetObjectOutput {
            body: Some(StreamingBlob::new(body)),
            content_length: Some((extent.end - extent.start) as i64),
            content_range: range.map(|range| format!("bytes {}-{}/{}", range.start, range.end - 1, row.size)),
            e_tag: Some(row.etag()),
            last_modified: Some(Timestamp::from(row.modified)),
            accept_ranges: Some("bytes".to_owned()),
            ..GetObjectOutput::default()
        };
        Ok(S3Response::new(output))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        if self.has_bucket(&request.input.bucket) { Ok(S3Response::new(HeadBucketOutput::default())) } else { Err(s3_error!(NoSuchBucket)) }
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        self.counters.heads.fetch_add(1, Ordering::Relaxed);
        let (_, row) = self.stat(&input.bucket, &input.key, input.if_match.as_ref())?;
        let output = HeadObjectOutput {
            content_length: Some(row.size as i64),
            e_tag: Some(row.etag()),
            last_modified: Some(Timestamp::from(row.modified)),
            ..HeadObjectOutput::default()
        };
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.counters.lists.fetch_add(1, Ordering::Relaxed);
        let buckets = self.buckets.read().map_err(|_| s3_error!(InternalError))?;
        let keys = buckets.get(input.bucket.as_str()).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        let keys_max = usize::try_from(input.max_keys.unwrap_or(1000)).unwrap_or(0).min(PAGE_KEYS_MAX);
        // The token is the last key of the page before, or the last folder: then everything below that is behind us.
        let after = input.continuation_token.clone().or(input.start_after.clone());
        let mut page = Page::default();
        let mut from = std::ops::Bound::Included(prefix.clone());
        if let Some(after) = after.filter(|after| *after >= prefix) {
            let is_folder = delimiter.as_ref().is_some_and(|delimiter| after.ends_with(delimiter.as_str()));
            from = if is_folder { std::ops::Bound::Excluded(past_folder(&after)) } else { std::ops::Bound::Excluded(after) };
        }
        let mut more = false;
        while let Some((key, row)) =
            keys.range((from.clone(), std::ops::Bound::Unbounded)).next().filter(|(key, _)| key.starts_with(&prefix))
        {
            if page.count() == keys_max {
                more = true;
                break;
            }
            let folder = delimiter.as_ref().and_then(|delimiter| {
                let end = key[prefix.len()..].find(delimiter.as_str())? + prefix.len() + delimiter.len();
                Some(key[..end].to_owned())
            });
            match folder {
                Some(folder) => {
                    from = std::ops::Bound::Excluded(past_folder(&folder));
                    page.last = Some(folder.clone());
                    page.folders.push(CommonPrefix { prefix: Some(folder) });
                }
                None if delimiter.is_none() => {
                    // Without folders the page is one run of the index.
                    let run = keys.range((from.clone(), std::ops::Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&prefix));
                    for (key, row) in run.take(keys_max - page.count()) {
                        page.push(key, row);
                    }
                    from = std::ops::Bound::Excluded(page.last.clone().unwrap_or_default());
                }
                None => {
                    page.push(key, row);
                    from = std::ops::Bound::Excluded(key.clone());
                }
            }
        }
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: input.max_keys,
            key_count: Some(page.count() as i32),
            is_truncated: Some(more),
            next_continuation_token: page.last.filter(|_| more),
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            contents: Some(page.objects),
            common_prefixes: Some(page.folders),
            encoding_type: input.encoding_type,
            ..ListObjectsV2Output::default()
        };
        Ok(S3Response::new(output))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let path = self.path(&input.bucket, &input.key)?;
        if !self.has_bucket(&input.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        let mut body = Vec::new();
        let mut stream = input.body.ok_or_else(|| s3_error!(IncompleteBody))?;
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.map_err(|_| s3_error!(IncompleteBody))?);
        }
        let stored = || -> std::io::Result<Row> {
            let draft = path.with_extension("forebay-draft");
            std::fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
            std::fs::write(&draft, &body)?;
            std::fs::rename(&draft, &path)?;
            Ok(Row::of(&path.metadata()?))
        };
        let row = stored().map_err(|_| s3_error!(InternalError))?;
        if let Ok(mut buckets) = self.buckets.write() {
            buckets.entry(input.bucket).or_default().insert(input.key, row);
        }
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(row.etag()), ..PutObjectOutput::default() }))
    }
}

/// A key after everything in `folder`, which ends in the delimiter: with U+10FFFF no valid key of a data set follows below it.
fn past_folder(folder: &str) -> String {
    format!("{folder}\u{10ffff}")
}

#[derive(Default)]
struct Page {
    objects: Vec<Object>,
    folders: Vec<CommonPrefix>,
    last: Option<String>,
}

impl Page {
    fn count(&self) -> usize {
        self.objects.len() + self.folders.len()
    }
    fn push(&mut self, key: &str, row: &Row) {
        self.last = Some(key.to_owned());
        self.objects.push(Object {
            key: Some(key.to_owned()),
            size: Some(row.size as i64),
            last_modified: Some(Timestamp::from(row.modified)),
            e_tag: Some(row.etag()),
            ..Object::default()
        });
    }
}

/// A range of a file as the body of an answer. Reads block the thread: the file is in memory or on a local disk, and this is not the program
/// under test.
struct FileBody {
    file: std::fs::File,
    at: u64,
    left: u64,
    counters: Arc<Counters>,
}

impl Stream for FileBody {
    type Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; PIECE_BYTES.min(self.left as usize)];
        if let Err(error) = self.file.read_exact_at(&mut piece, self.at) {
            return Poll::Ready(Some(Err(error.into())));
        }
        let bytes = piece.len() as u64;
        self.at += bytes;
        self.left -= bytes;
        self.counters.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Bytes::from(piece))))
    }
}

impl ByteStream for FileBody {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left as usize)
    }
}

#[cfg(test)]
mod tests;
