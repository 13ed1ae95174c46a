//! A folder as a source, through `opendal`.
//! Knows files and their times. Does not follow what is neither file nor folder (links, sockets): such entries are not listed.
//! Invariant: bytes are handed on only after the file at that path was seen, once more, to have the version that was asked for.

mod walk;

use std::path::Path;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use opendal::{ErrorKind, Metadata, Operator, Reader, services::Fs};

use self::walk::Walks;
use super::{Body, Key, ListPage, ListRequest, Object, Source, SourceError, Version};
use forebay_wire::block::Extent;

/// Read between two looks at the file's version.
const PIECE_BYTES: u64 = 1 << 20;

pub struct FileSource {
    name: String,
    operator: Operator,
    walks: Walks,
}

impl FileSource {
    /// Looks whether the folder is there.
    pub fn new(folder: &Path) -> Result<Self, SourceError> {
        let name = format!("file://{}", folder.display());
        let failed = |detail: String| SourceError::Permanent { op: "open", key: String::new(), origin: name.clone(), detail };
        let Some(root) = folder.to_str().filter(|root| root.starts_with('/')) else {
            return Err(failed("the folder must be an absolute path in UTF-8".into()));
        };
        // opendal makes a root that is missing; a source is never written to.
        if !folder.is_dir() {
            let detail = "there is no such folder on this machine".into();
            return Err(SourceError::Missing { op: "open", key: String::new(), origin: name, detail });
        }
        let operator = Operator::new(Fs::default().root(root)).map_err(|error| failed(error.to_string()))?;
        Ok(Self { name, operator, walks: Walks::default() })
    }

    fn context(&self, op: &'static str, key: &Key) -> Context {
        Context { op, key: String::from_utf8_lossy(&key.0).escape_debug().to_string(), origin: self.name.clone() }
    }
}

/// opendal tidies paths and turns what isn't UTF-8 into other characters: only keys that come through unchanged are asked for.
fn path<'a>(key: &'a Key, context: &Context) -> Result<&'a str, SourceError> {
    let text = std::str::from_utf8(&key.0).ok();
    let is_plain = |text: &&str| {
        !text.is_empty() && text.split('/').all(|part| !matches!(part, "" | "." | "..") && part.trim() == part && !part.contains('\0'))
    };
    text.filter(is_plain).ok_or_else(|| {
        let Context { op, key, origin } = context.clone();
        SourceError::Unaskable { op, key, origin, detail: "a file's path here is UTF-8, with no empty part and no `.` or `..`".into() }
    })
}

#[derive(Clone)]
struct Context {
    op: &'static str,
    key: String,
    origin: String,
}

impl Context {
    fn error(&self, error: &opendal::Error) -> SourceError {
        let Self { op, key, origin } = self.clone();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => SourceError::NotFound { op, key, origin },
            ErrorKind::PermissionDenied => SourceError::Denied { op, key, origin, cure: format!("let this user read it ({error})") },
            _ => SourceError::Unavailable { op, key, origin, detail: error.to_string() },
        }
    }
    fn replaced(&self) -> SourceError {
        let Self { op, key, origin } = self.clone();
        SourceError::Replaced { op, key, origin }
    }
}

/// Time and size. A file written twice within a tick of the file system's clock at the same size is not told apart.
fn version(metadata: &Metadata) -> (Version, SystemTime) {
    let modified = metadata.last_modified().map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    let text = match modified.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => format!("{}-{}", since.as_nanos(), metadata.content_length()),
        Err(before) => format!("-{}-{}", before.duration().as_nanos(), metadata.content_length()),
    };
    (Version(Bytes::from(text)), modified)
}

fn object(key: Bytes, metadata: &Metadata) -> Object {
    let (version, modified) = version(metadata);
    Object { key: Key(key), size: metadata.content_length(), modified, version }
}

#[async_trait]
impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        let context = self.context("list", &Key(request.prefix.clone()));
        self.walks.page(&self.operator, request).await.map_err(|error| context.error(&error))
    }

    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        let context = self.context("head", key);
        let metadata = self.operator.stat(path(key, &context)?).await.map_err(|error| context.error(&error))?;
        match metadata.is_file() {
            true => Ok(object(key.0.clone(), &metadata)),
            false => Err(SourceError::NotFound { op: context.op, key: context.key, origin: context.origin }),
        }
    }

    async fn read(&self, key: &Key, version: &Version, extent: Extent, _whole: bool) -> Result<Body, SourceError> {
        let context = self.context("read", key);
        let path = path(key, &context)?.to_owned();
        let reader = self.operator.reader(&path).await.map_err(|error| context.error(&error))?;
        let state = Reading {
            operator: self.operator.clone(),
            reader,
            path,
            version: version.clone(),
            next: extent.start(),
            end: extent.end(),
            context,
        };
        let mut body = futures::stream::unfold(Some(state), |state| async move {
            let mut state = state.filter(|state| state.next < state.end)?;
            match state.piece().await {
                Ok(bytes) => Some((Ok(bytes), Some(state))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed();
        // The first piece is read here, so that a missing or replaced file is told before a body is promised.
        let first = body.next().await.transpose()?;
        Ok(futures::stream::iter(first.map(Ok)).chain(body).boxed())
    }
}

struct Reading {
    operator: Operator,
    reader: Reader,
    path: String,
    version: Version,
    next: u64,
    end: u64,
    context: Context,
}

impl Reading {
    async fn piece(&mut self) -> Result<Bytes, SourceError> {
        let end = self.end.min(self.next + PIECE_BYTES);
        let read = self.reader.read(self.next..end).await;
        // After the read: what was read while the path held this version is of this version.
        let metadata = self.operator.stat(&self.path).await.map_err(|error| self.context.error(&error))?;
        if version(&metadata).0 != self.version {
            return Err(self.context.replaced());
        }
        let bytes = read.map_err(|error| self.context.error(&error))?.to_bytes();
        if bytes.len() as u64 != end - self.next {
            return Err(self.context.replaced());
        }
        self.next = end;
        Ok(bytes)
    }
}
