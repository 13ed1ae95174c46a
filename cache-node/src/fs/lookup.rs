//! A name in a folder.

use tracing::warn;

use super::locate::{Place, content_of};
use super::on_demand::LooseNode;
use super::overlay::Repair;
use super::{Attempt, Error, Filesystem, Node, NodeId};
use crate::fill::chain;
use forebay_manifest::key::NAME_BYTES_MAX;

impl Filesystem {
    /// Memory and mapped files only.
    pub fn try_lookup(&self, parent: NodeId, name: &[u8]) -> Attempt<Node> {
        if name.len() > NAME_BYTES_MAX {
            return Attempt::Ready(Err(Error::NameTooLong));
        }
        if !parent.is_directory() {
            return Attempt::Ready(Err(Error::NotADirectory { id: parent }));
        }
        if self.current.load().is_some() {
            return Attempt::Ready(self.lookup_in_manifest(parent, name));
        }
        let directory = content_of(parent);
        if self.on_demand.path(directory).is_none() {
            return Attempt::Ready(Err(Error::Stale { id: parent }));
        }
        match self.overlay.by_name(directory, name) {
            Some(repair) => Attempt::Ready(self.repaired(&repair)),
            None => match self.on_demand.known(directory, name) {
                Some(Some(node)) => Attempt::Ready(Ok(self.on_demand_node(&node))),
                Some(None) => Attempt::Ready(Err(Error::NotFound)),
                None => Attempt::Wait,
            },
        }
    }

    /// May ask the source for the name, before the first manifest is complete.
    pub async fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Node, Error> {
        if let Attempt::Ready(outcome) = self.try_lookup(parent, name) {
            return outcome;
        }
        let found = self.on_demand.look_up(content_of(parent), name).await.map_err(|cause| {
            warn!(dataset = self.name(), name = %name.escape_ascii(), error = %chain(&cause), "look up at the source failed");
            Error::Io
        })?;
        found.map(|node| self.on_demand_node(&node)).ok_or(Error::NotFound)
    }

    fn lookup_in_manifest(&self, parent: NodeId, name: &[u8]) -> Result<Node, Error> {
        if let Some(repair) = self.overlay.by_name(content_of(parent), name) {
            return self.repaired(&repair);
        }
        let current = match self.locate(parent)? {
            Place::Root(current) | Place::Entry(current, _) => current,
            // A folder that was there before the manifest and isn't in it.
            Place::Loose(_) | Place::LooseFolder => return Err(Error::Stale { id: parent }),
        };
        let directory = self.directory_in(&current, parent)?.ok_or(Error::Stale { id: parent })?;
        match self.checked(&current, current.manifest.lookup_found(directory, name))? {
            Some(found) => self.found_node(&current, &found),
            None => Err(Error::NotFound),
        }
    }

    fn repaired(&self, repair: &Repair) -> Result<Node, Error> {
        match repair {
            Repair::File(file) => Ok(self.loose_node(file)),
            Repair::Absent => Err(Error::NotFound),
        }
    }

    pub(super) fn on_demand_node(&self, node: &LooseNode) -> Node {
        match node {
            LooseNode::File(file) => self.loose_node(file),
            LooseNode::Directory(id) => self.directory_node(*id, 0),
        }
    }
}
