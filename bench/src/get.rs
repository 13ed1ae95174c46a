//! Bare parallel GETs by the AWS SDK: what any client of the same server can reach, and what a cold epoch is held against.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};

use tokio::io::AsyncWriteExt;

use crate::measure;
use crate::serve::{ACCESS_KEY, SECRET_KEY};
use crate::split_mix::SplitMix;
use crate::workload::Pass;

pub(crate) fn client(endpoint: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "the bench"))
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

/// Gets every key once, shuffled by `epoch`, `parallel` at a time, and drops the bytes.
pub(crate) fn all(endpoint: &str, bucket: &str, keys: &[(String, u64)], parallel: usize, epoch: u64) -> Result<Pass> {
    let mut order: Vec<usize> = (0..keys.len()).collect();
    SplitMix::new(epoch).shuffle(&mut order);
    let jobs = Arc::new((order, keys.to_vec(), AtomicUsize::new(0), AtomicU64::new(0)));
    let (client, bucket) = (client(endpoint), bucket.to_owned());
    let cpu_before = measure::own_cpu();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begin = Instant::now();
    runtime.block_on(async {
        let workers: Vec<_> = (0..parallel).map(|_| tokio::spawn(worker(client.clone(), bucket.clone(), jobs.clone()))).collect();
        for worker in workers {
            worker.await??;
        }
        anyhow::Ok(())
    })?;
    let elapsed = begin.elapsed();
    drop(runtime);
    let cpu = measure::own_cpu().saturating_sub(cpu_before);
    Ok(Pass { units: keys.len() as u64, bytes: jobs.3.load(Ordering::Relaxed), elapsed, cpu, ..Pass::default() })
}

/// Gets every key once, `parallel` at a time, each into a file below `folder`, as a bare parallel copier does; the folder goes again.
pub(crate) fn copy_all(endpoint: &str, bucket: &str, keys: &[(String, u64)], parallel: usize, folder: &Path) -> Result<Pass> {
    let (client, copied) = (client(endpoint), Arc::new((keys.to_vec(), AtomicUsize::new(0), folder.to_owned())));
    let cpu_before = measure::own_cpu();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begin = Instant::now();
    runtime.block_on(async {
        let workers: Vec<_> = (0..parallel).map(|_| tokio::spawn(copier(client.clone(), bucket.to_owned(), copied.clone()))).collect();
        for worker in workers {
            worker.await??;
        }
        anyhow::Ok(())
    })?;
    let elapsed = begin.elapsed();
    drop(runtime);
    let bytes = keys.iter().map(|(_, size)| size).sum();
    let cpu = measure::own_cpu().saturating_sub(cpu_before);
    std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    Ok(Pass { units: keys.len() as u64, bytes, elapsed, cpu, ..Pass::default() })
}

/// What copiers share: keys with sizes, the next one, and where they go.
type Copied = Arc<(Vec<(String, u64)>, AtomicUsize, PathBuf)>;

async fn copier(client: Client, bucket: String, copied: Copied) -> Result<()> {
    let (keys, next, folder) = &*copied;
    while let Some((key, size)) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
        let path = folder.join(key);
        tokio::fs::create_dir_all(path.parent().context("a key is below a prefix")?).await?;
        let mut body = client.get_object().bucket(&bucket).key(key).send().await.with_context(|| format!("get {key}"))?.body;
        let mut file = tokio::io::BufWriter::with_capacity(1 << 20, tokio::fs::File::create(&path).await?);
        let mut bytes = 0;
        while let Some(piece) = body.try_next().await.with_context(|| format!("get the body of {key}"))? {
            bytes += piece.len() as u64;
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        ensure!(bytes == *size, "get {key}: {bytes} bytes instead of {size}");
    }
    Ok(())
}

type Jobs = Arc<(Vec<usize>, Vec<(String, u64)>, AtomicUsize, AtomicU64)>;

async fn worker(client: Client, bucket: String, jobs: Jobs) -> Result<()> {
    let (order, keys, next, bytes) = &*jobs;
    while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
        let (key, size) = &keys[*index];
        let got = get(&client, &bucket, key).await?;
        ensure!(got == *size, "get {key}: {got} bytes instead of {size}");
        bytes.fetch_add(got, Ordering::Relaxed);
    }
    Ok(())
}

async fn get(client: &Client, bucket: &str, key: &str) -> Result<u64> {
    let mut body = client.get_object().bucket(bucket).key(key).send().await.with_context(|| format!("get {key}"))?.body;
    let mut bytes = 0;
    while let Some(piece) = body.try_next().await.with_context(|| format!("get the body of {key}"))? {
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}

/// How long each key takes from the request to its first byte, one after the other.
pub(crate) fn first_bytes(endpoint: &str, bucket: &str, keys: &[(String, u64)]) -> Result<Vec<Duration>> {
    let client = client(endpoint);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut waits = Vec::new();
        for (key, _) in keys {
            let begin = Instant::now();
            let mut body = client.get_object().bucket(bucket).key(key).send().await.with_context(|| format!("get {key}"))?.body;
            body.try_next().await?;
            waits.push(begin.elapsed());
            while body.try_next().await?.is_some() {}
        }
        Ok(waits)
    })
}

/// Puts the files below a folder into a bucket, under their relative paths below `prefix`. Returns how many.
pub(crate) fn put_all(endpoint: &str, bucket: &str, prefix: &str, folder: &Path, parallel: usize) -> Result<usize> {
    let files: Vec<PathBuf> = crate::workload::files_below(folder)?.into_iter().map(|(path, _)| path).collect();
    let client = client(endpoint);
    let next = AtomicUsize::new(0);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let put = async || -> Result<()> {
            while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let key = format!("{prefix}{}", path.strip_prefix(folder)?.to_str().context("a file's name is UTF-8")?);
                let body = tokio::fs::read(path).await.with_context(|| format!("read {}", path.display()))?;
                client.put_object().bucket(bucket).key(&key).body(body.into()).send().await.with_context(|| format!("put {key}"))?;
            }
            Ok(())
        };
        futures::future::try_join_all((0..parallel).map(|_| put())).await?;
        Ok(files.len())
    })
}
