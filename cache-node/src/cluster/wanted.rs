//! What the operator wants of this node, parsed and checked: one row a data set.
//! Knows the message and what a valid data set is. Does not know what is served already; it is pure.
//! Invariant: a data set that can't be understood stops nobody but itself.

use std::collections::BTreeMap;

use forebay_wire::control_service::{Desired, DesiredDataset, Peer, Problem};
use forebay_wire::dataset_spec::{Dataset, Location, S3Location};
use forebay_wire::id::{NodeName, TopologyLabel};
use forebay_wire::node_config::{AmbientCredentials, PeerNode};
use forebay_wire::reach::Reach;
use forebay_wire::secret::SourceAccess;
use forebay_wire::unit::ByteSize;

use crate::access::{self, References};

/// One data set as it should be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) uid: String,
    pub(super) spec: Dataset,
    /// One for each of the spec's sources.
    pub(super) accesses: Vec<SourceAccess>,
}

/// Why a data set can't be served as it is wanted: one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) uid: String,
    pub(super) kind: Problem,
    pub(super) sentence: String,
}

/// Every data set of `desired`, in its order.
pub(super) fn parse(desired: &Desired) -> Vec<Result<Wanted, Refused>> {
    desired.datasets.iter().map(wanted).collect()
}

/// The nodes of the cache; an error names the first that can't be one.
pub(super) fn peers(desired: &Desired) -> Result<Vec<PeerNode>, String> {
    desired.peers.iter().map(|peer| node(peer).ok_or_else(|| format!("{peer:?} is no node of a cache"))).collect()
}

fn node(peer: &Peer) -> Option<PeerNode> {
    // Every field of a later release that changes what is served must be handled here.
    let Peer { name, address, weight_bytes, zone } = peer;
    let zone = if zone.is_empty() { None } else { Some(TopologyLabel::new(zone)?) };
    let weight = ByteSize::new(*weight_bytes).filter(|weight| weight.bytes() > 0)?;
    address.parse::<std::net::SocketAddr>().ok().filter(|address| address.port() != 0)?;
    Some(PeerNode { name: NodeName::new(name)?, address: address.clone(), weight: Some(weight), zone, rack: None })
}

fn wanted(desired: &DesiredDataset) -> Result<Wanted, Refused> {
    // Every field of a later release that changes what is served must be handled here.
    let DesiredDataset { uid, object, references, ambient_credentials, lister: _, api_server, trusted_endpoints } = desired;
    let refused = |kind, sentence: String| Refused { uid: uid.clone(), kind, sentence };
    if !is_uid(uid) {
        return Err(refused(Problem::Invalid, format!("`{}` is no UID of a Kubernetes object", uid.escape_debug())));
    }
    let spec = Dataset::parse("the Dataset", object).map_err(|problems| refused(Problem::Invalid, problems.to_string()))?;
    let references: BTreeMap<String, BTreeMap<String, Vec<u8>>> = references
        .iter()
        .map(|(name, given)| (name.clone(), given.entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect()))
        .collect();
    let ambient = if *ambient_credentials { AmbientCredentials::Allow } else { AmbientCredentials::Deny };
    let guarded = Reach::Guarded { api_server: api_server.iter().filter_map(|address| address.parse().ok()).collect() };
    let accesses = spec
        .sources
        .iter()
        .map(|source| {
            let reach = if is_trusted(&source.location, trusted_endpoints) { Reach::Anywhere } else { guarded.clone() };
            Ok(SourceAccess { reach, ..access::resolve_from(source, References::Given(&references), ambient)? })
        })
        .collect::<Result<_, _>>()
        .map_err(|error: access::AccessError| refused(Problem::Reference, error.to_string()))?;
    Ok(Wanted { uid: uid.clone(), spec, accesses })
}

/// Whether the policy lists exactly the source's endpoint.
fn is_trusted(location: &Location, trusted: &[String]) -> bool {
    let Location::S3(S3Location { endpoint: Some(endpoint), .. }) = location else { return false };
    trusted.iter().any(|listed| listed.trim_end_matches('/') == endpoint.trim_end_matches('/'))
}

