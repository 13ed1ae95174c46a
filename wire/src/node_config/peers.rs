//! The other nodes that share a cache with this one: as they are written, and as they are used.
//! Knows names, addresses, weights. Does not know who is there.
//! Changes: a new optional field is safe; renaming, removing or requiring one is breaking, and so is another meaning of `weight`, which moves blocks.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::id::{NodeName, TopologyLabel, is_subdomain};
use crate::unit::{self, ByteSize};

/// The cache that this node is one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// This node's; one of `nodes`.
    pub name: NodeName,
    /// Where the others connect to.
    pub listen: SocketAddr,
    /// The DNS name that the certificate of each node of this cache carries, and of no other.
    pub cache: String,
    /// Folder with `tls.crt`, `tls.key` and `ca.crt`. Absolute.
    pub certificates: PathBuf,
    /// All of them, with this one, each name once. Either all have a weight or none.
    pub nodes: Vec<PeerNode>,
}

/// One node of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNode {
    pub name: NodeName,
    /// `host:port`; a host's name is looked up when it is connected to.
    pub address: String,
    /// Not 0.
    pub weight: Option<ByteSize>,
    pub zone: Option<TopologyLabel>,
    pub rack: Option<TopologyLabel>,
}

/// Nodes that share one cache: each block is read from the source and kept by one of them, and all read it from there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeersFile {
    /// The name of this node in `nodes`.
    pub name: String,
    /// Where the other nodes connect to: an IP address and a port, such as `0.0.0.0:7071`.
    pub listen: String,
    /// The DNS name that the certificate of each node of this cache carries.
    pub cache: String,
    /// Folder with `tls.crt`, `tls.key` and `ca.crt`; read again when they change.
    pub certificates: String,
    /// All nodes of the cache, this one too; the same list on each.
    pub nodes: Vec<PeerNodeFile>,
}

/// One node of the cache.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerNodeFile {
    /// A DNS name, which stays when the address changes.
    pub name: String,
    /// Host and port, such as `10.0.0.7:7071`.
    pub address: String,
    /// How much of the cache it holds, beside the others: what its tiers may hold, such as `2Ti`. On all nodes or on none; all alike when left out.
    #[serde(default, deserialize_with = "unit::quantity_text")]
    #[schemars(schema_with = "crate::schema::quantity")]
    pub weight: Option<String>,
    /// Nodes of one zone are a cache of their own: no block crosses zones.
    pub zone: Option<String>,
    /// Where copies of a block are not put together.
    pub rack: Option<String>,
}

/// Checks the section; every mistake in it is named.
pub(super) fn peers(check: &mut Check, file: PeersFile) -> Option<Peers> {
    let PeersFile { name, listen, cache, certificates, nodes } = file;
    let own = node_name(check, "peers.name", &name);
    let listen = match listen.parse::<SocketAddr>() {
        Ok(address) => Some(address),
        Err(_) => check.refuse("peers.listen", "this is no address: write an IP address and a port, as in 0.0.0.0:7071"),
    };
    if !is_subdomain(&cache) {
        check.refuse::<()>("peers.cache", "this is no DNS name: write the one that the certificates carry, as in cache.example.com");
    }
    let certificates = check.absolute("peers.certificates", &certificates);
    let weighted = nodes.iter().filter(|node| node.weight.is_some()).count();
    if weighted != 0 && weighted != nodes.len() {
        check.refuse::<()>("peers.nodes", "some nodes have a weight and some have none: write one for each, or for none");
    }
    let mut listed: Vec<PeerNode> = Vec::new();
    for (index, file) in nodes.into_iter().enumerate() {
        let Some(node) = node(check, &format!("peers.nodes[{index}]"), file) else { continue };
        if listed.iter().any(|other| other.name == node.name) {
            let field = format!("peers.nodes[{index}].name");
            check.refuse::<()>(&field, format!("{} is in the list twice: give each node a name of its own", node.name));
        }
        listed.push(node);
    }
    let own = own?;
    if !listed.iter().any(|node| node.name == own) {
        return check
            .refuse("peers.name", format!("{own} is not in `peers.nodes`: list this node too, with the address that others reach it at"));
    }
    Some(Peers { name: own, listen: listen?, cache, certificates: certificates?, nodes: listed })
}

fn node(check: &mut Check, field: &str, file: PeerNodeFile) -> Option<PeerNode> {
    let PeerNodeFile { name, address, weight, zone, rack } = file;
    let name = node_name(check, &format!("{field}.name"), &name);
    if !is_address(&address) {
        check.refuse::<()>(&format!("{field}.address"), "this is no address: write host and port, as in 10.0.0.7:7071");
    }
    let weight = weight.map_or(Some(None), |text| check.positive(&format!("{field}.weight"), &text).map(Some));
    let zone = label(check, &format!("{field}.zone"), zone);
    let rack = label(check, &format!("{field}.rack"), rack);
    Some(PeerNode { name: name?, address, weight: weight?, zone: zone?, rack: rack? })
}

fn node_name(check: &mut Check, field: &str, text: &str) -> Option<NodeName> {
    NodeName::new(text).or_else(|| check.refuse(field, "this is no name of a node: use a-z, 0-9, `-` and `.`, at most 253 characters"))
}

fn label(check: &mut Check, field: &str, text: Option<String>) -> Option<Option<TopologyLabel>> {
    let Some(text) = text else { return Some(None) };
    match TopologyLabel::new(&text) {
        Some(label) => Some(Some(label)),
        None => {
            check.refuse(field, "this is no label: use letters, digits, `-`, `_` and `.`, at most 63, first and last a letter or digit")
        }
    }
}

/// An IP address or a host's name, and a port other than 0.
fn is_address(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    is_subdomain(host) && port.parse::<u16>().is_ok_and(|port| port != 0)
}
