//! A real S3 server on loopback, over a temporary folder: `s3s-fs` embedded.

use std::net::SocketAddr;
use std::path::PathBuf;

use forebay_wire::dataset_spec::{Addressing, S3Location};
use forebay_wire::reach::Reach;
use forebay_wire::secret::{Credentials, Secret, SourceAccess};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;

pub(crate) const ACCESS_KEY: &str = "AKIATESTONLY";
pub(crate) const SECRET_KEY: &str = "secret-of-the-tests";

/// Serves until dropped. A bucket is a folder below `folder()`.
pub(crate) struct S3Server {
    folder: TempDir,
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl S3Server {
    /// Starts with an empty bucket.
    pub(crate) async fn start(bucket: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join(bucket)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    // A client that goes away is no error of the server.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { folder, address, task }
    }
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
    /// Where the object's bytes are.
    pub(crate) fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.folder.path().join(bucket).join(key)
    }
    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let path = self.path(bucket, key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `s3://bucket/prefix` at `endpoint`, path style, region found out.
pub(crate) fn location(endpoint: String, bucket: &str, prefix: &str) -> S3Location {
    S3Location {
        bucket: bucket.into(),
        prefix: prefix.into(),
        endpoint: Some(endpoint),
        region: None,
        addressing: Addressing::Auto,
        ca_bundle: None,
        requester_pays: false,
        role_arn: None,
        anonymous: false,
    }
}

pub(crate) fn access(secret: &str) -> SourceAccess {
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", secret)];
    let keys = keys.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect();
    SourceAccess { credentials: Credentials::Keys(keys), ca_bundle: None, reach: Reach::Anywhere }
}
