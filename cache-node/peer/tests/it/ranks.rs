//! Several nodes of a block: the first that gives it, the next when one is away, silent, killed or slow.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_peer::{BlockRef, PeerError, PeerLimits, Peers, Refusal, Security, SourceFailure, SourceFailureKind, Unfetched};

use crate::proxy;
use crate::rig::{Authority, BLOCK, Has, Running, block, client, introduction, name, patient, pattern, read, serve, serve_at, wait_until};

/// Two nodes of a cache and a client of both.
struct Rig {
    a: Running,
    b: Running,
    security: Security,
}

impl Rig {
    async fn new() -> Self {
        let security = Authority::new().security();
        Self { a: serve("a", security.clone()).await, b: serve("b", security.clone()).await, security }
    }
    fn client(&self, limits: PeerLimits) -> Arc<Peers> {
        client(self.security.clone(), limits, &[("a", self.a.address), ("b", self.b.address)])
    }
}

/// Fetches the whole block from `a`, then `b`; what came and how it ended.
async fn fetch(client: &Arc<Peers>, block: &BlockRef) -> (Vec<u8>, Result<(), Unfetched>) {
    let mut came = Vec::new();
    let ranks = [name("a"), name("b")];
    let outcome = client.fetch(&ranks, read(block, 0, block.object.size), &mut |bytes: Bytes| came.extend_from_slice(&bytes)).await;
    (came, outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_asked_and_nobody_else() {
    let rig = Rig::new().await;
    let block = block(1, 300_000);
    rig.a.shelf.put(&block, Has::Whole(pattern(300_000)));
    let client = rig.client(patient());
    let (came, outcome) = fetch(&client, &block).await;
    assert!(outcome.is_ok() && came == pattern(300_000));
    assert_eq!((rig.b.metrics.requests.get(), client.metrics().failovers.get(), client.metrics().hedges.get()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_lost_in_the_middle_is_followed_from_the_byte_where_it_stopped() {
    let rig = Rig::new().await;
    let (block, bytes) = (block(1, BLOCK), pattern(BLOCK));
    let fill = rig.a.shelf.fill(&block);
    rig.b.shelf.put(&block, Has::Whole(bytes.clone()));
    let client = rig.client(patient());
    let fetched = {
        let (client, block) = (client.clone(), block.clone());
        tokio::spawn(async move { fetch(&client, &block).await })
    };
    fill.send(bytes.slice(..200_000)).await.unwrap();
    wait_until("the first bytes are there", || client.metrics().bytes.get() >= 200_000).await;
    rig.a.stop().await;
    let (came, outcome) = fetched.await.unwrap();
    assert!(outcome.is_ok() && came == bytes);
    assert_eq!(rig.b.metrics.bytes.get(), BLOCK - 200_000, "what had come isn't asked for again");
    assert_eq!(client.metrics().failovers.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stalls_in_mid_block_is_followed_too() {
    let rig = Rig::new().await;
    let (proxy, spoil) = proxy::before(rig.a.address).await;
    let (block, bytes) = (block(1, BLOCK), pattern(BLOCK));
    let fill = rig.a.shelf.fill(&block);
    rig.b.shelf.put(&block, Has::Whole(bytes.clone()));
    let limits = PeerLimits { silence: Duration::from_secs(2), ..patient() };
    let client = client(rig.security.clone(), limits, &[("a", proxy), ("b", rig.b.address)]);
    let fetched = {
        let (client, block) = (client.clone(), block.clone());
        tokio::spawn(async move { fetch(&client, &block).await })
    };
    fill.send(bytes.slice(..200_000)).await.unwrap();
    wait_until("the first bytes are there", || client.metrics().bytes.get() >= 200_000).await;
    spoil.is_frozen.store(true, Relaxed);
    let (came, outcome) = fetched.await.unwrap();
    assert!(outcome.is_ok() && came == bytes);
    // From now on nobody waits for it.
    assert_eq!(client.bypassed(), [name("a")]);
    let (came, outcome) = fetch(&client, &block).await;
    assert!(outcome.is_ok() && came == bytes);
    assert!(client.metrics().bypassed.get() >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_is_bypassed_and_asked_again_when_it_is_back() {
    let rig = Rig::new().await;
    let (block, address) = (block(1, 1000), rig.a.address);
    rig.b.shelf.put(&block, Has::Whole(pattern(1000)));
    let client = rig.client(patient());
    rig.a.stop().await;
    for _ in 0..3 {
        let (came, outcome) = fetch(&client, &block).await;
        assert!(outcome.is_ok() && came == pattern(1000));
    }
    assert_eq!(client.bypassed(), [name("a")]);
    assert_eq!(client.metrics().failures.get(), 1, "one reader found out, no other tried");
    let back = serve_at(&address.to_string(), introduction("a"), rig.security.clone()).await;
    back.shelf.put(&block, Has::Whole(pattern(1000)));
    wait_until("it is asked again", || client.bypassed().is_empty()).await;
    let before = rig.b.metrics.requests.get();
    assert!(fetch(&client, &block).await.1.is_ok());
    assert_eq!((back.metrics.requests.get(), rig.b.metrics.requests.get()), (1, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_a_sign_of_life_is_hedged_by_who_has_the_block() {
    let rig = Rig::new().await;
    let (proxy, spoil) = proxy::before(rig.a.address).await;
    let block = block(1, 1000);
    rig.a.shelf.put(&block, Has::Whole(pattern(1000)));
    rig.b.shelf.put(&block, Has::Whole(pattern(1000)));
    let limits = PeerLimits { hedge_min: Duration::from_millis(5), ..patient() };
    let client = client(rig.security.clone(), limits, &[("a", proxy), ("b", rig.b.address)]);
    // Greeted, so that only the answer is missing.
    assert!(fetch(&client, &block).await.1.is_ok());
    spoil.is_frozen.store(true, Relaxed);
    let (came, outcome) = fetch(&client, &block).await;
    assert!(outcome.is_ok() && came == pattern(1000));
    assert!(client.metrics().hedges_won.get() >= 1 && client.metrics().failures.get() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hedge_never_makes_another_node_fill() {
    let rig = Rig::new().await;
    let (proxy, spoil) = proxy::before(rig.a.address).await;
    let (first, second) = (block(1, 1000), block(2, 1000));
    rig.a.shelf.put(&first, Has::Whole(pattern(1000)));
    rig.a.shelf.put(&second, Has::Whole(pattern(1000)));
    // It could fill it; asked for what it has, it says that it has nothing.
    let _fill = rig.b.shelf.fill(&second);
    let limits = PeerLimits { hedge_min: Duration::from_millis(5), ..patient() };
    let client = client(rig.security.clone(), limits, &[("a", proxy), ("b", rig.b.address)]);
    assert!(fetch(&client, &first).await.1.is_ok());
    let asked = rig.b.metrics.requests.get();
    spoil.is_frozen.store(true, Relaxed);
    let fetched = {
        let (client, second) = (client.clone(), second.clone());
        tokio::spawn(async move { fetch(&client, &second).await })
    };
    wait_until("the second node is asked", || rig.b.metrics.requests.get() > asked).await;
    spoil.is_frozen.store(false, Relaxed);
    let (came, outcome) = fetched.await.unwrap();
    assert!(outcome.is_ok() && came == pattern(1000));
    assert_eq!(rig.b.shelf.fills.load(Relaxed), 0);
    assert_eq!((rig.b.metrics.bytes.get(), client.metrics().failovers.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_lead_to_the_next_rank_and_what_the_source_said_does_not() {
    let rig = Rig::new().await;
    let client = rig.client(patient());
    for (number, refusal) in [(1, Refusal::NotMine), (2, Refusal::Busy), (3, Refusal::Internal("x".to_owned()))] {
        let block = block(number, 1000);
        rig.a.shelf.put(&block, Has::Refusal(refusal));
        rig.b.shelf.put(&block, Has::Whole(pattern(1000)));
        assert!(fetch(&client, &block).await.1.is_ok());
    }
    let failure = SourceFailure { kind: SourceFailureKind::Replaced, detail: "read key: the object has another version now".to_owned() };
    let replaced = block(4, 1000);
    rig.a.shelf.put(&replaced, Has::Refusal(Refusal::Source(failure.clone())));
    rig.b.shelf.put(&replaced, Has::Whole(pattern(1000)));
    let (came, outcome) = fetch(&client, &replaced).await;
    let Err(Unfetched { bytes: 0, cause: Some(PeerError::Refused { refusal: Refusal::Source(told), .. }) }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(told == failure && came.is_empty());
    assert!(client.bypassed().is_empty(), "both are well");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_fail_what_came_is_told() {
    let rig = Rig::new().await;
    let (block, bytes) = (block(1, BLOCK), pattern(BLOCK));
    let fill = rig.a.shelf.fill(&block);
    let client = rig.client(patient());
    let fetched = {
        let (client, block) = (client.clone(), block.clone());
        tokio::spawn(async move { fetch(&client, &block).await })
    };
    fill.send(bytes.slice(..100_000)).await.unwrap();
    wait_until("the first bytes are there", || client.metrics().bytes.get() >= 100_000).await;
    rig.a.stop().await;
    let (came, outcome) = fetched.await.unwrap();
    let Err(Unfetched { bytes: 100_000, cause: Some(PeerError::Refused { refusal: Refusal::NotHeld, .. }) }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(came, bytes[..100_000]);
    assert!(matches!(client.fetch(&[], read(&block, 0, 10), &mut |_| {}).await, Err(Unfetched { bytes: 0, cause: None })));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_that_are_away_cost_a_reader_the_silence_of_one() {
    let security = Authority::new().security();
    let (mut away, mut spoils, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for host in ["a", "b", "c"] {
        let server = serve(host, security.clone()).await;
        let (proxy, spoil) = proxy::before(server.address).await;
        peers.push((host, proxy));
        spoils.push(spoil);
        away.push(server);
    }
    let near = serve("d", security.clone()).await;
    peers.push(("d", near.address));
    let block = block(1, 1000);
    for server in away.iter().chain([&near]) {
        server.shelf.put(&block, Has::Whole(pattern(1000)));
    }
    let silence = Duration::from_secs(3);
    let client = client(security, PeerLimits { silence, connect: silence, ..patient() }, &peers);
    let ranks = ["a", "b", "c", "d"].map(name);
    // Greeted: there are connections whose other side falls silent, as in a network that is cut.
    for rank in &ranks {
        client.fetch(std::slice::from_ref(rank), read(&block, 0, 1000), &mut |_| {}).await.unwrap();
    }
    spoils.iter().for_each(|spoil| spoil.is_frozen.store(true, Relaxed));
    let (begin, mut came) = (Instant::now(), Vec::new());
    client.fetch(&ranks, read(&block, 0, 1000), &mut |bytes: Bytes| came.extend_from_slice(&bytes)).await.unwrap();
    assert!(came == pattern(1000));
    assert!(begin.elapsed() < 2 * silence, "{:?}: each waited for", begin.elapsed());
    assert_eq!(client.bypassed().len(), 3);
}