/// A UID becomes a part of paths: hexadecimal digits and `-` only.
pub(super) fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use forebay_wire::control_service::References as Entries;
    use forebay_wire::secret::Credentials;

    const UID: &str = "0d9a4b1c-0000-4000-8000-000000000001";

    fn desired(spec: &str) -> DesiredDataset {
        let object = format!(
            r#"{{"apiVersion":"forebay.dev/v1alpha1","kind":"Dataset","metadata":{{"name":"imagenet","namespace":"vision"}},"spec":{spec}}}"#
        );
        DesiredDataset { uid: UID.to_owned(), object, ..DesiredDataset::default() }
    }

    fn check(dataset: DesiredDataset) -> Result<Wanted, Refused> {
        parse(&Desired { datasets: vec![dataset], ..Desired::default() }).remove(0)
    }

    #[test]
    fn a_data_set_comes_with_what_it_names() {
        let mut dataset = desired(r#"{"source":"s3://imagenet/train/","secretRef":{"name":"s3"}}"#);
        assert_eq!(check(dataset.clone()).unwrap_err().kind, Problem::Reference);
        let entries = [("AWS_ACCESS_KEY_ID".to_owned(), b"id".to_vec()), ("AWS_SECRET_ACCESS_KEY".to_owned(), b"key".to_vec())];
        dataset.references.insert("s3".to_owned(), Entries { entries: entries.into() });
        let wanted = check(dataset).unwrap();
        assert_eq!(wanted.spec.name.to_string(), "vision/imagenet");
        assert!(matches!(&wanted.accesses[0].credentials, Credentials::Keys(keys) if keys["AWS_SECRET_ACCESS_KEY"].expose() == "key"));
    }

    #[test]
    fn the_machines_role_is_used_only_when_allowed() {
        let mut dataset = desired(r#"{"source":"s3://imagenet/train/"}"#);
        assert_eq!(check(dataset.clone()).unwrap().accesses[0].credentials, Credentials::Anonymous);
        dataset.ambient_credentials = true;
        assert_eq!(check(dataset).unwrap().accesses[0].credentials, Credentials::Ambient);
    }

    #[test]
    fn a_source_is_guarded_unless_the_policy_lists_exactly_its_endpoint() {
        let mut dataset = desired(r#"{"source":"s3://imagenet/","s3":{"endpoint":"https://minio.corp:9000"}}"#);
        dataset.api_server = vec!["10.96.0.1".to_owned(), "api.corp".to_owned()];
        let guarded = Reach::Guarded { api_server: vec!["10.96.0.1".parse().unwrap()] };
        assert_eq!(check(dataset.clone()).unwrap().accesses[0].reach, guarded);
        dataset.trusted_endpoints = vec!["https://other.corp:9000".to_owned()];
        assert_eq!(check(dataset.clone()).unwrap().accesses[0].reach, guarded);
        dataset.trusted_endpoints.push("https://minio.corp:9000/".to_owned());
        assert_eq!(check(dataset).unwrap().accesses[0].reach, Reach::Anywhere);
    }

    #[test]
    fn a_list_of_nodes_is_taken_whole_or_not_at_all() {
        let peer = |name: &str, address: &str, weight_bytes: u64, zone: &str| {
            let (name, address, zone) = (name.to_owned(), address.to_owned(), zone.to_owned());
            Peer { name, address, weight_bytes, zone }
        };
        let good = peer("n1", "10.0.0.1:7071", 1 << 30, "");
        let check = |other: Peer| peers(&Desired { peers: vec![good.clone(), other], ..Desired::default() });
        let listed = check(peer("n2", "[fd00::2]:7071", 1, "eu-1a")).unwrap();
        assert_eq!((listed[0].zone.clone(), listed[1].zone.clone()), (None, TopologyLabel::new("eu-1a")));
        assert_eq!(listed[1].weight.map(ByteSize::bytes), Some(1));
        for wrong in [
            peer("", "10.0.0.2:1", 1, ""),
            peer("n2", "10.0.0.2", 1, ""),
            peer("n2", "10.0.0.2:1", 0, ""),
            peer("n2", "10.0.0.2:1", 1, "a/b"),
        ] {
            assert!(check(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        let invalid = check(desired(r#"{"source":"ftp://x"}"#)).unwrap_err();
        assert_eq!(invalid.kind, Problem::Invalid);
        assert!(invalid.sentence.contains("s3://"), "{}", invalid.sentence);
        for uid in ["", "../../etc", "a/b", "x y"] {
            let dataset = DesiredDataset { uid: uid.to_owned(), ..desired(r#"{"source":"s3://abc/"}"#) };
            assert_eq!(check(dataset).unwrap_err().kind, Problem::Invalid, "{uid}");
        }
    }
}
