//! The first words on a connection: which version of the protocol, which requests, who is there.
//! Knows greetings. Does not know what follows them.
//! Invariant: what is sent after a greeting is of the version and the capabilities that both sides named.
//!
//! Two releases side by side: each names the versions it speaks, the highest that both speak is taken, and none in common is a refusal that both
//! sides count. A request that came later than a version has a bit in `Capabilities`, and is sent only to who named it.

use std::ops::RangeInclusive;

use bytes::Bytes;
use forebay_wire::block::BlockSize;
use forebay_wire::id::NodeName;
use forebay_wire::peer_message as wire;
use prost::Message;

use super::connection::{Reader, Writer};
use super::error::{ConnectError, Refusal};
use super::frame::{Frame, FrameError, Kind};
use super::message::{self, Malformed};

/// Versions of the protocol that this release speaks.
pub const VERSIONS: RangeInclusive<u32> = 1..=1;

/// Requests that a node understands, one bit each. A bit that was given out never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    pub const READ: Self = Self(1);
    pub const STORE: Self = Self(2);
    pub const MANIFEST: Self = Self(4);
    pub const FREE: Self = Self(8);
    pub const HOLDS: Self = Self(16);
    pub const COVERAGE: Self = Self(32);
    pub const LISTING: Self = Self(64);
    /// All that this release knows.
    pub const ALL: Self = Self(127);

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub node: NodeName,
    pub block_size: BlockSize,
    /// Of this release: `VERSIONS`.
    pub versions: RangeInclusive<u32>,
    pub capabilities: Capabilities,
}

impl Introduction {
    /// Of this release.
    pub fn new(node: NodeName, block_size: BlockSize) -> Self {
        Self { node, block_size, versions: VERSIONS, capabilities: Capabilities::ALL }
    }
}

/// What both sides know of each other.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) peer: NodeName,
    pub(crate) capabilities: Capabilities,
}

