//! What a healthy peer gives: blocks whole, in part, while they fill; manifests; what is stored and freed; and what happens when nobody wants it.

use std::sync::Arc;

use bytes::Bytes;
use forebay_peer::{
    Coverage, DatasetId, Event, FreeRequest, Freed, Listed, ListingRequest, ListingState, ManifestHead, ManifestRequest, PeerError, Peers,
    Refusal, Security,
};

use crate::rig::{Authority, BLOCK, Has, Running, block, client, given, name, patient, pattern, read, serve, wait_until};

async fn pair(security: Security) -> (Running, Arc<Peers>) {
    let server = serve("a", security.clone()).await;
    let client = client(security, patient(), &[("a", server.address)]);
    (server, client)
}

async fn each_security() -> Vec<(Running, Arc<Peers>)> {
    vec![pair(Authority::new().security()).await, pair(Security::plain()).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_a_block_comes_as_it_is() {
    for (server, client) in each_security().await {
        for (number, size) in [(1, 1), (2, 110_000), (3, 131_072), (4, 131_073), (5, BLOCK)] {
            let (block, bytes) = (block(number, size), pattern(size));
            server.shelf.put(&block, Has::Whole(bytes.clone()));
            for (start, end) in [(0, size), (size / 2, size), (0, size.div_ceil(3)), (size - 1, size)] {
                let whole = client.read(&name("a"), &read(&block, start, end)).await.unwrap().whole().await.unwrap();
                assert_eq!(whole, bytes[start as usize..end as usize]);
            }
        }
        assert_eq!(server.metrics.connections.get(), 1, "one after the other, over one connection");
        assert_eq!(server.metrics.bytes.get(), client.metrics().bytes.get());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_take_a_few_connections() {
    let (server, client) = pair(Authority::new().security()).await;
    let (block, bytes) = (block(1, BLOCK), pattern(BLOCK));
    server.shelf.put(&block, Has::Whole(bytes.clone()));
    let readers = (0..100_u64).map(|number| {
        let (client, block, bytes) = (client.clone(), block.clone(), bytes.clone());
        tokio::spawn(async move {
            let start = number * 10_000;
            let answer = client.read(&name("a"), &read(&block, start, start + 10_000)).await.unwrap();
            assert_eq!(answer.whole().await.unwrap(), bytes[start as usize..][..10_000]);
        })
    });
    futures::future::try_join_all(readers).await.unwrap();
    assert!(server.metrics.connections.get() <= client.limits().connections_max as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_come_while_the_owner_still_fills() {
    for (server, client) in each_security().await {
        let (block, bytes) = (block(1, BLOCK), pattern(BLOCK));
        let fill = server.shelf.fill(&block);
        let mut answer = client.read(&name("a"), &read(&block, 0, BLOCK)).await.unwrap();
        // Signs of life, as long as nothing comes.
        for _ in 0..3 {
            assert_eq!(answer.event().await.unwrap(), Event::Waiting);
        }
        let mut came = Vec::new();
        for piece in bytes.chunks(300_000) {
            fill.send(Bytes::copy_from_slice(piece)).await.unwrap();
            let before = came.len();
            while came.len() < before + piece.len() {
                match answer.event().await.unwrap() {
                    Event::Data(bytes) => came.extend_from_slice(&bytes),
                    Event::Waiting => {}
                    Event::End => panic!("it ended early"),
                }
            }
        }
        assert_eq!(came, bytes);
        assert_eq!(answer.event().await.unwrap(), Event::End);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_wants_is_cancelled_and_its_connection_used_again() {
    let (server, client) = pair(Authority::new().security()).await;
    let filling = block(1, BLOCK);
    let fill = server.shelf.fill(&filling);
    let mut answer = client.read(&name("a"), &read(&filling, 0, BLOCK)).await.unwrap();
    fill.send(pattern(1000)).await.unwrap();
    while !matches!(answer.event().await.unwrap(), Event::Data(_)) {}
    drop(answer);
    wait_until("the fill's reader goes", || fill.is_closed()).await;
    wait_until("the cancel is counted", || server.metrics.cancelled.get() == 1).await;
    let held = block(2, 1000);
    server.shelf.put(&held, Has::Whole(pattern(1000)));
    // It is given back a moment later; meanwhile another one may be made.
    wait_until("a connection is used again", || {
        let request = read(&held, 0, 1000);
        let read = async { client.read(&name("a"), &request).await.unwrap().whole().await.unwrap() };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(read)) == pattern(1000)
    })
    .await;
    assert!(server.metrics.connections.get() <= 2);
    assert_eq!(client.metrics().failures.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_stored_by_a_peer_or_declined() {
    for (server, client) in each_security().await {
        let (kept, bytes) = (block(1, 400_000), pattern(400_000));
        assert!(client.store(&name("a"), &given(kept.clone()), bytes.clone()).await.unwrap());
        assert_eq!(server.shelf.stored.lock()[&kept.id()], bytes);
        // Declined at the first piece: the rest is read past, and the connection goes on.
        let mut declined = pattern(900_000).to_vec();
        declined[..4].copy_from_slice(b"full");
        assert!(!client.store(&name("a"), &given(block(2, 900_000)), declined.into()).await.unwrap());
        assert!(client.store(&name("a"), &given(block(3, 5)), Bytes::from_static(b"hello")).await.unwrap());
        assert_eq!(server.shelf.stored.lock().len(), 2);
        assert_eq!(server.metrics.connections.get(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_comes_if_it_is_newer() {
    for (server, client) in each_security().await {
        let (dataset, bytes) = (block(1, 1).dataset, pattern(3_000_001));
        let head = ManifestHead { term: 2, sequence: 7, bytes: bytes.len() as u64, began_ms_ago: Some(7), listed: true };
        let ask = |than| ManifestRequest { dataset: dataset.clone(), than, refresh: false };
        let state = ListingState { age_ms: Some(5), error: "no".to_owned(), trouble: 2, listed: true, running: true };
        *server.shelf.listing.lock() = state.clone();
        assert!(matches!(client.manifest(&name("a"), &ask((0, 0))).await.unwrap(), Listed::Same(told) if told == state));
        *server.shelf.manifest.lock() = Some((head, bytes.clone()));
        for (than, is_newer) in [((0, 0), true), ((1, 99), true), ((2, 6), true), ((2, 7), false), ((3, 0), false)] {
            let answer = client.manifest(&name("a"), &ask(than)).await.unwrap();
            assert_eq!(matches!(answer, Listed::Newer(..)), is_newer, "{than:?}");
            if let Listed::Newer(told, answer) = answer {
                assert_eq!((told, answer.whole().await.unwrap()), (head, bytes.to_vec()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_comes_from_where_the_caller_is() {
    for (server, client) in each_security().await {
        let (dataset, whole) = (block(1, 1).dataset, pattern(700_001));
        let ask = |source, listing, have| ListingRequest { dataset: dataset.clone(), source, listing, have };
        assert_eq!(client.listing(&name("a"), &ask(1, 0, 0)).await.unwrap(), None, "there is none");
        *server.shelf.log.lock() = whole.clone();
        assert_eq!(client.listing(&name("a"), &ask(0, 0, 0)).await.unwrap(), None, "another source");
        for (listing, have, start) in [(0, 0, 0), (9, 300_000, 300_000), (8, 300_000, 0)] {
            let (head, bytes) = client.listing(&name("a"), &ask(1, listing, have)).await.unwrap().unwrap();
            assert_eq!((head.listing, head.start, head.number, head.began_ms_ago), (9, start, (5, 6), 70));
            assert_eq!(bytes, whole[start as usize..]);
        }
        assert_eq!(client.listing(&name("a"), &ask(1, 9, whole.len() as u64)).await.unwrap(), None, "nothing more");
        assert_eq!(server.metrics.connections.get(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_freed() {
    let (server, client) = pair(Authority::new().security()).await;
    let request = FreeRequest { dataset: block(1, 1).dataset, paths: vec!["/a".to_owned(), "/b/c".to_owned()] };
    assert_eq!(client.free(&name("a"), &request).await.unwrap(), Freed { files: 2, bytes: 20 });
    assert_eq!(*server.shelf.freed.lock(), ["/a", "/b/c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_much_is_held_is_told_when_it_is_known() {
    let (server, client) = pair(Authority::new().security()).await;
    let dataset = block(1, 1).dataset;
    assert_eq!(client.coverage(&name("a"), &dataset).await.unwrap(), None);
    let found = Coverage { held_files: 1, held_bytes: 2, own_files: 3, own_bytes: 4, copied_bytes: 5, lacking_copies: 6, version: (7, 8) };
    *server.shelf.coverage.lock() = Some(found);
    assert_eq!(client.coverage(&name("a"), &dataset).await.unwrap(), Some(found));
    let other = DatasetId::new("other").unwrap();
    let refused = client.coverage(&name("a"), &other).await.unwrap_err();
    assert!(matches!(refused, PeerError::Refused { refusal: Refusal::UnknownDataset, .. }), "{refused}");
}
