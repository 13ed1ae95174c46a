//! A source that lies: whatever it does, no wrong byte comes through, and what passes is mended without many more requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use forebay_source::s3::S3;
use forebay_source::{Limits, Object, RetryPolicy, SourceError, SourceHandle, Version};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::lying_server::{Lie, LyingServer, etag};
use crate::s3_server::{SECRET_KEY, access, location};
use crate::source_suite::{key, read};

fn policy() -> RetryPolicy {
    RetryPolicy {
        attempts_max: 8,
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(20),
        deadline: Duration::from_secs(20),
        stall: Duration::from_millis(400),
    }
}

fn handle(server: &LyingServer, policy: RetryPolicy) -> SourceHandle {
    let s3 = S3::new(&location(server.endpoint(), "bucket", ""), &access(SECRET_KEY)).unwrap();
    SourceHandle::wrap(Arc::new(s3), Limits::default(), policy)
}

fn object(name: &str, bytes: &[u8]) -> Object {
    Object { key: key(name), size: bytes.len() as u64, modified: SystemTime::UNIX_EPOCH, version: Version(Bytes::from(etag(bytes))) }
}

fn contents(random: &mut SmallRng, count: usize) -> BTreeMap<String, Vec<u8>> {
    (0..count)
        .map(|index| {
            let mut bytes = vec![0; random.random_range(2..200_000)];
            random.fill(&mut bytes[..]);
            (format!("object-{index}"), bytes)
        })
        .collect()
}

fn seed() -> u64 {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed}");
    seed
}

fn count(short: u64, long: u64) -> u64 {
    if std::env::var_os("FOREBAY_TORTURE").is_some() { long } else { short }
}

/// One read of each object, whole or a part; every byte that comes is compared. Gives the errors.
async fn read_all(handle: &SourceHandle, contents: &BTreeMap<String, Vec<u8>>, random: &mut SmallRng) -> Vec<SourceError> {
    let source = handle.on_demand();
    let reads: Vec<_> = contents
        .iter()
        .map(|(name, bytes)| {
            let size = bytes.len() as u64;
            let (start, end) = if random.random() {
                (0, size)
            } else {
                let start = random.random_range(0..size - 1);
                (start, random.random_range(start + 1..=size))
            };
            let source = source.clone();
            async move {
                let got = read(&*source, &object(name, bytes), start, end).await?;
                assert!(got == bytes[start as usize..end as usize], "wrong bytes of {name} {start}..{end}");
                Ok(())
            }
        })
        .collect();
    futures::future::join_all(reads).await.into_iter().filter_map(Result::err).collect()
}

#[tokio::test]
async fn no_lie_becomes_a_wrong_byte() {
    let seed = seed();
    for case in 0..count(100, 1000) {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(case));
        let contents = contents(&mut random, 6);
        let share = random.random_range(0.05..0.9);
        let mut liar = SmallRng::seed_from_u64(random.random());
        let server = LyingServer::start(contents.clone(), move |_| match liar.random_bool(share) {
            true => Lie::ALL[liar.random_range(0..Lie::ALL.len())],
            false => Lie::Truth,
        })
        .await;
        let patience = RetryPolicy { attempts_max: 3, stall: Duration::from_millis(100), ..policy() };
        let errors = read_all(&handle(&server, patience), &contents, &mut random).await;
        for error in errors {
            assert!(error.to_string().contains("object-"), "an error names its object: {error}");
        }
        assert_eq!(server.trapped(), 0, "a redirect was followed");
    }
}

#[tokio::test]
async fn each_lie_told_once_is_mended_by_one_more_request() {
    for lie in Lie::ALL {
        for whole in [true, false] {
            let bytes: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
            let mut lies = vec![lie];
            let server =
                LyingServer::start(BTreeMap::from([("a".to_owned(), bytes.clone())]), move |_| lies.pop().unwrap_or(Lie::Truth)).await;
            let handle = handle(&server, policy());
            let (start, end) = if whole { (0, 100_000) } else { (10, 90_001) };
            let got = read(&*handle.on_demand(), &object("a", &bytes), start, end).await;
            if lie == Lie::OtherVersion {
                // It looks as if the object had been replaced: that is for the caller to find out.
                assert!(matches!(got, Err(SourceError::Replaced { .. })), "{got:?}");
                continue;
            }
            assert!(got.unwrap() == bytes[start as usize..end as usize], "{lie:?}");
            let is_harmless = matches!(
                (lie, whole),
                (Lie::Truth | Lie::LongUnannounced, _) | (Lie::WrongRange | Lie::RangeIgnored, true) | (Lie::FlippedByte, false)
            );
            assert_eq!(server.requests(), if is_harmless { 1 } else { 2 }, "{lie:?} whole={whole}");
        }
    }
}

