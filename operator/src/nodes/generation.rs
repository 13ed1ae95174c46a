//! Digests: of what is desired, which nodes acknowledge, and of what was observed, to see a change.
//! Pure. Invariant: the same content gives the same digest whatever the order of a map.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use forebay_wire::control_service::{DesiredDataset, ObservedDataset, Peer};
use ring::digest::{Context, SHA256};

/// Of one data set as it is wanted. SHA-256, since secrets are part of it and the digest is logged.
pub type DatasetDigest = [u8; 32];

/// The generation of a policy's desired state.
pub fn of<'a>(policy: &str, datasets: impl Iterator<Item = &'a DatasetDigest>, peers: impl Iterator<Item = &'a Peer>) -> String {
    let mut digest = Digest(Context::new(&SHA256));
    digest.add(policy.as_bytes());
    for Peer { name, address, weight_bytes, zone } in peers {
        digest.add(b"peer");
        [name, address, zone].into_iter().for_each(|text| digest.add(text.as_bytes()));
        digest.add(&weight_bytes.to_le_bytes());
    }
    for dataset in datasets {
        digest.add(b"dataset");
        digest.add(dataset);
    }
    hex(digest.0.finish().as_ref())
}

pub fn of_dataset(dataset: &DesiredDataset) -> DatasetDigest {
    let mut digest = Digest(Context::new(&SHA256));
    let DesiredDataset { uid, object, references, ambient_credentials, lister, api_server, trusted_endpoints } = dataset;
    digest.add(uid.as_bytes());
    digest.add(object.as_bytes());
    digest.add(&[u8::from(*ambient_credentials)]);
    match lister {
        Some(lister) => {
            digest.add(&lister.term.to_le_bytes());
            digest.add(lister.node.as_bytes());
        }
        None => digest.add(b""),
    }
    for list in [api_server, trusted_endpoints] {
        digest.add(&list.len().to_le_bytes());
        list.iter().for_each(|text| digest.add(text.as_bytes()));
    }
    let references: BTreeMap<_, _> = references.iter().collect();
    digest.add(&references.len().to_le_bytes());
    for (name, reference) in references {
        let entries: BTreeMap<_, _> = reference.entries.iter().collect();
        digest.add(name.as_bytes());
        digest.add(&entries.len().to_le_bytes());
        for (key, value) in entries {
            digest.add(key.as_bytes());
            digest.add(value);
        }
    }
    let mut bytes = DatasetDigest::default();
    bytes.copy_from_slice(digest.0.finish().as_ref());
    bytes
}

/// SHA-256 of `text`, the first 16 bytes in hex: tells templates apart.
pub fn of_text(text: &str) -> String {
    hex(&ring::digest::digest(&SHA256, text.as_bytes()).as_ref()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Digest(Context);

impl Digest {
    /// With its length, so that two fields can't be taken for one.
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&bytes.len().to_le_bytes());
        self.0.update(bytes);
    }
}

/// What a person would ask about (the first), and the figures beside it (the second), of one data set on one node. Those of several nodes are added
/// up, in any order.
pub fn of_observed(node: &str, dataset: &ObservedDataset) -> (u64, u64) {
    let (mut verdict, mut figures) = (DefaultHasher::new(), DefaultHasher::new());
    node.hash(&mut verdict);
    node.hash(&mut figures);
    let status = dataset.status.clone().unwrap_or_default();
    let manifest = status.manifest.clone().unwrap_or_default();
    let preload = status.preload.unwrap_or_default();
    let listing = status.listing.unwrap_or_default();
    (&dataset.problem, dataset.problem_kind, dataset.mounted).hash(&mut verdict);
    (&manifest.version, &status.degraded, preload.state, &listing.error).hash(&mut verdict);
    (dataset.wanted_bytes == dataset.wanted_held_bytes, status.failed_files.is_empty(), listing.keys > 0).hash(&mut verdict);
    (preload.bytes_over_quota > 0).hash(&mut verdict);
    (status.stored_bytes, preload.bytes_over_quota).hash(&mut figures);
    (dataset.wanted_bytes, dataset.wanted_held_bytes, status.files, status.bytes, status.cached_bytes).hash(&mut figures);
    (status.hits, status.misses, preload.bytes_done, preload.files_failed, status.unreachable_keys).hash(&mut figures);
    (verdict.finish(), figures.finish())
}