/// Introduces the caller; the other side is to be `expected`.
pub(crate) async fn greet(
    own: &Introduction,
    expected: &NodeName,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<Agreed, ConnectError> {
    let hello = wire::Hello {
        version_min: *own.versions.start(),
        version_max: *own.versions.end(),
        capabilities: own.capabilities.0,
        node: own.node.to_string(),
        block_bytes: own.block_size.bytes(),
    };
    writer.send(Kind::Hello, false, 0, hello.encode_to_vec().into()).await?;
    let Frame { kind, payload, .. } = reader.next().await?;
    match kind {
        Kind::Welcome => {
            let wire::Welcome { version, capabilities, node } = message::decode(&payload)?;
            if !own.versions.contains(&version) {
                return Err(Malformed(format!("version {version} of the protocol was not offered")).into());
            }
            let peer = NodeName::new(&node).filter(|node| node == expected).ok_or(ConnectError::Another(node))?;
            Ok(Agreed { peer, capabilities: Capabilities(capabilities & own.capabilities.0) })
        }
        Kind::Error => Err(ConnectError::Refused(message::decode_refusal(&payload)?)),
        _ => Err(Malformed("a greeting was expected".to_owned()).into()),
    }
}

/// Why a caller was let go.
#[derive(Debug)]
pub(crate) enum NotWelcome {
    Frame(FrameError),
    Malformed(Malformed),
    Incompatible(String),
}

/// Answers a caller's introduction.
pub(crate) async fn welcome(own: &Introduction, reader: &mut Reader, writer: &mut Writer) -> Result<Agreed, NotWelcome> {
    let Frame { kind, payload, .. } = reader.next().await.map_err(NotWelcome::Frame)?;
    let outcome = match kind {
        Kind::Hello => message::decode(&payload).map_err(NotWelcome::Malformed).and_then(|hello| agree(own, &hello)),
        _ => Err(NotWelcome::Malformed(Malformed("a greeting was expected".to_owned()))),
    };
    let (kind, answer) = match &outcome {
        Ok((version, agreed)) => {
            let capabilities = agreed.capabilities.0;
            (Kind::Welcome, wire::Welcome { version: *version, capabilities, node: own.node.to_string() }.encode_to_vec())
        }
        Err(NotWelcome::Incompatible(why)) => (Kind::Error, message::encode_refusal(&Refusal::Incompatible(why.clone()))),
        Err(NotWelcome::Malformed(why)) => (Kind::Error, message::encode_refusal(&Refusal::Malformed(why.0.clone()))),
        Err(NotWelcome::Frame(_)) => return outcome.map(|(_, agreed)| agreed),
    };
    writer.send(kind, outcome.is_err(), 0, Bytes::from(answer)).await.map_err(NotWelcome::Frame)?;
    outcome.map(|(_, agreed)| agreed)
}

/// The version that both speak, and what both know.
fn agree(own: &Introduction, hello: &wire::Hello) -> Result<(u32, Agreed), NotWelcome> {
    let wire::Hello { version_min, version_max, capabilities, node, block_bytes } = hello;
    let Some(peer) = NodeName::new(node) else { return Err(NotWelcome::Malformed(Malformed("a node's name was expected".to_owned()))) };
    let version = (*version_max).min(*own.versions.end());
    if version < *version_min || version < *own.versions.start() {
        let (from, to) = own.versions.clone().into_inner();
        return Err(NotWelcome::Incompatible(format!(
            "{peer} speaks versions {version_min} to {version_max} of the protocol, {} speaks {from} to {to}; upgrade by fewer releases at once",
            own.node
        )));
    }
    if *block_bytes != own.block_size.bytes() {
        let own_bytes = own.block_size.bytes();
        return Err(NotWelcome::Incompatible(format!(
            "{peer} has blocks of {block_bytes} bytes, {} of {own_bytes}; give `blockSize` the same value on all nodes",
            own.node
        )));
    }
    Ok((version, Agreed { peer, capabilities: Capabilities(capabilities & own.capabilities.0) }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn introduction(versions: RangeInclusive<u32>) -> Introduction {
        Introduction { versions, ..Introduction::new(NodeName::new("b").unwrap(), BlockSize::DEFAULT) }
    }

    fn hello(version_min: u32, version_max: u32) -> wire::Hello {
        let block_bytes = BlockSize::DEFAULT.bytes();
        wire::Hello { version_min, version_max, capabilities: u64::MAX, node: "a".to_owned(), block_bytes }
    }

    #[test]
    fn the_highest_version_in_common_is_taken() {
        let check = |own, (min, max), expected: Option<u32>| {
            let agreed = agree(&introduction(own), &hello(min, max));
            assert_eq!(agreed.as_ref().ok().map(|(version, _)| *version), expected);
            assert_eq!(matches!(agreed, Err(NotWelcome::Incompatible(_))), expected.is_none());
        };
        check(1..=1, (1, 1), Some(1));
        check(1..=2, (1, 1), Some(1));
        check(1..=2, (2, 5), Some(2));
        check(3..=4, (1, 2), None);
        check(1..=2, (3, 4), None);
        check(1..=2, (2, 1), None);
    }

    #[test]
    fn what_only_one_side_knows_is_not_used() {
        let (_, agreed) = agree(&introduction(1..=1), &wire::Hello { capabilities: 1 << 40 | 5, ..hello(1, 1) }).unwrap();
        assert!(agreed.capabilities.has(Capabilities::READ) && agreed.capabilities.has(Capabilities::MANIFEST));
        assert!(!agreed.capabilities.has(Capabilities::STORE));
        assert_eq!(agreed.capabilities.0, 5);
    }

    #[test]
    fn other_blocks_and_no_name_are_refused() {
        let own = introduction(1..=1);
        let Err(NotWelcome::Incompatible(why)) = agree(&own, &wire::Hello { block_bytes: 1 << 20, ..hello(1, 1) }) else {
            panic!("agreed")
        };
        assert!(why.contains("give `blockSize` the same value"), "{why}");
        assert!(matches!(agree(&own, &wire::Hello { node: "a b".to_owned(), ..hello(1, 1) }), Err(NotWelcome::Malformed(_))));
    }
}
