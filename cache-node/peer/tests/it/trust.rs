//! Who is let in, and what is refused: certificates, versions, data sets, names.

use std::time::Duration;

use forebay_daemon::identity::Identity;
use forebay_peer::{Capabilities, ConnectError, DatasetId, PeerError, Refusal, Security};
use time::OffsetDateTime;

use crate::rig::{
    Authority, BLOCK, CACHE, Has, Running, block, client, given, in_a_day, introduction, name, patient, pattern, read, serve, serve_at,
    wait_until,
};

/// How a client with this fares at the server's door.
async fn fails(server: &Running, security: Security) -> PeerError {
    let client = client(security, patient(), &[("a", server.address)]);
    client.read(&name("a"), &read(&block(1, 10), 0, 10)).await.err().unwrap()
}

fn security_of(authority: &Authority, host: &str, until: OffsetDateTime) -> Security {
    let folder = authority.folder(host, until);
    Security::tls(Identity::load(folder.path()).unwrap(), CACHE).unwrap()
}

/// A certificate that the server doesn't believe, though the client believes the server: it is signed by another, and the server's authority is at hand.
fn impostor(cache: &Authority) -> Security {
    let other = Authority::new();
    let (folder, theirs) = (other.folder(CACHE, in_a_day()), cache.folder(CACHE, in_a_day()));
    std::fs::copy(theirs.path().join("ca.crt"), folder.path().join("ca.crt")).unwrap();
    Security::tls(Identity::load(folder.path()).unwrap(), CACHE).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_not_of_this_cache_gets_nothing_and_is_counted() {
    let authority = Authority::new();
    let server = serve("a", authority.security()).await;
    server.shelf.put(&block(1, 10), Has::Whole(pattern(10)));
    let callers = [
        ("a certificate of another authority", impostor(&authority)),
        ("an expired one", security_of(&authority, CACHE, OffsetDateTime::now_utc() - Duration::from_secs(60))),
        ("one of another cache of the same authority", security_of(&authority, "node.other.example", in_a_day())),
        ("none at all", Security::plain()),
    ];
    for (number, (what, security)) in callers.into_iter().enumerate() {
        let error = fails(&server, security).await;
        // With TLS 1.3 the caller is done before it hears of it, so it may break in the greeting.
        assert!(matches!(error, PeerError::Connect { .. }), "{what}: {error:?}");
        wait_until(what, || server.metrics.refused_identity.get() == number as u64 + 1).await;
    }
    assert_eq!(server.metrics.requests.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_of_this_cache_is_asked_nothing() {
    let authority = Authority::new();
    let servers = [
        ("of another authority", impostor(&authority)),
        ("expired", security_of(&authority, CACHE, OffsetDateTime::now_utc() - Duration::from_secs(60))),
        ("of another cache", security_of(&authority, "node.other.example", in_a_day())),
    ];
    for (what, security) in servers {
        let server = serve("a", security).await;
        let error = fails(&server, authority.security()).await;
        assert!(matches!(error, PeerError::Connect { cause: ConnectError::Untrusted(_), .. }), "{what}: {error:?}");
        assert_eq!(server.metrics.requests.get(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_change_are_used_for_what_connects_next() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = old.folder(CACHE, in_a_day());
    let identity = Identity::load(folder.path()).unwrap();
    let server = serve("a", Security::tls(identity.clone(), CACHE).unwrap()).await;
    server.shelf.put(&block(1, 10), Has::Whole(pattern(10)));
    let client = client(new.security(), patient(), &[("a", server.address)]);
    let request = read(&block(1, 10), 0, 10);
    assert!(client.read(&name("a"), &request).await.is_err());
    new.write(folder.path(), CACHE, in_a_day());
    identity.look();
    wait_until("the client's probe finds the new certificate", || client.bypassed().is_empty()).await;
    assert_eq!(client.read(&name("a"), &request).await.unwrap().whole().await.unwrap(), pattern(10));
    assert_eq!(client.metrics().recovered.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_without_a_version_in_common_refuse_each_other_and_say_why() {
    let security = Authority::new().security();
    let newer = serve_at("127.0.0.1:0", forebay_peer::Introduction { versions: 3..=4, ..introduction("a") }, security.clone()).await;
    let error = fails(&newer, security.clone()).await;
    let PeerError::Connect { cause: ConnectError::Refused(Refusal::Incompatible(why)), .. } = error else { panic!("{error:?}") };
    assert_eq!(why, "client speaks versions 1 to 1 of the protocol, a speaks 3 to 4; upgrade by fewer releases at once");
    assert_eq!(newer.metrics.refused_incompatible.get(), 1);
    // One that speaks the old version too is understood.
    let both = serve_at("127.0.0.1:0", forebay_peer::Introduction { versions: 1..=4, ..introduction("a") }, security.clone()).await;
    both.shelf.put(&block(1, 10), Has::Whole(pattern(10)));
    let client = client(security, patient(), &[("a", both.address)]);
    assert_eq!(client.read(&name("a"), &read(&block(1, 10), 0, 10)).await.unwrap().whole().await.unwrap(), pattern(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_release_does_not_know_is_not_asked_of_it() {
    let security = Authority::new().security();
    let older = forebay_peer::Introduction { capabilities: Capabilities::READ, ..introduction("a") };
    let server = serve_at("127.0.0.1:0", older, security.clone()).await;
    let client = client(security, patient(), &[("a", server.address)]);
    let error = client.store(&name("a"), &given(block(1, 10)), pattern(10)).await.unwrap_err();
    assert!(matches!(error, PeerError::Unsupported { what: "store a block", .. }), "{error:?}");
    assert!(client.bypassed().is_empty() && !error.is_of_the_peer());
    assert_eq!((server.metrics.requests.get(), server.metrics.malformed.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_other_blocks_is_refused() {
    let security = Authority::new().security();
    let block_size = forebay_wire::block::BlockSize::new(BLOCK * 2).unwrap();
    let other = forebay_peer::Introduction::new(name("a"), block_size);
    let server = serve_at("127.0.0.1:0", other, security.clone()).await;
    let error = fails(&server, security).await;
    let PeerError::Connect { cause: ConnectError::Refused(Refusal::Incompatible(why)), .. } = error else { panic!("{error:?}") };
    assert!(why.contains("give `blockSize` the same value on all nodes"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_another_node_is_seen() {
    let security = Authority::new().security();
    let server = serve("b", security.clone()).await;
    let error = fails(&server, security).await;
    assert!(matches!(&error, PeerError::Connect { cause: ConnectError::Another(node), .. } if node == "b"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_that_the_node_was_not_told_of_is_refused_and_counted() {
    let security = Authority::new().security();
    let server = serve("a", security.clone()).await;
    let mut secret = block(1, 10);
    server.shelf.put(&secret, Has::Whole(pattern(10)));
    secret.dataset = DatasetId::new("tests/other").unwrap();
    let client = client(security, patient(), &[("a", server.address)]);
    let error = client.read(&name("a"), &read(&secret, 0, 10)).await.unwrap().whole().await.unwrap_err();
    assert!(matches!(error, PeerError::Refused { refusal: Refusal::UnknownDataset, .. }), "{error:?}");
    assert_eq!(server.metrics.refused_dataset.get(), 1);
    assert!(client.bypassed().is_empty(), "the peer is well");
    assert!(matches!(client.read(&name("z"), &read(&secret, 0, 10)).await.err().unwrap(), PeerError::Unlisted { .. }));
}
