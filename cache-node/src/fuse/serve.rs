//! What a session needs of a filesystem, as a trait: `fs::Filesystem` in the node, a tree in memory in tests.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::fs::{Attempt, Attributes, DirectoryRow, Error, Filesystem, Invalidation, Node, NodeId, Opened, Serving, Statistics};

/// One data set, as requests ask for it. Each `try_` method is called on a session's thread and may block on a local disk only;
/// its async twin is spawned after a `Wait`. See `fs::Filesystem` for what each means.
pub trait Serve: Send + Sync + 'static {
    fn try_lookup(&self, parent: NodeId, name: &[u8]) -> Attempt<Node>;
    fn lookup(&self, parent: NodeId, name: &[u8]) -> impl Future<Output = Result<Node, Error>> + Send;
    fn negative_ttl(&self) -> Duration;
    fn try_attributes(&self, id: NodeId) -> Attempt<Attributes>;
    fn attributes(&self, id: NodeId) -> impl Future<Output = Result<Attributes, Error>> + Send;
    fn try_open(&self, id: NodeId) -> Attempt<Opened>;
    fn open(&self, id: NodeId) -> impl Future<Output = Result<Opened, Error>> + Send;
    fn try_read(&self, id: NodeId, offset: u64, into: &mut [u8]) -> Attempt<usize>;
    fn read(&self, id: NodeId, offset: u64, len: usize) -> impl Future<Output = Result<Bytes, Error>> + Send;
    fn try_read_directory(&self, id: NodeId, cookie: u64, sink: &mut dyn FnMut(DirectoryRow<'_>) -> ControlFlow<()>) -> Attempt<()>;
    fn prepare_directory(&self, id: NodeId) -> impl Future<Output = Result<(), Error>> + Send;
    fn statistics(&self) -> Statistics;
    fn extended_attribute_names(&self, id: NodeId) -> Result<Vec<&'static str>, Error>;
    fn extended_attribute(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>, Error>;
    fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>>;
    fn serving(&self) -> Serving;
}

impl Serve for Filesystem {
    fn try_lookup(&self, parent: NodeId, name: &[u8]) -> Attempt<Node> {
        self.try_lookup(parent, name)
    }
    fn lookup(&self, parent: NodeId, name: &[u8]) -> impl Future<Output = Result<Node, Error>> + Send {
        self.lookup(parent, name)
    }
    fn negative_ttl(&self) -> Duration {
        self.negative_ttl()
    }
    fn try_attributes(&self, id: NodeId) -> Attempt<Attributes> {
        self.try_attributes(id)
    }
    fn attributes(&self, id: NodeId) -> impl Future<Output = Result<Attributes, Error>> + Send {
        self.attributes(id)
    }
    fn try_open(&self, id: NodeId) -> Attempt<Opened> {
        self.try_open(id)
    }
    fn open(&self, id: NodeId) -> impl Future<Output = Result<Opened, Error>> + Send {
        self.open(id)
    }
    fn try_read(&self, id: NodeId, offset: u64, into: &mut [u8]) -> Attempt<usize> {
        self.try_read(id, offset, into)
    }
    fn read(&self, id: NodeId, offset: u64, len: usize) -> impl Future<Output = Result<Bytes, Error>> + Send {
        self.read(id, offset, len)
    }
    fn try_read_directory(&self, id: NodeId, cookie: u64, sink: &mut dyn FnMut(DirectoryRow<'_>) -> ControlFlow<()>) -> Attempt<()> {
        self.try_read_directory(id, cookie, sink)
    }
    fn prepare_directory(&self, id: NodeId) -> impl Future<Output = Result<(), Error>> + Send {
        self.prepare_directory(id)
    }
    fn statistics(&self) -> Statistics {
        self.statistics()
    }
    fn extended_attribute_names(&self, id: NodeId) -> Result<Vec<&'static str>, Error> {
        self.extended_attribute_names(id)
    }
    fn extended_attribute(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>, Error> {
        self.extended_attribute(id, name)
    }
    fn invalidations(&self) -> Option<mpsc::Receiver<Invalidation>> {
        self.invalidations()
    }
    fn serving(&self) -> Serving {
        self.serving()
    }
}
