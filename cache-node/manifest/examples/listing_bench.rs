//! Lists a bucket in parallel and as a bare fetch-and-parse of the same pages, in turns; prints one JSON line a round.
//!
//! `listing_bench ENDPOINT BUCKET [PARALLEL [ROUNDS]]` (64, 1). `forebay-bench serve-generated` gives a bucket of any size.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use forebay_source::listing::{Checkpoint, ListEvent, ListOptions, list_parallel};
use forebay_source::s3::S3;
use forebay_source::{ListRequest, Source};
use forebay_wire::dataset_spec::{Addressing, S3Location};
use forebay_wire::secret::{Credentials, SourceAccess};
use tokio::sync::mpsc;

/// Pages that the sequential listing is measured by.
const SEQUENTIAL_PAGES: u32 = 30;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, bucket, rest @ ..] = &arguments[..] else { bail!("give ENDPOINT BUCKET [PARALLEL [ROUNDS]]") };
    let number =
        |at: usize, default: usize| rest.get(at).map_or(Ok(default), |text| text.parse()).context("PARALLEL and ROUNDS are numbers");
    let (parallel, rounds) = (number(0, 64)?, number(1, 1)?);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let location = S3Location {
            bucket: bucket.clone(),
            prefix: String::new(),
            endpoint: Some(endpoint.clone()),
            region: None,
            addressing: Addressing::Path,
            ca_bundle: None,
            requester_pays: false,
            role_arn: None,
            anonymous: true,
        };
        let access = SourceAccess { credentials: Credentials::Anonymous, ca_bundle: None, reach: forebay_wire::reach::Reach::Anywhere };
        let source: Arc<dyn Source> = Arc::new(S3::new(&location, &access)?);
        for _ in 0..rounds {
            let page = sequential(&*source).await?;
            let (keys, bounds, elapsed) = ours(source.clone(), parallel).await?;
            // Before the bare listing, whose memory is not ours.
            let peak = resident_peak_mib()?;
            let sequential = page.as_secs_f64() * bounds.len() as f64;
            let bare = bare(source.clone(), bounds, parallel).await?;
            let seconds = elapsed.as_secs_f64();
            println!(
                "{}",
                serde_json::json!({
                    "keys": keys, "parallel": parallel, "seconds": seconds, "sequential_seconds": sequential, "speedup": sequential / seconds,
                    "bare_seconds": bare.as_secs_f64(), "of_bare": bare.as_secs_f64() / seconds, "resident_peak_mib": peak,
                })
            );
        }
        Ok(())
    })
}

fn request(after: Option<Bytes>) -> ListRequest {
    ListRequest { prefix: Bytes::new(), after, before: None, one_level: false }
}

/// How long a page takes when one is asked for after the other.
async fn sequential(source: &dyn Source) -> Result<Duration> {
    let (started, mut after, mut pages) = (Instant::now(), None, 0);
    while pages < SEQUENTIAL_PAGES {
        let page = source.list(&request(after)).await?;
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(started.elapsed() / pages)
}

/// Keys listed, where every thousandth began, and how long it took.
async fn ours(source: Arc<dyn Source>, parallel: usize) -> Result<(u64, Vec<Bytes>, Duration)> {
    let started = Instant::now();
    let (sink, mut events) = mpsc::channel(16);
    let task = tokio::spawn(list_parallel(source, Bytes::new(), Checkpoint::default(), ListOptions { parallel }, sink));
    let (mut keys, mut bounds) = (0, Vec::new());
    while let Some(event) = events.recv().await {
        if let ListEvent::Page { objects, .. } = event {
            for object in &objects {
                if keys % 1000 == 0 {
                    // A copy, since a key holds its whole page.
                    bounds.push(Bytes::copy_from_slice(&object.key.0));
                }
                keys += 1;
            }
        }
    }
    task.await??;
    Ok((keys, bounds, started.elapsed()))
}

/// As many full pages, whose beginnings are known: no listing can be faster.
async fn bare(source: Arc<dyn Source>, bounds: Vec<Bytes>, parallel: usize) -> Result<Duration> {
    let started = Instant::now();
    let queue = Arc::new(std::sync::Mutex::new(bounds.into_iter()));
    let workers: Vec<_> = (0..parallel)
        .map(|_| {
            let (source, queue) = (source.clone(), queue.clone());
            tokio::spawn(async move {
                loop {
                    let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                    let Some(after) = next else { return anyhow::Ok(()) };
                    source.list(&request(Some(after))).await?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(started.elapsed())
}

fn resident_peak_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(peak.context("/proc/self/status has VmHWM")? / 1024)
}
