//! What is spoilt on the way, and what was never right: seen, counted, and survived.

use std::sync::atomic::Ordering::Relaxed;

use forebay_peer::frame::{self, FrameError, HEADER_BYTES, Kind};
use forebay_peer::{PeerError, Security};
use forebay_wire::peer_message::Hello;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::proxy;
use crate::rig::{Authority, BLOCK, Has, Running, block, client, name, patient, pattern, read, serve, wait_until};

/// The error of a read of which the byte at `flip_at` of the answers was spoilt.
async fn flipped(security: Security, flip_at: u64) -> PeerError {
    let server = serve("a", security.clone()).await;
    let (proxy, spoil) = proxy::before(server.address).await;
    server.shelf.put(&block(1, BLOCK), Has::Whole(pattern(BLOCK)));
    spoil.flip_at.store(flip_at, Relaxed);
    let client = client(security, patient(), &[("a", proxy)]);
    let error = client.read(&name("a"), &read(&block(1, BLOCK), 0, BLOCK)).await.unwrap().whole().await.unwrap_err();
    assert_eq!(client.bypassed(), [name("a")]);
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_on_the_way_is_caught_by_the_checksum() {
    for at in [300_000, 700_001] {
        let error = flipped(Security::plain(), at).await;
        assert!(matches!(error, PeerError::Broken { cause: FrameError::Checksum, .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_tls_it_ends_the_connection() {
    let error = flipped(Authority::new().security(), 500_000).await;
    assert!(matches!(error, PeerError::Broken { cause: FrameError::Io(_), .. }), "{error:?}");
}

fn framed(kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame::header(kind, true, stream, payload).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A plain connection on which the greeting is over.
async fn greeted(server: &Running) -> TcpStream {
    let hello = Hello { version_min: 1, version_max: 1, capabilities: u64::MAX, node: "x".to_owned(), block_bytes: BLOCK };
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&framed(Kind::Hello, 0, &prost::Message::encode_to_vec(&hello))).await.unwrap();
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[0], Kind::Welcome as u8);
    let mut payload = vec![0; frame::wanted(&header).unwrap() - HEADER_BYTES];
    stream.read_exact(&mut payload).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_its_own_connection_only() {
    let server = serve("a", Security::plain()).await;
    server.shelf.put(&block(1, 10), Has::Whole(pattern(10)));
    let nonsense = [
        framed(Kind::Read, 1, b"no message at all"),
        framed(Kind::Read, 1, b""),
        framed(Kind::Read, 0, b""),
        framed(Kind::Welcome, 1, b""),
        framed(Kind::Data, 1, &[7; 1000]),
        framed(Kind::Store, 1, &[0xff; 100]),
        vec![0xff; 1000],
    ];
    for (number, bytes) in nonsense.iter().enumerate() {
        let mut stream = greeted(&server).await;
        stream.write_all(bytes).await.unwrap();
        // It is told, if at all, and closed.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        wait_until("it is counted", || server.metrics.malformed.get() == number as u64 + 1).await;
    }
    let client = client(Security::plain(), patient(), &[("a", server.address)]);
    assert_eq!(client.read(&name("a"), &read(&block(1, 10), 0, 10)).await.unwrap().whole().await.unwrap(), pattern(10));
}

#[test]
fn any_bytes_after_a_greeting_leave_the_server_well() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(serve("a", Security::plain()));
    server.shelf.put(&block(1, 10), Has::Whole(pattern(10)));
    let config = ProptestConfig { cases: 200, ..ProptestConfig::default() };
    let input = (any::<bool>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..600));
    proptest!(config, |((is_framed, kind, bytes) in input)| {
        runtime.block_on(async {
            let mut stream = greeted(&server).await;
            let kinds = [Kind::Read, Kind::Store, Kind::Manifest, Kind::Free, Kind::Cancel, Kind::Data, Kind::Waiting];
            let sent = if is_framed { framed(kinds[usize::from(kind) % kinds.len()], 1, &bytes) } else { bytes };
            // It may be closed before all of it is taken.
            let _ = stream.write_all(&sent).await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        });
    });
    runtime.block_on(async {
        let client = client(Security::plain(), patient(), &[("a", server.address)]);
        assert_eq!(client.read(&name("a"), &read(&block(1, 10), 0, 10)).await.unwrap().whole().await.unwrap(), pattern(10));
    });
}
