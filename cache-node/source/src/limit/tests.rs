use std::time::{Duration, Instant};

use super::adaptive::{Adaptive, Kind};
use super::queue::Queue;
use super::{Bucket, Priority};

const MS: Duration = Duration::from_millis(1);

#[test]
fn concurrency_grows_while_used_and_latency_is_steady() {
    let (mut adaptive, now) = (Adaptive::new(256), Instant::now());
    for _ in 0..400 {
        adaptive.answered(Kind::Read, 20 * MS, true, now);
    }
    assert_eq!(adaptive.limit(), 256);
}

#[test]
fn concurrency_stays_when_it_is_not_used() {
    let (mut adaptive, now) = (Adaptive::new(256), Instant::now());
    let before = adaptive.limit();
    (0..400).for_each(|_| adaptive.answered(Kind::Read, 20 * MS, false, now));
    assert_eq!(adaptive.limit(), before);
}

#[test]
fn a_throttled_round_shrinks_once() {
    let (mut adaptive, now) = (Adaptive::new(256), Instant::now());
    let before = adaptive.limit();
    (0..50).for_each(|_| adaptive.throttled(now));
    assert_eq!(adaptive.limit(), before * 7 / 10);
    for round in 1..100 {
        adaptive.throttled(now + round * Duration::from_secs(1));
    }
    assert_eq!(adaptive.limit(), 1);
}

#[test]
fn a_queue_at_the_source_shrinks_to_the_floor_and_no_further() {
    let (mut adaptive, now) = (Adaptive::new(256), Instant::now());
    adaptive.answered(Kind::Read, 10 * MS, true, now);
    for step in 0..3000 {
        adaptive.answered(Kind::Read, 500 * MS, true, now + step * 100 * MS);
    }
    assert_eq!(adaptive.limit(), 8);
}

/// Answers one request after the other, while as many as may, but at most `crowd`, are in flight.
async fn limit_after(answers: u32, crowd: usize) -> u32 {
    let queue = Queue::new(100);
    let mut flying = std::collections::VecDeque::new();
    for _ in 0..answers {
        while flying.len() < crowd {
            let mut turn = Box::pin(queue.acquire(Priority::Background));
            match futures::poll!(&mut turn) {
                std::task::Poll::Ready(permit) => flying.push_back(permit.expect("a place")),
                std::task::Poll::Pending => break,
            }
        }
        queue.answered(Kind::List, 100 * MS);
        flying.pop_front();
    }
    queue.limit()
}

#[tokio::test]
async fn background_requests_alone_double_the_limit_each_round() {
    let start = limit_after(0, 0).await;
    assert_eq!(limit_after(start, usize::MAX).await, 2 * start, "one round");
    assert_eq!(limit_after(100, usize::MAX).await, 100, "up to the ceiling");
    assert_eq!(limit_after(100, start as usize / 2).await, start, "what isn't used doesn't grow");
}

#[tokio::test]
async fn on_demand_goes_first_and_places_come_back() {
    let queue = Queue::new(2);
    let first = queue.acquire(Priority::OnDemand).await.expect("free");
    let second = queue.acquire(Priority::Background).await.expect("free");
    let background = tokio::spawn({
        let queue = queue.clone();
        async move { queue.acquire(Priority::Background).await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    let mut reader = Box::pin(queue.acquire(Priority::OnDemand));
    assert!(futures::poll!(&mut reader).is_pending());
    let mut gives_up = Box::pin(queue.acquire(Priority::OnDemand));
    assert!(futures::poll!(&mut gives_up).is_pending());
    drop(gives_up);
    drop(second);
    let reader = reader.await.expect("its turn");
    assert!(!background.is_finished());
    drop((first, reader));
    background.await.expect("joins").expect("its turn");
}

#[tokio::test]
async fn the_bucket_holds_its_rate() {
    let bucket = Bucket::new(1000.0);
    let started = Instant::now();
    for _ in 0..10 {
        bucket.take(60.0, Priority::Background).await;
    }
    bucket.take(60.0, Priority::OnDemand).await;
    // 660 tokens at 1000 a second, 250 of them saved up: on demand, the debt is waited for.
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(405), "{elapsed:?}");
}
