//! S3 and what speaks its protocol, by `aws-sdk-s3`.

use async_trait::async_trait;

use super::{Body, Key, ListPage, ListRequest, Object, Source, SourceConfig, SourceError, Version};
use crate::block::Extent;

pub struct S3 {
    name: String,
}

impl S3 {
    pub fn new(config: SourceConfig) -> Result<Self, SourceError> {
        Ok(Self { name: config.uri })
    }
}

#[async_trait]
impl Source for S3 {
    fn name(&self) -> &str {
        &self.name
    }
    async fn list(&self, _request: &ListRequest) -> Result<ListPage, SourceError> {
        todo!("first landing: signatures")
    }
    async fn head(&self, _key: &Key) -> Result<Object, SourceError> {
        todo!("first landing: signatures")
    }
    async fn read(&self, _key: &Key, _version: &Version, _extent: Extent, _whole: bool) -> Result<Body, SourceError> {
        todo!("first landing: signatures")
    }
}
