//! Lists a bucket in parallel and as a bare fetch-and-parse of the same pages, in turns: `cargo bench -p forebay-node --bench listing
//! -- ENDPOINT BUCKET [PARALLEL [ROUNDS]]`. Start `forebay-bench serve-generated` for the server. Prints one JSON line a round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_source::listing::{Checkpoint, ListEvent, ListOptions, list_parallel};
use forebay_source::s3::S3;
use forebay_source::{ListRequest, Source};
use forebay_wire::dataset_spec::{Addressing, S3Location};
use forebay_wire::secret::{Credentials, SourceAccess};
use tokio::sync::mpsc;

/// Pages that the sequential listing is measured by.
const SEQUENTIAL_PAGES: u32 = 30;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [endpoint, bucket, rest @ ..] = &arguments[..] else {
        println!("give ENDPOINT BUCKET [PARALLEL [ROUNDS]]; without them there is nothing to list");
        return;
    };
    let number = |at: usize, default: usize| rest.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (parallel, rounds) = (number(0, 64), number(1, 1));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
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
        let access = SourceAccess { credentials: Credentials::Anonymous, ca_bundle: None };
        let source: Arc<dyn Source> = Arc::new(S3::new(&location, &access).expect("a source"));
        for _ in 0..rounds {
            let page = sequential(&*source).await;
            let (keys, bounds, elapsed) = ours(source.clone(), parallel).await;
            let pages = keys.div_ceil(1000);
            let bare = bare(source.clone(), bounds, parallel).await;
            println!(
                "{{\"keys\":{keys},\"parallel\":{parallel},\"seconds\":{:.2},\"sequential_seconds\":{:.1},\"speedup\":{:.1},\"bare_seconds\":{:.2},\"of_bare\":{:.2},\"resident_peak_mib\":{}}}",
                elapsed.as_secs_f64(),
                page.as_secs_f64() * pages as f64,
                page.as_secs_f64() * pages as f64 / elapsed.as_secs_f64(),
                bare.as_secs_f64(),
                bare.as_secs_f64() / elapsed.as_secs_f64(),
                resident_peak_mib(),
            );
        }
    });
}

fn request(after: Option<Bytes>) -> ListRequest {
    ListRequest { prefix: Bytes::new(), after, before: None, one_level: false }
}

/// How long a page takes when one is asked for after the other.
async fn sequential(source: &dyn Source) -> Duration {
    let (started, mut after, mut pages) = (Instant::now(), None, 0);
    while pages < SEQUENTIAL_PAGES {
        let page = source.list(&request(after)).await.expect("a page");
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    started.elapsed() / pages
}

/// Keys listed, where every thousandth began, and how long it took.
async fn ours(source: Arc<dyn Source>, parallel: usize) -> (u64, Vec<Bytes>, Duration) {
    let started = Instant::now();
    let (sink, mut events) = mpsc::channel(16);
    let task = tokio::spawn(list_parallel(source, Bytes::new(), Checkpoint::default(), ListOptions { parallel }, sink));
    let (mut keys, mut bounds) = (0, Vec::new());
    while let Some(event) = events.recv().await {
        if let ListEvent::Page { objects, .. } = event {
            keys += objects.len() as u64;
            // A copy, since a key holds its whole page.
            bounds.extend(objects.first().map(|object| Bytes::copy_from_slice(&object.key.0)));
        }
    }
    task.await.expect("joins").expect("lists");
    (keys, bounds, started.elapsed())
}

/// As many pages, whose beginnings are known: no listing can be faster.
async fn bare(source: Arc<dyn Source>, bounds: Vec<Bytes>, parallel: usize) -> Duration {
    let started = Instant::now();
    let queue = Arc::new(std::sync::Mutex::new(bounds.into_iter()));
    let workers: Vec<_> = (0..parallel)
        .map(|_| {
            let (source, queue) = (source.clone(), queue.clone());
            tokio::spawn(async move {
                loop {
                    let next = queue.lock().expect("not poisoned").next();
                    let Some(after) = next else { return };
                    source.list(&request(Some(after))).await.expect("a page");
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("joins");
    }
    started.elapsed()
}

fn resident_peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    peak.unwrap_or(0) / 1024
}
