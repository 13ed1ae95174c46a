//! A source that fails on purpose, for tests: wraps another one.
//! Knows how to refuse, break and stall. Never changes a byte: lies about bytes are for the server of `tests/it`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;

use super::{Body, Checksum, Key, ListPage, ListRequest, Object, Source, SourceError, Version};
use forebay_wire::block::Extent;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The source is gone: `Unavailable`.
    Gone,
    Throttled,
    Denied,
    NotFound,
    Replaced,
    /// A body that breaks off after this many bytes; other requests pass.
    BreakAfter(u64),
    /// The answer comes this much later.
    Late(Duration),
}

type Chooser = Box<dyn FnMut(&'static str, &Key) -> Fault + Send>;

pub struct Faulty {
    inner: Arc<dyn Source>,
    /// Guards the test's own state; never held while waiting.
    choose: Mutex<Chooser>,
}

impl Faulty {
    /// `choose` is asked before each request: operation (`list`, `head`, `read`) and key, or prefix.
    pub fn new(inner: Arc<dyn Source>, choose: impl FnMut(&'static str, &Key) -> Fault + Send + 'static) -> Self {
        Self { inner, choose: Mutex::new(Box::new(choose)) }
    }

    /// Where the body is to break, if it is.
    async fn meet(&self, op: &'static str, key: &Key) -> Result<Option<u64>, SourceError> {
        let fault = (self.choose.lock())(op, key);
        let (name, origin) = (String::from_utf8_lossy(&key.0).into_owned(), self.inner.name().to_owned());
        let detail = "told to fail".to_owned();
        match fault {
            Fault::None => Ok(None),
            Fault::BreakAfter(bytes) => Ok(Some(bytes)),
            Fault::Late(delay) => {
                tokio::time::sleep(delay).await;
                Ok(None)
            }
            Fault::Gone => Err(SourceError::Unavailable { op, key: name, origin, detail }),
            Fault::Throttled => Err(SourceError::Throttled { op, key: name, origin, detail }),
            Fault::Denied => Err(SourceError::Denied { op, key: name, origin, cure: detail }),
            Fault::NotFound => Err(SourceError::NotFound { op, key: name, origin }),
            Fault::Replaced => Err(SourceError::Replaced { op, key: name, origin }),
        }
    }
}

#[async_trait]
impl Source for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn list(&self, request: &ListRequest) -> Result<ListPage, SourceError> {
        self.meet("list", &Key(request.prefix.clone())).await?;
        self.inner.list(request).await
    }
    async fn head(&self, key: &Key) -> Result<Object, SourceError> {
        self.meet("head", key).await?;
        self.inner.head(key).await
    }
    async fn checksum(&self, key: &Key, version: &Version) -> Result<Option<Checksum>, SourceError> {
        self.meet("head", key).await?;
        self.inner.checksum(key, version).await
    }
    async fn read(&self, key: &Key, version: &Version, extent: Extent, whole: bool) -> Result<Body, SourceError> {
        let breaks = self.meet("read", key).await?;
        let body = self.inner.read(key, version, extent, whole).await?;
        let Some(bytes_left) = breaks else { return Ok(body) };
        let (op, name, origin) = ("read", String::from_utf8_lossy(&key.0).into_owned(), self.inner.name().to_owned());
        let error = SourceError::Unavailable { op, key: name, origin, detail: "told to break".into() };
        let mut left = usize::try_from(bytes_left).unwrap_or(usize::MAX);
        let cut = body.map(move |part| {
            part.map(|mut bytes| {
                bytes.truncate(left);
                left -= bytes.len();
                bytes
            })
        });
        let cut = cut.take_while(|part| futures::future::ready(part.as_ref().map_or(true, |bytes| !bytes.is_empty())));
        Ok(cut.chain(futures::stream::iter([Err(error)])).boxed())
    }
}