#[tokio::test]
async fn a_body_larger_than_a_block_goes_on_where_it_broke() {
    let bytes: Vec<u8> = (0..20_000_000u32).map(|index| (index % 251) as u8).collect();
    let mut lies = vec![Lie::BreakAfter(100), Lie::SlowDown, Lie::BreakAfter(3)];
    let server = LyingServer::start(BTreeMap::from([("a".to_owned(), bytes.clone())]), move |_| lies.pop().unwrap_or(Lie::Truth)).await;
    let handle = handle(&server, RetryPolicy { stall: Duration::from_secs(5), ..policy() });
    assert!(read(&*handle.on_demand(), &object("a", &bytes), 0, 20_000_000).await.unwrap() == bytes);
    assert_eq!(server.requests(), 4);
    assert!(handle.metrics().bytes.get() <= 20_000_000, "nothing is read twice: {}", handle.metrics().bytes.get());
}

#[tokio::test]
async fn an_object_replaced_between_two_ranges_never_mixes() {
    let old = vec![1u8; 40_000_000];
    let mut lies = vec![Lie::BreakAfter(64)];
    let server = LyingServer::start(BTreeMap::from([("a".to_owned(), old.clone())]), move |_| lies.pop().unwrap_or(Lie::Truth)).await;
    let handle = handle(&server, RetryPolicy { stall: Duration::from_secs(5), ..policy() });
    let source = handle.on_demand();
    let extent = forebay_wire::block::Extent::new(0, 40_000_000).unwrap();
    let asked = object("a", &old);
    let mut body = source.read(&asked.key, &asked.version, extent, true).await.unwrap();
    server.put("a", vec![2u8; 40_000_000]);
    let error = loop {
        match futures::StreamExt::next(&mut body).await.expect("an error comes before the end") {
            Ok(bytes) => assert!(bytes.iter().all(|byte| *byte == 1)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SourceError::Replaced { .. }), "{error}");
}

#[tokio::test]
async fn with_few_errors_cold_reads_succeed_at_few_more_requests() {
    let seed = seed();
    for percent in [1, 5, 10, 20] {
        let mut random = SmallRng::seed_from_u64(seed);
        let contents = contents(&mut random, usize::try_from(count(300, 2000)).unwrap());
        let mut liar = SmallRng::seed_from_u64(random.random());
        let server = LyingServer::start(contents.clone(), move |_| match liar.random_bool(f64::from(percent) / 100.0) {
            true => [Lie::SlowDown, Lie::InternalError, Lie::Hangup, Lie::BreakAfter(200)][liar.random_range(0..4)],
            false => Lie::Truth,
        })
        .await;
        let handle = handle(&server, RetryPolicy { stall: Duration::from_secs(10), ..policy() });
        let errors = read_all(&handle, &contents, &mut random).await;
        assert!(errors.is_empty(), "{percent} %: {} of {} failed: {}", errors.len(), contents.len(), errors[0]);
        // Every request fails with this chance, the repeated ones too: no reader can do with fewer than this.
        let needed = contents.len() as f64 / (1.0 - f64::from(percent) / 100.0);
        let ratio = f64::from(server.requests()) / needed;
        println!("{percent} % of errors: {} requests for {} reads, {ratio:.2} x the needed", server.requests(), contents.len());
        assert!(ratio <= 1.2, "{percent} %: {ratio:.2}");
    }
}

#[tokio::test]
async fn a_permanent_redirect_is_told_and_not_followed() {
    let server = LyingServer::start(BTreeMap::new(), |_| Lie::Redirect(301)).await;
    let error = handle(&server, policy()).on_demand().head(&key("a")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Permanent { detail, .. } if detail.contains("s3.region")), "{error}");
    assert_eq!((server.requests(), server.trapped()), (1, 0));
}
