//! Digests: of what is desired, which nodes acknowledge, and of what was observed, to see a change.
//! Pure. Invariant: the same content gives the same digest whatever the order of a map.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use forebay_wire::control_service::{DesiredDataset, ObservedDataset, Peer};
use ring::digest::{Context, SHA256};

/// The generation of a policy's desired state. SHA-256, since secrets are part of it and the digest is logged.
pub fn of<'a>(policy: &str, datasets: impl Iterator<Item = &'a DesiredDataset>, peers: &[Peer]) -> String {
    let mut digest = Digest(Context::new(&SHA256));
    digest.add(policy.as_bytes());
    digest.add(&peers.len().to_le_bytes());
    for Peer { name, address, weight_bytes, zone } in peers {
        [name, address, zone].into_iter().for_each(|text| digest.add(text.as_bytes()));
        digest.add(&weight_bytes.to_le_bytes());
    }
    for dataset in datasets {
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
    }
    hex(digest.0.finish().as_ref())
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

/// What a person would ask about (the first), and the figures beside it (the second), of one data set on all nodes of a policy.
pub fn of_observed<'a>(nodes: impl Iterator<Item = Option<&'a ObservedDataset>>) -> (u64, u64) {
    let (mut verdict, mut figures) = (DefaultHasher::new(), DefaultHasher::new());
    for node in nodes {
        let Some(dataset) = node else {
            0_u8.hash(&mut verdict);
            continue;
        };
        let status = dataset.status.clone().unwrap_or_default();
        let manifest = status.manifest.clone().unwrap_or_default();
        let preload = status.preload.unwrap_or_default();
        let listing = status.listing.unwrap_or_default();
        (&dataset.problem, dataset.problem_kind, dataset.mounted).hash(&mut verdict);
        (&manifest.version, &status.degraded, preload.state, &listing.error).hash(&mut verdict);
        (dataset.wanted_bytes == dataset.wanted_held_bytes, status.failed_files.is_empty(), listing.keys > 0).hash(&mut verdict);
        (dataset.wanted_bytes, dataset.wanted_held_bytes, status.files, status.bytes, status.cached_bytes).hash(&mut figures);
        (status.hits, status.misses, preload.bytes_done, preload.files_failed, status.unreachable_keys).hash(&mut figures);
    }
    (verdict.finish(), figures.finish())
}
